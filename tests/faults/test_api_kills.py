"""The HTTP API killed under load: what it acknowledged is in Kafka and bronze, once."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2
import pytest

from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from services import Services
from tests.support.api_process import ApiProcess, api_process, until
from tests.support.oracle import read_table, read_topic
from tests.support.testbed import new_stream, separate_environment

pytestmark = [pytest.mark.services]

WRITERS, SIZE = 4, 20
DECLARED = """type: ingestion_platform.orchestration.Stream
attributes: {{name: {name}, topic: {topic}, contract: {contract}}}
"""


@dataclass
class Clients:
    """Writers that send batches of their own records, one after the other, and repeat nothing."""

    stream: Stream
    template: dict[str, object]
    accepted: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: int = 0

    def batch(self) -> list[dict[str, object]]:
        """Good events that nobody has sent before."""
        with self.lock:
            first, self.numbers = self.numbers, self.numbers + SIZE
        return [self.template | {"entity_id": f"CMP_{n}"} for n in range(first, first + SIZE)]

    def write(self, api: ApiProcess) -> None:
        """Send until the API is gone."""
        with api.client() as client:
            while True:
                batch = self.batch()
                names = {str(event["entity_id"]) for event in batch}
                try:
                    answer = client.post(f"/v1/streams/{self.stream.name}/records", json=batch)
                except httpx2.HTTPError:
                    with self.lock:
                        self.unknown |= names
                    return
                assert answer.status_code == 201, answer.text
                with self.lock:
                    self.accepted |= names

    def progressed(self, count: int) -> bool:
        """Whether so many records were accepted."""
        with self.lock:
            return len(self.accepted) >= count


@pytest.mark.fault("api", "kill -9 of the API under load")
def test_the_api_is_killed_under_load(
    servers: Services, tmp_path: Path, rng: random.Random
) -> None:
    """What it acknowledged is in bronze once; what it did not, at most once."""
    defs = tmp_path / "domains" / "shop"
    defs.mkdir(parents=True)
    env = separate_environment(servers)
    settings = Settings.load(env, root=tmp_path)
    stream = new_stream(defs, settings, edit=lambda document: document.update(id=tmp_path.name))
    (defs / "defs.yaml").write_text(
        DECLARED.format(name=stream.name, topic=stream.topic, contract=stream.contract_file.name)
    )
    env |= {"PLATFORM_DOMAINS": str(defs.parent), "PLATFORM_HOME": str(tmp_path / "home")}
    (record,) = simulate("pgr_events", 1)
    clients = Clients(stream, json.loads(record.value or b""))
    for _ in range(3):
        wanted = len(clients.accepted) + rng.randrange(200, 2_000)
        with api_process(env, tmp_path) as api, ThreadPoolExecutor(WRITERS) as pool:
            work = [pool.submit(clients.write, api) for _ in range(WRITERS)]
            until(partial(clients.progressed, wanted), "the API takes too little")
            api.process.kill()
            for each in work:
                each.result()
    sent = Counter(
        json.loads(record.value or b"")["entity_id"]
        for record in read_topic(settings, stream.topic).values()
    )
    assert clients.accepted
    assert clients.unknown
    assert all(sent[name] == 1 for name in clients.accepted)
    assert all(sent[name] <= 1 for name in clients.unknown)
    assert sent.keys() <= clients.accepted | clients.unknown
    platform = Platform(settings)
    run_stream(platform, stream)
    assert verify_stream(platform, stream).ok
    assert Counter(read_table(settings, stream.bronze_table)["entity_id"].to_pylist()) == sent
