"""Loading, verifying and counting a lake whose files are merged before, between and meanwhile."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ingestion_platform.lake.merge import merge_closed
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.operations import verify as verify_module
from ingestion_platform.operations.slice_counts import SliceCount, slice_counts
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream
from tests.support.grievances import GOOD
from tests.support.lake_files import DAY, put, segment_of
from tests.support.testbed import edited

NEXT = DAY + timedelta(days=1)
EDGES = [0, 3, 4, 8, 12, 15, 20, 21, 24]


def land(platform: Platform, topic: str, edges: list[int], follow: bool = True) -> None:
    """Files between edges, every third record bad; then one of the next ingest date."""
    segments = [
        segment_of(topic, start, end, previous=("A", start) if start else None)
        for start, end in pairwise(edges)
    ]
    if follow:
        end = edges[-1]
        segments.append(segment_of(topic, end, end + 4, ingest_date=NEXT, previous=("A", end)))
    for segment in segments:
        store(platform, segment)


def store(platform: Platform, segment: Segment) -> None:
    """A file, every third record bad."""
    values = [b"bad" if at % 3 == 0 else GOOD for at in range(segment.start, segment.end)]
    put(platform.store, segment, values)


def merge(platform: Platform, stream: Stream) -> int:
    """Merge what can be; how many slices changed."""
    return len(merge_closed(platform.store, stream.topic, today=NEXT + timedelta(days=1)))


def offsets(platform: Platform, stream: Stream) -> list[int]:
    """The offsets in both tables."""
    tables = (stream.bronze_table, stream.quarantine_table)
    found = [platform.catalog.load_table(name).scan().to_arrow()["_offset"] for name in tables]
    return sorted(at for column in found for at in column.to_pylist())


def narrow(document: dict) -> None:
    """Nobody may report over the web any more: every record becomes bad."""
    for field in document["schema"][0]["properties"]:
        if field["name"] == "channel":
            field["enum"] = [v for v in field["enum"] if v["value"] != "WEB"]
            field["examples"] = ["IVR"]


def holds(platform: Platform, stream: Stream, end: int) -> None:
    """Each record up to an offset is there once, and so say verification and counts."""
    assert offsets(platform, stream) == list(range(end))
    found = verify_stream(platform, stream)
    assert (found.ok, found.expected, found.stale) == (True, end, 0)
    counts = slice_counts(platform, stream, [(DAY, 0), (NEXT, 0)])
    assert all(count.ok and count.loaded for count in counts.values())
    assert sum(count.records for count in counts.values()) == end


def test_a_load_goes_on_in_the_midst_of_a_merged_file(platform: Platform, stream: Stream) -> None:
    """Half of its records are in the tables already; then all are validated by another contract."""
    land(platform, stream.topic, EDGES[:4], follow=False)
    load_stream(platform, stream, partitions=[0])
    for start, end in pairwise(EDGES[3:]):
        store(platform, segment_of(stream.topic, start, end, previous=("A", start)))
    store(platform, segment_of(stream.topic, 24, 28, ingest_date=NEXT, previous=("A", 24)))
    assert merge(platform, stream) == 1
    load_stream(platform, stream, partitions=[0])
    holds(platform, stream, 28)
    other = edited(stream, narrow)
    load_stream(platform, other, partitions=[0], ingest_dates=[DAY, NEXT])
    holds(platform, other, 28)
    rows = platform.catalog.load_table(stream.quarantine_table).scan().to_arrow()
    assert {
        segment.name.path for segment in SegmentLog(platform.store, stream.topic).after(0, None)
    } == set(rows["_origin"].to_pylist())


def test_a_load_whose_files_are_merged_looks_again(platform: Platform, stream: Stream) -> None:
    """Files that it was about to read are gone; nothing is lost, and nothing doubled."""
    land(platform, stream.topic, EDGES)
    merged: list[int] = []

    def meanwhile(_: object) -> None:
        if not merged:
            merged.append(merge(platform, stream))

    load_stream(platform, stream, partitions=[0], on_loaded=meanwhile)
    assert merged == [1]
    holds(platform, stream, 28)


def test_a_verification_beside_a_merge_holds(
    platform: Platform, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in the merged file where it was, and counts each record once."""
    monkeypatch.setattr(verify_module, "ROWS", 1)
    land(platform, stream.topic, EDGES)
    load_stream(platform, stream, partitions=[0])
    told: list[int] = []

    def meanwhile(count: int) -> None:
        told.append(count)
        if len(told) == 2:
            assert merge(platform, stream) == 1

    found = verify_stream(platform, stream, on_progress=meanwhile)
    assert (found.ok, found.expected, found.gaps) == (True, 28, 0)
    assert told == sorted(set(told))


@pytest.mark.parametrize("rows", [1, 7, 250_000])
def test_differences_are_found_in_batches_of_any_size(
    platform: Platform, stream: Stream, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """One record missing, one doubled, one altered: each told with the file that has it."""
    monkeypatch.setattr(verify_module, "ROWS", rows)
    land(platform, stream.topic, EDGES)
    load_stream(platform, stream, partitions=[0])
    table = platform.catalog.load_table(stream.bronze_table)
    found = table.scan().to_arrow()
    at = found["_offset"]
    twice = found.filter(pc.equal(at, 10))
    kept = found.filter(pc.not_equal(at, 4))
    wards = pc.if_else(pc.equal(kept["_offset"], 22), "other", kept["ward_id"])
    kept = kept.set_column(kept.schema.get_field_index("ward_id"), "ward_id", wards)
    table.overwrite(pa.concat_tables([kept, twice]))
    result = verify_stream(platform, stream)
    assert (result.missing, result.duplicated, result.mismatched) == (1, 1, 1)
    said = " ".join(result.differences)
    for offset, start in ((4, 4), (10, 8), (22, 21)):
        path = segment_of(stream.topic, start, start + 1).name.path
        assert f"partition 0, offset {offset} ({path})" in said


def count_of(platform: Platform, stream: Stream) -> list[SliceCount]:
    """The counts of both ingest dates."""
    return list(slice_counts(platform, stream, [(DAY, 0), (NEXT, 0)]).values())


@pytest.mark.parametrize("loaded", ["before", "after"])
def test_records_in_two_ingest_dates_are_no_alarm(
    platform: Platform, stream: Stream, loaded: str
) -> None:
    """A writer whose clock is late puts what is in the next ingest date into the one before, too:
    the slices hold, whichever of the two was loaded, and merged or not."""
    land(platform, stream.topic, [0, 3, 6, 8])
    if loaded == "before":
        load_stream(platform, stream, partitions=[0])
    store(platform, segment_of(stream.topic, 8, 11, previous=("A", 8)))
    load_stream(platform, stream, partitions=[0])
    assert offsets(platform, stream) == list(range(12))
    for _ in range(2):
        assert verify_stream(platform, stream).expected == 12
        counts = count_of(platform, stream)
        assert all(count.ok and count.loaded for count in counts)
        assert [count.records for count in counts] == [11, 4]
        merge(platform, stream)


def test_counts_still_tell_of_losses(platform: Platform, stream: Stream) -> None:
    """A row that is gone, and one of no file of the lake, in ingest dates that share records."""
    land(platform, stream.topic, [0, 3, 6, 8])
    load_stream(platform, stream, partitions=[0])
    store(platform, segment_of(stream.topic, 8, 11, previous=("A", 8)))
    table = platform.catalog.load_table(stream.bronze_table)
    rows = table.scan().to_arrow()
    table.overwrite(rows.filter(pc.not_equal(rows["_offset"], 10)))
    assert [count.ok for count in count_of(platform, stream)] == [False, False]
    stranger = rows.filter(pc.equal(rows["_offset"], 1))
    place = rows.schema.get_field_index("_offset")
    stranger = stranger.set_column(place, "_offset", pa.array([77], pa.int64()))
    table.overwrite(pa.concat_tables([rows, stranger]))
    assert [count.ok for count in count_of(platform, stream)] == [False, True]
