"""The segment log of files per log partition: what follows a position, and what breaks it."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_platform.lake.local import LocalStore
from ingestion_platform.lake.names import Name, parse_name
from ingestion_platform.lake.segments import Segment, SegmentLog, SegmentLogBroken, read_segment
from ingestion_platform.positions import Position
from tests.support.lake_files import DAY, put, segment_of

NEXT = DAY + timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty lake."""
    return LocalStore(tmp_path / "lake")


def after(store: LocalStore, position: tuple[str, int] | None, last: date | None = None) -> list:
    """Where the files after a position start, by topic id."""
    at = None if position is None else Position(*position)
    segments = SegmentLog(store, "t").after(0, at, last=last)
    return [(segment.topic_id, segment.start, segment.end) for segment in segments]


def straight(store: LocalStore) -> list[Segment]:
    """Three files of one ingest date and one of the next."""
    return [
        put(store, segment_of("t", 0, 3)),
        put(store, segment_of("t", 3, 5, previous=("A", 3))),
        put(store, segment_of("t", 5, 9, previous=("A", 5))),
        put(store, segment_of("t", 9, 10, ingest_date=NEXT, previous=("A", 9))),
    ]


def test_files_follow_each_other_over_ingest_dates(store: LocalStore) -> None:
    """From any position, the files that have something at or after it."""
    straight(store)
    every = [("A", 0, 3), ("A", 3, 5), ("A", 5, 9), ("A", 9, 10)]
    assert after(store, None) == every
    for position in range(11):
        assert after(store, ("A", position)) == [f for f in every if f[2] > position]
    assert after(store, None, last=DAY) == every[:3]
    assert after(store, ("A", 4), last=DAY) == every[1:3]
    assert after(store, None, last=DAY - timedelta(days=1)) == []


def test_a_segment_says_all_that_was_put_into_it(store: LocalStore) -> None:
    """The footer brings back the link, whatever the file holds."""
    for segment in straight(store):
        assert read_segment(store, segment.name.path) == segment
    big = segment_of("t", 10, 1510, ingest_date=NEXT, previous=("A", 10))
    put(store, big, [b"x" * 100] * 1500)
    assert read_segment(store, big.name.path) == big
    assert SegmentLog(store, "t").tails([0, 1]) == {0: big}


def test_the_segment_log_of_one_partition_is_not_the_others(store: LocalStore) -> None:
    """Partitions 1 and 11, and topics of a common beginning, are kept apart."""
    put(store, segment_of("t", 0, 3, partition=1))
    put(store, segment_of("t", 0, 4, partition=11))
    put(store, segment_of("t2", 0, 5, partition=1))
    segment_log = SegmentLog(store, "t")
    assert {p: segment.end for p, segment in segment_log.tails(range(12)).items()} == {1: 3, 11: 4}
    assert [segment.end for segment in segment_log.slice(DAY, 1)] == [3]


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_file_breaks_the_segment_log(store: LocalStore, missing: int) -> None:
    """A file that is gone is told when, and only when, it is needed."""
    segments = straight(store)
    store.remove(segments[missing].name.path)
    with pytest.raises(SegmentLogBroken, match="restore it from a backup"):
        after(store, None)
    with pytest.raises(SegmentLogBroken):
        after(store, ("A", segments[missing].start))
    assert after(store, ("A", segments[missing].end)) == [
        ("A", k.start, k.end) for k in segments[missing + 1 :]
    ]


def test_a_position_before_the_lake_is_broken(store: LocalStore) -> None:
    """Records that the lake should have had and has not are never passed over."""
    put(store, segment_of("t", 50, 60))
    assert after(store, None) == [("A", 50, 60)]
    with pytest.raises(SegmentLogBroken):
        after(store, ("A", 40))
    with pytest.raises(SegmentLogBroken):
        after(store, ("Z", 40))


def test_a_recorded_gap_holds_the_segment_log_together(store: LocalStore) -> None:
    """Retention took 3 to 8; the file after it says so, and says where it belongs."""
    put(store, segment_of("t", 0, 3))
    late = put(store, segment_of("t", 8, 9, ingest_date=NEXT, previous=("A", 3)))
    assert (late.gap_start, late.gaps) == (3, 5)
    for position in (None, ("A", 0), ("A", 3)):
        assert after(store, position)[-1] == ("A", 8, 9)


def test_topic_ids_follow_each_other(store: LocalStore) -> None:
    """A recreated topic starts again; the file after the break names the one before."""
    straight(store)
    first = put(
        store, segment_of("t", 2, 5, topic_id="B", ordinal=1, ingest_date=NEXT, previous=("A", 10))
    )
    put(store, segment_of("t", 5, 6, topic_id="B", ordinal=1, ingest_date=NEXT, previous=("B", 5)))
    assert (first.gap_start, first.gaps) == (0, 2)
    assert after(store, ("A", 9)) == [("A", 9, 10), ("B", 2, 5), ("B", 5, 6)]
    assert after(store, ("A", 10)) == [("B", 2, 5), ("B", 5, 6)]
    assert after(store, ("B", 5)) == [("B", 5, 6)]
    assert after(store, ("B", 6)) == []
    assert SegmentLog(store, "t").tails([0])[0].topic_id == "B"


def test_a_fork_is_followed_on_both_branches(store: LocalStore) -> None:
    """Overlapping files of two ingest dates: a reader skips what the preceding file holds."""
    straight(store)
    put(store, segment_of("t", 9, 14, previous=("A", 9)))  # in the earlier ingest date
    put(store, segment_of("t", 10, 12, ingest_date=NEXT, previous=("A", 10)))
    found = after(store, None)
    assert sorted(found)[3:] == [("A", 9, 10), ("A", 9, 14), ("A", 10, 12)]
    assert after(store, ("A", 11))[-1] == ("A", 10, 12)


def test_strangers_are_no_part_of_the_segment_log(store: LocalStore) -> None:
    """Metadata, other people's files and half-written ones are passed over."""
    straight(store)
    folder = f"topic=t/date={DAY}/partition=0"
    for name in ("_0000-1.json", "part-0.parquet", "0000-3.parquet", ".x", "_SUCCESS"):
        store.write(f"{folder}/{name}", b"?")
    store.write(f"topic=t/date={DAY}/x", b"?")
    assert len(after(store, None)) == 4


def test_a_damaged_or_renamed_file_is_named(store: LocalStore) -> None:
    """The error says which file, and what to do."""
    straight(store)
    target = Name(0, 3, DAY, 0, "t").path
    data = store.read(target)
    for damage in (b"", b"PAR1", data[:-20], b"x" * 100, data[:-8] + b"\xff\xff\xff\x7fPAR1"):
        store.write(target, damage)
        with pytest.raises(SegmentLogBroken, match=r"0000-0{19}3\.parquet is damaged"):
            after(store, None)
    store.write(target, store.read(Name(0, 0, DAY, 0, "t").path))
    with pytest.raises(SegmentLogBroken, match="renamed"):
        after(store, None)


names = st.builds(
    Name,
    ordinal=st.integers(0, 9999),
    start=st.integers(0, 2**63 - 1),
    ingest_date=st.dates(),
    partition=st.integers(0, 100_000),
    topic=st.from_regex(r"[a-zA-Z0-9._-]{1,40}", fullmatch=True),
)


@given(names)
def test_names_are_read_back_from_paths(name: Name) -> None:
    """A path tells the name it was made of; its sidecar is no data file."""
    assert parse_name(name.path) == name
    assert parse_name(name.sidecar) is None
    assert name.sidecar.rpartition("/")[2].startswith("_")


@given(st.lists(names, min_size=2, max_size=2))
def test_paths_of_a_slice_sort_as_the_log_does(pair: list[Name]) -> None:
    """So that engines which list a folder see files in order."""
    left, right = (Name(n.ordinal, n.start, DAY, 0, "t") for n in pair)
    assert (left.path < right.path) == ((left.ordinal, left.start) < (right.ordinal, right.start))


@given(st.text(max_size=60))
def test_any_other_text_is_no_name(text: str) -> None:
    """Nothing but a whole path of the lake is taken for one."""
    assert parse_name(text) is None
    assert parse_name(Name(0, 1, DAY, 2, "t").path + text) is None or not text


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(cuts=st.sets(st.integers(1, 29), max_size=8), data=st.data())
def test_any_tiling_is_followed_from_anywhere(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int], data: st.DataObject
) -> None:
    """However the log was cut into files and ingest dates, what follows a position is complete."""
    store = LocalStore(tmp_path_factory.mktemp("lake"))
    edges = [0, *sorted(cuts), 30]
    ingest_date, segments = DAY, []
    for start, end in pairwise(edges):
        ingest_date += timedelta(days=data.draw(st.sampled_from([0, 0, 1, 3])))
        previous = ("A", start) if start else None
        segments.append(
            put(store, segment_of("t", start, end, ingest_date=ingest_date, previous=previous))
        )
    for position in range(31):
        expected = [("A", k.start, k.end) for k in segments if k.end > position]
        assert after(store, ("A", position)) == expected
