"""What a stream's log has and its lake or tables have not, as slices: positions compared, no more.

Plain data, without Dagster; the sensor turns it into a run request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from ingestion_platform.lake.chain import Chain, Link
from ingestion_platform.lake.drop import Arrival
from ingestion_platform.lake.files import landed_end
from ingestion_platform.lake.journal import Journal
from ingestion_platform.lake.land import window_of
from ingestion_platform.lake.names import FILES
from ingestion_platform.pipeline import Platform
from ingestion_platform.sources.kafka import Log, Topic, Watermarks
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.commit import read_ledgers
from ingestion_platform.warehouse.ledger import Ledger
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table

Position = tuple[str, int]
"""A generation and the next offset of it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one log partition has come; positions are None when nothing has arrived there."""

    partition: int
    log: Watermarks
    lake: Position | None
    bronze: Position | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """A topic now, its partitions' progress, and the first window of each that is behind."""

    topic: Topic
    progress: tuple[Progress, ...]
    behind: Mapping[int, date]

    def lag(self, partition: Progress) -> int:
        """Records of the log that bronze lacks."""
        at = partition.bronze
        position = at[1] if at is not None and at[0] == self.topic.generation else 0
        return max(0, partition.log.end - max(partition.log.start, position))


@dataclass(frozen=True, slots=True)
class FilesBacklog:
    """The file door now: what waits in the zone, how far what was taken in is (None before the
    first file), and the first window that is behind, waiting files left aside."""

    waiting: tuple[Arrival, ...]
    generation: str
    progress: Progress | None
    behind: date | None


def read_files_backlog(platform: Platform, stream: Stream) -> FilesBacklog:
    """Look into the drop zone, and compare what was taken in of it with lake and tables.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    waiting = tuple(platform.door(stream).zone.waiting())
    last = Journal(platform.store, stream.topic).last()
    if last is None:
        return FilesBacklog(waiting, "", None, None)
    # Before the lake's end, as for a topic.
    tables = [
        load_or_none(platform.catalog, name)
        for name in (stream.bronze_table, stream.quarantine_table)
    ]
    at = _positions(tables).get(FILES)
    landed = (last.generation, landed_end(platform.store, stream.topic, last))
    progress = Progress(FILES, Watermarks(0, last.end), landed, at)
    behind = []
    if landed[1] < last.end:
        behind.append(last.window)
    if landed[1] and at != landed:
        links = Chain(platform.store, stream.topic).after(FILES, at)
        behind += [link.name.window for link in links[:1]]
    return FilesBacklog(waiting, last.generation, progress, min(behind, default=None))


def read_backlog(platform: Platform, stream: Stream) -> Backlog:
    """Compare log, lake and tables of a stream, in a fraction of a second.

    Partitions that the stream does not declare are told of, and never behind.

    Raises:
        SourceUnavailable, StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    # Before the lake's end: a table can then only seem to be further behind than it is.
    tables = [
        load_or_none(platform.catalog, name)
        for name in (stream.bronze_table, stream.quarantine_table)
    ]
    with platform.log(stream) as log:
        topic = log.topic()
        marks = log.watermarks(topic.partitions)
        chain = Chain(platform.store, stream.topic)
        tails = chain.tails(topic.partitions)
        positions = _positions(tables)
        progress = tuple(
            Progress(p, mark, _end(tails.get(p)), positions.get(p))
            for p, mark in sorted(marks.items())
        )
        declared = [p for p in progress if p.partition < stream.partitions]
        behind = {}
        for p in declared:
            first = list(_first_windows(log, topic, chain, p, tails.get(p.partition)))
            if first:
                behind[p.partition] = min(first)
    return Backlog(topic, progress, behind)


def _first_windows(
    log: Log, topic: Topic, chain: Chain, p: Progress, tail: Link | None
) -> Iterator[date]:
    """The window of the first file that is not loaded, and that of the first unlanded record."""
    if tail is not None and not _has(p.bronze, tail):
        links = chain.after(p.partition, p.bronze)
        yield links[0].name.window if links else tail.name.window
    start = unlanded(p, topic.generation)
    if start is None:
        return
    today = datetime.now(UTC).date()
    floor = tail.name.window if tail is not None else None
    if floor is not None and floor >= today:
        yield floor
        return
    stamp = log.first_timestamp(p.partition, start, p.log.end)
    window = floor or today if stamp is None else min(today, window_of(stamp))
    yield window if floor is None else max(floor, window)


def unlanded(p: Progress, generation: str) -> int | None:
    """The first offset of the log that the lake lacks, None when it has all that there is."""
    at = p.lake[1] if p.lake is not None and p.lake[0] == generation else 0
    start = max(p.log.start, at)
    return start if start < p.log.end else None


def _has(position: Position | None, tail: Link) -> bool:
    return position is not None and position[0] == tail.generation and position[1] >= tail.end


def _end(tail: Link | None) -> Position | None:
    return None if tail is None else (tail.generation, tail.end)


def _positions(tables: list[Table | None]) -> dict[int, Position]:
    """Up to where both tables have a partition; one that a table lacks is left out."""
    ledgers = [{} if table is None else read_ledgers(table) for table in tables]
    found: dict[int, Position] = {}
    for partition in set(ledgers[0]) & set(ledgers[1]):
        ends = [ledger.get(partition, Ledger()).position for ledger in ledgers]
        known = [end for end in ends if end is not None]
        if len(known) == len(ends):
            found[partition] = _lower(ledgers[1][partition], known)
    return found


def _lower(quarantine: Ledger, ends: list[Position]) -> Position:
    """The lower of two positions; quarantine, committed first, knows the order of generations."""
    order = list(dict.fromkeys(span.generation for span in quarantine.spans))
    return min(ends, key=lambda at: (order.index(at[0]) if at[0] in order else -1, at[1]))
