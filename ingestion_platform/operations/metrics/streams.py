"""Read streams for the metrics: log, lake, and what their tables have of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import PlatformError
from ingestion_platform.kafka.times import first_plausible
from ingestion_platform.lake.journal import Journal
from ingestion_platform.lake.land import find_topic
from ingestion_platform.lake.losses import recorded_losses
from ingestion_platform.lake.names import FILES
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.metrics.lake import (
    RECOUNT,
    IngestDateSize,
    LakeSamples,
    count_ingest_dates,
    newest_timestamp,
)
from ingestion_platform.operations.metrics.tables import TableReader, TableSamples
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position, waiting
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.committed import CommittedRanges
from ingestion_platform.warehouse.decisions import TABLE as DECISIONS
from ingestion_platform.warehouse.decisions import count_discarded

if TYPE_CHECKING:
    from ingestion_platform.kafka.topic_log import Log

LOG = logging.getLogger("ingestion_platform.operations.metrics")

POLL = 30.0
"""Minimum seconds between two readings of a stream's lake and drop zone, or of a target."""
_WAITS = 16  # log partitions of a stream of which the first waiting record is read


@dataclass(frozen=True, slots=True)
class LogSamples:
    """A topic: its topic id, and start and next offset by log partition."""

    topic_id: str = ""
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamSamples:
    """A stream; an unreadable log is None, an unreadable lake or table is the last one read."""

    name: str
    quarantine_ratio: float | None
    freshness_seconds: float | None
    log: LogSamples | None
    lake: LakeSamples | None
    bronze: TableSamples | None
    quarantine: TableSamples | None
    discarded: int
    oldest_wait: float | None
    up: Mapping[str, bool]

    def ends(self) -> dict[int, tuple[int, int, int]]:
        """Return (end of the log, end of bronze, lag) by log partition, of the present topic id."""
        if self.log is None or not self.up["tables"]:
            return {}
        ends = {}
        logs = {p: (self.log.topic_id, *marks) for p, marks in self.log.offsets.items()}
        if self.lake is not None and self.lake.taken is not None:
            logs[FILES] = (self.lake.taken.topic_id, 0, self.lake.taken.offset)
        for partition, (topic_id, start, end) in sorted(logs.items()):
            bronze, quarantine = (_at(table, partition) for table in (self.bronze, self.quarantine))
            offset = bronze.offset if bronze and bronze.topic_id == topic_id else 0
            ends[partition] = (end, offset, len(waiting(start, end, topic_id, bronze, quarantine)))
        return ends


def _at(table: TableSamples | None, partition: int) -> Position | None:
    return (
        None
        if table is None
        else table.committed_by_partition.get(partition, CommittedRanges()).position
    )


@dataclass
class _LakeReading:
    """The last reading of a stream's lake: when, at which positions, and its result."""

    at: float = float("-inf")
    counted: float = float("-inf")
    key: Any = None
    samples: LakeSamples | None = None
    ingest_dates: dict[date, IngestDateSize] = field(default_factory=dict)


class StreamReader:
    """Reads one stream; its log stays open between readings."""

    def __init__(
        self, platform: Platform, stream: Stream, tables: TableReader, clock: Callable[[], float]
    ) -> None:
        self._platform = platform
        self._stream = stream
        self._tables = tables
        self._clock = clock
        self._clients = ExitStack()
        self._log: Log | None = None
        self._lake = _LakeReading()
        self._waits: dict[tuple[int, str, int], float] = {}
        self._discarded: tuple[str, int] = ("", 0)
        self._read: tuple[TableSamples | None, TableSamples | None] = (None, None)

    def close(self) -> None:
        """Close the log."""
        self._log = None
        self._clients.close()

    def unreadable(self, error: PlatformError | None) -> StreamSamples:
        """Return the samples of a stream that cannot be read, and log the error."""
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

    def read(self, catalog_up: bool) -> StreamSamples:
        """Read the stream now."""
        # Tables first: the lag may then be too large, never too small.
        tables_up = catalog_up and self._read_tables()
        log = self._read_log() if self._stream.kafka else LogSamples()
        bronze, quarantine = self._read
        ratio, freshness = self._contract_limits()
        samples = StreamSamples(
            name=self._stream.name,
            quarantine_ratio=ratio,
            freshness_seconds=freshness,
            log=log,
            lake=self._lake.samples,
            bronze=bronze,
            quarantine=quarantine,
            discarded=self._discarded[1],
            oldest_wait=None,
            up={"tables": tables_up},
        )
        lake_up = self._read_lake(samples)
        up = {"tables": tables_up, "lake": lake_up}
        samples = replace(samples, lake=self._lake.samples, up=up)
        if not self._stream.kafka:
            return samples
        samples = replace(samples, up={**up, "log": log is not None})
        return replace(samples, oldest_wait=self._oldest_wait(samples))

    def _contract_limits(self) -> tuple[float | None, float | None]:
        """Return the contract's quarantine share and freshness; None if it cannot be read."""
        try:
            contract = self._stream.contract
        except PlatformError:
            return None, None
        return contract.quarantine_share, contract.freshness_seconds

    def _read_tables(self) -> bool:
        stream, read = self._stream, self._tables.read
        try:
            bronze = read(stream.bronze_table, "bronze", stream.domain, stream.name)
            quarantine = read(stream.quarantine_table, "quarantine", stream.domain, stream.name)
            self._read = (bronze, quarantine)
            key = self._tables.location(DECISIONS) + self._tables.location(stream.quarantine_table)
            if key != self._discarded[0]:
                catalog = self._platform.catalog
                counts = count_discarded(catalog, stream.name, stream.quarantine_table)
                self._discarded = (key, counts.total())
        except PlatformError:
            return False
        return True

    def _read_log(self) -> LogSamples | None:
        """Read the topic; None if it cannot be read, empty if it does not exist yet."""
        try:
            if self._log is None:
                self._log = self._clients.enter_context(self._platform.log(self._stream))
            topic = find_topic(self._log, self._platform.store)
            if topic is None:
                return LogSamples()
            marks = self._log.watermarks(topic.partitions)
        except PlatformError:
            self.close()
            return None
        return LogSamples(topic.topic_id, {p: (m.start, m.end) for p, m in marks.items()})

    def _oldest_wait(self, samples: StreamSamples) -> float | None:
        """Return for how many seconds the oldest record that bronze lacks has waited."""
        if samples.log is None or not samples.up["tables"]:
            return None
        behind = {p: end for p, end in samples.ends().items() if end[2] and p != FILES}
        waits: dict[tuple[int, str, int], float] = {}
        for partition in sorted(behind, key=lambda p: -behind[p][2])[:_WAITS]:
            end, _, lag = behind[partition]
            place = (partition, samples.log.topic_id, end - lag)
            stamp = self._waits.get(place) or self._first(partition, end - lag, end)
            if stamp is not None:
                waits[place] = stamp
        self._waits = waits
        return max((0.0, *(self._clock() - stamp for stamp in waits.values())))

    def _first(self, partition: int, start: int, end: int) -> float | None:
        """Return the first plausible timestamp of a range in seconds since the epoch."""
        try:
            stamps = self._log.first_stamps(partition, start, end) if self._log else []
        except PlatformError:
            return None
        return first_plausible(stamps, since=self._stream.first_date, now=self._clock())

    def _read_lake(self, samples: StreamSamples) -> bool:
        """Read the lake again if it may have changed; return whether it answers."""
        last, now = self._lake, self._clock()
        if now - last.at < POLL:
            return True
        committed_by_partition = samples.bronze.committed_by_partition if samples.bronze else {}
        key = (
            samples.log,
            {p: committed.position for p, committed in committed_by_partition.items()},
        )
        try:
            files = len(self._platform.file_source(self._stream).zone.waiting())
            behind = files or any(lag for _, _, lag in samples.ends().values())
            if (
                last.samples is None
                or behind
                or key != last.key
                or files != last.samples.waiting_files
                or now - last.counted > RECOUNT
            ):
                last.samples = self._read_lake_samples(samples, files, now)
                last.counted = now
        except PlatformError:
            return False
        last.at, last.key = now, key
        return True

    def _read_lake_samples(self, samples: StreamSamples, files: int, now: float) -> LakeSamples:
        store, topic = self._platform.store, self._stream.topic
        segment_log = SegmentLog(store, topic)
        last = Journal(store, topic).last()
        # A partition without records would be searched in every ingest date.
        used = [p for p, (_, end) in samples.log.offsets.items() if end] if samples.log else []
        tails = segment_log.tails([*used, FILES] if last is not None else used)
        losses = recorded_losses(store, topic)
        count_ingest_dates(store, topic, segment_log.ingest_dates(), self._lake.ingest_dates, now)
        sizes = self._lake.ingest_dates.values()
        return LakeSamples(
            ends={p: segment.position for p, segment in tails.items()},
            newest=max(
                filter(None, (newest_timestamp(store, t.name.path, now) for t in tails.values())),
                default=None,
            ),
            bytes=sum(each.bytes for each in sizes),
            files=sum(each.files for each in sizes),
            small_files=sum(each.small for each in sizes),
            lost=sum(loss.count for loss in losses),
            recreated=len({loss.ordinal for loss in losses if loss.end is None}),
            waiting_files=files,
            taken=None if last is None else Position(last.topic_id, last.end),
        )
