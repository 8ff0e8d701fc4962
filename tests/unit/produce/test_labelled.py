"""Labelled files as one stream: mixed at random, in order per title, cleaned, enriched, checked."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.errors import Permanent
from ingestion_platform.produce.labelled import LabelledRecords, clean, find
from ingestion_platform.produce.record import Record
from ingestion_platform.streams import Stream, declared_streams
from tests.support.reasons import reason_texts

DATA = Path(__file__).parents[3] / "data"
LABELS = ("old", "new", "change")


def streams() -> list[Stream]:
    """The catalogue's."""
    return [stream for stream in declared_streams().values() if stream.domain == "tmdb"]


def fields(record: Record) -> dict[str, Any]:
    """What a record says."""
    value: dict[str, Any] = json.loads(record.value)
    return value


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines to a file below the folder `data` of the test."""

    def to(name: str, *lines: str | bytes | dict[str, Any]) -> Path:
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        raw = [text.encode() if isinstance(text, str) else text for text in texts]
        file.write_bytes(b"\n".join(raw) + b"\n")
        return file

    return to


@pytest.fixture
def found(tmp_path: Path) -> Callable[[], LabelledRecords]:
    """Looks through the folder `data` of the test."""
    return lambda: find(tmp_path / "data", streams())


def test_sample_data_is_valid() -> None:
    """Every record of the repository's sample goes to its topic, and its contract takes it."""
    sample = find(DATA, streams())
    records = list(sample.records(seed=7))
    assert sample.bad == []
    assert len(records) == sum(
        len(file.read_text().splitlines()) for file in DATA.glob("*/*/*.jsonl")
    )
    for stream in streams():
        values = [record.value for record in records if record.topic == stream.topic]
        validated = Validator(stream.contract).parse(pa.array(values, pa.binary()))
        assert reason_texts(validated.reasons) == []
        assert len(validated.valid) == len(values) > 0


def test_seed_repeats_random_order() -> None:
    """Types and labels alternate all along, in an order that the seed decides."""
    sample = find(DATA, streams())

    def order(seed: int) -> list[tuple[bytes | None, str | None, str]]:
        return [(r.key, r.topic, fields(r)["data_label"]) for r in sample.records(seed)]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1), key=str) == sorted(order(2), key=str)
    runs = sum(a[1:] != b[1:] for a, b in pairwise(order(1)))
    assert runs > len(sample.lines) / 2


@pytest.mark.parametrize("seed", range(5))
def test_versions_of_title_stay_in_order(write: Any, found: Any, seed: int) -> None:
    """Old before new before change, then by file and line: no change precedes what it changes."""
    for label in reversed(LABELS):
        for file in (2, 1):
            lines = [{"id": n % 3, "place": [LABELS.index(label), file, n]} for n in range(9)]
            write(f"movie/{label}/{file}.jsonl", *lines)
    write("person/new/1.jsonl", *[{"id": 1, "place": [0, 0, n]} for n in range(9)])
    places = defaultdict(list)
    for record in found().records(seed):
        places[record.topic, record.key].append(fields(record)["place"])
    assert len(places) == 4
    assert all(place == sorted(place) for place in places.values())


def test_records_are_enriched(write: Any, found: Any, tmp_path: Path) -> None:
    """Key, type, label, file, run and processing time; the time grows from record to record."""
    write("tv_series/change/a.jsonl", {"id": 5, "name": "A", "timestamp": "1999"})
    write("movie/new/sub name.jsonl", {"tmdb_id": 6, "id": 7, "title": "B"})
    before = datetime.now(UTC)
    records = list(found().records(seed=0))
    after = datetime.now(UTC)
    by_key = {record.key: (record.topic, fields(record)) for record in records}
    topic, series = by_key[b"5"]
    assert topic == "tmdb-tv_series"
    assert series["tmdb_id"] == series["id"] == 5
    assert (series["data_type"], series["data_label"]) == ("tv_series", "change")
    assert series["source_file"] == "tv_series/change/a.jsonl"
    assert by_key[b"6"][1]["tmdb_id"] == 6
    assert {uuid.UUID(fields(record)["ingestion_id"]).version for record in records} == {4}
    assert len({fields(record)["ingestion_id"] for record in records}) == 1
    times = [datetime.fromisoformat(fields(record)["timestamp"]) for record in records]
    assert before <= times[0] < times[1] <= after


def test_processing_time_is_time_of_sending(write: Any, found: Any) -> None:
    """A record is stamped when it is taken, not when the files were looked through."""
    write("movie/new/1.jsonl", *[{"id": n} for n in range(3)])
    records = found().records(seed=0)
    first = fields(next(records))["timestamp"]
    between = datetime.now(UTC)
    second = fields(next(records))["timestamp"]
    assert datetime.fromisoformat(first) <= between <= datetime.fromisoformat(second)


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("  a b\t", "a b"),
        ("", None),
        (" \n ", None),
        ([" a ", "", ["", {"b": " c "}]], ["a", None, [None, {"b": "c"}]]),
        ({"a": {"b": ""}, "c": 0, "d": False, "e": []}, {"a": {"b": None}, "c": 0, "d": False,
                                                        "e": []}),
        (1.5, 1.5),
        (None, None),
    ],
)  # fmt: skip
def test_cleaning(value: Any, cleaned: Any) -> None:
    """Strings are stripped and empty ones null, nested ones too; nothing else changes."""
    assert clean(value) == cleaned


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_cleaning_is_idempotent(value: Any) -> None:
    """What is clean stays as it is."""
    assert clean(clean(value)) == clean(value)


def test_invalid_lines_are_reported_alone(write: Any, found: Any) -> None:
    """Each with its file, line and reason; empty lines and a byte order mark are no mistake."""
    lines = [
        b'\xef\xbb\xbf{"id": 1}', b'{"id": 2', b"", b"   ", b"[1]", b'{"title": "no id"}',
        b'{"id": "  "}', b'{"id": 1.5}', b'{"id": true}', b'{"id": 3, "title": "\xff"}',
        b"[" * 5000, b'{"id": 4, "x": NaN}', b'{"id": 9}',
    ]  # fmt: skip
    file = write("movie/old/1.jsonl", *lines)
    write("movie/new/2.jsonl", {"id": 10})
    result = found()
    keys = {record.key for record in result.records(seed=3)}
    assert keys == {b"1", b"9", b"10"}
    assert [line.number for line in result.bad] == [2, 5, 6, 7, 8, 9, 10, 11, 12]
    assert {line.file for line in result.bad} == {file}
    assert "is not JSON" in str(result.bad[0])
    assert str(result.bad[2]) == f"{file}:6: tmdb_id (or id) is missing"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "is not a folder"),
        (["movie/new/readme.txt"], "no files in"),
        (["movie/fresh/1.jsonl"], "'fresh' is not a label of tmdb_movie"),
    ],
)
def test_unusable_folder_is_rejected(write: Any, found: Any, names: list[str], says: str) -> None:
    """What is missing or misnamed is said, with what to do."""
    for name in names:
        write(name, {"id": 1})
    with pytest.raises(Permanent, match=says) as raised:
        found()
    assert raised.value.action


def test_streams_without_labels_are_rejected(tmp_path: Path) -> None:
    """The contract must say which types and labels there are."""
    with pytest.raises(Permanent, match="pgr_events has no types and labels"):
        find(tmp_path, [declared_streams()["pgr_events"]])


def test_changed_file_stops_run(write: Any, found: Any) -> None:
    """What is sent is what was checked."""
    file = write("movie/new/1.jsonl", {"id": 1})
    result = found()
    file.write_text('{"id": 2}\n')
    with pytest.raises(Permanent, match=r"1\.jsonl:1: was changed"):
        list(result.records(seed=0))
