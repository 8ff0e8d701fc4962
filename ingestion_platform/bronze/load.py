"""Load lake files into bronze and quarantine, so that both tables equal f(lake, contract).

New files of the segment log are appended. Files that were validated by another contract or parser
version are loaded again and replace their rows. Files that are loaded already are skipped. Files
are validated and written on threads, and committed in log order, quarantine first. Each table
stores its own committed offset ranges, so the next load repairs a crash between the two commits.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.validate import Validated, Validator, code_version, count_reasons
from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.schemas import bronze_arrow_schema, quarantine_arrow_schema
from ingestion_platform.errors import WriteConflict
from ingestion_platform.lake.land_files import reasons_of_reader
from ingestion_platform.lake.records import read
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.lake.store import Store
from ingestion_platform.positions import Position, Slice, lower
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.commit import Change, commit, read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span, disagreement
from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.tables import ensure_bronze, ensure_quarantine

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

_TABLES = ("bronze", "quarantine")
WORKERS = 2
AHEAD = 3


@dataclass(frozen=True, slots=True)
class LoadItem:
    """A lake file to load; without `records` (records.SCHEMA) they are read from the lake."""

    segment: Segment
    records: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of loading a file: row counts of both tables, and counts of rejection reasons."""

    segment: Segment
    bronze_rows: int
    quarantine_rows: int
    reasons: Counter[str]
    replaced: bool


@dataclass(frozen=True, slots=True)
class _Task:
    """A file with its change of each table; None for a table that holds the file already."""

    item: LoadItem
    bronze: Change | None
    quarantine: Change | None


class RowBuilder:
    """Builds the rows of both tables from a file's records: the f of table = f(lake, contract)."""

    def __init__(self, contract: Contract) -> None:
        self._validator = Validator(contract)
        self._version = code_version(contract)
        self._bronze_schema = bronze_arrow_schema(contract)
        self._quarantine_schema = quarantine_arrow_schema()

    def rows(self, segment: Segment, records: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the rows for bronze and for quarantine, in no particular order.

        `records` are of records.SCHEMA.
        """
        encoding = "json" if segment.file is None else segment.file.encoding
        reader_reasons = reasons_of_reader(segment, records)
        parsed = self._validator.parse(records["value"], encoding, reader_reasons)
        bronze = self._bronze_rows(segment, records, parsed)
        return bronze, self._quarantine_rows(segment, records, parsed)

    def _bronze_rows(self, segment: Segment, records: pa.Table, parsed: Validated) -> pa.Table:
        offsets = records["offset"].take(parsed.valid)
        origin = self._origin_columns(segment, offsets)
        arrays = [
            *parsed.rows.columns,
            *(origin[name] for name in c.BRONZE_COLUMNS),
        ]
        return pa.table(arrays, schema=self._bronze_schema)

    def _quarantine_rows(self, segment: Segment, records: pa.Table, parsed: Validated) -> pa.Table:
        schema = self._quarantine_schema
        rejected = records.take(parsed.rejected)
        origin = self._origin_columns(segment, rejected["offset"])
        origin |= {
            c.TIMESTAMP: rejected["timestamp"].cast(schema.field(c.TIMESTAMP).type),
            c.KEY: rejected["key"],
            c.VALUE: rejected["value"],
            c.HEADERS: rejected["headers"].cast(schema.field(c.HEADERS).type),
            c.REASONS: parsed.reasons.cast(schema.field(c.REASONS).type),
            c.ORIGIN: pa.repeat(segment.name.path, rejected.num_rows),
        }
        return pa.table([origin[name] for name in c.QUARANTINE_COLUMNS], schema=schema)

    def _origin_columns(self, segment: Segment, offsets: pa.ChunkedArray) -> dict[str, pa.Array]:
        count = len(offsets)
        now = pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC"))
        return {
            c.INGEST_DATE: pa.repeat(pa.scalar(segment.name.ingest_date, pa.date32()), count),
            c.TOPIC_ID: pa.repeat(segment.topic_id, count),
            c.PARTITION: pa.repeat(pa.scalar(segment.name.partition, pa.int32()), count),
            c.OFFSET: offsets,
            c.INGESTED_AT: pa.repeat(now, count),
            c.CONTRACT: pa.repeat(self._version, count),
        }


class Loader:
    """Loads one stream's lake files into its two tables.

    Not thread-safe. Any number of loaders, in any processes, may load the same stream at once.
    """

    def __init__(self, catalog: Catalog, store: Store, stream: Stream) -> None:
        self._catalog = catalog
        self._store = store
        self._stream = stream
        self._builder = RowBuilder(stream.contract)
        self._version = code_version(stream.contract)
        self._bronze = ensure_bronze(catalog, stream.bronze_table, stream.contract)
        self._quarantine = ensure_quarantine(catalog, stream.quarantine_table)
        tables = (self._bronze, self._quarantine)
        self._committed_by_partition = {
            w: read_committed(t) for w, t in zip(_TABLES, tables, strict=True)
        }

    def position(self, partition: int) -> Position | None:
        """Return the lower of both tables' positions in a log partition; None if one has none."""
        bronze, quarantine = (committed.position for committed in self._both(partition))
        segment_log = SegmentLog(self._store, self._stream.topic)
        return lower(bronze, quarantine, lambda: segment_log.topic_order(partition))

    def _both(self, partition: int) -> tuple[CommittedRanges, CommittedRanges]:
        bronze, quarantine = (
            self._committed_by_partition[w].get(partition, CommittedRanges()) for w in _TABLES
        )
        return bronze, quarantine

    def behind(
        self, segment_log: SegmentLog, partitions: Iterable[int], *, last: date | None = None
    ) -> Iterator[LoadItem]:
        """Yield the files that are not loaded into both tables, in log order per partition.

        Files that the two tables loaded by different contracts come first. New files are limited to
        ingest dates up to `last`.
        """
        for partition in partitions:
            for span in disagreement(*self._both(partition)):
                for segment in segment_log.after(partition, Position(span.topic_id, span.start)):
                    if segment.topic_id == span.topic_id and segment.gap_start < span.end:
                        yield LoadItem(segment)
            for segment in segment_log.after(partition, self.position(partition), last=last):
                yield LoadItem(segment)

    def stale(self, segment_log: SegmentLog, slices: Iterable[Slice]) -> Iterator[LoadItem]:
        """Yield the loaded files of `slices` that another contract or parser version validated."""
        for ingest_date, partition in slices:
            for segment in segment_log.slice(ingest_date, partition):
                for committed in self._committed_by_partition.values():
                    parts = committed.get(partition, CommittedRanges()).of(
                        segment.topic_id, segment.gap_start, segment.end
                    )
                    if any(part.contract != self._version for part in parts):
                        yield LoadItem(segment)
                        break

    def load(
        self, items: Iterable[LoadItem], *, workers: int = WORKERS, ahead: int = AHEAD
    ) -> Iterator[Loaded]:
        """Load files, given in log order per partition; yield one result per loaded file.

        `workers` files are validated at once; up to `ahead` + 1 more may be in memory while a
        commit is running. A file that the current contract has loaded already is skipped and has no
        result.

        Raises:
            WriteConflict: another writer loads the same records; start again from the positions.
            CatalogUnavailable, StoreUnavailable: try again.
        """
        pool = ThreadPoolExecutor(workers, thread_name_prefix="validate")
        committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        validated: deque[Future[_Validated]] = deque()
        committing: Future[list[Loaded]] | None = None
        most = workers + ahead
        try:
            for item in items:
                task = self._plan(item)
                if task is None:
                    continue
                validated.append(pool.submit(self._validate, task))
                while committing is not None and (committing.done() or len(validated) > most):
                    yield from committing.result()
                    committing = self._commit_ready(committer, validated)
                if committing is None:
                    if len(validated) > most:
                        wait([validated[0]])
                    committing = self._commit_ready(committer, validated)
            while validated or committing is not None:
                if committing is not None:
                    yield from committing.result()
                    committing = None
                if validated:
                    wait(validated)  # no more items: commit the rest at once
                    committing = self._commit_ready(committer, validated)
        finally:
            pool.shutdown(cancel_futures=True)
            committer.shutdown()

    def _commit_ready(
        self, committer: ThreadPoolExecutor, validated: deque[Future[_Validated]]
    ) -> Future[list[Loaded]] | None:
        """Commit all validated files at the head of the queue in one commit per table."""
        ready = []
        while validated and validated[0].done():
            ready.append(validated.popleft().result())
        return committer.submit(self._commit, ready) if ready else None

    def _plan(self, item: LoadItem) -> _Task | None:
        """Return a file's changes; None when both tables hold it already.

        The committed ranges in memory are updated as if the changes were committed.
        """
        bronze = self._change("bronze", item)
        quarantine = self._change("quarantine", item)
        if bronze is None and quarantine is None:
            return None
        return _Task(item, bronze, quarantine)

    def _change(self, which: str, item: LoadItem) -> Change | None:
        segment = item.segment
        partition = segment.name.partition
        committed = self._committed_by_partition[which].get(partition, CommittedRanges())
        parts = committed.of(segment.topic_id, segment.gap_start, segment.end)
        span = Span(segment.topic_id, segment.gap_start, segment.end, self._version)
        if committed.holds(span):
            return None
        if all(part.contract == self._version for part in parts):
            at = committed.position
            if not _follows(at, segment, handed=item.records is not None):
                raise WriteConflict(
                    f"{segment.name.path} does not follow offset {at}",
                    action="start again from the positions",
                )
            if at is not None and at.topic_id == segment.topic_id:
                span = Span(segment.topic_id, at.offset, segment.end, self._version)
            parts = []
        change = Change(partition, committed, span, (), replace=bool(parts))
        self._committed_by_partition[which][partition] = committed.with_span(span)
        return change

    def _validate(self, task: _Task) -> _Validated:
        """Validate a file and write its data files; nothing is visible before the commit."""
        segment, records = task.item.segment, task.item.records
        if records is None:
            records = read(self._store, segment)
        bronze, quarantine = self._builder.rows(segment, records)
        return _Validated(
            _filled(task.bronze, self._bronze, bronze),
            _filled(task.quarantine, self._quarantine, quarantine),
            Loaded(
                segment,
                bronze.num_rows,
                quarantine.num_rows,
                count_reasons(quarantine[c.REASONS]),
                replaced=any(x is not None and x.replace for x in (task.bronze, task.quarantine)),
            ),
        )

    def _commit(self, ready: list[_Validated]) -> list[Loaded]:
        quarantine = [j.quarantine for j in ready if j.quarantine is not None]
        bronze = [j.bronze for j in ready if j.bronze is not None]
        if quarantine:
            commit(self._catalog, self._stream.quarantine_table, quarantine)
        if bronze:
            commit(self._catalog, self._stream.bronze_table, bronze)
        return [j.loaded for j in ready]


@dataclass(frozen=True, slots=True)
class _Validated:
    """A file's changes, ready to commit; no longer holds its records."""

    bronze: Change | None
    quarantine: Change | None
    loaded: Loaded


def _follows(at: Position | None, segment: Segment, *, handed: bool) -> bool:
    """Whether a file continues the loaded range that ends at `at`.

    `handed`: the records were passed in memory, so an earlier file of another writer may not be
    loaded yet.
    """
    if at is None:
        return not handed or segment.previous is None
    if at.topic_id == segment.topic_id:
        return segment.gap_start <= at.offset
    return segment.previous == at


def _filled(change: Change | None, table: Table, rows: pa.Table) -> Change | None:
    """Write a change's rows as data files and return the change with them."""
    if change is None:
        return None
    # A file may overlap the loaded range: write only the rows of the span.
    rows = (
        rows.filter(pc.greater_equal(rows[c.OFFSET], change.span.start)) if rows.num_rows else rows
    )
    files = write_data_files(table, rows)
    return Change(change.partition, change.base, change.span, files, change.replace)
