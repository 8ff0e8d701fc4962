"""A topic that changes underneath: recreated, widened, cut short by retention, compacted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from ingestion_platform.lake.losses import recorded_losses
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from services import Services
from tests.support.oracle import read_table, read_topic
from tests.support.processes import Worker
from tests.support.scene import Scene, admin, recreate, until
from tests.support.testbed import separate_environment

pytestmark = [pytest.mark.services]

MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(servers: Services, worker: Worker, tmp_path: Path) -> MakeScene:
    """Makes a new stream, loaded once; keywords are the topic's own properties."""

    def make(**topic: str | int) -> Scene:
        scene = Scene.new(worker, separate_environment(servers), tmp_path, **topic)
        scene.send(2_000)
        scene.measure("run")
        scene.oracle.read()
        return scene

    return make


def forget_what_was_not_landed(scene: Scene) -> None:
    """Of topic ids that are gone, and of offsets that are, expect only what lies ahead of the
    last record in the tables: a whole piece from the start, without holes."""
    present = read_topic(scene.settings, scene.stream.topic)
    ends: dict[tuple[str, int], int] = {}
    for name in (scene.stream.bronze_table, scene.stream.quarantine_table):
        rows = read_table(scene.settings, name)
        places = (rows[c].to_pylist() for c in ("_topic_id", "_partition", "_offset"))
        for topic_id, partition, offset in zip(*places, strict=True):
            of = (topic_id, partition)
            ends[of] = max(ends.get(of, -1), offset)
    scene.oracle.seen = {
        place: record
        for place, record in scene.oracle.seen.items()
        if place in present or place[2] <= ends.get(place[:2], -1)
    }


@pytest.mark.fault("log", "a topic is deleted and created again in the middle of a run")
def test_a_topic_recreated_during_a_run(make_scene: MakeScene, rng: random.Random) -> None:
    """What was landed of the old one is whole up to some offset, the new one follows it, and the
    recreation is noted for the alarm."""
    scene = make_scene()
    for turn in (1, 2):
        scene.send(3_000)
        scene.oracle.read()
        attempt = scene.start("run")
        scene.await_step(rng, attempt)
        recreate(scene)
        scene.until_done(attempt)
        scene.until_done()
        forget_what_was_not_landed(scene)
        scene.holds()
        status = stream_status(scene.platform, scene.stream)
        assert status.recreated == turn
        assert status.lag == 0


@pytest.mark.fault("log", "partitions are added to a topic, between runs and during one")
def test_partitions_added(make_scene: MakeScene, rng: random.Random) -> None:
    """The next run lands and loads them too; the lag check says that assets lack them."""
    scene = make_scene()
    for count in (5, 7):
        scene.send(1_000)
        attempt = scene.start("run")
        scene.await_step(rng, attempt)
        client = admin(scene)
        wider = client.create_partitions([NewPartitions(scene.stream.topic, count)])
        wider[scene.stream.topic].result()
        scene.send(1_000)
        scene.until_done(attempt)
        scene.until_done()
        until(lambda count=count: _spread(scene) == count, "all partitions have records")
    scene.stream = scene.oracle.stream = replace(scene.stream, partitions=7)
    scene.holds()
    assert {place[1] for place in scene.oracle.seen} == set(range(7))


def _spread(scene: Scene) -> int:
    scene.send(100)
    return len({place[1] for place in read_topic(scene.settings, scene.stream.topic)})


def delete_records(scene: Scene, share: float) -> None:
    """Delete the first part of what each partition has now."""
    positions = stream_status(scene.platform, scene.stream).partitions
    cut = [
        TopicPartition(
            scene.stream.topic, p.partition, p.log_start + int((p.log_end - p.log_start) * share)
        )
        for p in positions
    ]
    client = admin(scene)
    for future in client.delete_records(cut).values():
        future.result()


@pytest.mark.fault("log", "retention takes records while they are landed")
def test_retention_overtakes_a_run(make_scene: MakeScene, rng: random.Random) -> None:
    """What was landed is exact; what was not is a gap of the lake, and noted for the alarm."""
    scene = make_scene()
    for share in (0.5, 0.9, 0.7):
        scene.send(3_000)
        scene.oracle.read()
        attempt = scene.start("run")
        scene.await_step(rng, attempt)
        delete_records(scene, share)
        scene.until_done(attempt)
        scene.until_done()
    status = stream_status(scene.platform, scene.stream)
    ends = {p.partition: p.log_end for p in status.partitions}
    found = verify_stream(scene.platform, scene.stream)
    assert found.ok
    assert found.expected + found.gaps == sum(ends.values())
    assert found.gaps == status.lost
    lost = {
        (loss.partition, offset)
        for loss in recorded_losses(scene.platform.store, scene.stream.topic)
        for offset in range(loss.start, loss.end or 0)
    }
    scene.oracle.seen = {
        place: record for place, record in scene.oracle.seen.items() if place[1:] not in lost
    }
    scene.holds()


@pytest.mark.fault("log", "retention takes everything that was not landed, and nothing follows")
def test_retention_takes_everything(make_scene: MakeScene) -> None:
    """The loss is told and noted at once, though there is no record to land behind it."""
    scene = make_scene()
    at = {p.partition: p.log_end for p in stream_status(scene.platform, scene.stream).partitions}
    scene.send(1_000)
    delete_records(scene, 1.0)
    before = stream_status(scene.platform, scene.stream)
    assert before.lost == 1_000
    assert all(loss.noticed is None for loss in before.losses)
    assert scene.until_done() == []
    noted = recorded_losses(scene.platform.store, scene.stream.topic)
    assert {loss.partition: loss.start for loss in noted} == at
    assert sum(loss.count for loss in noted) == 1_000
    scene.send(500)
    delete_records(scene, 1.0)
    scene.send(500)
    scene.holds()
    found = verify_stream(scene.platform, scene.stream)
    assert (found.expected, found.gaps) == (2_500, 1_500)
    after = stream_status(scene.platform, scene.stream)
    assert (after.lost, after.lag) == (1_500, 0)


def configure(scene: Scene, **values: str | int) -> None:
    """Change properties of the topic."""
    entries = [
        ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
        for name, value in values.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, scene.stream.topic, incremental_configs=entries)
    client = admin(scene)
    client.incremental_alter_configs([resource])[resource].result()


@pytest.mark.fault("log", "retention.ms deletes whole segments that were not landed")
def test_retention_by_time(make_scene: MakeScene) -> None:
    """The gap is noted; what came after it is landed."""
    scene = make_scene()
    scene.send(1_000)
    configure(scene, **{"retention.ms": 1_000})

    def gone() -> bool:
        marks = stream_status(scene.platform, scene.stream).partitions
        return all(p.log_start == p.log_end for p in marks)

    until(gone, "retention has deleted the segments")
    configure(scene, **{"retention.ms": -1})
    scene.send(700)
    scene.holds()
    status = stream_status(scene.platform, scene.stream)
    assert (status.lost, status.lag) == (1_000, 0)
    assert verify_stream(scene.platform, scene.stream).gaps == 1_000


COMPACT: dict[str, str | int] = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.001",
    "segment.ms": "300",
    "max.compaction.lag.ms": "300",
    "delete.retention.ms": "0",
}


@pytest.mark.fault("log", "a topic is compacted between runs")
def test_a_compacted_topic(make_scene: MakeScene) -> None:
    """What was landed stays; what compaction took before counts as gaps, not as losses."""
    scene = make_scene()
    client = Producer({"bootstrap.servers": scene.settings.bootstrap_servers})

    def update(seed: int) -> None:
        for number, record in enumerate(simulate("pgr_events", 400, seed=seed, bad_ratio=0.05)):
            client.produce(scene.stream.topic, record.value, f"k{number % 7}", number % 4)
        assert client.flush(30) == 0

    update(1)
    assert scene.until_done() == []
    scene.oracle.read()
    configure(scene, **COMPACT)
    update(2)
    update(3)

    def compacted() -> bool:
        for partition in range(4):  # only what another segment follows is compacted
            client.produce(scene.stream.topic, b"more", b"roll", partition)
        assert client.flush(30) == 0
        return len(read_topic(scene.settings, scene.stream.topic)) < 1_000

    until(compacted, "the cleaner has compacted the topic")
    configure(scene, **{"min.compaction.lag.ms": 2**62, "max.compaction.lag.ms": 2**63 - 1})
    before = -1

    def quiet() -> bool:
        nonlocal before
        now = len(read_topic(scene.settings, scene.stream.topic))
        still, before = now == before, now
        time.sleep(0.5)
        return still

    until(quiet, "the cleaner has stopped")
    scene.holds()
    found = verify_stream(scene.platform, scene.stream)
    assert found.expected == len(scene.oracle.seen)
    assert found.gaps > 0
    assert stream_status(scene.platform, scene.stream).lost == 0


@pytest.mark.fault("log", "a transaction stays open behind which others' records wait")
def test_an_open_transaction_holds_back(make_scene: MakeScene) -> None:
    """Nothing behind the last stable offset is landed, in that partition only; when the producer
    dies its transaction is aborted by the broker, and what waited follows."""
    scene = make_scene()
    servers = {"bootstrap.servers": scene.settings.bootstrap_servers}
    dying = Producer(
        servers | {"transactional.id": scene.stream.name, "transaction.timeout.ms": 3_000}
    )
    dying.init_transactions(30)
    dying.begin_transaction()
    plain = Producer(servers)
    dying.produce(scene.stream.topic, b"never seen", None, 0)
    dying.flush(30)
    records = list(simulate("pgr_events", 400, seed=9, bad_ratio=0.05, days=0.5))
    for number, record in enumerate(records):
        plain.produce(scene.stream.topic, record.value, record.key, number % 2)
    assert plain.flush(30) == 0
    assert scene.until_done() == []
    at = {p.partition: p for p in stream_status(scene.platform, scene.stream).partitions}
    held = verify_stream(scene.platform, scene.stream).expected
    assert held in (2_200, 2_400)  # 2,400 if the broker was quicker than the run
    assert at[1].lag == 0

    def ended() -> bool:
        assert scene.until_done() == []
        return verify_stream(scene.platform, scene.stream).expected == 2_400

    until(ended, "the broker has aborted the transaction")
    scene.holds()
    found = verify_stream(scene.platform, scene.stream)
    assert found.gaps == 2  # the aborted record and its marker
    with pytest.raises(KafkaException):
        dying.commit_transaction(30)


@pytest.mark.fault("log", "none: all is well")
def test_runs_of_a_topic_that_does_not_change_note_nothing(make_scene: MakeScene) -> None:
    """No loss is noted while every record is landed."""
    scene = make_scene()
    scene.send(100)
    run_stream(scene.platform, scene.stream)
    assert recorded_losses(scene.platform.store, scene.stream.topic) == []
