"""Loading from a lake put by hand: races, crashes between the tables, forks, topic ids."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pytest

from ingestion_platform.bronze import load as load_module
from ingestion_platform.bronze.load import Loader, LoadItem
from ingestion_platform.errors import CatalogUnavailable, WriteConflict
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.commit import read_committed
from tests.support.grievances import GOOD
from tests.support.lake_files import DAY, put, records, segment_of
from tests.support.testbed import edited

BAD = b"bad"


def land(platform: Platform, segments: Sequence[Segment], value: bytes = GOOD) -> None:
    """Files with good records at even offsets and bad ones at odd offsets."""
    for segment in segments:
        values = [BAD if at % 2 else value for at in range(segment.start, segment.end)]
        put(platform.store, segment, values)


def handed(segment: Segment) -> LoadItem:
    """A file just landed, with its records."""
    values = [BAD if at % 2 else GOOD for at in range(segment.start, segment.end)]
    return LoadItem(segment, records(values, start=segment.start))


def loader(platform: Platform, stream: Stream) -> Loader:
    """A loader that has read the positions now."""
    return Loader(platform.catalog, platform.store, stream)


def load(platform: Platform, stream: Stream, *ingest_dates: date) -> None:
    """Load partition 0."""
    load_stream(platform, stream, partitions=[0], ingest_dates=ingest_dates)


def places(platform: Platform, name: str) -> list[tuple[str, int]]:
    """Topic id and offset of the rows of a table, in order."""
    rows = platform.catalog.load_table(name).scan().to_arrow()
    return sorted(zip(rows["_topic_id"].to_pylist(), rows["_offset"].to_pylist(), strict=True))


def holds(platform: Platform, stream: Stream, expected: list[tuple[str, int]]) -> None:
    """Each expected record is in its table once, and verification says so too."""
    even = [place for place in expected if place[1] % 2 == 0]
    odd = [place for place in expected if place[1] % 2]
    assert places(platform, stream.bronze_table) == even
    assert places(platform, stream.quarantine_table) == odd
    found = verify_stream(platform, stream)
    assert found.ok, found
    assert found.expected == len(expected)


def offsets(topic_id: str, *ranges: tuple[int, int]) -> list[tuple[str, int]]:
    """The places of some ranges of a topic id."""
    return [(topic_id, at) for low, high in ranges for at in range(low, high)]


def narrow(document: dict) -> None:
    """Nobody may report over the web any more: every record becomes bad."""
    for field in document["schema"][0]["properties"]:
        if field["name"] == "channel":
            field["enum"] = [v for v in field["enum"] if v["value"] != "WEB"]
            field["examples"] = ["IVR"]


def test_a_file_handed_over_does_not_overtake_the_first_of_the_log(
    platform: Platform, stream: Stream
) -> None:
    """A writer that lands the second file cannot load it before the first one is loaded."""
    t = stream.topic
    first, second = segment_of(t, 0, 10), segment_of(t, 10, 20, previous=("A", 10))
    land(platform, [first, second])
    with pytest.raises(WriteConflict):
        list(loader(platform, stream).load([handed(second)]))
    load(platform, stream)
    holds(platform, stream, offsets("A", (0, 20)))


def test_a_file_handed_over_does_not_overtake_the_first_of_a_new_topic_id(
    platform: Platform, stream: Stream
) -> None:
    """The same when the topic was recreated."""
    t = stream.topic
    land(platform, [segment_of(t, 0, 10)])
    load(platform, stream)
    first = segment_of(t, 0, 5, topic_id="B", ordinal=1, previous=("A", 10))
    second = segment_of(t, 5, 9, topic_id="B", ordinal=1, previous=("B", 5))
    land(platform, [first, second])
    with pytest.raises(WriteConflict):
        list(loader(platform, stream).load([handed(second)]))
    load(platform, stream)
    holds(platform, stream, offsets("A", (0, 10)) + offsets("B", (0, 5), (5, 9)))


def test_two_loaders_of_the_same_files_leave_one_copy(platform: Platform, stream: Stream) -> None:
    """The one that commits second is rejected, and finds nothing left to do."""
    land(platform, [segment_of(stream.topic, 0, 10)])
    loaders = [loader(platform, stream) for _ in range(2)]
    segment_log = SegmentLog(platform.store, stream.topic)
    assert len(list(loaders[0].load(loaders[0].behind(segment_log, [0])))) == 1
    with pytest.raises(WriteConflict):
        list(loaders[1].load(loaders[1].behind(segment_log, [0])))
    again = loader(platform, stream)
    assert list(again.load(again.behind(segment_log, [0]))) == []
    holds(platform, stream, offsets("A", (0, 10)))


@pytest.mark.parametrize("replacing", [False, True])
def test_a_crash_between_the_two_commits_is_healed(
    platform: Platform,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    replacing: bool,
) -> None:
    """Quarantine has the load and bronze has not: any later load completes it."""
    t = stream.topic
    land(platform, [segment_of(t, 0, 10), segment_of(t, 10, 20, previous=("A", 10))])
    target = stream
    if replacing:
        load(platform, edited(stream, narrow))
        assert len(places(platform, stream.quarantine_table)) == 20
    commit = load_module.commit

    def dying(catalog: object, name: str, changes: object) -> object:
        if name == stream.bronze_table:
            raise CatalogUnavailable("died")
        return commit(catalog, name, changes)

    monkeypatch.setattr(load_module, "commit", dying)
    with pytest.raises(CatalogUnavailable):
        load(platform, target, DAY)
    monkeypatch.undo()
    assert not verify_stream(platform, target).ok
    load(platform, target)  # of new files only: no ingest date is named
    assert verify_stream(platform, target).ok
    load(platform, target, DAY)
    holds(platform, stream, offsets("A", (0, 20)))


def test_an_overlapping_file_adds_only_what_is_new(platform: Platform, stream: Stream) -> None:
    """Two writers at midnight may fork the segment log over two ingest dates; each record counts
    once."""
    t = stream.topic
    tomorrow = date(2026, 11, 19)
    land(
        platform,
        [
            segment_of(t, 0, 10),
            segment_of(t, 10, 24, previous=("A", 10)),
            segment_of(t, 10, 18, ingest_date=tomorrow, previous=("A", 10)),
            segment_of(t, 18, 30, ingest_date=tomorrow, previous=("A", 18)),
        ],
    )
    load(platform, stream)
    holds(platform, stream, offsets("A", (0, 30)))
    load(platform, edited(stream, narrow), DAY, tomorrow)
    for ingest_dates in ([DAY], [tomorrow], [tomorrow, DAY]):
        load(platform, stream, *ingest_dates)
    assert places(platform, stream.bronze_table) == offsets(
        "A", *((n, n + 1) for n in range(0, 30, 2))
    )
    assert len(places(platform, stream.quarantine_table)) == 15


def test_a_fork_landed_after_the_other_branch_was_loaded_changes_nothing(
    platform: Platform, stream: Stream
) -> None:
    """A writer that slept over midnight wakes up and lands what is long there."""
    t = stream.topic
    tomorrow = date(2026, 11, 19)
    land(
        platform,
        [
            segment_of(t, 0, 10),
            segment_of(t, 10, 18, ingest_date=tomorrow, previous=("A", 10)),
            segment_of(t, 18, 22, ingest_date=tomorrow, previous=("A", 18)),
        ],
    )
    load(platform, stream)
    before = read_committed(platform.catalog.load_table(stream.bronze_table))
    land(platform, [segment_of(t, 10, 20, previous=("A", 10))])
    load(platform, stream)
    assert read_committed(platform.catalog.load_table(stream.bronze_table)) == before
    holds(platform, stream, offsets("A", (0, 22)))


@pytest.mark.parametrize("which", ["bronze_table", "quarantine_table"])
def test_a_table_rolled_back_over_a_topic_id_is_healed(
    platform: Platform, stream: Stream, which: str
) -> None:
    """Whichever table is behind, also by a whole topic id, is loaded again."""
    t = stream.topic
    land(platform, [segment_of(t, 0, 10)])
    load(platform, stream)
    table = platform.catalog.load_table(getattr(stream, which))
    snapshot = table.current_snapshot().snapshot_id
    land(platform, [segment_of(t, 10, 12, previous=("A", 10))])
    load(platform, stream)
    land(platform, [segment_of(t, 3, 8, topic_id="B", ordinal=1, previous=("A", 12))])
    load(platform, stream)
    table.refresh().manage_snapshots().rollback_to_snapshot(snapshot).commit()
    load(platform, stream)
    holds(platform, stream, offsets("A", (0, 12)) + offsets("B", (3, 8)))


def test_a_table_rolled_back_to_before_its_first_load_is_healed(
    platform: Platform, stream: Stream
) -> None:
    """Its properties still tell of a load that is undone; the snapshots know better."""
    loader(platform, stream)
    table = platform.catalog.load_table(stream.bronze_table)
    table.append(table.scan().to_arrow())  # somebody's, of no rows
    snapshot = table.current_snapshot().snapshot_id
    land(platform, [segment_of(stream.topic, 0, 10)])
    load(platform, stream)
    table.refresh().manage_snapshots().rollback_to_snapshot(snapshot).commit()
    load(platform, stream)
    holds(platform, stream, offsets("A", (0, 10)))


def test_the_gap_of_a_file_belongs_to_its_slice(platform: Platform, stream: Stream) -> None:
    """What retention took is in the committed offsets, so a later contract replaces over the
    gap."""
    t = stream.topic
    land(platform, [segment_of(t, 0, 10), segment_of(t, 15, 20, previous=("A", 10))])
    load(platform, stream)
    found = verify_stream(platform, stream)
    assert (found.expected, found.gaps, found.ok) == (15, 5, True)
    load(platform, edited(stream, narrow), DAY)
    load(platform, stream, DAY)
    holds(platform, stream, offsets("A", (0, 10), (15, 20)))


def test_a_new_column_is_added_by_many_loaders_at_once(platform: Platform, stream: Stream) -> None:
    """All of them find it there in the end; the old rows have nulls until they are replaced."""
    from concurrent.futures import ThreadPoolExecutor

    land(platform, [segment_of(stream.topic, 0, 10)])
    load(platform, stream)

    def widen(document: dict) -> None:
        new = {"name": "note", "logicalType": "string"}
        document["schema"][0]["properties"].append(new)

    wider = edited(stream, widen)
    platforms = [Platform(platform.settings) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda p: Loader(p.catalog, p.store, wider), platforms))
    table = platform.catalog.load_table(stream.bronze_table)
    assert "note" in table.schema().column_names
    assert verify_stream(platform, wider).stale == 10
    load(platform, wider, DAY)
    holds(platform, wider, offsets("A", (0, 10)))
