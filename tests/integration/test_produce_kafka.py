"""Producing to a real Kafka, which is killed meanwhile: all there, once, in order."""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from ingestion_platform.errors import Permanent
from ingestion_platform.kafka.client import client_config, ensure_topic
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from services import Services

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A Kafka of its own, because it is killed."""
    services = Services(tmp_path_factory.mktemp("kafka") / "data")
    try:
        services.up(["kafka"])
        yield services
    finally:
        services.down(purge=True)


@pytest.fixture(scope="module")
def kafka(servers: Services) -> Settings:
    """Settings that lead to it."""
    return Settings.load(servers.env(), root=servers.directory)


@pytest.fixture
def topic() -> str:
    """A name that is not taken."""
    return f"t-{uuid.uuid4()}"


def consumed(settings: Settings, topic: str) -> list[tuple[bytes | None, bytes]]:
    """Keys and values of everything in the topic, partition by partition."""
    consumer = Consumer(client_config(settings, **{"group.id": "test", "enable.partition.eof": 1}))
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        found: list[tuple[bytes | None, bytes]] = []
        ended: set[int] = set()
        deadline = time.monotonic() + 60
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline
            for message in consumer.consume(10_000, timeout=0.2):
                if message.error() is None:
                    found.append((message.key(), message.value()))
                else:
                    ended.add(message.partition())
        return found
    finally:
        consumer.close()


def test_a_broker_killed_midway_loses_doubles_and_reorders_nothing(
    servers: Services, kafka: Settings, topic: str
) -> None:
    """Deliveries that fail while Kafka is away are retried, in order and without duplicates."""
    ensure_topic(kafka, topic, 4)
    records = [Record(b"key %d" % (n % 50), b"%d" % n) for n in range(20_000)]
    killed = threading.Event()

    def killing() -> Iterator[Record]:
        for number, record in enumerate(records):
            if number == 5000:
                servers.kill("kafka")
                killed.set()
            yield record

    def mend() -> None:
        assert killed.wait(60)
        servers.start("kafka")

    mending = threading.Thread(target=mend)
    mending.start()
    report = produce(kafka, topic, killing(), rate=20_000)
    mending.join()
    assert (report.sent, report.delivered, report.failed) == (20_000, 20_000, [])
    expected, found = defaultdict(list), defaultdict(list)
    for record in records:
        expected[record.key].append(record.value)
    for key, value in consumed(kafka, topic):
        found[key].append(value)
    assert found == expected


def test_a_topic_is_created_as_asked_for_and_then_left_alone(kafka: Settings, topic: str) -> None:
    """Partitions and properties are the caller's at first; later calls change nothing."""
    assert ensure_topic(kafka, topic, 6, **{"retention.ms": 12_345_678}) == 6
    assert ensure_topic(kafka, topic, 2, **{"retention.ms": 1}) == 6
    admin = AdminClient(client_config(kafka))
    resource = ConfigResource(ResourceType.TOPIC, topic)
    config = admin.describe_configs([resource])[resource].result()
    assert config["retention.ms"].value == "12345678"


def test_a_topic_that_kafka_rejects_is_permanent(kafka: Settings) -> None:
    """A name that no topic can have is not worth a second try."""
    with pytest.raises(Permanent, match="no such name"):
        ensure_topic(kafka, "no such name")


def test_a_record_larger_than_the_topic_allows_is_reported(kafka: Settings, topic: str) -> None:
    """The broker's own rejection of a record comes back with its reason."""
    ensure_topic(kafka, topic, 1, **{"max.message.bytes": 2000})
    huge = Record(b"k", uuid.uuid4().bytes * 1000)
    plain = Settings.load(
        {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers or "",
            "KAFKA_COMPRESSION_TYPE": "none",
        },
        root=kafka.home.parent,
    )
    report = produce(plain, topic, [huge])
    assert (report.sent, report.delivered) == (1, 0)
    assert report.failed[0].record.value == huge.value
    assert "too large" in report.failed[0].reason.lower()
    assert produce(plain, topic, [Record(b"k", b"small")]).delivered == 1


def test_simulated_events_arrive_whole(kafka: Settings, topic: str) -> None:
    """A hundred thousand events, some bad, are in the topic exactly as they were made."""
    ensure_topic(kafka, topic, 4)
    records = list(simulate("pgr_events", 100_000, seed=3, bad_ratio=0.01))
    report = produce(kafka, topic, records)
    assert report.delivered == 100_000
    assert sorted(value for _, value in consumed(kafka, topic)) == sorted(
        record.value for record in records
    )
