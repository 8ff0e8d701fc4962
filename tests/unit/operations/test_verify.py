"""Reconciliation and status find each kind of difference, and count what there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ingestion_platform.lake.segments import SegmentLogBroken
from ingestion_platform.operations.slice_counts import slice_counts
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import load_stream, run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from tests.support.grievances import GOOD
from tests.support.lake_files import DAY, put, segment_of
from tests.support.testbed import edited

NEXT = DAY + timedelta(days=1)


@pytest.fixture
def loaded(platform: Platform, stream: Stream) -> Stream:
    """Two slices of partition 0, with a gap, and one of partition 1; every third record is bad."""
    t = stream.topic
    segments = [
        segment_of(t, 0, 12),
        segment_of(t, 15, 21, ingest_date=NEXT, previous=("A", 12)),
        segment_of(t, 0, 6, partition=1),
    ]
    for segment in segments:
        values = [b"bad" if at % 3 == 0 else GOOD for at in range(segment.start, segment.end)]
        put(platform.store, segment, values)
    load_stream(platform, stream, partitions=[0, 1])
    return stream


def tamper(platform: Platform, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put other rows in place of a table's, as somebody with another engine might."""
    table = platform.catalog.load_table(name)
    table.overwrite(change(table.scan().to_arrow()))


def at(offset: int) -> pc.Expression:
    """The row of partition 0 at an offset."""
    return (pc.field("_offset") == offset) & (pc.field("_partition") == 0)


def altered(rows: pa.Table, column: str, value: Any) -> pa.Table:
    """The rows with another value at offset 4 of partition 0."""
    here = pc.and_(pc.equal(rows["_offset"], 4), pc.equal(rows["_partition"], 0))
    values = pc.if_else(here, pa.scalar(value, rows[column].type), rows[column])
    return rows.set_column(rows.schema.get_field_index(column), column, values)


def test_what_is_as_it_should_be_holds(platform: Platform, loaded: Stream) -> None:
    """Counts of records, tables and gaps; progress is told as it goes."""
    told: list[int] = []
    found = verify_stream(platform, loaded, on_progress=told.append)
    assert found.ok
    assert (found.expected, found.bronze, found.quarantined, found.gaps) == (24, 16, 8, 3)
    assert found.differences == ()
    assert told == [18, 24]
    assert json.loads(json.dumps(found.as_dict()))["ok"] is True


DAMAGE: dict[str, tuple[Callable[[pa.Table], pa.Table], dict[str, int]]] = {
    "a row is deleted": (lambda r: r.filter(~at(4)), {"missing": 1}),
    "a row stands twice": (lambda r: pa.concat_tables([r, r.filter(at(4))]), {"duplicated": 1}),
    "a value is altered": (lambda r: altered(r, "ward_id", "other"), {"mismatched": 1}),
    "a value is lost": (lambda r: altered(r, "tenant_id", None), {"mismatched": 1}),
    "a contract is altered": (lambda r: altered(r, "_contract", "x"), {"mismatched": 1}),
    "a row is of another offset": (
        lambda r: altered(r, "_offset", 13),
        {"missing": 1, "mismatched": 1},
    ),
    "a row is of another topic": (
        lambda r: altered(r, "_topic_id", "Z"),
        {"missing": 1, "mismatched": 1},
    ),
    "all rows are gone": (lambda r: r.slice(0, 0), {"missing": 16}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(platform: Platform, loaded: Stream, name: str) -> None:
    """Each kind is counted as what it is, and its place is told."""
    change, expected = DAMAGE[name]
    tamper(platform, loaded.bronze_table, change)
    found = verify_stream(platform, loaded)
    assert not found.ok
    counts = {w: getattr(found, w) for w in ("missing", "duplicated", "mismatched")}
    assert {w: n for w, n in counts.items() if n} == expected
    assert found.differences
    if sum(expected.values()) == 1:
        assert "partition 0, offset 4 (topic=" in found.differences[0]


@pytest.mark.parametrize("column", ["_value", "_key", "_reasons"])
def test_damage_to_quarantine_is_found(platform: Platform, loaded: Stream, column: str) -> None:
    """The raw bytes count, and the reasons too."""
    value: Any = (
        [dict.fromkeys(("code", "field", "message", "value"), "other")]
        if column == "_reasons"
        else b"other"
    )

    def change(rows: pa.Table) -> pa.Table:
        values = [value if n == 1 else v for n, v in enumerate(rows[column].to_pylist())]
        changed = pa.array(values, rows[column].type)
        return rows.set_column(rows.schema.get_field_index(column), column, changed)

    tamper(platform, loaded.quarantine_table, change)
    assert verify_stream(platform, loaded).mismatched == 1


def test_a_row_in_the_wrong_table_is_found(platform: Platform, loaded: Stream) -> None:
    """A bad record that somebody put into bronze, and took out of quarantine."""

    def promoted(rows: pa.Table) -> pa.Table:
        row = altered(rows.filter(at(4)), "_offset", 3)
        return pa.concat_tables([rows, row])

    tamper(platform, loaded.bronze_table, promoted)
    assert verify_stream(platform, loaded).duplicated == 1
    tamper(platform, loaded.quarantine_table, lambda rows: rows.filter(~at(3)))
    found = verify_stream(platform, loaded)
    assert (found.missing, found.duplicated) == (0, 0)
    assert not found.ok


def test_rows_of_others_are_no_difference(platform: Platform, loaded: Stream) -> None:
    """What was inserted by SQL has no offset, and is counted by itself."""
    table = platform.catalog.load_table(loaded.bronze_table)
    rows = table.scan().to_arrow().slice(0, 3)
    for name in [n for n in rows.schema.names if n.startswith("_")]:
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, name, pa.nulls(3, rows.schema.field(place).type))
    table.append(rows)
    found = verify_stream(platform, loaded)
    assert found.ok
    assert (found.bronze, found.inserted) == (16, 3)


@pytest.mark.parametrize("lost", ["first", "middle", "last"])
def test_a_lost_lake_file_is_found(platform: Platform, loaded: Stream, lost: str) -> None:
    """The segment log breaks, or rows are there that the lake does not account for."""
    t = loaded.topic
    load = segment_of(t, 21, 22, ingest_date=NEXT, previous=("A", 21))
    put(platform.store, load, [GOOD])
    load_stream(platform, loaded, partitions=[0])
    segments = {
        "first": segment_of(t, 0, 12),
        "middle": segment_of(t, 15, 21, ingest_date=NEXT),
        "last": load,
    }
    platform.store.remove(segments[lost].name.path)
    if lost == "last":
        found = verify_stream(platform, loaded)
        assert found.mismatched == 1
        assert "1 rows of bronze." in found.differences[0]
    else:
        with pytest.raises(SegmentLogBroken):
            verify_stream(platform, loaded)


def test_a_changed_lake_file_is_found(platform: Platform, loaded: Stream) -> None:
    """The lake is what rows are compared with."""
    segment = segment_of(loaded.topic, 0, 6, partition=1)
    platform.store.remove(segment.name.path)
    values = [b"bad" if n % 3 == 0 else GOOD for n in range(6)]
    put(platform.store, segment, [*values[:4], GOOD.replace(b'"W"', b'"V"'), values[5]])
    assert verify_stream(platform, loaded).mismatched == 1


def test_what_is_not_loaded_yet_is_not_missing(platform: Platform, loaded: Stream) -> None:
    """Verification goes as far as bronze has come; so does the count of a slice."""
    put(platform.store, segment_of(loaded.topic, 6, 9, partition=1, previous=("A", 6)), [GOOD] * 3)
    found = verify_stream(platform, loaded)
    assert found.ok
    assert found.expected == 24
    count = slice_counts(platform, loaded, [(DAY, 1)])[DAY, 1]
    assert (count.records, count.bronze + count.quarantined, count.loaded) == (9, 6, False)


def no_web(document: dict[str, Any]) -> None:
    """Another contract."""
    for field in document["schema"][0]["properties"]:
        if field["name"] == "channel":
            field["enum"], field["examples"] = [{"value": "IVR"}], ["IVR"]


def test_slices_are_counted(platform: Platform, loaded: Stream) -> None:
    """Records, gaps and rows of each slice; stale where another contract validated."""
    slices = [(DAY, 0), (NEXT, 0), (DAY, 1), (NEXT, 1)]
    counts = slice_counts(platform, loaded, slices)
    assert [(k.records, k.gaps, k.bronze, k.quarantined) for k in counts.values()] == [
        (12, 0, 8, 4),
        (6, 3, 4, 2),
        (6, 0, 4, 2),
        (0, 0, 0, 0),
    ]
    assert all(k.ok and k.loaded and not k.stale for k in counts.values())
    other = edited(loaded, no_web)
    load_stream(platform, other, partitions=[0], ingest_dates=[DAY])
    counts = slice_counts(platform, other, slices)
    assert [k.stale for k in counts.values()] == [False, True, True, False]
    assert counts[DAY, 0].quarantined == 12
    found = verify_stream(platform, other)
    assert (found.ok, found.stale) == (True, 12)


def test_nothing_at_all_holds(platform: Platform, stream: Stream) -> None:
    """No lake, no tables."""
    found = verify_stream(platform, stream)
    assert found.ok
    assert (found.expected, found.bronze) == (0, 0)
    assert slice_counts(platform, stream, [(DAY, 0)])[DAY, 0].records == 0


def test_status_follows_a_stream(
    embedded_settings: Settings, make_stream: Callable[..., Stream]
) -> None:
    """From an empty topic to a loaded one, and what came since."""
    stream = make_stream(embedded_settings)
    platform = Platform(embedded_settings)
    status = stream_status(platform, stream)
    assert [p.partition for p in status.partitions] == [0, 1, 2, 3]
    assert (status.lag, status.bronze_rows, status.bronze_topic_id) == (0, 0, None)
    assert all(p.lake_position is p.bronze_position is None for p in status.partitions)

    produce(embedded_settings, stream.topic, simulate("pgr_events", 400, bad_ratio=0.1))
    assert stream_status(platform, stream).lag == 400
    run_stream(platform, stream)
    status = stream_status(platform, stream)
    assert (status.lag, status.bronze_rows, status.quarantine_rows) == (0, 360, 40)
    assert status.bronze_topic_id == status.topic_id
    for partition in status.partitions:
        end = partition.log_end
        positions = (partition.lake_position, partition.bronze_position)
        assert (*positions, partition.quarantine_position) == (end, end, end)
    produce(embedded_settings, stream.topic, simulate("pgr_events", 30))
    assert stream_status(platform, stream).lag == 30
    assert json.loads(json.dumps(status.as_dict()))["partitions"][0]["lag"] == 0
