"""Merging the small files of closed ingest dates into few large ones; reading them is elsewhere.

    <ordinal>-<start>.parquet  ×  many   ──▶   <ordinal>-<start>-<end>.parquet

First the merged file is created, under a name of its own, and read back; then what it covers is
removed. Nothing is ever overwritten, and a file goes only while a merged one that covers it is
there, so that whatever dies, or runs twice, leaves each record to be read once:

- An ingest date is *closed* for a log partition when it is over and a later one has a file of it.
  So the segment log's end, where writers go on, is never merged.
- A name says all that a merged file covers, and is created once. Of two merged files of which one
  covers the other, the smaller goes; no two can each be removed for the sake of the other.
- A writer that slept finds the names it was about to take free again. What it puts there overlaps
  the merged file, so that readers pass over it; the next merge removes it, or takes in what lies
  beyond.
- Files are merged that follow each other without a gap, in one topic id of one cluster. So the
  gaps that footers record stay recorded.
- What came in files (log partition FILES) is left alone: its parts are found by name, are of one
  dropped file each, and are large where that file was.
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

READERS = 8


@dataclass(frozen=True, slots=True)
class Merged:
    """A slice before and after merging: its data files and their bytes."""

    ingest_date: date
    partition: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A file to merge: `version` changes with its content, `size` are its bytes uncompressed."""

    segment: Segment
    version: str
    size: int


@dataclass(slots=True)
class Group:
    """Pieces of which each starts where the ones ahead of it end, or before; they become one file
    that ends at `end`. `rows` is what it will have at most, `size` about."""

    pieces: list[Piece]
    end: int
    rows: int
    size: int

    @property
    def first(self) -> Segment:
        """The piece that starts first."""
        return self.pieces[0].segment

    def segment(self, rows: int) -> Segment:
        """The link of the merged file: of this many records, and behind what is ahead of the
        first piece, so that a gap there stays recorded."""
        name = replace(self.first.name, end=self.end)
        return replace(self.first, name=name, end=self.end, rows=rows)

    def take(self, piece: Piece, rows: int, size: int) -> bool:
        """Take in the next piece if it continues these, within the limits, or adds nothing."""
        segment, first = piece.segment, self.first
        same = (segment.name.ordinal, segment.topic_id, segment.cluster_id)
        if same != (first.name.ordinal, first.topic_id, first.cluster_id):
            return False
        if segment.start > self.end:
            return False
        if segment.end > self.end:
            # Of one that overlaps, what lies beyond: else another merge would find more to do.
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
    """Merge the small files of a topic's closed ingest dates, from ingest date `since` on; gives
    the slices that changed.

    `today` is the present UTC day. A merged file has at most `target_rows` records and
    `target_bytes` uncompressed: by default as many as landing puts into one file, since loading
    validates a file as a whole, and merging holds one in memory. What is merged well is not touched
    again. Any number may run at once, beside writers and readers, and be killed.

    Raises:
        StoreUnavailable: the store does not answer; what is merged stays merged.
        ChainBroken: a file is damaged.
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
                pass  # another merge is at work here: what it leaves is for the next
            except Differing as error:
                differing = error
            if changed:
                sizes = _sizes(before), _sizes(_listed(store, folder))
                files, size = zip(*((len(each), sum(each)) for each in sizes), strict=True)
                found.append(Merged(ingest_date, partition, *files, *size))
    if differing is not None:
        raise differing
    return found


def closed(
    segment_log: SegmentLog, today: date, since: date | None = None
) -> list[tuple[date, int]]:
    """The slices of ingest dates before `today` (from `since` on) to which nothing can be added: a
    later ingest date has files of their log partition."""
    later: set[int] = set()
    found: list[tuple[date, int]] = []
    for ingest_date in reversed(segment_log.ingest_dates()):
        if since is not None and ingest_date < since:
            break
        partitions = segment_log.names(ingest_date).keys()
        if ingest_date < today:
            found += [(ingest_date, p) for p in sorted(partitions & later - {FILES}, reverse=True)]
        later |= partitions
    return found[::-1]


def grouped(pieces: Iterable[Piece], rows: int, size: int) -> list[Group]:
    """The pieces of a slice in groups of at most `rows` records and `size` bytes, but for pieces
    that are larger by themselves."""

    def order(piece: Piece) -> tuple[int, ...]:
        # As their names do, but for one that a writer put back: of equal starts the longest first.
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
    """The bytes of each data file."""
    return [entry.size for path, entry in listed.items() if parse_name(path) is not None]


def _merge(
    store: Store, listed: dict[str, Entry], pool: ThreadPoolExecutor, rows: int, size: int
) -> bool:
    """Merge what can be merged of a slice, and tidy up behind those that died; whether there was
    anything to do."""
    data = [entry for path, entry in listed.items() if parse_name(path) is not None]
    pieces = pool.map(lambda entry: _piece(store, entry), data)
    todo = [group for group in grouped(pieces, rows, size) if len(group.pieces) > 1]
    for group in todo:
        merged = _made(store, group) or _create(store, group)
        covered = [piece for piece in group.pieces if piece.segment.name != merged.name]
        # The first before the others: whoever lists the folder meanwhile then misses it.
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


def _made(store: Store, group: Group) -> Segment | None:
    """The merged file of a group if there is one: its maker died, or a writer that slept put
    something beside it since. It must have what the others have."""
    segment = group.first
    if segment.name.end != group.end:
        return None
    records = read(store, segment)
    offsets = records["offset"].to_numpy()
    for piece in group.pieces[1:]:
        low, high = np.searchsorted(offsets, [piece.segment.start, piece.segment.end])
        held, wanted = records.slice(low, high - low), read(store, piece.segment)
        # A log may have been compacted between two readings of it.
        if not held.filter(pc.is_in(held["offset"], wanted["offset"])).equals(wanted):
            raise _differing(store, segment, piece.segment.name.path)
    ensure_sidecar(store, segment)
    return segment


def _create(store: Store, group: Group) -> Segment:
    """Store the merged file of a group, and read it back."""
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
    """The records of a group: of each piece those behind the ones ahead of it."""
    tables, at = [], group.first.start
    for piece in group.pieces:
        if piece.segment.end > at:
            table = read(store, piece.segment)
            tables.append(table.filter(pc.greater_equal(table["offset"], at)))
            at = piece.segment.end
    return pa.concat_tables(tables)


def _remove(store: Store, piece: Piece) -> None:
    """Remove a file that is still the one that was read. Its metadata goes first: if this dies in
    between, the file is found and removed by the next merge."""
    entry = store.entry(piece.segment.name.path)
    if entry is not None and entry.version == piece.version:
        store.remove(piece.segment.name.sidecar)
        store.remove(piece.segment.name.path)


def _is_stray(store: Store, path: str, listed: dict[str, Entry]) -> bool:
    """Whether a path is the metadata of a file that is gone; its writer slept while it went."""
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
