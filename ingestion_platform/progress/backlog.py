"""What a stream's log has and its lake or tables have not, as slices: positions compared, no more.

Plain data, without Dagster; the sensor turns it into a run request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from ingestion_platform.kafka.times import ingest_date
from ingestion_platform.kafka.topic_log import Log, Topic, Watermarks
from ingestion_platform.lake.drop import Arrival
from ingestion_platform.lake.journal import Copies, Journal
from ingestion_platform.lake.land import find_topic
from ingestion_platform.lake.land_files import landed_end
from ingestion_platform.lake.names import FILES
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position, lower, waiting
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, disagreement
from ingestion_platform.warehouse.tables import load_or_none


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one log partition has come; positions are None when nothing has arrived there.

    `log` is of `topic_id`, the present one. `tables` is where both tables are.
    """

    partition: int
    topic_id: str
    log: Watermarks
    lake: Position | None
    tables: Position | None

    @property
    def lag(self) -> int:
        """Offsets of the log that the tables lack."""
        return len(waiting(self.log.start, self.log.end, self.topic_id, self.tables))

    @property
    def not_landed(self) -> range:
        """Offsets of the log that the lake lacks."""
        return waiting(self.log.start, self.log.end, self.topic_id, self.lake)


@dataclass(frozen=True, slots=True)
class Backlog:
    """A topic now (None while it does not exist yet), its partitions' progress, and the first
    ingest date of each that is behind."""

    topic: Topic | None
    progress: tuple[Progress, ...]
    behind: Mapping[int, date]


@dataclass(frozen=True, slots=True)
class FilesBacklog:
    """The drop zone now: what waits in it, how far what was taken in has come (None before the
    first file), and the first ingest date that is behind, waiting files left aside; `copies` tells
    of files that landed nothing."""

    waiting: tuple[Arrival, ...]
    progress: Progress | None
    behind: date | None
    copies: Copies | None = None


def read_files_backlog(platform: Platform, stream: Stream) -> FilesBacklog:
    """Look into the drop zone, and compare what was taken in of it with lake and tables.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    found = tuple(platform.file_source(stream).zone.waiting())
    journal = Journal(platform.store, stream.topic)
    last = journal.last()
    if last is None:
        return FilesBacklog(found, None, None)
    tables = _Tables(platform, stream)  # before the lake's end, as for a topic
    segment_log = SegmentLog(platform.store, stream.topic)
    at = tables.position(segment_log, FILES)
    landed = Position(last.topic_id, landed_end(platform.store, stream.topic, last))
    progress = Progress(FILES, last.topic_id, Watermarks(0, last.end), landed, at)
    behind = [last.ingest_date] if progress.not_landed else []
    if landed.offset and at != landed:
        behind += _ingest_date_after(segment_log, FILES, at)
    behind += tables.disagreeing(segment_log, FILES)
    return FilesBacklog(found, progress, min(behind, default=None), journal.copies())


def read_backlog(platform: Platform, stream: Stream) -> Backlog:
    """Compare log, lake and tables of a stream, in a fraction of a second.

    Partitions that the stream does not declare are told of, and never behind.

    Raises:
        SourceUnavailable, StoreUnavailable, CatalogUnavailable: one of them does not answer.
        TopicMissing: the topic is gone, and records of it were landed.
    """
    # Before the lake's end: a table can then only seem to be further behind than it is.
    tables = _Tables(platform, stream)
    with platform.log(stream) as log:
        topic = find_topic(log, platform.store)
        if topic is None:
            return Backlog(None, (), {})
        marks = log.watermarks(topic.partitions)
        segment_log = SegmentLog(platform.store, stream.topic)
        tails = segment_log.tails(topic.partitions)
        progress = tuple(
            Progress(p, topic.topic_id, mark, _end(tails.get(p)), tables.position(segment_log, p))
            for p, mark in sorted(marks.items())
        )
        declared = [p for p in progress if p.partition < stream.partitions]
        behind = {}
        for p in declared:
            since = stream.first_date
            first = list(_first_ingest_dates(log, segment_log, p, tails.get(p.partition), since))
            first += tables.disagreeing(segment_log, p.partition)
            if first:
                behind[p.partition] = min(first)
    return Backlog(topic, progress, behind)


def _first_ingest_dates(
    log: Log, segment_log: SegmentLog, p: Progress, tail: Segment | None, first: date
) -> Iterator[date]:
    """Give the ingest date of the first file that is not loaded, and of the first unlanded
    record."""
    if tail is not None and not _has(p.tables, tail):
        yield from _ingest_date_after(segment_log, p.partition, p.tables) or [tail.name.ingest_date]
    if not p.not_landed:
        return
    today = datetime.now(UTC).date()
    floor = tail.name.ingest_date if tail is not None else None
    if floor is not None and floor >= today:
        yield floor
        return
    stamps = log.first_stamps(p.partition, p.not_landed.start, p.log.end)
    stamp = stamps[0] if stamps else None
    yield ingest_date(stamp, floor=floor, first=first, today=today)


class _Tables:
    """The committed offsets of a stream's two tables, bronze read first."""

    def __init__(self, platform: Platform, stream: Stream) -> None:
        tables = [
            load_or_none(platform.catalog, name)
            for name in (stream.bronze_table, stream.quarantine_table)
        ]
        self._committed_by_partition = [
            {} if table is None else read_committed(table) for table in tables
        ]

    def position(self, segment_log: SegmentLog, partition: int) -> Position | None:
        """Return up to where both tables have a partition, as the loader sees it."""
        bronze, quarantine = (committed.position for committed in self._of(partition))
        return lower(bronze, quarantine, lambda: segment_log.topic_order(partition))

    def disagreeing(self, segment_log: SegmentLog, partition: int) -> list[date]:
        """Return the first ingest date that the two tables have by different contracts, if any."""
        found = disagreement(*self._of(partition))
        at = [Position(span.topic_id, span.start) for span in found[:1]]
        return [
            ingest_date
            for each in at
            for ingest_date in _ingest_date_after(segment_log, partition, each)
        ]

    def _of(self, partition: int) -> tuple[CommittedRanges, CommittedRanges]:
        bronze, quarantine = (
            committed_by_partition.get(partition, CommittedRanges())
            for committed_by_partition in self._committed_by_partition
        )
        return bronze, quarantine


def _ingest_date_after(segment_log: SegmentLog, partition: int, at: Position | None) -> list[date]:
    """Return the ingest date of the first file behind a position, if there is one."""
    return [segment.name.ingest_date for segment in segment_log.after(partition, at)[:1]]


def _has(position: Position | None, tail: Segment) -> bool:
    return (
        position is not None and position.topic_id == tail.topic_id and position.offset >= tail.end
    )


def _end(tail: Segment | None) -> Position | None:
    return None if tail is None else tail.position
