"""Read the status of a stream from its log, lake and tables."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ingestion_platform.kafka.topic_log import Topic, Watermarks
from ingestion_platform.lake.journal import Claim, Copies, Journal
from ingestion_platform.lake.land import find_topic
from ingestion_platform.lake.land_files import landed_end
from ingestion_platform.lake.losses import Loss, merged, present_losses, recorded_losses
from ingestion_platform.lake.names import FILES
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position, waiting
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.committed import CommittedRanges
from ingestion_platform.warehouse.decisions import count_discarded
from ingestion_platform.warehouse.inserted import count_inserted
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One log partition; positions are next offsets of the present topic id.

    A position is None when nothing of that topic id has arrived. `not_landed` counts the offsets
    that the lake lacks, `lag` those that bronze or quarantine lack, `lost` all that retention ever
    removed before they were landed. Partition FILES has the records claimed from files.
    """

    partition: int
    log_start: int
    log_end: int
    lake_position: int | None
    bronze_position: int | None
    quarantine_position: int | None
    not_landed: int
    lag: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream.

    `topic_id` is the topic's present one; it is "" for a stream of files only, and while the topic
    does not exist (`no_topic_yet`). `bronze_topic_id` is that of bronze's position. Row counts
    include `inserted_rows`, which came by SQL; `decided_rows` of the quarantine are discarded.
    Records of `waiting_files` in the drop zone are not read yet, so they are no lag. `losses` has
    lost offsets and recreations of the topic; `copies` counts files that repeated landed ones.
    """

    stream: str
    topic: str
    no_topic_yet: bool
    topic_id: str
    bronze_topic_id: str | None
    bronze_table: str
    quarantine_table: str
    bronze_rows: int
    quarantine_rows: int
    partitions: tuple[PartitionStatus, ...]
    waiting_files: int = 0
    decided_rows: int = 0
    losses: tuple[Loss, ...] = ()
    inserted_rows: int = 0
    copies: Copies | None = None

    @property
    def lag(self) -> int:
        """The number of offsets that the tables lack, over all partitions."""
        return sum(p.lag for p in self.partitions)

    @property
    def lost(self) -> int:
        """The number of offsets lost before they were landed, over all partitions."""
        return sum(p.lost for p in self.partitions)

    @property
    def recreated(self) -> int:
        """How often the topic was recreated."""
        return len({loss.ordinal for loss in self.losses if loss.end is None})

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain data, for JSON."""
        return asdict(self)


def stream_status(platform: Platform, stream: Stream) -> StreamStatus:
    """Read the status of a stream.

    Raises:
        SourceUnavailable, StoreUnavailable, CatalogUnavailable: one of them does not answer.
        TopicMissing: the topic was deleted after records of it were landed.
        ContractError, SegmentLogBroken, TableUnreadable: a part of the stream is damaged.
    """
    with ThreadPoolExecutor(3, thread_name_prefix="status") as pool:
        from_log = pool.submit(_read_log, platform, stream)
        tables = pool.submit(_read_tables, platform, stream)
        files = pool.submit(_read_files, platform, stream)
        recorded = pool.submit(recorded_losses, platform.store, stream.topic)
        topic, marks = from_log.result()
        tails = SegmentLog(platform.store, stream.topic).tails(topic.partitions)
        bronze, quarantine = tables.result()
        losses = merged([*recorded.result(), *present_losses(topic, marks, tails)])
    return summarize(stream, topic, marks, tails, files.result(), bronze, quarantine, losses)


@dataclass(frozen=True, slots=True)
class TableState:
    """A table's rows and committed offsets by log partition.

    `decided` counts discarded rows (of quarantine), `inserted` rows that came by SQL (of bronze).
    """

    rows: int
    committed_by_partition: dict[int, CommittedRanges]
    decided: int = 0
    inserted: int = 0


@dataclass(frozen=True, slots=True)
class FilesState:
    """A file source: waiting files, the last claim, and the landed offset."""

    waiting: int
    last: Claim | None
    landed: int
    copies: Copies | None = None


def summarize(
    stream: Stream,
    topic: Topic,
    marks: dict[int, Watermarks],
    tails: dict[int, Segment],
    files: FilesState,
    bronze: TableState,
    quarantine: TableState,
    losses: Sequence[Loss] = (),
) -> StreamStatus:
    """Return the status from what was read: plain data in and out."""

    def partition_status(
        partition: int, topic_id: str, log: Watermarks, lake: Position | None
    ) -> PartitionStatus:
        at = [_position(table.committed_by_partition, partition) for table in (bronze, quarantine)]
        return PartitionStatus(
            partition=partition,
            log_start=log.start,
            log_end=log.end,
            lake_position=_offset(lake, topic_id),
            bronze_position=_offset(at[0], topic_id),
            quarantine_position=_offset(at[1], topic_id),
            not_landed=len(waiting(log.start, log.end, topic_id, lake)),
            lag=len(waiting(log.start, log.end, topic_id, *at)),
            lost=sum(loss.count for loss in losses if loss.partition == partition),
        )

    partitions = []
    for partition, mark in sorted(marks.items()):
        tail = tails.get(partition)
        lake = tail.position if tail is not None else None
        partitions.append(partition_status(partition, topic.topic_id, mark, lake))
    if files.last is not None:
        taken = Watermarks(0, files.last.end)
        landed = Position(files.last.topic_id, files.landed)
        partitions.append(partition_status(FILES, files.last.topic_id, taken, landed))
    topic_ids = [
        pos.topic_id
        for partition, committed in bronze.committed_by_partition.items()
        if partition != FILES and (pos := committed.position)
    ]
    present = topic.topic_id if topic.topic_id in topic_ids else None
    return StreamStatus(
        stream=stream.name,
        topic=stream.topic,
        topic_id=topic.topic_id,
        no_topic_yet=stream.kafka and not topic.partitions,
        bronze_topic_id=present or (topic_ids[0] if topic_ids else None),
        bronze_table=stream.bronze_table,
        quarantine_table=stream.quarantine_table,
        bronze_rows=bronze.rows,
        quarantine_rows=quarantine.rows,
        partitions=tuple(partitions),
        waiting_files=files.waiting,
        decided_rows=quarantine.decided,
        losses=tuple(losses),
        inserted_rows=bronze.inserted,
        copies=files.copies,
    )


def _position(
    committed_by_partition: dict[int, CommittedRanges], partition: int
) -> Position | None:
    return committed_by_partition.get(partition, CommittedRanges()).position


def _offset(at: Position | None, topic_id: str) -> int | None:
    return at.offset if at is not None and at.topic_id == topic_id else None


def _read_log(platform: Platform, stream: Stream) -> tuple[Topic, dict[int, Watermarks]]:
    """Return the topic and its watermarks; a missing topic has no partitions."""
    if stream.kafka:
        with platform.log(stream) as log:
            topic = find_topic(log, platform.store)
            if topic is not None:
                return topic, log.watermarks(topic.partitions)
    return Topic(stream.topic, "", "", ()), {}


def _read_files(platform: Platform, stream: Stream) -> FilesState:
    waiting = len(platform.file_source(stream).zone.waiting())
    journal = Journal(platform.store, stream.topic)
    last = journal.last()
    landed = 0 if last is None else landed_end(platform.store, stream.topic, last)
    return FilesState(waiting, last, landed, journal.copies() if last is not None else None)


def _read_tables(platform: Platform, stream: Stream) -> tuple[TableState, TableState]:
    bronze = load_or_none(platform.catalog, stream.bronze_table)
    quarantine = load_or_none(platform.catalog, stream.quarantine_table)
    decided = count_discarded(platform.catalog, stream.name, stream.quarantine_table)
    return (
        replace(_state(bronze), inserted=count_inserted(bronze)),
        replace(_state(quarantine), decided=decided.total()),
    )


def _state(table: Table | None) -> TableState:
    from ingestion_platform.warehouse.commit import read_committed

    if table is None:
        return TableState(0, {})
    snapshot = table.current_snapshot()
    summary = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    rows = int(summary.get("total-records", 0)) - int(summary.get("total-position-deletes", 0))
    return TableState(rows, read_committed(table))
