"""Find what a stream's lake or tables lack, as the first ingest date of each log partition.

Only positions are compared. The sensor turns the result into a run request.
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
    """The positions of one log partition; None where nothing has arrived.

    `log` has the watermarks of `topic_id`, the present one. `tables` is the lower position of
    bronze and quarantine.
    """

    partition: int
    topic_id: str
    log: Watermarks
    lake: Position | None
    tables: Position | None

    @property
    def lag(self) -> int:
        """The number of offsets that the tables lack."""
        return len(waiting(self.log.start, self.log.end, self.topic_id, self.tables))

    @property
    def not_landed(self) -> range:
        """The offsets that the lake lacks."""
        return waiting(self.log.start, self.log.end, self.topic_id, self.lake)


@dataclass(frozen=True, slots=True)
class Backlog:
    """A topic (None while it does not exist), the progress of its partitions, and the first ingest
    date of each partition that is behind."""

    topic: Topic | None
    progress: tuple[Progress, ...]
    behind: Mapping[int, date]


@dataclass(frozen=True, slots=True)
class FilesBacklog:
    """A drop zone's waiting files, and the progress of the claimed ones.

    `progress` is None before the first file. `behind` is the first ingest date that is behind;
    waiting files do not count. `copies` counts files that repeated landed ones.
    """

    waiting: tuple[Arrival, ...]
    progress: Progress | None
    behind: date | None
    copies: Copies | None = None


def read_files_backlog(platform: Platform, stream: Stream) -> FilesBacklog:
    """Read the drop zone, and compare the claimed files with lake and tables.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    files = tuple(platform.file_source(stream).zone.waiting())
    journal = Journal(platform.store, stream.topic)
    last = journal.last()
    if last is None:
        return FilesBacklog(files, None, None)
    tables = _Tables(platform, stream)  # before the lake's end, as for a topic
    segment_log = SegmentLog(platform.store, stream.topic)
    at = tables.position(segment_log, FILES)
    landed = Position(last.topic_id, landed_end(platform.store, stream.topic, last))
    progress = Progress(FILES, last.topic_id, Watermarks(0, last.end), landed, at)
    behind = [last.ingest_date] if progress.not_landed else []
    if landed.offset and at != landed:
        behind += _ingest_date_after(segment_log, FILES, at)
    behind += tables.disagreeing(segment_log, FILES)
    return FilesBacklog(files, progress, min(behind, default=None), journal.copies())


def read_backlog(platform: Platform, stream: Stream) -> Backlog:
    """Compare log, lake and tables of a stream, in a fraction of a second.

    Undeclared partitions are included, but never behind.

    Raises:
        SourceUnavailable, StoreUnavailable, CatalogUnavailable: one of them does not answer.
        TopicMissing: the topic was deleted after records of it were landed.
    """
    # Tables before the lake: they can then seem further behind, never further ahead.
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
    """Yield the ingest date of the first segment to load, and of the first record to land."""
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
    """The committed offsets of a stream's two tables."""

    def __init__(self, platform: Platform, stream: Stream) -> None:
        tables = [
            load_or_none(platform.catalog, name)
            for name in (stream.bronze_table, stream.quarantine_table)
        ]
        self._committed = [{} if table is None else read_committed(table) for table in tables]

    def position(self, segment_log: SegmentLog, partition: int) -> Position | None:
        """Return the position up to which both tables have a partition."""
        bronze, quarantine = (committed.position for committed in self._of(partition))
        return lower(bronze, quarantine, lambda: segment_log.topic_order(partition))

    def disagreeing(self, segment_log: SegmentLog, partition: int) -> list[date]:
        """Return the first ingest date that the tables loaded by different contracts, if any."""
        spans = disagreement(*self._of(partition))
        if not spans:
            return []
        first = Position(spans[0].topic_id, spans[0].start)
        return _ingest_date_after(segment_log, partition, first)

    def _of(self, partition: int) -> tuple[CommittedRanges, CommittedRanges]:
        bronze, quarantine = (
            by_partition.get(partition, CommittedRanges()) for by_partition in self._committed
        )
        return bronze, quarantine


def _ingest_date_after(segment_log: SegmentLog, partition: int, at: Position | None) -> list[date]:
    """Return the ingest date of the first segment after a position, if there is one."""
    return [segment.name.ingest_date for segment in segment_log.after(partition, at)[:1]]


def _has(position: Position | None, tail: Segment) -> bool:
    return (
        position is not None and position.topic_id == tail.topic_id and position.offset >= tail.end
    )


def _end(tail: Segment | None) -> Position | None:
    return None if tail is None else tail.position
