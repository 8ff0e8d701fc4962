"""Report to Dagster what the worker loads: runless events of the slices that it touched.

A thread of its own reports at a bounded rate. Loading never waits for it, and goes on if it fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg

from ingestion_platform.contract import columns as c
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.slice_counts import SliceCount
from ingestion_platform.orchestration import assets, checks, metadata, partitions
from ingestion_platform.orchestration.checks import Findings
from ingestion_platform.orchestration.instance import prepare_dagster_home
from ingestion_platform.orchestration.metadata import Stored
from ingestion_platform.orchestration.partitions import Slice, slice_key
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges
from ingestion_platform.warehouse.datafiles import column_bounds
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table

    from ingestion_platform.bronze.load import Loaded
    from ingestion_platform.lake.land import Landed
    from ingestion_platform.lake.segments import Segment

LOG = logging.getLogger("ingestion_platform.report")

RECOUNT = 600.0
"""Seconds after which a day is counted again in lake and tables; until then loads are added up."""
RARELY = 10.0
"""The pause between reports is so many times as long as the last one: a tenth of the time."""
PENDING = 10_000
"""Loaded files kept in memory between two reports; beyond, their days are counted again."""
REMEMBERED = 3
"""Newest days of a stream whose counts stay in memory between reports."""
_EPOCH = date(1970, 1, 1)
_TICK = 0.25
_LAST = 15.0  # seconds for a last report, when the worker ends


@contextmanager
def reporting(settings: Settings) -> Iterator[Reporter]:
    """Open a reporter to the instance of DAGSTER_HOME; its last report is made on exit."""
    prepare_dagster_home(settings)
    with Reporter(Platform(settings), dg.DagsterInstance.get) as reporter:
        yield reporter


@dataclass
class _Day:
    """Counts of an ingest date in lake and tables, up to the positions in `ends`."""

    counts: dict[Slice, SliceCount]
    held: dict[Slice, Stored]
    reasons: dict[Slice, Counter[str]]
    ends: dict[int, Position]
    read_at: float
    cost: float

    @property
    def old(self) -> bool:
        """Tell whether it must be counted again."""
        return time.monotonic() - self.read_at > max(RECOUNT, 50 * self.cost)

    def add(self, loaded: Loaded, size: int) -> bool:
        """Add a loaded file; return False if the day must be counted again instead."""
        segment = loaded.segment
        at = self.ends.get(segment.name.partition)
        if loaded.replaced:
            return False
        if at is not None and at.topic_id == segment.topic_id:
            if segment.end <= at.offset:
                return True  # counted with the day
            follows = segment.gap_start == at.offset
        else:
            follows = segment.previous == at
        if not follows:
            return False
        of = (segment.name.ingest_date, segment.name.partition)
        count = self.counts[of]
        self.counts[of] = replace(
            count,
            records=count.records + segment.rows,
            gaps=count.gaps + segment.gaps,
            bronze=count.bronze + loaded.bronze_rows,
            quarantined=count.quarantined + loaded.quarantine_rows,
        )
        self.held[of] = self.held[of].plus(segment, size)
        self.reasons.setdefault(of, Counter()).update(loaded.reasons)
        self.ends[segment.name.partition] = segment.position
        return True


@dataclass
class _ReportState:
    """What to report of a stream; the fields down to `waiting` are shared with its threads."""

    stream: Stream
    current_pass: list[Loaded] = field(default_factory=list)
    """Files of the current pass: checks see whole passes only, as they see whole runs."""
    loaded: list[Loaded] = field(default_factory=list)
    dropped: set[Slice] = field(default_factory=set)
    """Slices of files that were too many to keep in memory."""
    rows: dict[Slice, Any] = field(default_factory=dict)
    waiting: Mapping[int, int] = field(default_factory=dict)
    due: float = 0.0
    days: dict[date, _Day] = field(default_factory=dict)
    bad: set[date] = field(default_factory=set)
    begun: bool = False
    passes: int = 0
    previews: dict[Slice, Any] = field(default_factory=dict)

    def end_pass(self) -> None:
        """Hand the files of the current pass over to the next report."""
        self.passes += 1
        self.loaded += self.current_pass
        self.current_pass = []

    @cached_property
    def version(self) -> str:
        """Return the version of contract and validator."""
        from ingestion_platform.bronze.validate import code_version

        return code_version(self.stream.contract)


class Reporter:
    """An observer of the worker with a thread that reports; a context manager."""

    def __init__(self, platform: Platform, instance: Callable[[], dg.DagsterInstance]) -> None:
        self._platform = platform
        self._open = instance
        self._instance: dg.DagsterInstance | None = None
        self._interval = platform.settings.worker.report_seconds
        self._lock = threading.Lock()
        self._states: dict[str, _ReportState] = {}
        self._ended = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join(_LAST)

    def landed(self, stream: Stream, landed: Landed) -> None:
        """See worker.Observer."""
        if not landed.segment.rows:
            return
        # A copy: the whole file would stay in memory.
        first = max(0, landed.table.num_rows - metadata.PREVIEW_ROWS)
        last = landed.table.take(list(range(first, landed.table.num_rows)))
        with self._lock:
            name = landed.segment.name
            self._state(stream).rows[name.ingest_date, name.partition] = last

    def loaded(self, stream: Stream, loaded: Loaded) -> None:
        """See worker.Observer."""
        with self._lock:
            state = self._state(stream)
            state.current_pass.append(loaded)
            if len(state.current_pass) + len(state.loaded) > PENDING:
                state.dropped |= {_slice(each) for each in (*state.current_pass, *state.loaded)}
                state.current_pass, state.loaded = [], []

    def lag(self, stream: Stream, waiting: Mapping[int, int]) -> None:
        """See worker.Observer."""
        with self._lock:
            state = self._state(stream)
            state.waiting = waiting
            state.end_pass()

    def _state(self, stream: Stream) -> _ReportState:
        return self._states.setdefault(stream.name, _ReportState(stream))

    def _run(self) -> None:
        while not self._ended.wait(_TICK):
            self._report_due(time.monotonic())
        with self._lock:
            for state in self._states.values():
                state.end_pass()
        self._report_due(float("inf"))

    def _report_due(self, now: float) -> None:
        with self._lock:
            states = [
                state
                for state in self._states.values()
                if (state.loaded or state.dropped or (state.passes > 1 and not state.begun))
                and state.due <= now
            ]
        for state in states:
            with self._lock:
                loaded, state.loaded = state.loaded, []
                dropped, state.dropped = state.dropped, set()
            began = time.monotonic()
            try:
                self._report(state, loaded, dropped)
            except Exception as error:
                self._log_failure(state, error)
                with self._lock:
                    state.dropped |= dropped | {_slice(each) for each in loaded}
            else:
                self._failing, state.begun = False, True
            seconds = time.monotonic() - began
            state.due = time.monotonic() + max(self._interval, RARELY * seconds)

    def _log_failure(self, state: _ReportState, error: Exception) -> None:
        """Log an error of Dagster or its storage, once; loading goes on."""
        LOG.debug("no report of %s", state.stream.name, exc_info=error)
        if not self._failing:
            message = str(error).partition("\n")[0][:300]
            LOG.warning(
                "cannot report %s to Dagster (%s: %s); loading goes on, reports are retried",
                state.stream.name,
                type(error).__name__,
                message,
            )
        self._failing = True

    def _report(self, state: _ReportState, loaded: Sequence[Loaded], dropped: set[Slice]) -> None:
        """Report the slices that files touched, and evaluate the checks of their days."""
        stream = state.stream
        instance = self._instance = self._instance or self._open()
        if not state.begun:
            dropped = dropped | self._unreported(state, instance)
        touched = partitions.declared(stream, dropped | {_slice(each) for each in loaded})
        for ingest_date, _ in dropped:
            state.days.pop(ingest_date, None)
        if not touched:
            return
        ingest_dates = {ingest_date for ingest_date, _ in touched}
        new = self._count(state, loaded, ingest_dates)
        days = [state.days[ingest_date] for ingest_date in sorted(ingest_dates)]
        counts = {of: count for day in days for of, count in day.counts.items()}
        reasons = {of: why for day in days for of, why in day.reasons.items()}
        for of in touched:
            instance.report_runless_asset_event(self._lake_event(state, of))
        bad = checks.held_back(stream, counts)
        waiting = []
        if new or state.bad & ingest_dates - bad.keys():
            waiting = assets.released_with(instance, stream, touched, counts, bad)
        state.bad = (state.bad - ingest_dates) | bad.keys()
        table = self._platform.catalog.load_table(stream.bronze_table)
        for of in touched:
            if counts[of].bronze and of not in state.previews:
                state.previews[of] = metadata.slice_preview(table, stream.contract, of)
        # Slices with rows last: overviews show the latest event.
        for of in sorted({*touched, *waiting}, key=lambda of: (counts[of].bronze > 0, of)):
            event = self._bronze_event(state, of, table, bad.get(of[0]))
            instance.report_runless_asset_event(event)
        findings = Findings(counts, reasons)
        # Counts that were only added up prove nothing about the tables.
        for name in (checks.QUARANTINE_LIMIT, *([checks.RECONCILIATION] if new else [])):
            instance.report_runless_asset_event(_evaluation(name, stream, findings))

    def _unreported(self, state: _ReportState, instance: dg.DagsterInstance) -> set[Slice]:
        """Return the newest slices that an earlier worker loaded and did not report."""
        table = load_or_none(self._platform.catalog, state.stream.bronze_table)
        committed_by_partition = {} if table is None else read_committed(table)
        labels = partitions.all_partitions(state.stream)
        result = set()
        for partition, segment in (
            SegmentLog(self._platform.store, state.stream.topic).tails(labels).items()
        ):
            of = (segment.name.ingest_date, partition)
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(
                    asset_key=assets.bronze_key(state.stream), asset_partitions=[slice_key(of)]
                ),
                limit=1,
            ).records
            reported = [r.asset_materialization for r in records if r.asset_materialization]
            version = assets.data_version(Stored().plus(segment, 0), state.version)
            known = (
                bool(reported) and (reported[0].tags or {}).get("dagster/data_version") == version
            )
            if (
                _has(committed_by_partition, segment) and not known
            ):  # what is not loaded yet is reported when it is
                result.add(of)
        return result

    def _lake_event(self, state: _ReportState, of: Slice) -> dg.AssetMaterialization:
        held = state.days[of[0]].held[of]
        url, lag = self._platform.store.url, state.waiting.get(of[1], 0)
        reported = metadata.lake_event(state.stream, url, of, held, lag)
        if of in state.rows:
            reported["preview"] = metadata.raw_preview(state.rows[of])
        return assets.lake_event(state.stream, of, reported)

    def _bronze_event(
        self, state: _ReportState, of: Slice, table: Table, held_back: str | None
    ) -> dg.AssetMaterialization | dg.AssetObservation:
        day = state.days[of[0]]
        reported = metadata.bronze_event(
            state.stream,
            table,
            day.held[of],
            bronze=day.counts[of].bronze,
            quarantined=day.counts[of].quarantined,
            reasons=day.reasons.get(of, Counter()),
            lag=state.waiting.get(of[1], 0),
        )
        if of in state.previews:
            reported["preview"] = state.previews[of]
        return assets.bronze_event(
            state.stream, of, reported, day.held[of], held_back, state.version
        )

    def _count(
        self, state: _ReportState, loaded: Sequence[Loaded], ingest_dates: set[date]
    ) -> set[date]:
        """Update the counts of ingest dates; return the dates that were counted again."""
        new = {w for w in ingest_dates if w not in state.days or state.days[w].old}
        for each in loaded:
            ingest_date = each.segment.name.ingest_date
            if ingest_date in ingest_dates - new and not state.days[ingest_date].add(
                each, self._size(each)
            ):
                new.add(ingest_date)
        for ingest_date in sorted(new):
            state.days[ingest_date] = read_day(self._platform, state.stream, ingest_date)
        kept = {*sorted(state.days)[-REMEMBERED:], *ingest_dates}
        state.days = {ingest_date: state.days[ingest_date] for ingest_date in kept}
        state.previews = {
            of: shown for of, shown in state.previews.items() if of[0] in kept and of[0] not in new
        }
        with self._lock:
            state.rows = {of: last for of, last in state.rows.items() if of[0] >= min(kept)}
        return new

    def _size(self, loaded: Loaded) -> int:
        entry = self._platform.store.entry(loaded.segment.name.path)
        return 0 if entry is None else entry.size


def _slice(loaded: Loaded) -> Slice:
    return loaded.segment.name.ingest_date, loaded.segment.name.partition


def read_day(platform: Platform, stream: Stream, ingest_date: date) -> _Day:
    """Count an ingest date in lake and tables, up to the committed offsets of bronze.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    began = time.monotonic()
    day = _read_day(platform, stream, ingest_date)
    if not all(count.ok for count in day.counts.values()):
        # The two tables are read one after the other: a writer may have come in between.
        day = _read_day(platform, stream, ingest_date)
    return replace(day, cost=time.monotonic() - began)


def _read_day(platform: Platform, stream: Stream, ingest_date: date) -> _Day:
    bronze = load_or_none(platform.catalog, stream.bronze_table)
    quarantine = load_or_none(platform.catalog, stream.quarantine_table)
    committed_by_partition = {} if bronze is None else read_committed(bronze)
    ends = {
        p: end
        for p, committed in committed_by_partition.items()
        if (end := committed.position) is not None
    }
    slices = [(ingest_date, p) for p in partitions.all_partitions(stream)]
    good, rejected = (_rows(table, ingest_date, ends) for table in (bronze, quarantine))
    held = metadata.stored(
        platform, stream, slices, only=lambda segment: _has(committed_by_partition, segment)
    )
    counts = {
        of: SliceCount(
            records=held[of].records,
            gaps=held[of].gaps,
            bronze=good[of[1]],
            quarantined=rejected[of[1]],
            loaded=True,
            stale=False,
        )
        for of in slices
    }
    reasons = metadata.quarantine_reasons(platform, stream, [ingest_date])
    return _Day(counts, held, reasons, ends, time.monotonic(), 0.0)


def _has(committed_by_partition: Mapping[int, CommittedRanges], segment: Segment) -> bool:
    """Tell whether a table has the last offset of a segment, and so all before it."""
    committed = committed_by_partition.get(segment.name.partition, CommittedRanges())
    return bool(committed.of(segment.topic_id, segment.end - 1, segment.end))


def _rows(table: Table | None, ingest_date: date, ends: Mapping[int, Position]) -> Counter[int]:
    """Count the rows of an ingest date by log partition, up to the positions in `ends`.

    A file that one slice's load has written is counted by its metadata, others are opened one by
    one: a day may have more rows than fit into memory.
    """
    from pyiceberg.expressions import EqualTo

    result: Counter[int] = Counter()
    if table is None:
        return result
    scan = table.scan(row_filter=EqualTo(c.INGEST_DATE, ingest_date.isoformat()))
    with answering():
        for task in scan.plan_files():
            same = {name: _single(table, task.file, name) for name in (c.INGEST_DATE, c.PARTITION)}
            last = column_bounds(table.schema(), task.file, c.OFFSET)[1]
            end = ends.get(same[c.PARTITION])
            simple = same[c.INGEST_DATE] == ingest_date and not task.delete_files
            if simple and end is not None and last is not None and last < end.offset:
                result[same[c.PARTITION]] += task.file.record_count
            else:
                result += _opened(table, task, ingest_date, ends)
    return result


def _single(table: Table, file: DataFile, name: str) -> Any:
    """Return the value that all rows of a file have; None if unknown."""
    low, high = column_bounds(table.schema(), file, name)
    if (
        low is None
        or low != high
        or (file.null_value_counts or {}).get(table.schema().find_field(name).field_id)
    ):
        return None
    return _EPOCH + timedelta(days=low) if name == c.INGEST_DATE else low


def _opened(
    table: Table, task: FileScanTask, ingest_date: date, ends: Mapping[int, Position]
) -> Counter[int]:
    from pyiceberg.expressions import EqualTo
    from pyiceberg.io.pyarrow import ArrowScan

    fields = (c.PARTITION, c.TOPIC_ID, c.OFFSET)
    condition = EqualTo(c.INGEST_DATE, ingest_date.isoformat())
    projected = table.schema().select(*fields, c.INGEST_DATE)
    rows = ArrowScan(table.metadata, table.io, projected, condition).to_table([task])
    result: Counter[int] = Counter()
    for partition, topic_id, offset in zip(*(rows[n].to_pylist() for n in fields), strict=True):
        end = ends.get(partition)
        if end is None or topic_id != end.topic_id or offset < end.offset:
            result[partition] += 1
    return result


def _evaluation(name: str, stream: Stream, findings: Findings) -> dg.AssetCheckEvaluation:
    key = assets.bronze_key(stream)
    result = checks.evaluate(name, stream, key, findings)
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
        blocking=name in checks.BLOCKING,
    )
