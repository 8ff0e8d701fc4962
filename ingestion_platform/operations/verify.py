"""Reconciliation: is every record of the lake in bronze or quarantine, once, and as the contract
says? Nothing is mended here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.load import SegmentValidator
from ingestion_platform.bronze.tokens import as_sent, with_json
from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Field
from ingestion_platform.errors import WriteConflict
from ingestion_platform.lake.land import BYTES, ROWS
from ingestion_platform.lake.records import read
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.lake.store import Store
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.decisions import count_discarded
from ingestion_platform.warehouse.inserted import count_inserted
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table

SHOWN = 20
ATTEMPTS = 10
_NONE = np.array([], np.int64)
# Made again by each load, or by whichever call placed the record: no part of its content.
_VOLATILE = {c.INGESTED_AT, c.INGEST_DATE, c.ORIGIN}


@dataclass(frozen=True, slots=True)
class Verification:
    """What the reconciliation of a stream found.

    `expected` counts the lake's records up to bronze's position, `gaps` the offsets without one;
    `missing` records are in neither table, `duplicated` ones more than once, `mismatched` ones
    in the wrong table or with other content, or in a table and not in the lake. Records validated
    by an earlier contract are counted in `stale`, and compared only by their place. Rows that
    others inserted into bronze, by SQL for instance, are counted in `inserted` alone.
    """

    stream: str
    expected: int
    bronze: int
    quarantined: int
    gaps: int
    missing: int
    duplicated: int
    mismatched: int
    stale: int
    differences: tuple[str, ...]
    inserted: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, duplicated or mismatched."""
        return not (self.missing or self.duplicated or self.mismatched)

    def as_dict(self) -> dict[str, Any]:
        """The verification as plain data, for JSON."""
        return {"stream": self.stream, "ok": self.ok, **asdict(self)}


@dataclass(frozen=True, slots=True)
class SliceCount:
    """A slice by numbers: the lake's records and gaps, and what the tables have of them.

    `decided` of the quarantined records were discarded (see `quarantine`), and stay there.

    `loaded` says whether bronze has come to the slice's end, `stale` whether another contract
    validated part of it.
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


def verify_stream(
    platform: Platform, stream: Stream, *, on_progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare the whole lake of a stream with its tables, by position and by value.

    `on_progress` gets the number of records compared so far.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
        ChainBroken: the lake itself lacks files.
    """
    tally = _Tally(with_json(stream.contract.fields))
    bronze = load_or_none(platform.catalog, stream.bronze_table)
    quarantine = load_or_none(platform.catalog, stream.quarantine_table)
    datasets = [None if t is None else TableDataset(t) for t in (bronze, quarantine)]
    validator = SegmentValidator(stream.contract)
    committed_by_partition = {} if bronze is None else read_committed(bronze)
    for partition in partitions_of(SegmentLog(platform.store, stream.topic)):
        committed = committed_by_partition.get(partition, CommittedRanges())
        parts = _due_parts(platform.store, stream.topic, partition, committed, validator.version)
        for batch in _batches(parts):
            expected = validator.rows(batch[0].segment, pa.concat_tables(p.records for p in batch))
            found = [rows_of(table, partition, _whole(batch)) for table in datasets]
            tally.compare(batch, expected, (found[0], found[1]))
            if on_progress is not None:
                on_progress(tally.expected)
    for table, counted in ((bronze, tally.bronze), (quarantine, tally.quarantined)):
        tally.surplus(table, counted)
    tally.inserted = count_inserted(bronze)
    return tally.result(stream.name)


def slice_counts(
    platform: Platform, stream: Stream, slices: Iterable[tuple[date, int]]
) -> dict[tuple[date, int], SliceCount]:
    """Count some slices, without looking at values: one read of two columns per table.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    wanted = list(slices)
    tables = [
        load_or_none(platform.catalog, name)
        for name in (stream.bronze_table, stream.quarantine_table)
    ]
    ingest_dates = [ingest_date for ingest_date, _ in wanted]
    counts = [_by_slice(table, ingest_dates) for table in tables]
    committed_by_partition = {} if tables[0] is None else read_committed(tables[0])
    version = SegmentValidator(stream.contract).version
    segment_log = SegmentLog(platform.store, stream.topic)
    found = {}
    for ingest_date, partition in wanted:
        committed = committed_by_partition.get(partition, CommittedRanges())
        rows = [count.get((ingest_date, partition), 0) for count in counts]
        segments = segment_log.slice(ingest_date, partition)
        count = _slice_count(platform.store, segments, rows, committed, version)
        if count.loaded and not count.ok:
            # Before the alarm: writers' clocks may differ, and merging may be under way.
            now = SegmentLog(platform.store, stream.topic)
            rows = [_in_slice(table, now, ingest_date, partition) for table in tables]
            segments = now.slice(ingest_date, partition)
            count = _slice_count(platform.store, segments, rows, committed, version)
        found[ingest_date, partition] = count
    decided = count_discarded(
        platform.catalog, stream.name, stream.quarantine_table, ingest_dates=ingest_dates
    )
    return {of: replace(count, decided=decided[of]) for of, count in found.items()}


def _slice_count(
    store: Store, segments: list[Segment], rows: list[int], committed: CommittedRanges, version: str
) -> SliceCount:
    """What there is of a slice of these links, with `rows` of it in the two tables."""
    once = [
        (segment, start, _records_from(store, segment, start)) for segment, start in _once(segments)
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
    """How many records a file has from an offset on."""
    if start <= segment.start:
        return segment.rows
    return int(pc.sum(pc.greater_equal(read(store, segment)["offset"], start)).as_py() or 0)


def _in_slice(
    table: Table | None, segment_log: SegmentLog, ingest_date: date, partition: int
) -> int:
    """How many rows a table has of a slice, by offset: those of its files' offsets, whichever
    ingest date they were loaded for, and those of its ingest date that are of no file at all.

    Records that stand in two ingest dates count in both, as they do among the lake's records.
    """
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan, Or

    if table is None:
        return 0
    own = _ranges(segment_log.slice(ingest_date, partition))
    others = _ranges(
        [
            k
            for day in segment_log.ingest_dates()
            if day != ingest_date
            for k in segment_log.slice(day, partition)
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
    mine = _within(rows, own)
    strangers = (rows[c.INGEST_DATE].to_numpy() == np.datetime64(ingest_date)) & ~_within(
        rows, others
    )
    return int(np.count_nonzero(mine | strangers))


def _ranges(segments: list[Segment]) -> list[Span]:
    """The offsets of links in order, as few spans as there are."""
    spans: list[Span] = []
    for segment in segments:
        last = spans[-1] if spans else None
        if last and last.topic_id == segment.topic_id and segment.gap_start <= last.end:
            spans[-1] = Span(last.topic_id, last.start, max(last.end, segment.end), "")
        else:
            spans.append(Span(segment.topic_id, segment.gap_start, segment.end, ""))
    return spans


def _within(rows: pa.Table, spans: list[Span]) -> np.ndarray:
    """Which rows are of one of the spans."""
    topic_ids, offsets = rows[c.TOPIC_ID].to_numpy(), rows[c.OFFSET].to_numpy()
    found = np.zeros(rows.num_rows, bool)
    for s in spans:
        found |= (topic_ids == s.topic_id) & (offsets >= s.start) & (offsets < s.end)
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """What the tables must have of a file: its records in a span; `stale` says that another
    contract validated some of them."""

    segment: Segment
    span: Span
    records: pa.Table
    stale: bool


def _due_parts(
    store: Store, topic: str, partition: int, committed: CommittedRanges, version: str
) -> Iterator[_Part]:
    """All that bronze must have of a log partition, in order, once."""
    at: Position | None = None
    tries = 0
    while True:
        try:
            segments = SegmentLog(store, topic).after(partition, at)
            for segment, span in due(segments, committed.position, at):
                records = between(read(store, segment), "offset", span.start, span.end)
                parts = committed.of(span.topic_id, span.start, span.end)
                yield _Part(segment, span, records, any(p.contract != version for p in parts))
                at, tries = Position(span.topic_id, span.end), 0
        except WriteConflict:  # files are being merged
            tries += 1
            if tries == ATTEMPTS:
                raise
        else:
            return


def _batches(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Neighbouring parts together, so that many small files cost few scans of the tables."""
    batch: list[_Part] = []
    rows = size = 0
    for part in parts:
        rows, size = rows + part.records.num_rows, size + part.records.nbytes
        if batch and (rows > ROWS or size > BYTES or not _alike(batch[-1], part)):
            yield batch
            batch, rows, size = [], part.records.num_rows, part.records.nbytes
        batch.append(part)
    if batch:
        yield batch


def _alike(part: _Part, following: _Part) -> bool:
    """Whether two parts can be validated and compared as one."""
    kinds = [(p.span.topic_id, p.stale, _encoding(p.segment)) for p in (part, following)]
    return kinds[0] == kinds[1] and part.span.end == following.span.start


def _encoding(segment: Segment) -> str | None:
    return None if segment.file is None else segment.file.encoding


def _whole(batch: list[_Part]) -> Span:
    first, last = batch[0].span, batch[-1].span
    return Span(first.topic_id, first.start, last.end, "")


def partitions_of(segment_log: SegmentLog) -> list[int]:
    return sorted(
        {p for ingest_date in segment_log.ingest_dates() for p in segment_log.names(ingest_date)}
    )


def _once(segments: list[Segment], at: Position | None = None) -> Iterator[tuple[Segment, int]]:
    """Each link with the offset from which on neither a link ahead of it has the records, nor
    whoever was at a position."""
    topic_id, end = (at.topic_id, at.offset) if at is not None else ("", 0)
    for segment in segments:
        start = max(segment.gap_start, end) if segment.topic_id == topic_id else segment.gap_start
        if start < segment.end:
            yield segment, start
            topic_id, end = segment.topic_id, segment.end


def due(
    segments: list[Segment], position: Position | None, at: Position | None
) -> Iterator[tuple[Segment, Span]]:
    """The parts of links behind `at` that a table at a position must have: all that lies before
    it."""
    order = list(dict.fromkeys(segment.topic_id for segment in segments))
    if position is None or position.topic_id not in order:
        return
    present = order.index(position.topic_id)
    for segment, start in _once(segments, at):
        place = order.index(segment.topic_id)
        end = min(segment.end, position.offset) if place == present else segment.end
        if place <= present and start < end:
            yield segment, Span(segment.topic_id, start, end, "")


def _covers(committed: CommittedRanges, segment: Segment) -> bool:
    """Whether all of a link was loaded, by whichever contract."""
    parts = committed.of(segment.topic_id, segment.start, segment.end)
    return sum(part.end - part.start for part in parts) == segment.end - segment.start


def between(table: pa.Table, column: str, start: int, end: int) -> pa.Table:
    values = table[column]
    return table.filter(pc.and_(pc.greater_equal(values, start), pc.less(values, end)))


def rows_of(table: TableDataset | None, partition: int, span: Span) -> pa.Table | None:
    """The rows of a span, in the order of their offsets."""
    if table is None:
        return None
    rows = (
        (pc.field(c.PARTITION) == partition)
        & (pc.field(c.TOPIC_ID) == span.topic_id)
        & (pc.field(c.OFFSET) >= span.start)
        & (pc.field(c.OFFSET) < span.end)
    )
    with answering():
        return table.scanner(filter=rows).to_table().sort_by(c.OFFSET)


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


@dataclass
class _Tally:
    """Adds up what is found, batch by batch; `json` are the fields compared by their tokens."""

    json: tuple[Field, ...] = ()
    expected: int = 0
    bronze: int = 0
    quarantined: int = 0
    gaps: int = 0
    missing: int = 0
    duplicated: int = 0
    mismatched: int = 0
    stale: int = 0
    inserted: int = 0
    differences: list[str] = field(default_factory=list)

    def compare(
        self,
        batch: list[_Part],
        expected: tuple[pa.Table, pa.Table],
        found: tuple[pa.Table | None, pa.Table | None],
    ) -> None:
        """Compare what the tables have of a batch with what the contract makes of it."""
        present = [
            rows.slice(0, 0) if table is None else table
            for table, rows in zip(found, expected, strict=True)
        ]
        self.bronze += present[0].num_rows
        self.quarantined += present[1].num_rows
        every = _offsets(*expected)
        here = _offsets(*present)
        whole = _whole(batch)
        self.expected += len(every)
        self.gaps += whole.end - whole.start - len(every)
        unique, counts = np.unique(here, return_counts=True)
        self._note("missing", batch, np.setdiff1d(every, unique))
        self._note("duplicated", batch, unique[counts > 1])
        self._note("mismatched", batch, np.setdiff1d(unique, every))
        if batch[0].stale:
            self.stale += len(every)
            return
        both = np.intersect1d(every, unique[counts == 1])
        altered = _altered(self.json, batch, present[0]) if self.json else _NONE
        for wanted, got, more in zip(expected, present, (altered, _NONE), strict=True):
            found_here = np.union1d(_different(wanted, got), more)
            self._note("mismatched", batch, np.intersect1d(found_here, both))

    def surplus(self, table: Table | None, counted: int) -> None:
        """Rows of the log that a table has beyond those that the lake accounts for."""
        from pyiceberg.expressions import NotNull

        if table is None:
            return
        with answering():
            rows = table.scan(row_filter=NotNull(c.OFFSET), selected_fields=(c.OFFSET,)).to_arrow()
        beyond = rows.num_rows - counted
        if beyond > 0:
            self.mismatched += beyond
            name = ".".join(table.name())
            self.differences.append(f"mismatched: {beyond} rows of {name} are not in the lake")

    def _note(self, what: str, batch: list[_Part], offsets: np.ndarray) -> None:
        setattr(self, what, getattr(self, what) + len(offsets))
        starts = [part.span.start for part in batch]
        for offset in offsets[: max(0, SHOWN - len(self.differences))]:
            segment = batch[bisect_right(starts, offset) - 1].segment
            place = f"partition {segment.name.partition}, offset {offset}"
            self.differences.append(f"{what}: {place} ({segment.name.path})")

    def result(self, stream: str) -> Verification:
        """What was found."""
        return Verification(
            stream,
            self.expected,
            self.bronze,
            self.quarantined,
            self.gaps,
            self.missing,
            self.duplicated,
            self.mismatched,
            self.stale,
            tuple(self.differences),
            self.inserted,
        )


def _offsets(*tables: pa.Table) -> np.ndarray:
    return np.concatenate([table[c.OFFSET].to_numpy() for table in tables])


def _altered(fields: tuple[Field, ...], batch: list[_Part], got: pa.Table) -> np.ndarray:
    """The offsets of the rows of bronze that have other JSON tokens than their records."""
    records = pa.concat_tables(part.records for part in batch)
    values = dict(zip(records["offset"].to_pylist(), records["value"].to_pylist(), strict=True))
    rows = got.select([c.OFFSET, *(f.name for f in fields)])
    changed = [
        row[c.OFFSET]
        for part in rows.to_batches(max_chunksize=ROWS)
        for row in part.to_pylist()
        if (value := values.get(row[c.OFFSET])) is not None and not as_sent(fields, value, row)
    ]
    return np.array(changed, np.int64)


def _different(wanted: pa.Table, got: pa.Table) -> np.ndarray:
    """The offsets at which two tables, sorted by offset, do not have the same rows."""
    names = [name for name in wanted.schema.names if name not in _VOLATILE]
    wanted = wanted.select(names).sort_by(c.OFFSET).combine_chunks()
    got = got.select(names).cast(wanted.schema).combine_chunks()
    if wanted.equals(got):
        return np.array([], np.int64)
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    connection.register("wanted", wanted)
    connection.register("got", got)
    query = f"""
        SELECT coalesce(w.{c.OFFSET}, g.{c.OFFSET}) AS place
        FROM wanted w FULL JOIN got g ON w.{c.OFFSET} = g.{c.OFFSET}
        WHERE w IS DISTINCT FROM g"""
    places: np.ndarray = connection.execute(query).to_arrow_table()["place"].to_numpy()
    return places
