"""Count the records of slices in lake and tables, without comparing values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.validate import code_version
from ingestion_platform.contract import columns as c
from ingestion_platform.lake.records import read
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.lake.store import Store
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.decisions import count_discarded
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table


@dataclass(frozen=True, slots=True)
class SliceCount:
    """A slice's records and gaps in the lake, and its rows in the tables.

    `loaded` is whether all of it was loaded, `stale` whether another contract validated part of it.
    `decided` of the quarantined rows are discarded by a decision.
    """

    records: int
    gaps: int
    bronze: int
    quarantined: int
    loaded: bool
    stale: bool
    decided: int = 0

    @property
    def ok(self) -> bool:
        """Whether every record is in one of the tables."""
        return self.records == self.bronze + self.quarantined


def slice_counts(
    platform: Platform, stream: Stream, slices: Iterable[tuple[date, int]]
) -> dict[tuple[date, int], SliceCount]:
    """Return the counts of slices; reads two columns of each table.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    slices = list(slices)
    tables = [
        load_or_none(platform.catalog, name)
        for name in (stream.bronze_table, stream.quarantine_table)
    ]
    ingest_dates = [ingest_date for ingest_date, _ in slices]
    counts = [_by_slice(table, ingest_dates) for table in tables]
    committed_by_partition = {} if tables[0] is None else read_committed(tables[0])
    version = code_version(stream.contract)
    segment_log = SegmentLog(platform.store, stream.topic)
    result = {}
    for ingest_date, partition in slices:
        committed = committed_by_partition.get(partition, CommittedRanges())
        rows = [count.get((ingest_date, partition), 0) for count in counts]
        segments = segment_log.slice(ingest_date, partition)
        count = _slice_count(platform.store, segments, rows, committed, version)
        if count.loaded and not count.ok:
            # Count exactly before an alarm: writers' clocks may differ, or files are being merged.
            now = SegmentLog(platform.store, stream.topic)
            rows = [_in_slice(table, now, ingest_date, partition) for table in tables]
            segments = now.slice(ingest_date, partition)
            count = _slice_count(platform.store, segments, rows, committed, version)
        result[ingest_date, partition] = count
    decided = count_discarded(
        platform.catalog, stream.name, stream.quarantine_table, ingest_dates=ingest_dates
    )
    return {of: replace(count, decided=decided[of]) for of, count in result.items()}


def _slice_count(
    store: Store, segments: list[Segment], rows: list[int], committed: CommittedRanges, version: str
) -> SliceCount:
    """Return the counts of a slice with these segments and `rows` in the two tables."""
    once = [
        (segment, start, _records_from(store, segment, start))
        for segment, start in without_overlap(segments)
    ]
    parts = [
        s
        for segment in segments
        for s in committed.of(segment.topic_id, segment.gap_start, segment.end)
    ]
    return SliceCount(
        records=sum(records for _, _, records in once),
        gaps=sum(segment.end - start - records for segment, start, records in once),
        bronze=rows[0],
        quarantined=rows[1],
        loaded=all(_covers(committed, segment) for segment in segments),
        stale=any(part.contract != version for part in parts),
    )


def _records_from(store: Store, segment: Segment, start: int) -> int:
    """Return the number of records of a segment from an offset on."""
    if start <= segment.start:
        return segment.rows
    return int(pc.sum(pc.greater_equal(read(store, segment)["offset"], start)).as_py() or 0)


def _in_slice(
    table: Table | None, segment_log: SegmentLog, ingest_date: date, partition: int
) -> int:
    """Return the number of rows that a table has of a slice, by offset.

    These are the rows with offsets of the slice's segments, whatever their ingest date, and rows of
    its ingest date without any segment. A record in two ingest dates counts twice, as in the lake.
    """
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan, Or

    if table is None:
        return 0
    own = _ranges(segment_log.slice(ingest_date, partition))
    others = _ranges(
        [
            segment
            for day in segment_log.ingest_dates()
            if day != ingest_date
            for segment in segment_log.slice(day, partition)
        ]
    )
    near = And(
        GreaterThanOrEqual(c.OFFSET, min((span.start for span in own), default=0)),
        LessThan(c.OFFSET, max((span.end for span in own), default=0)),
    )
    condition = And(
        EqualTo(c.PARTITION, partition), Or(EqualTo(c.INGEST_DATE, ingest_date.isoformat()), near)
    )
    fields = (c.INGEST_DATE, c.TOPIC_ID, c.OFFSET)
    with answering():
        rows = table.scan(row_filter=condition, selected_fields=fields).to_arrow()
    of_slice = _within(rows, own)
    unknown = (rows[c.INGEST_DATE].to_numpy() == np.datetime64(ingest_date)) & ~_within(
        rows, others
    )
    return int(np.count_nonzero(of_slice | unknown))


def _ranges(segments: list[Segment]) -> list[Span]:
    """Return the offsets of segments as spans; adjacent ones are merged."""
    spans: list[Span] = []
    for segment in segments:
        last = spans[-1] if spans else None
        if last and last.topic_id == segment.topic_id and segment.gap_start <= last.end:
            spans[-1] = Span(last.topic_id, last.start, max(last.end, segment.end), "")
        else:
            spans.append(Span(segment.topic_id, segment.gap_start, segment.end, ""))
    return spans


def _within(rows: pa.Table, spans: list[Span]) -> np.ndarray:
    """Return a mask of the rows within the spans."""
    topic_ids, offsets = rows[c.TOPIC_ID].to_numpy(), rows[c.OFFSET].to_numpy()
    mask = np.zeros(rows.num_rows, bool)
    for s in spans:
        mask |= (topic_ids == s.topic_id) & (offsets >= s.start) & (offsets < s.end)
    return mask


def without_overlap(
    segments: list[Segment], at: Position | None = None
) -> Iterator[tuple[Segment, int]]:
    """Yield each segment with its first offset that no earlier segment has, from `at` on."""
    topic_id, end = (at.topic_id, at.offset) if at is not None else ("", 0)
    for segment in segments:
        start = max(segment.gap_start, end) if segment.topic_id == topic_id else segment.gap_start
        if start < segment.end:
            yield segment, start
            topic_id, end = segment.topic_id, segment.end


def _by_slice(table: Table | None, ingest_dates: list[date]) -> dict[tuple[date, int], int]:
    from pyiceberg.expressions import And, GreaterThanOrEqual, LessThanOrEqual

    if table is None or not ingest_dates:
        return {}
    condition = And(
        GreaterThanOrEqual(c.INGEST_DATE, min(ingest_dates).isoformat()),
        LessThanOrEqual(c.INGEST_DATE, max(ingest_dates).isoformat()),
    )
    fields = (c.INGEST_DATE, c.PARTITION)
    with answering():
        rows = table.scan(row_filter=condition, selected_fields=fields).to_arrow()
    groups = rows.group_by([c.INGEST_DATE, c.PARTITION]).aggregate([([], "count_all")]).to_pylist()
    return {(g[c.INGEST_DATE], g[c.PARTITION]): g["count_all"] for g in groups}


def _covers(committed: CommittedRanges, segment: Segment) -> bool:
    """Return whether all of a segment was loaded, by any contract."""
    parts = committed.of(segment.topic_id, segment.start, segment.end)
    return sum(part.end - part.start for part in parts) == segment.end - segment.start
