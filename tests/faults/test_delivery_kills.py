"""Deliveries killed at any instant, while rows are put and while they are replaced: the target
holds the newest row of each key that bronze has.

`--kills N --seed S` kills more, and elsewhere.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.sinks.declare import stream_deliveries
from ingestion_platform.streams import Destination
from services import Services
from tests.support.delivered import CONTRACT, HARNESSES, Harness, Log, expected, item
from tests.support.processes import Worker
from tests.support.scene import Scene, together
from tests.support.testbed import edited, separate_environment

pytestmark = [pytest.mark.services]

KEYS, CHUNK = 1_000, 400


class Delivered(Scene):
    """Items that come again and again, and a target that holds the newest of each."""

    harness: Harness
    topic_id: str
    sent: int = 0

    def arrive(self) -> None:
        """Some more rows are loaded: new items, and newer rows of old ones."""
        rng = random.Random(self.sent)
        numbers = [(rng.randrange(KEYS), self.sent + n) for n in range(CHUNK)]
        records = [Record(str(k).encode(), item(k, n)) for k, n in numbers]
        assert not produce(self.settings, self.stream.topic, records).failed
        self.sent += CHUNK
        together([self.start("run")])

    def validate_again(self, rng: random.Random) -> None:
        """Some rows leave bronze, and others come back; old ones become the newest."""
        top = rng.choice([self.sent, self.sent // 2, self.sent * 3 // 4])

        def limited(document: dict[str, Any]) -> None:
            document["version"] = f"{self.sent}.{top}.0"
            document["schema"][0]["properties"][2]["logicalTypeOptions"] = {"maximum": top}

        self.stream = replace(edited(self.stream, limited), deliver=self.stream.deliver)
        together([self.start("replace")])

    def assert_delivered(self) -> None:
        """The target holds what bronze has, by key."""
        log = Log(self.platform, self.stream)
        log.topic_ids = [self.topic_id]
        (delivery,) = stream_deliveries(self.stream)
        wanted = expected(self.settings, log)
        found = self.harness.content(self.settings, delivery)
        assert found.keys() == wanted.keys()
        assert {k: (found[k], wanted[k]) for k in wanted if found[k] != wanted[k]} == {}


@pytest.fixture(params=["elasticsearch", "postgres", "files_minio"])
def scene(
    request: pytest.FixtureRequest, servers: Services, worker: Worker, tmp_path: Path
) -> Delivered:
    """A new stream of items, delivered to a target of its own."""
    harness = HARNESSES[request.param](servers, tmp_path)
    env = separate_environment(servers) | harness.environment()
    contract = json.loads(json.dumps(CONTRACT))
    made = Delivered.new(worker, env, tmp_path, contract=contract)
    assert isinstance(made, Delivered)
    made.harness = harness
    with made.platform.log(made.stream) as log:
        made.topic_id = log.topic().topic_id
    made.stream = replace(made.stream, deliver=(Destination(harness.sink, harness.options()),))
    return made


@pytest.mark.fault("sinks", "kill -9 of a delivery, at any instant, again and again")
def test_kills_while_delivering(
    scene: Delivered, rng: random.Random, request: pytest.FixtureRequest
) -> None:
    """The next one goes on from the target's own position, also in the middle of rows that are
    replaced: in the end the target is equal to bronze."""
    share = 6 if scene.harness.sink == "postgres" else 15
    kills = max(1, int(request.config.getoption("kills")) // share)
    for _ in range(3):
        scene.arrive()
    scene.measure("deliver")
    done = turn = 0
    while done < kills:
        turn += 1
        if turn % 3 == 0:
            scene.validate_again(rng)
        else:
            scene.arrive()
        while done < kills and scene.kill(rng, "deliver"):
            done += 1
    print(f"{scene.phases.total()} kills hit: {dict(scene.phases)}")  # noqa: T201
    together([scene.start("deliver")])
    scene.assert_delivered()
    scene.validate_again(rng)
    together([scene.start("deliver"), scene.start("deliver")])
    scene.assert_delivered()
