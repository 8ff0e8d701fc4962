"""Compare a stream's lake with its tables: every record once, and as the contract says.

Changes nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.load import RowBuilder
from ingestion_platform.bronze.tokens import as_sent, with_json
from ingestion_platform.bronze.validate import code_version
from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Field
from ingestion_platform.errors import WriteConflict
from ingestion_platform.lake.land import BYTES, ROWS
from ingestion_platform.lake.records import read
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.lake.store import Store
from ingestion_platform.operations.slice_counts import without_overlap
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.inserted import count_inserted
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table

SHOWN = 20
ATTEMPTS = 10
_NONE = np.array([], np.int64)
# Set by each load, or by the call that inserted the record: not part of its content.
_VOLATILE = {c.INGESTED_AT, c.INGEST_DATE, c.ORIGIN}


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of comparing a stream's lake with its tables.

    `expected` counts the lake's records up to bronze's position, `gaps` offsets without a record.
    `missing` records are in neither table, `duplicated` ones occur more than once, `mismatched`
    ones are in the wrong table, have other content, or are not in the lake. `stale` records were
    validated by an earlier contract; only their offsets are compared. `inserted` rows of bronze
    came by SQL; they are only counted.
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
        """Return the result as plain data, for JSON."""
        return {"stream": self.stream, "ok": self.ok, **asdict(self)}


def verify_stream(
    platform: Platform, stream: Stream, *, on_progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare the whole lake of a stream with its tables by offset and value.

    `on_progress` receives the number of records compared so far.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
        SegmentLogBroken: files of the lake are missing.
    """
    tally = _Tally(with_json(stream.contract.fields))
    bronze = load_or_none(platform.catalog, stream.bronze_table)
    quarantine = load_or_none(platform.catalog, stream.quarantine_table)
    datasets = [None if t is None else TableDataset(t) for t in (bronze, quarantine)]
    builder = RowBuilder(stream.contract)
    version = code_version(stream.contract)
    committed_by_partition = {} if bronze is None else read_committed(bronze)
    for partition in partitions_of(SegmentLog(platform.store, stream.topic)):
        committed = committed_by_partition.get(partition, CommittedRanges())
        parts = _due_parts(platform.store, stream.topic, partition, committed, version)
        for batch in _batches(parts):
            expected = builder.rows(batch[0].segment, pa.concat_tables(p.records for p in batch))
            found = [rows_of(table, partition, _whole(batch)) for table in datasets]
            tally.compare(batch, expected, (found[0], found[1]))
            if on_progress is not None:
                on_progress(tally.expected)
    for table, counted in ((bronze, tally.bronze), (quarantine, tally.quarantined)):
        tally.surplus(table, counted)
    tally.inserted = count_inserted(bronze)
    return tally.result(stream.name)


@dataclass(frozen=True, slots=True)
class _Part:
    """Records of a segment's span that the tables must have.

    `stale`: another contract validated some of them.
    """

    segment: Segment
    span: Span
    records: pa.Table
    stale: bool


def _due_parts(
    store: Store, topic: str, partition: int, committed: CommittedRanges, version: str
) -> Iterator[_Part]:
    """Yield all records that bronze must have of a log partition, in order, each once."""
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
        except WriteConflict:  # another process is merging the files
            tries += 1
            if tries == ATTEMPTS:
                raise
        else:
            return


def _batches(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Yield adjacent parts together, so that many small files need few table scans."""
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
    """Return whether two parts can be validated and compared together."""
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


def due(
    segments: list[Segment], position: Position | None, at: Position | None
) -> Iterator[tuple[Segment, Span]]:
    """Yield the spans from `at` on that a table at `position` must have."""
    order = list(dict.fromkeys(segment.topic_id for segment in segments))
    if position is None or position.topic_id not in order:
        return
    present = order.index(position.topic_id)
    for segment, start in without_overlap(segments, at):
        place = order.index(segment.topic_id)
        end = min(segment.end, position.offset) if place == present else segment.end
        if place <= present and start < end:
            yield segment, Span(segment.topic_id, start, end, "")


def between(table: pa.Table, column: str, start: int, end: int) -> pa.Table:
    values = table[column]
    return table.filter(pc.and_(pc.greater_equal(values, start), pc.less(values, end)))


def rows_of(table: TableDataset | None, partition: int, span: Span) -> pa.Table | None:
    """Return the rows of a span sorted by offset."""
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


@dataclass
class _Tally:
    """Counts differences batch by batch; the values of `json` fields are compared by tokens."""

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
        """Compare the tables' rows of a batch with the validated records."""
        present = [
            rows.slice(0, 0) if table is None else table
            for table, rows in zip(found, expected, strict=True)
        ]
        self.bronze += present[0].num_rows
        self.quarantined += present[1].num_rows
        due = _offsets(*expected)
        loaded = _offsets(*present)
        whole = _whole(batch)
        self.expected += len(due)
        self.gaps += whole.end - whole.start - len(due)
        unique, counts = np.unique(loaded, return_counts=True)
        self._count("missing", batch, np.setdiff1d(due, unique))
        self._count("duplicated", batch, unique[counts > 1])
        self._count("mismatched", batch, np.setdiff1d(unique, due))
        if batch[0].stale:
            self.stale += len(due)
            return
        both = np.intersect1d(due, unique[counts == 1])
        altered = _altered(self.json, batch, present[0]) if self.json else _NONE
        for rows, got, more in zip(expected, present, (altered, _NONE), strict=True):
            different = np.union1d(_different(rows, got), more)
            self._count("mismatched", batch, np.intersect1d(different, both))

    def surplus(self, table: Table | None, counted: int) -> None:
        """Count rows with an offset beyond those that the lake has."""
        from pyiceberg.expressions import NotNull

        if table is None:
            return
        with answering():
            rows = table.scan(row_filter=NotNull(c.OFFSET), selected_fields=(c.OFFSET,)).to_arrow()
        surplus = rows.num_rows - counted
        if surplus > 0:
            self.mismatched += surplus
            name = ".".join(table.name())
            self.differences.append(f"mismatched: {surplus} rows of {name} are not in the lake")

    def _count(self, kind: str, batch: list[_Part], offsets: np.ndarray) -> None:
        setattr(self, kind, getattr(self, kind) + len(offsets))
        starts = [part.span.start for part in batch]
        for offset in offsets[: max(0, SHOWN - len(self.differences))]:
            segment = batch[bisect_right(starts, offset) - 1].segment
            place = f"partition {segment.name.partition}, offset {offset}"
            self.differences.append(f"{kind}: {place} ({segment.name.path})")

    def result(self, stream: str) -> Verification:
        """Return the totals."""
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
    """Return the offsets of bronze rows whose JSON tokens differ from their records."""
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
    """Return the offsets at which two tables have different rows."""
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
