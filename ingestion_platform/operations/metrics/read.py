"""Reading the facts behind the metrics, at a cost that does not grow with what is stored.

Each part is read again only when something tells that it changed: a table when its metadata have
moved, the lake when log or bronze have, and then not more often than every LOOK seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from ingestion_platform import failures
from ingestion_platform.each import attempt, for_each, results
from ingestion_platform.errors import PlatformError
from ingestion_platform.kafka.times import SKEW, first_plausible
from ingestion_platform.lake.journal import Journal
from ingestion_platform.lake.land import find_topic
from ingestion_platform.lake.losses import recorded_losses
from ingestion_platform.lake.names import FILES, ingest_date_folder, parse_name
from ingestion_platform.lake.records import decode
from ingestion_platform.lake.segments import SegmentLog, read_footer
from ingestion_platform.operations.maintenance import LAYERS, models_of
from ingestion_platform.operations.metrics.facts import (
    LakeSamples,
    LogSamples,
    Samples,
    SinkSamples,
    StreamSamples,
    TableSamples,
)
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position
from ingestion_platform.sinks import ranges
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.sinks.deliver import COUNTED, is_current
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges
from ingestion_platform.warehouse.decisions import TABLE as DECISIONS
from ingestion_platform.warehouse.decisions import count_discarded
from ingestion_platform.warehouse.retention import summary_of
from ingestion_platform.warehouse.tables import load_or_none
from ingestion_platform.warehouse.totals import read_totals

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from ingestion_platform.kafka.topic_log import Log
    from ingestion_platform.lake.store import Store

LOG = logging.getLogger("ingestion_platform.operations.metrics")

LOOK = 30.0
"""Seconds between two looks into the lake, a drop zone or a target of a stream, at least."""
RECOUNT = 3600.0
"""Seconds after which days gone by are listed again, for what maintenance did to them."""
EXAMINE = 300.0
"""Seconds between two readings of a table's manifests, at least,"""
EXAMINED = 4
"""and so many tables are examined at a time, at most."""
SMALL = 1024 * 1024
FEW = 2
_AT_ONCE = 8
_WAITS = 16  # log partitions of a stream whose first waiting record is looked at


class Reader:
    """Reads streams, their models and their targets, and remembers what it need not read again.

    One reading at a time; parts that cannot be read are told as such, and do not keep the rest.
    """

    def __init__(
        self,
        platform: Platform,
        streams: Sequence[Stream],
        deliveries: Iterable[Delivery] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._platform = platform
        self._clock = clock
        self._tables = _Tables(platform, sorted({stream.domain for stream in streams}), clock)
        self._streams = [_StreamReader(platform, of, self._tables, clock) for of in streams]
        configured = [of for of in deliveries if of.configured(platform.settings)]
        self._sinks = [_SinkReader(platform, of, clock) for of in configured]
        self._lock = threading.Lock()

    def read(self, *, thorough: bool = False) -> Samples:
        """All facts as they are now; `thorough` examines every table that has changed."""
        with self._lock:
            began, now = time.monotonic(), self._clock()
            reached = self._tables.refresh()
            streams = [
                of.found or of.item.unreadable(of.error)
                for of in for_each(lambda one: one.read(reached), self._streams, at_once=_AT_ONCE)
            ]
            committed_by_partition = {
                of.name: of.bronze.committed_by_partition if of.bronze else {} for of in streams
            }
            sinks = [
                of.found or of.item.unreadable()
                for of in for_each(
                    lambda one: one.read(committed_by_partition), self._sinks, at_once=_AT_ONCE
                )
            ]
            models = self._tables.models()
            small = self._tables.examined(len(self._tables.names) if thorough else EXAMINED)
            return Samples(
                streams=tuple(
                    replace(
                        each,
                        bronze=_with_small(each.bronze, small),
                        quarantine=_with_small(each.quarantine, small),
                    )
                    for each in streams
                ),
                models=tuple(replace(each, small_files=small.get(each.name)) for each in models),
                sinks=tuple(sinks),
                errors=failures.counts(self._platform.settings.home),
                read_at=now,
                seconds=time.monotonic() - began,
            )

    def close(self) -> None:
        """Let go of the logs."""
        for each in self._streams:
            each.close()


def _with_small(table: TableSamples | None, small: Mapping[str, int]) -> TableSamples | None:
    return None if table is None else replace(table, small_files=small.get(table.name))


@dataclass
class _Known:
    """A table as it was last read, and the metadata that told it."""

    location: str
    facts: TableSamples
    table: Table


class _Tables:
    """The tables of the catalog, each read again when its metadata have moved."""

    def __init__(self, platform: Platform, domains: Sequence[str], clock: Callable[[], float]):
        self._platform = platform
        self._domains = domains
        self._clock = clock
        self._locations: dict[str, str] | None = None
        self._known: dict[str, _Known] = {}
        self._small: dict[str, tuple[str, float, int]] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The tables that were read."""
        return list(self._known)

    def refresh(self) -> bool:
        """See which tables have changed: one query of a SQL catalog; whether it answers."""
        try:
            with answering():
                self._locations = _locations(self._platform)
        except PlatformError:
            return False
        return True

    def location(self, name: str) -> str:
        """What changes with a table; "" for one that is not there, or unknown."""
        known = self._known.get(name)
        return (self._locations or {}).get(name) or (known.location if known else "")

    def facts(self, name: str, layer: str, domain: str, stream: str = "") -> TableSamples | None:
        """A table; None when there is none.

        Raises:
            CatalogUnavailable, StoreUnavailable: one of them does not answer.
        """
        known = self._known.get(name)
        if self._locations is not None:
            location = self._locations.get(name)
            if location is None:
                with self._lock:
                    self._known.pop(name, None)
                return None
            if known is not None and known.location == location:
                return known.facts
        table = load_or_none(self._platform.catalog, name)
        if table is None:
            return None
        if known is None or known.location != table.metadata_location:
            facts = _table_facts(table, name, layer, domain, stream)
            known = _Known(table.metadata_location, facts, table)
            with self._lock:
                self._known[name] = known
        return known.facts

    def models(self) -> list[TableSamples]:
        """The tables of the models; as last read, if the catalog does not answer."""
        named = list(for_each(self._models_of, self._domains))
        if any(of.error for of in named):
            return [known.facts for known in self._known.values() if not known.facts.stream]
        places = [(name, of.item) for of in named for name in of.result]
        read = for_each(lambda at: self.facts(at[0], at[0].partition(".")[0], at[1]), places)
        return [facts for facts in results(read) if facts is not None]

    def _models_of(self, domain: str) -> list[str]:
        if self._locations is None:
            return models_of(self._platform, domain)
        prefixes = tuple(f"{layer}.{layer}_{domain}_" for layer in LAYERS)
        return sorted(name for name in self._locations if name.startswith(prefixes))

    def examined(self, most: int) -> dict[str, int]:
        """How many small files tables have, after examining the `most` that are longest due."""
        now = self._clock()
        due = [
            (self._small.get(name, ("", 0.0, 0))[1], name)
            for name, known in self._known.items()
            if self._small.get(name, ("",))[0] != known.location
            and now - self._small.get(name, ("", 0.0))[1] > EXAMINE
        ]
        for _, name in sorted(due)[:most]:
            self._examine(name, now)
        return {name: small for name, (_, _, small) in self._small.items() if name in self._known}

    def _examine(self, name: str, now: float) -> None:
        from ingestion_platform.warehouse.maintenance.table import condition

        target = self._platform.settings.maintenance.target_file_mb * 1024 * 1024
        catalog = self._platform.catalog
        found = attempt(lambda of: condition(catalog, of, target=target), name).found
        if found is not None:
            self._small[name] = (self._known[name].location, now, found.small_files)


def _locations(platform: Platform) -> dict[str, str] | None:
    """Where each table's metadata are, as namespace.name; None where a catalog cannot tell of all
    tables at once."""
    from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
    from sqlalchemy import select

    catalog = platform.catalog
    if not isinstance(catalog, SqlCatalog):
        return None
    of = IcebergTables
    query = select(of.table_namespace, of.table_name, of.metadata_location).where(
        of.catalog_name == catalog.name
    )
    with catalog.engine.connect() as connection:
        rows = connection.execute(query).all()
    return {f"{namespace}.{name}": location or "" for namespace, name, location in rows}


def _table_facts(table: Table, name: str, layer: str, domain: str, stream: str) -> TableSamples:
    snapshot = table.current_snapshot()
    summary = summary_of(snapshot) if snapshot is not None else {}

    def told(what: str) -> int:
        return int(summary.get(what, 0))

    return TableSamples(
        name=name,
        layer=layer,
        domain=domain,
        stream=stream,
        rows=told("total-records") - told("total-position-deletes"),
        bytes=told("total-files-size"),
        files=told("total-data-files"),
        delete_files=told("total-delete-files"),
        snapshots=len(table.metadata.snapshots),
        committed_at=None if snapshot is None else snapshot.timestamp_ms / 1000,
        totals=read_totals(table),
        committed_by_partition=read_committed(table) if stream else {},
    )


@dataclass
class _Sizes:
    """What an ingest date holds: bytes and data files, and how many of these merging would take."""

    read_at: float
    bytes: int
    files: int
    small: int


@dataclass
class _Look:
    """The last look at a stream's lake: when, at which positions, and what was seen."""

    at: float = float("-inf")
    counted: float = float("-inf")
    key: Any = None
    facts: LakeSamples | None = None
    ingest_dates: dict[date, _Sizes] = field(default_factory=dict)


class _StreamReader:
    """One stream. Its log stays open between readings."""

    def __init__(
        self, platform: Platform, stream: Stream, tables: _Tables, clock: Callable[[], float]
    ) -> None:
        self._platform = platform
        self._stream = stream
        self._tables = tables
        self._clock = clock
        self._opened = ExitStack()
        self._log: Log | None = None
        self._look = _Look()
        self._waits: dict[tuple[int, str, int], float] = {}
        self._discarded: tuple[str, int] = ("", 0)
        self._read: tuple[TableSamples | None, TableSamples | None] = (None, None)

    def close(self) -> None:
        """Let go of the log."""
        self._log = None
        self._opened.close()

    def unreadable(self, error: PlatformError | None) -> StreamSamples:
        """Return the facts of a stream of which nothing can be told, and log why."""
        LOG.error("%s: metrics cannot be read: %s", self._stream.name, error)
        return StreamSamples(
            name=self._stream.name,
            quarantine_ratio=None,
            freshness_seconds=None,
            log=None,
            lake=None,
            bronze=None,
            quarantine=None,
            discarded=0,
            oldest_wait=None,
            up={"tables": False, "lake": False} | ({"log": False} if self._stream.kafka else {}),
        )

    def read(self, reached: bool) -> StreamSamples:
        """What there is of the stream now."""
        # Tables first: lag may then seem larger than it is, never smaller.
        tables_up = reached and self._read_tables()
        log = self._read_log() if self._stream.kafka else LogSamples()
        bronze, quarantine = self._read
        ratio, freshness = self._promised()
        facts = StreamSamples(
            name=self._stream.name,
            quarantine_ratio=ratio,
            freshness_seconds=freshness,
            log=log,
            lake=self._look.facts,
            bronze=bronze,
            quarantine=quarantine,
            discarded=self._discarded[1],
            oldest_wait=None,
            up={"tables": tables_up},
        )
        lake_up = self._read_lake(facts)
        up = {"tables": tables_up, "lake": lake_up}
        facts = replace(facts, lake=self._look.facts, up=up)
        if not self._stream.kafka:
            return facts
        facts = replace(facts, up={**up, "log": log is not None})
        return replace(facts, oldest_wait=self._oldest_wait(facts))

    def _promised(self) -> tuple[float | None, float | None]:
        """What the contract promises; nothing, when it cannot be read: runs tell of that."""
        try:
            contract = self._stream.contract
        except PlatformError:
            return None, None
        return contract.quarantine_share, contract.freshness_seconds

    def _read_tables(self) -> bool:
        stream, of = self._stream, self._tables.facts
        try:
            bronze = of(stream.bronze_table, "bronze", stream.domain, stream.name)
            quarantine = of(stream.quarantine_table, "quarantine", stream.domain, stream.name)
            self._read = (bronze, quarantine)
            key = self._tables.location(DECISIONS) + self._tables.location(stream.quarantine_table)
            if key != self._discarded[0]:
                catalog = self._platform.catalog
                made = count_discarded(catalog, stream.name, stream.quarantine_table)
                self._discarded = (key, made.total())
        except PlatformError:
            return False
        return True

    def _read_log(self) -> LogSamples | None:
        """The topic, None when it cannot be read; one that does not exist yet is empty."""
        try:
            if self._log is None:
                self._log = self._opened.enter_context(self._platform.log(self._stream))
            topic = find_topic(self._log, self._platform.store)
            if topic is None:
                return LogSamples()
            marks = self._log.watermarks(topic.partitions)
        except PlatformError:
            self.close()
            return None
        return LogSamples(topic.topic_id, {p: (m.start, m.end) for p, m in marks.items()})

    def _oldest_wait(self, facts: StreamSamples) -> float | None:
        """How long the first waiting record of any log partition has waited."""
        if facts.log is None or not facts.up["tables"]:
            return None
        behind = {p: of for p, of in facts.ends().items() if of[2] and p != FILES}
        waits: dict[tuple[int, str, int], float] = {}
        for partition in sorted(behind, key=lambda p: -behind[p][2])[:_WAITS]:
            end, _, lag = behind[partition]
            place = (partition, facts.log.topic_id, end - lag)
            stamp = self._waits.get(place) or self._first(partition, end - lag, end)
            if stamp is not None:
                waits[place] = stamp
        self._waits = waits
        return max((0.0, *(self._clock() - stamp for stamp in waits.values())))

    def _first(self, partition: int, start: int, end: int) -> float | None:
        """When the first record of a range came that has a plausible time, in seconds since the
        epoch."""
        try:
            stamps = self._log.first_stamps(partition, start, end) if self._log else []
        except PlatformError:
            return None
        return first_plausible(stamps, since=self._stream.first_date, now=self._clock())

    def _read_lake(self, facts: StreamSamples) -> bool:
        """Look into the lake, if something tells that it changed; whether it answers."""
        look, now = self._look, self._clock()
        if now - look.at < LOOK:
            return True
        committed_by_partition = facts.bronze.committed_by_partition if facts.bronze else {}
        key = (
            facts.log,
            {p: committed.position for p, committed in committed_by_partition.items()},
        )
        try:
            waiting = len(self._platform.file_source(self._stream).zone.waiting())
            behind = waiting or any(lag for _, _, lag in facts.ends().values())
            if (
                look.facts is None
                or behind
                or key != look.key
                or waiting != look.facts.waiting_files
                or now - look.counted > RECOUNT
            ):
                look.facts = self._lake(facts, waiting, now)
                look.counted = now
        except PlatformError:
            return False
        look.at, look.key = now, key
        return True

    def _lake(self, facts: StreamSamples, waiting: int, now: float) -> LakeSamples:
        store, topic = self._platform.store, self._stream.topic
        segment_log = SegmentLog(store, topic)
        last = Journal(store, topic).last()
        # A partition that never had a record would be looked for in every ingest date.
        used = [p for p, (_, end) in facts.log.offsets.items() if end] if facts.log else []
        tails = segment_log.tails([*used, FILES] if last is not None else used)
        losses = recorded_losses(store, topic)
        _count_ingest_dates(store, topic, segment_log.ingest_dates(), self._look.ingest_dates, now)
        sizes = self._look.ingest_dates.values()
        return LakeSamples(
            ends={p: segment.position for p, segment in tails.items()},
            newest=max(
                filter(None, (_newest(store, t.name.path, now) for t in tails.values())),
                default=None,
            ),
            bytes=sum(each.bytes for each in sizes),
            files=sum(each.files for each in sizes),
            small_files=sum(each.small for each in sizes),
            lost=sum(loss.count for loss in losses),
            recreated=len({loss.ordinal for loss in losses if loss.end is None}),
            waiting_files=waiting,
            taken=None if last is None else Position(last.topic_id, last.end),
        )


def _newest(store: Store, path: str, now: float) -> float | None:
    """Return the latest plausible broker time in a lake file, in seconds since the epoch.

    The statistics of its footer tell, unless a record is dated in the future.
    """
    try:
        found = _latest(read_footer(store, path)[1])
        if found is not None and found > now + SKEW:
            times = decode(store.read(path), columns=["offset", "timestamp"])["timestamp"]
            millis = times.cast("int64").drop_null().to_numpy()
            found = max(millis[millis <= (now + SKEW) * 1000] / 1000, default=None)
    except FileNotFoundError:  # merged since
        return None
    return found


def _latest(metadata: Any) -> float | None:
    """Return the latest time by the statistics of a file's footer, None if no record has one."""
    column = metadata.schema.to_arrow_schema().get_field_index("timestamp")
    stamps = [
        found.max
        for group in range(metadata.num_row_groups)
        if (found := metadata.row_group(group).column(_leaf(metadata, column)).statistics)
        is not None
        and found.has_min_max
    ]
    return max((stamp.timestamp() for stamp in stamps), default=None)


def _leaf(metadata: Any, column: int) -> int:
    """The number of a Parquet column: nested ones ahead of it have several."""
    names = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
    return names.index("timestamp") if "timestamp" in names else column


def _count_ingest_dates(
    store: Store, topic: str, ingest_dates: Sequence[date], known: dict[date, _Sizes], now: float
) -> None:
    """Bring what is known of the sizes of ingest dates up to date: the last two, where files come
    in, and those that were not listed for long."""
    for gone in known.keys() - set(ingest_dates):
        del known[gone]
    for ingest_date in ingest_dates:
        held = known.get(ingest_date)
        if held is None or ingest_date in ingest_dates[-2:] or now - held.read_at > RECOUNT:
            closed = ingest_date != ingest_dates[-1]
            known[ingest_date] = _sizes(store, ingest_date_folder(topic, ingest_date), closed, now)


def _sizes(store: Store, folder: str, closed: bool, now: float) -> _Sizes:
    size = files = 0
    little: dict[int, int] = {}
    for entry in store.files(folder):
        name = parse_name(entry.path)
        if name is None:
            continue
        size, files = size + entry.size, files + 1
        if closed and entry.size < SMALL and name.partition != FILES:
            little[name.partition] = little.get(name.partition, 0) + 1
    small = sum(count for count in little.values() if count >= FEW)
    return _Sizes(now, size, files, small)


class _SinkReader:
    """One target; it is asked again after LOOK seconds."""

    def __init__(self, platform: Platform, delivery: Delivery, clock: Callable[[], float]) -> None:
        self._platform = platform
        self._delivery = delivery
        self._clock = clock
        self._asked = float("-inf")
        self._position: str | None = None
        self._rejected = 0
        self._counted = float("-inf")

    def read(
        self, committed_by_partition: Mapping[str, Mapping[int, CommittedRanges]]
    ) -> SinkSamples:
        """Where the target is, held against bronze as it is now."""
        now = self._clock()
        if now - self._asked > LOOK:
            self._ask(now)
        return self._held_against(committed_by_partition, replace(self.unreadable(), up=True))

    def unreadable(self) -> SinkSamples:
        """Return the facts of a target that does not answer."""
        of = self._delivery
        return SinkSamples(of.sink, of.label, of.source, up=False)

    def _ask(self, now: float) -> None:
        with self._delivery.open(self._platform.settings) as target:
            position = target.position()
            if position != self._position or now - self._counted > RECOUNT:
                self._rejected, self._counted = len(target.rejections(COUNTED)), now
        self._position, self._asked = position, now

    def _held_against(
        self,
        committed_by_partition: Mapping[str, Mapping[int, CommittedRanges]],
        facts: SinkSamples,
    ) -> SinkSamples:
        position = self._position or ""
        if self._delivery.stream is None:
            table = load_or_none(self._platform.catalog, self._delivery.table)
            empty = table is None or table.current_snapshot() is None
            current = table is None or empty or is_current(table, self._delivery, position)
            return replace(facts, lag=int(not current), rejected=self._rejected)
        try:
            held = ranges.parse(position)
        except ValueError:  # a model was delivered there
            held = {}
        table_committed = committed_by_partition.get(self._delivery.source, {})
        work = ranges.differences(table_committed, held)
        ends = {
            p: at.offset for p, committed in held.items() if (at := committed.position) is not None
        }
        lag = sum(each.span.end - each.span.start for each in work)
        return replace(facts, lag=lag, rejected=self._rejected, ends=ends)
