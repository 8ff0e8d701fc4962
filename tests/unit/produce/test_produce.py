"""Producing through the embedded broker: nothing altered or reordered, no failure untold."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from ingestion_platform.errors import SettingError, SourceUnavailable
from ingestion_platform.kafka import broker
from ingestion_platform.kafka.client import client_config, ensure_topic
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Return a home without a broker; stop one that the test starts."""
    yield tmp_path / "home"
    broker.stop(tmp_path / "home")


@pytest.fixture
def topic(embedded: Settings) -> str:
    """A topic of its own, empty."""
    name = f"t-{uuid.uuid4()}"
    ensure_topic(embedded, name)
    return name


def consumed(settings: Settings, topic: str) -> list[Message]:
    """Everything that the topic holds, partition by partition."""
    consumer = Consumer(client_config(settings, **{"group.id": "test"}))
    try:
        pending: dict[int, int] = {}
        for partition in range(broker.PARTITIONS):
            where = TopicPartition(topic, partition)
            low, high = consumer.get_watermark_offsets(where, timeout=10)
            if low < high:
                pending[partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for partition in pending])
        messages: list[Message] = []
        deadline = time.monotonic() + 30
        while pending:
            assert time.monotonic() < deadline
            for message in consumer.consume(1000, timeout=0.2):
                assert message.error() is None
                messages.append(message)
                if message.offset() + 1 == pending[message.partition()]:
                    del pending[message.partition()]
        return messages
    finally:
        consumer.close()


def by_key(records: Iterable[tuple[bytes | None, bytes]]) -> dict[bytes | None, list[bytes]]:
    """The values of each key, in their order."""
    values: dict[bytes | None, list[bytes]] = defaultdict(list)
    for key, value in records:
        values[key].append(value)
    return values


def test_produced_records_are_read_back(embedded: Settings, topic: str) -> None:
    """Keys, values (bad ones too) and the order within each key arrive unchanged."""
    records = list(simulate("pgr_events", 5000, seed=7, bad_ratio=0.1))
    report = produce(embedded, topic, records)
    assert (report.sent, report.delivered, report.failed) == (5000, 5000, [])
    read = [(message.key(), message.value()) for message in consumed(embedded, topic)]
    assert by_key(read) == by_key((record.key, record.value) for record in records)


def test_headers_and_timestamps_arrive(embedded: Settings, topic: str) -> None:
    """A record keeps its headers and the timestamp that it was given."""
    headers = (("trace", b"\x00\xff"), ("trace", b"again"))
    produce(embedded, topic, [Record(None, b"value", headers, 1_700_000_000_123)])
    (message,) = consumed(embedded, topic)
    assert message.key() is None
    assert tuple(message.headers()) == headers
    assert message.timestamp()[1] == 1_700_000_000_123


def test_record_without_timestamp_gets_present_time(embedded: Settings, topic: str) -> None:
    """The producer stamps what has no timestamp."""
    before = int(time.time() * 1000)
    produce(embedded, topic, [Record(b"k", b"v")])
    (message,) = consumed(embedded, topic)
    assert before <= message.timestamp()[1] <= int(time.time() * 1000)


@pytest.mark.parametrize("headers", [(), (("a", b"b"),)])
def test_undeliverable_record_is_reported_alone(
    embedded: Settings, topic: str, headers: tuple[tuple[str, bytes], ...]
) -> None:
    """One record over the size limit costs itself only, and comes back whole with its reason."""
    huge = Record(b"huge", os.urandom(1_100_000), headers, 1_700_000_000_000)
    records = [Record(b"k", b"1"), huge, Record(b"k", b"2")]
    report = produce(embedded, topic, records)
    assert (report.sent, report.delivered) == (3, 2)
    (failure,) = report.failed
    assert failure.record == huge
    assert "too large" in failure.reason.lower()
    assert [message.value() for message in consumed(embedded, topic)] == [b"1", b"2"]


@pytest.mark.parametrize("headers", [(), (("a", b"b"),)])
def test_dead_broker_fails_outstanding_records(
    home: Path, headers: tuple[tuple[str, bytes], ...]
) -> None:
    """Nothing is delivered for `patience` seconds: given up, told why, no more input taken."""
    settings = Settings.load({"PLATFORM_HOME": str(home)}, root=home)
    address = broker.start(home)
    ensure_topic(settings, "events")

    def killing() -> Iterator[Record]:
        for number in count():
            if number == 10:
                os.kill(address.pid, signal.SIGKILL)
            yield Record(b"k", b"%d" % number, headers)

    report = produce(settings, "events", killing(), rate=500, patience=1)
    assert report.sent >= 10
    assert report.failed
    assert report.delivered == report.sent - len(report.failed)
    assert all("nothing was acknowledged for 1 s" in failure.reason for failure in report.failed)
    lost = [failure.record.value for failure in report.failed]
    assert lost == [b"%d" % number for number in range(report.delivered, report.sent)]
    assert all(failure.record.headers == headers for failure in report.failed)


def test_full_queue_makes_producer_wait(tmp_path: Path, embedded: Settings) -> None:
    """Far more records than the queue holds are all delivered."""
    settings = Settings.load(
        {"PLATFORM_HOME": str(embedded.home), "KAFKA_QUEUE_BUFFERING_MAX_MESSAGES": "100"},
        root=tmp_path,
    )
    ensure_topic(settings, "narrow")
    report = produce(settings, "narrow", (Record(b"k", b"%d" % n) for n in range(5000)))
    assert (report.sent, report.delivered) == (5000, 5000)
    assert [m.value() for m in consumed(settings, "narrow")] == [b"%d" % n for n in range(5000)]


def test_rate_spaces_records_evenly(embedded: Settings, topic: str) -> None:
    """Records are taken when it is their turn: neither all at once nor faster than asked."""
    taken: list[float] = []

    def timed() -> Iterator[Record]:
        for _ in range(100):
            taken.append(time.monotonic())
            yield Record(b"k", b"v")

    report = produce(embedded, topic, timed(), rate=200)
    assert report.delivered == 100
    # Four at a time are 20 ms of the rate.
    ahead = [number for number, at in enumerate(taken) if at - taken[0] < (number - 4) / 200]
    assert ahead == []


def test_progress_rises_to_delivered_records(embedded: Settings, topic: str) -> None:
    """Progress never falls, and ends at the report's own figure."""
    told: list[int] = []
    records = (Record(b"k", b"v") for _ in range(100))
    report = produce(embedded, topic, records, rate=200, on_progress=told.append)
    assert told == sorted(told)
    assert len(told) >= 2
    assert told[-1] == report.delivered == 100


def test_failing_input_delivers_earlier_records(embedded: Settings, topic: str) -> None:
    """The input's error comes through, after what was taken before it is delivered."""

    def failing() -> Iterator[Record]:
        yield Record(b"k", b"1")
        yield Record(b"k", b"2")
        raise ValueError("the file ends here")

    with pytest.raises(ValueError, match="the file ends here"):
        produce(embedded, topic, failing())
    assert [message.value() for message in consumed(embedded, topic)] == [b"1", b"2"]


def test_empty_input_is_allowed(embedded: Settings, topic: str) -> None:
    """An empty input gives an empty report."""
    report = produce(embedded, topic, [])
    assert (report.sent, report.delivered, report.failed) == (0, 0, [])


def test_embedded_broker_holds_demo(embedded: Settings, topic: str) -> None:
    """200,000 simulated events stay readable from the first: batches are sent compressed."""
    produce(embedded, topic, simulate("pgr_events", 200_000, bad_ratio=0.01))
    consumer = Consumer(client_config(embedded, **{"group.id": "test"}))
    try:
        marks = [
            consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            for partition in range(broker.PARTITIONS)
        ]
    finally:
        consumer.close()
    assert [low for low, _ in marks] == [0, 0, 0, 0]
    assert sum(high for _, high in marks) == 200_000


def test_wrong_property_stops_before_sending(tmp_path: Path) -> None:
    """A setting that librdkafka refuses is the user's to mend."""
    settings = Settings.load(
        {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA_NO_SUCH": "1"}, root=tmp_path
    )
    with pytest.raises(SettingError, match="KAFKA_NO_SUCH"):
        produce(settings, "events", [Record(b"k", b"v")])


def test_missing_broker_is_reported(tmp_path: Path) -> None:
    """There is no waiting for an embedded broker that nobody started."""
    settings = Settings.load({"PLATFORM_HOME": str(tmp_path)}, root=tmp_path)
    with pytest.raises(SourceUnavailable, match="no embedded broker"):
        produce(settings, "events", [Record(b"k", b"v")])
