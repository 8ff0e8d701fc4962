"""`ingest produce --data`: labelled files, each type to its topic, bad lines told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from ingestion_platform.kafka import broker
from ingestion_platform.kafka.client import client_config
from ingestion_platform.settings import Settings
from tests.support.command_line import Ingest

DATA = Path(__file__).parents[3] / "data"
TOPICS = ("tmdb-movie", "tmdb-tv_series", "tmdb-person")


@pytest.fixture
def own(bare: Ingest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ingest]:
    """`ingest` on a broker of the test's own: topics are the declared ones."""
    home = tmp_path / "home"
    monkeypatch.setenv("PLATFORM_HOME", str(home))
    broker.start(home)
    yield bare
    broker.stop(home)


def sent() -> list[tuple[str, bytes, dict[str, object]]]:
    """Topic, key and value of everything in the three topics."""
    found = []
    consumer = Consumer(client_config(Settings.load(), **{"group.id": "test"}))
    try:
        present = consumer.list_topics(timeout=10).topics
        places = [TopicPartition(t, p) for t in TOPICS if t in present for p in range(4)]
        ends = [consumer.get_watermark_offsets(place, timeout=10) for place in places]
        consumer.assign([TopicPartition(p.topic, p.partition, 0) for p in places])
        missing = sum(high - low for low, high in ends)
        while missing:
            for message in consumer.consume(missing, timeout=10):
                assert message.error() is None
                found.append((message.topic(), message.key(), json.loads(message.value())))
                missing -= 1
    finally:
        consumer.close()
    return found


def test_a_domain_goes_to_all_of_its_topics(own: Ingest) -> None:
    """The sample data arrive, each in the topic of its type, keyed by number."""
    answer = own("produce", "tmdb", "--data", str(DATA), "--seed", "7")
    assert answer.code == 0, answer.err
    assert "54 of 54 records delivered" in answer.err
    found = sent()
    assert len(found) == 54
    for topic, key, value in found:
        assert topic == f"tmdb-{value['data_type']}"
        assert key == str(value["tmdb_id"]).encode()


def test_a_stream_alone_sends_its_own_type(own: Ingest) -> None:
    """And --count cuts it short."""
    answer = own("produce", "tmdb_person", "--data", str(DATA), "--count", "5")
    assert answer.code == 0, answer.err
    assert [topic for topic, _, _ in sent()] == ["tmdb-person"] * 5


def test_bad_lines_are_named_and_fail_the_command(own: Ingest, tmp_path: Path) -> None:
    """The rest is sent; file, line and reason are told."""
    data = tmp_path / "data"
    shutil.copytree(DATA / "person", data / "person")
    bad = data / "person" / "new" / "broken.jsonl"
    bad.write_text('{"id": 1, "name": "Fine"}\n{"id": 2, "name": \n')
    answer = own("produce", "tmdb", "--data", str(data))
    assert answer.code == 1
    assert "19 of 19 records delivered" in answer.err
    assert "1 lines are no records" in answer.err
    assert f"{bad}:2: is not JSON" in answer.err
    assert len(sent()) == 19


def test_undelivered_records_fail_the_command(own: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that the producer refuses are counted and told, with the reason."""
    monkeypatch.setenv("KAFKA_MESSAGE_MAX_BYTES", "1000")
    answer = own("produce", "tmdb", "--data", str(DATA))
    assert answer.code == 1
    assert "were not acknowledged" in answer.err
    rejected = 54 - len(sent())
    assert 0 < rejected < 54
    assert f"{rejected} records were not acknowledged" in answer.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tmdb", "--count", "5"), "tmdb is a domain"),
        (("no_such", "--data", str(DATA)), "no stream 'no_such'"),
        (("tmdb", "--data", str(DATA), "--bad-ratio", "0.1"), "simulated"),
        (("tmdb", "--data", "no such folder"), "is not a folder"),
        (("recomart", "--data", str(DATA)), "has no types and labels"),
    ],
)
def test_wrong_use_is_explained(bare: Ingest, arguments: tuple[str, ...], says: str) -> None:
    """Before anything is sent."""
    answer = bare("produce", *arguments)
    assert answer.code in (1, 2)
    assert says in " ".join(answer.err.split())
