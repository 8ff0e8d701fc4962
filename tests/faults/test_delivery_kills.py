"""Deliveries killed at random times: the target holds the newest row of each key of bronze.

`--kills N --seed S` sets how many, and when.
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
    """Items that are sent repeatedly, and a target that holds the newest of each."""

    harness: Harness
    topic_id: str
    sent: int = 0

    def arrive(self) -> None:
        """Load more rows: new items, and newer rows of old ones."""
        rng = random.Random(self.sent)
        numbers = [(rng.randrange(KEYS), self.sent + n) for n in range(CHUNK)]
        records = [Record(str(k).encode(), item(k, n)) for k, n in numbers]
        assert not produce(self.settings, self.stream.topic, records).failed
        self.sent += CHUNK
        together([self.start("run")])

    def validate_again(self, rng: random.Random) -> None:
        """Validate by another contract: rows leave bronze, others return."""
        top = rng.choice([self.sent, self.sent // 2, self.sent * 3 // 4])

        def limited(document: dict[str, Any]) -> None:
            document["version"] = f"{self.sent}.{top}.0"
            document["schema"][0]["properties"][2]["logicalTypeOptions"] = {"maximum": top}

        self.stream = replace(edited(self.stream, limited), deliver=self.stream.deliver)
        together([self.start("replace")])

    def assert_delivered(self) -> None:
        """Check that the target is equal to bronze, by key."""
        log = Log(self.platform, self.stream)
        log.topic_ids = [self.topic_id]
        (delivery,) = stream_deliveries(self.stream)
        want = expected(self.settings, log)
        found = self.harness.content(self.settings, delivery)
        assert found.keys() == want.keys()
        assert {k: (found[k], want[k]) for k in want if found[k] != want[k]} == {}


@pytest.fixture(params=["elasticsearch", "postgres", "files_minio"])
def scene(
    request: pytest.FixtureRequest, servers: Services, worker: Worker, tmp_path: Path
) -> Delivered:
    """Return a new stream of items with its own target."""
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


@pytest.mark.fault("sinks", "kill -9 of a delivery, at random times, repeatedly")
def test_target_is_equal_after_kills(
    scene: Delivered, rng: random.Random, request: pytest.FixtureRequest
) -> None:
    """The next delivery continues from the position of the target, also in the middle of a
    replacement: in the end the target is equal to bronze."""
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
