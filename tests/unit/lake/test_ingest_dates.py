"""Cutting a log into files of one ingest date each, against the rule applied record by record."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestion_platform.kafka.times import ingest_date
from ingestion_platform.kafka.topic_log import Run, Topic, Watermarks
from ingestion_platform.lake.land import Backlog, _Builder, backlogs
from ingestion_platform.lake.segments import Segment
from ingestion_platform.positions import Position
from tests.support.lake_files import segment_of

TOPIC = Topic("t", "A", "cluster", (0,))
TODAY = date(2026, 11, 20)
FIRST = TODAY - timedelta(days=2)
EPOCH = date(1970, 1, 1)
DAY_MS = 86_400_000


class Message:
    """As much of a consumed message as is read of it."""

    def __init__(self, offset: int, kind: int, stamp: int) -> None:
        self._offset, self._stamp = offset, (kind, stamp)

    def offset(self) -> int:
        """The offset."""
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        """Kind (0: there is none) and milliseconds."""
        return self._stamp

    def key(self) -> None:
        """None."""

    def value(self) -> bytes:
        """A value by which records can be told apart."""
        return b"%d" % self._offset

    def headers(self) -> None:
        """None."""


stamps = st.tuples(
    st.sampled_from([0, 1, 1, 1, 2]),
    st.integers(-4, 3).flatmap(
        lambda day: st.sampled_from([0, 1, DAY_MS - 1]).map(
            lambda ms: ((TODAY - EPOCH).days + day) * DAY_MS + ms
        )
    )
    | st.sampled_from([-1, 0, 2**62, -(2**63), 2**63 - 1])
    | st.integers(-(2**63), 2**63 - 1),
)
YESTERDAY = ((TODAY - EPOCH).days - 1) * DAY_MS
logs = st.lists(st.tuples(st.integers(1, 3), stamps), max_size=40)


def built(
    log: list[tuple[int, tuple[int, int]]],
    runs: list[int],
    tail: Segment | None,
    last: date,
    rows: int,
) -> list[tuple[Segment, Any]]:
    """The files that a log (steps between offsets, and stamps) is cut into."""
    start = tail.end if tail else 0
    messages, offset = [], start - 1
    for step, stamp in log:
        offset += step
        messages.append(Message(offset, *stamp))
    end = offset + 2  # a marker at the end
    backlog = Backlog(range(start, end), tail, 0)
    builder = _Builder(TOPIC, 0, backlog, lambda _: None, FIRST, last, TODAY)
    files = []
    edges = sorted({0, *(r for r in runs if r < len(messages)), len(messages)})
    for low, high in pairwise(edges):
        builder.add(Run(0, messages[low:high], None))  # type: ignore[arg-type]
        files += builder.take(rows, 2**40, finished=False)
    builder.add(Run(0, [], end))
    return files + builder.take(rows, 2**40, finished=True)


def ingest_dates(log: list[tuple[int, tuple[int, int]]], floor: date | None) -> list[date]:
    """The rule, record by record."""
    found = []
    for _, (kind, stamp) in log:
        days = max(0, min(stamp // DAY_MS, 2_000_000))
        own = max(FIRST, min(EPOCH + timedelta(days=days), TODAY))
        unknown = kind == 0 or stamp == -1
        assert floor is None or floor <= TODAY
        day = (floor or TODAY) if unknown else own
        floor = max(day, floor, FIRST) if floor else day
        found.append(floor)
    return found


def stamps_of(table: pa.Table) -> list[tuple[int, int | None]]:
    """What a file keeps of its records' timestamps: kind and number."""
    kinds = {"not_available": 0, "create_time": 1, "log_append_time": 2}
    times = table["timestamp"].cast(pa.int64()).to_pylist()
    numbers = zip(times, table["timestamp_ms"].to_pylist(), strict=True)
    found = []
    for kind, (time, number) in zip(table["timestamp_type"].to_pylist(), numbers, strict=True):
        assert time is None or (0 <= time < 253_402_300_800_000 and number is None)
        assert kind != "not_available" or time is number is None
        found.append((kinds[kind], time if number is None else number))
    return found


@settings(deadline=None)  # the first example imports
@example([(1, (1, 0)), (1, (1, YESTERDAY)), (1, (1, 2**62))], [1, 2], None, TODAY, 1)
@given(
    log=logs,
    runs=st.lists(st.integers(1, 39), max_size=4),
    tail_ingest_date=st.none() | st.integers(-3, 0).map(lambda n: TODAY + timedelta(days=n)),
    last=st.integers(-3, 0).map(lambda n: TODAY + timedelta(days=n)),
    rows=st.integers(1, 50),
)
def test_files_are_cut_by_ingest_date(
    log: list[tuple[int, tuple[int, int]]],
    runs: list[int],
    tail_ingest_date: date | None,
    last: date,
    rows: int,
) -> None:
    """Every record up to the last ingest date is in one file, of its ingest date, and they form a
    segment log."""
    tail = (
        segment_of("t", 5, 9, ingest_date=tail_ingest_date, previous=("A", 5))
        if tail_ingest_date
        else None
    )
    files = built(log, runs, tail, last, rows)
    expected = ingest_dates(log, tail_ingest_date)
    taken = next((n for n, day in enumerate(expected) if day > last), len(log))

    found = [(o, segment.name.ingest_date) for segment, t in files for o in t["offset"].to_pylist()]
    offset, places = (tail.end if tail else 0) - 1, []
    for step, _ in log:
        offset += step
        places.append(offset)
    assert found == list(zip(places[:taken], expected[:taken], strict=True))
    assert [kept for _, t in files for kept in stamps_of(t)] == [
        (kind, stamp if kind else None) for _, (kind, stamp) in log[:taken]
    ]
    values = [v for _, t in files for v in t["value"].to_pylist()]
    assert values == [b"%d" % at for at in places[:taken]]

    at = tail.position if tail else None
    for segment, table in files:
        assert segment.start == (at.offset if at else 0)
        assert segment.previous == at
        assert segment.rows == table.num_rows
        assert segment.start < segment.end
        at = segment.position
    if taken == len(log):
        assert at == Position("A", offset + 2)


@settings(deadline=None)
@given(stamp=st.none() | stamps, floor=st.none() | st.integers(-3, 0))
def test_one_record_has_the_same_date(stamp: tuple[int, int] | None, floor: int | None) -> None:
    """The sensor's date of a record is that of the file which it is landed in."""
    before = None if floor is None else TODAY + timedelta(days=floor)
    found = ingest_date(stamp, floor=before, first=FIRST, today=TODAY)
    assert [found] == ingest_dates([(1, stamp or (0, 0))], before)


def test_what_is_landed_next() -> None:
    """From the tails and the watermarks: go on, skip what retention took, start a topic id."""
    marks = {0: Watermarks(5, 20), 1: Watermarks(0, 3), 2: Watermarks(0, 0)}
    tails = {0: segment_of("t", 0, 12), 1: segment_of("t", 0, 7, partition=1, topic_id="Z")}
    found = backlogs(TOPIC, marks, tails)
    assert [(b.offsets, b.ordinal) for b in found.values()] == [
        (range(12, 20), 0),
        (range(3), 0),
        (range(0), 0),
    ]
    new = Topic("t", "B", "cluster", (0, 1, 2))
    found = backlogs(new, marks, tails)
    assert [(b.offsets, b.ordinal) for b in found.values()] == [
        (range(5, 20), 1),
        (range(3), 1),
        (range(0), 1),
    ]
