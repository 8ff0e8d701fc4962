"""Merging the small files of closed ingest dates into few large ones.

    <ordinal>-<start>.parquet  ×  many   ──▶   <ordinal>-<start>-<end>.parquet

First the merged file is created under its own name and read back, then the files that it covers are
removed. No file is overwritten, and a file is removed only while a merged file that covers it
exists, so a crash or a concurrent merge leaves each record readable exactly once:

- An ingest date is *closed* for a log partition when it is over and a later one has files of that
  partition. So the end of the segment log, where writers append, is never merged.
- A merged file's name holds all that it covers and is created once. If one merged file covers
  another, the smaller one is removed. Two files never justify deleting each other.
- A delayed writer may create a file whose name merging has freed. That file overlaps the merged
  one, so readers skip it; the next merge removes it, or adds its offsets beyond the merged file.
- Only files of one topic id and cluster that follow each other without a gap are merged, so
  recorded gaps stay recorded.
- Dropped files (log partition FILES) are not merged: landing finds their parts by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.errors import Permanent, WriteConflict
from ingestion_platform.lake.land import BYTES, ROWS, ensure_sidecar, write_sidecar
from ingestion_platform.lake.names import FILES, parse_name, slice_folder
from ingestion_platform.lake.records import encode, read
from ingestion_platform.lake.segments import Segment, SegmentLog, read_footer
from ingestion_platform.lake.store import Entry, Store
from ingestion_platform.positions import Slice

READERS = 8


@dataclass(frozen=True, slots=True)
class Merged:
    """The number and bytes of a slice's data files before and after merging."""

    ingest_date: date
    partition: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A file to merge; `version` changes with its content, `size` is its uncompressed bytes."""

    segment: Segment
    version: str
    size: int


@dataclass(slots=True)
class Group:
    """Pieces without gaps between them, which become one file up to before `end`.

    `rows` is the maximum number of its records, `size` about its uncompressed bytes.
    """

    pieces: list[Piece]
    end: int
    rows: int
    size: int

    @property
    def first(self) -> Segment:
        """Return the segment that starts first."""
        return self.pieces[0].segment

    def segment(self, rows: int) -> Segment:
        """Return the merged file's segment of `rows` records.

        It has the first piece's predecessor, so that a gap before that piece stays recorded.
        """
        name = replace(self.first.name, end=self.end)
        return replace(self.first, name=name, end=self.end, rows=rows)

    def take(self, piece: Piece, rows: int, size: int) -> bool:
        """Add the next piece if it continues the group within the limits; return whether it did."""
        segment, first = piece.segment, self.first
        same = (segment.name.ordinal, segment.topic_id, segment.cluster_id)
        if same != (first.name.ordinal, first.topic_id, first.cluster_id):
            return False
        if segment.start > self.end:
            return False
        if segment.end > self.end:
            # Count only what lies beyond the group: else another merge would find more to do.
            more = min(segment.rows, segment.end - self.end)
            weight = piece.size * more // max(1, segment.rows)
            if self.rows + more > rows or self.size + weight > size:
                return False
            self.end, self.rows, self.size = segment.end, self.rows + more, self.size + weight
        self.pieces.append(piece)
        return True


class Differing(Permanent):
    """A merged file has other records than a file that it covers."""


def merge_closed(
    store: Store,
    topic: str,
    *,
    today: date,
    since: date | None = None,
    target_rows: int = ROWS,
    target_bytes: int = BYTES,
) -> list[Merged]:
    """Merge the small files of a topic's closed ingest dates; return the slices that changed.

    Merges may run concurrently with each other, with writers and readers, and may be killed.

    Args:
        store: the lake.
        topic: the topic.
        today: the current UTC day.
        since: the first ingest date to merge.
        target_rows: records of a merged file at most; by default as many as landing writes into
            one, because merging and loading hold a file in memory.
        target_bytes: uncompressed bytes of a merged file at most.

    Raises:
        StoreUnavailable: the store does not answer; finished merges stay.
        SegmentLogBroken: a file is damaged.
        Differing: a merged file has other records than one that it covers; both stay, and all
            other slices are merged.
    """
    segment_log = SegmentLog(store, topic)
    found: list[Merged] = []
    differing: Differing | None = None
    with ThreadPoolExecutor(READERS, thread_name_prefix="merge") as pool:
        for ingest_date, partition in closed(segment_log, today, since):
            if len(segment_log.names(ingest_date)[partition]) == 1:
                continue
            folder = slice_folder(topic, ingest_date, partition)
            before = _listed(store, folder)
            changed = True
            try:
                changed = _merge(store, before, pool, target_rows, target_bytes)
            except (FileNotFoundError, WriteConflict):
                pass  # another merge is working on this slice
            except Differing as error:
                differing = error
            if changed:
                sizes = _sizes(before), _sizes(_listed(store, folder))
                files, size = zip(*((len(each), sum(each)) for each in sizes), strict=True)
                found.append(Merged(ingest_date, partition, *files, *size))
    if differing is not None:
        raise differing
    return found


def closed(segment_log: SegmentLog, today: date, since: date | None = None) -> list[Slice]:
    """Return the slices before `today` (from `since` on) to which landing cannot append.

    A slice is closed when a later ingest date has files of its log partition.
    """
    later: set[int] = set()
    found: list[Slice] = []
    for ingest_date in reversed(segment_log.ingest_dates()):
        if since is not None and ingest_date < since:
            break
        partitions = segment_log.names(ingest_date).keys()
        if ingest_date < today:
            found += [
                Slice(ingest_date, p) for p in sorted(partitions & later - {FILES}, reverse=True)
            ]
        later |= partitions
    return found[::-1]


def grouped(pieces: Iterable[Piece], rows: int, size: int) -> list[Group]:
    """Group the pieces of a slice into files of at most `rows` records and `size` bytes.

    A piece that is larger on its own becomes a group of its own.
    """

    def order(piece: Piece) -> tuple[int, ...]:
        # Log order; of equal starts the longest first, also if a delayed writer made one.
        ordinal, start, _ = piece.segment.name.order
        return ordinal, start, -piece.segment.end, -piece.segment.name.end

    found: list[Group] = []
    for piece in sorted(pieces, key=order):
        if not found or not found[-1].take(piece, rows, size):
            found.append(Group([piece], piece.segment.end, piece.segment.rows, piece.size))
    return found


def _listed(store: Store, folder: str) -> dict[str, Entry]:
    return {entry.path: entry for entry in store.files(folder)}


def _sizes(listed: dict[str, Entry]) -> list[int]:
    """Return the bytes of each data file."""
    return [entry.size for path, entry in listed.items() if parse_name(path) is not None]


def _merge(
    store: Store, listed: dict[str, Entry], pool: ThreadPoolExecutor, rows: int, size: int
) -> bool:
    """Merge a slice and remove what dead merges left; return whether there was anything to do."""
    data = [entry for path, entry in listed.items() if parse_name(path) is not None]
    pieces = pool.map(lambda entry: _piece(store, entry), data)
    todo = [group for group in grouped(pieces, rows, size) if len(group.pieces) > 1]
    for group in todo:
        merged = _existing(store, group) or _create(store, group)
        covered = [piece for piece in group.pieces if piece.segment.name != merged.name]
        # The first one first, so that a concurrent listing that misses it is seen to be incomplete.
        _remove(store, covered[0])
        list(pool.map(lambda piece: _remove(store, piece), covered[1:]))
    strays = [path for path in listed if _is_stray(store, path, listed)]
    for path in strays:
        store.remove(path)
    return bool(todo or strays)


def _piece(store: Store, entry: Entry) -> Piece:
    segment, metadata = read_footer(store, entry.path)
    sizes = (metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    return Piece(segment, entry.version, sum(sizes))


def _existing(store: Store, group: Group) -> Segment | None:
    """Return the merged file of a group if one exists; check that it has the others' records.

    One exists when a merge died, or a delayed writer added a file since.
    """
    segment = group.first
    if segment.name.end != group.end:
        return None
    records = read(store, segment)
    offsets = records["offset"].to_numpy()
    for piece in group.pieces[1:]:
        low, high = np.searchsorted(offsets, [piece.segment.start, piece.segment.end])
        merged, expected = records.slice(low, high - low), read(store, piece.segment)
        # Kafka may have compacted the log between two landings of the same offsets.
        if not merged.filter(pc.is_in(merged["offset"], expected["offset"])).equals(expected):
            raise _differing(store, segment, piece.segment.name.path)
    ensure_sidecar(store, segment)
    return segment


def _create(store: Store, group: Group) -> Segment:
    """Store the merged file of a group, and check it by reading it back."""
    records = _records(store, group)
    segment = group.segment(records.num_rows)
    data = encode(records, segment)
    if store.create(segment.name.path, data):
        write_sidecar(store, segment, records, data)
    del data
    if not read(store, segment).equals(records):
        raise _differing(store, segment, group.first.name.path)
    return segment


def _records(store: Store, group: Group) -> pa.Table:
    """Return the records of a group, without those that pieces have in common."""
    tables, at = [], group.first.start
    for piece in group.pieces:
        if piece.segment.end > at:
            table = read(store, piece.segment)
            tables.append(table.filter(pc.greater_equal(table["offset"], at)))
            at = piece.segment.end
    return pa.concat_tables(tables)


def _remove(store: Store, piece: Piece) -> None:
    """Remove a file unless it has changed since it was read.

    Its metadata JSON is removed first: after a crash in between the next merge removes the file.
    """
    entry = store.entry(piece.segment.name.path)
    if entry is not None and entry.version == piece.version:
        store.remove(piece.segment.name.sidecar)
        store.remove(piece.segment.name.path)


def _is_stray(store: Store, path: str, listed: dict[str, Entry]) -> bool:
    """Return whether a path is the metadata JSON of a file that is gone."""
    folder, _, name = path.rpartition("/")
    data = f"{folder}/{name.removeprefix('_').removesuffix('.json')}.parquet"
    if not name.startswith("_") or parse_name(data) is None or data in listed:
        return False
    return store.entry(data) is None


def _differing(store: Store, merged: Segment, path: str) -> Differing:
    return Differing(
        f"{store.url}/{merged.name.path} does not have the records of {path}",
        action="compare the two with the log and with bronze, and move the wrong one away",
    )
