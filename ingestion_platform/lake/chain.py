"""The lake as a chain of files per log partition: where it ends, and what follows a position.

A file counts when it starts where the one before ended, or records the gap between them. No
state is kept but the files themselves, so any number of readers and writers agree. Files may give
way to a merged one while somebody reads: who finds one gone, or the chain broken, looks again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from ingestion_platform.errors import Permanent, PositionMoved
from ingestion_platform.lake.names import Name, parse_name, topic_folder, window_folder
from ingestion_platform.lake.store import Store
from ingestion_platform.progress.positions import Position, TopicOrder

FOOTER_KEY = b"ingestion"
_TAIL = 16_384


@dataclass(frozen=True, slots=True)
class Source:
    """The dropped file that a lake file is a part of: its records are the offsets `start` to
    before `end` of the log partition, their values of a `sources.reading.Encoding`."""

    name: str
    sha256: str
    start: int
    end: int
    format: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Link:
    """One file of the chain: offsets `start` to before `end` of a generation, `rows` records.

    Offsets in that range without a record (transaction markers, compacted records) are gaps, and
    so are those from `previous_end` to `start`, which retention took before they were copied.
    """

    name: Name
    generation: str
    cluster_id: str
    end: int
    rows: int
    previous_generation: str | None = None
    previous_end: int | None = None
    file: Source | None = None
    """Of a link of the log partition FILES."""

    @property
    def start(self) -> int:
        """The first offset that the file accounts for."""
        return self.name.start

    @property
    def position(self) -> Position:
        """Where a reader of the whole file is."""
        return Position(self.generation, self.end)

    @property
    def gap_start(self) -> int:
        """Where the gap before this file starts; equal to `start` when there is none."""
        if self.previous_generation is None:
            return self.start
        if self.previous_generation != self.generation:
            return 0
        return min(self.start, self.previous_end or 0)

    @property
    def gaps(self) -> int:
        """How many offsets it accounts for without a record."""
        return self.end - self.gap_start - self.rows

    def footer(self) -> bytes:
        """What the file's footer says, as JSON."""
        said = {
            "topic": self.name.topic,
            "window": self.name.window.isoformat(),
            "partition": self.name.partition,
            "ordinal": self.name.ordinal,
            "generation": self.generation,
            "cluster_id": self.cluster_id,
            "start": self.start,
            "end": self.end,
            "rows": self.rows,
            "previous_generation": self.previous_generation,
            "previous_end": self.previous_end,
        }
        if self.file is not None:
            said["file"] = asdict(self.file)
        return json.dumps(said).encode()


class ChainBroken(Permanent):
    """Files of the lake are missing or were changed from outside."""


def read_link(store: Store, path: str) -> Link:
    """The link that a file's footer describes; reads the end of the file only.

    Raises:
        ChainBroken: it is not a file of the lake.
        FileNotFoundError: there is none.
    """
    return read_footer(store, path)[0]


def read_footer(store: Store, path: str, data: bytes | None = None) -> tuple[Link, pq.FileMetaData]:
    """The same, with what Parquet says of the file; of its whole content when that is at hand."""
    name = parse_name(path)
    try:
        metadata = _footer(store, path) if data is None else pq.read_metadata(pa.BufferReader(data))
        said = json.loads((metadata.metadata or {})[FOOTER_KEY])
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise _broken(store, path, "is damaged or was not written by the platform") from error
    if name is None or (said["start"], said["partition"]) != (name.start, name.partition):
        raise _broken(store, path, "was renamed: its footer tells another place")
    if name.end not in (0, said["end"]):
        raise _broken(store, path, "was renamed: its footer tells another end")
    link = Link(
        name=name,
        generation=said["generation"],
        cluster_id=said["cluster_id"],
        end=said["end"],
        rows=said["rows"],
        previous_generation=said["previous_generation"],
        previous_end=said["previous_end"],
        file=Source(**said["file"]) if "file" in said else None,
    )
    return link, metadata


def _footer(store: Store, path: str) -> pq.FileMetaData:
    tail = store.tail(path, _TAIL)
    length = int.from_bytes(tail[-8:-4], "little")
    if length + 8 > len(tail):
        tail = store.tail(path, length + 8)
    # A Parquet reader asks for nothing but the magic number and the footer.
    return pq.read_metadata(pa.BufferReader(b"PAR1" + tail[-(length + 8) :]))


def _broken(store: Store, path: str, problem: str) -> ChainBroken:
    return ChainBroken(
        f"{store.url}/{path} {problem}",
        action="restore it from a backup, or move the topic's folder away to land the log anew",
    )


class Chain:
    """The chains of one topic, as they are while this object lives (listings are kept)."""

    def __init__(self, store: Store, topic: str) -> None:
        self._store = store
        self._topic = topic
        self._windows: list[date] | None = None
        self._names: dict[date, dict[int, list[Name]]] = {}

    def windows(self) -> list[date]:
        """The windows that have files, in order."""
        if self._windows is None:
            folders = self._store.folders(topic_folder(self._topic))
            dates = [f.removeprefix("date=") for f in folders if f.startswith("date=")]
            self._windows = sorted(date.fromisoformat(d) for d in dates)
        return self._windows

    def names(self, window: date) -> dict[int, list[Name]]:
        """The files of a window by log partition, in the order of the log."""
        if window not in self._names:
            found: dict[int, list[Name]] = {}
            for entry in self._store.files(window_folder(self._topic, window)):
                name = parse_name(entry.path)
                if name is not None:
                    found.setdefault(name.partition, []).append(name)
            self._names[window] = {
                p: sorted(names, key=lambda name: name.order) for p, names in found.items()
            }
        return self._names[window]

    def tails(self, partitions: Iterable[int]) -> dict[int, Link]:
        """The last file of each partition; a partition without files is left out."""
        wanted, found = set(partitions), {}
        for window in reversed(self.windows()):
            for partition in sorted(wanted & self.names(window).keys()):
                last = self._links(window, partition, last=True)
                if last:
                    found[partition] = max(last, key=lambda link: link.end)
            wanted -= found.keys()
            if not wanted:
                break
        return found

    def slice(self, window: date, partition: int) -> list[Link]:
        """The files of one slice, in the order of the log, but for those that add nothing to the
        ones ahead of them (what merging has still to remove)."""
        return list(_adding(self._links(window, partition)))

    def after(
        self, partition: int, position: Position | None, *, last: date | None = None
    ) -> list[Link]:
        """The files with records at or after a position, in log order.

        Without a position, all of them; with `last`, none of later windows. The first may start
        before the position, and files may overlap: take from each what lies behind the one ahead.

        Raises:
            ChainBroken: a file between the position and the end is missing.
            PositionMoved: files keep giving way to merged ones; look again.
        """
        looked: set[Name] | None = None
        while True:
            links = self._after(partition, position, last)
            broken = _first_unreachable(links, position)
            if broken is None:
                return links
            # A listing takes a while: a merged file may be missed, and what it covers be gone.
            known = self._names_up_to(partition, broken[0].name)
            if known == looked:
                link, where = broken
                raise _broken(self._store, link.name.path, f"does not follow {where}")
            looked = known
            self._windows, self._names = None, {}

    def topic_order(self, partition: int) -> TopicOrder:
        """Return the topic ids that a partition has files of; reads the footers of few slices.

        Raises:
            ChainBroken: a file is not one of the lake.
            PositionMoved: files keep giving way to merged ones; look again.
        """
        found: dict[int, str] = {}
        for window in self.windows():
            names = self.names(window).get(partition, [])
            if {name.ordinal for name in names} - found.keys():
                links = self._links(window, partition)
                found |= {link.name.ordinal: link.generation for link in links}
        return TopicOrder(tuple(found[ordinal] for ordinal in sorted(found)))

    def _after(self, partition: int, position: Position | None, last: date | None) -> list[Link]:
        links: list[Link] = []
        for window in reversed(self.windows()):
            if last is not None and window > last:
                continue
            found = self.slice(window, partition)
            links += found
            if position is not None and any(_holds(link, position) for link in found):
                break
        # By offset, not by window: writers' clocks may differ.
        links.sort(key=lambda link: link.name.order)
        return links if position is None else _behind(links, position)

    def _names_up_to(self, partition: int, name: Name) -> set[Name]:
        every = (
            each for window in self.windows() for each in self.names(window).get(partition, [])
        )
        return {each for each in every if each.order <= name.order}

    def _links(self, window: date, partition: int, *, last: bool = False) -> list[Link]:
        """The files of a slice, or those that start last; listed anew if one is gone."""
        while True:
            names = self.names(window).get(partition, [])
            if last:
                names = [n for n in names if (n.ordinal, n.start) == names[-1].order[:2]]
            links = []
            for name in names:
                try:
                    links.append(read_link(self._store, name.path))
                except FileNotFoundError:
                    del self._names[window]
                    if name in self.names(window).get(partition, []):
                        raise PositionMoved(
                            f"{name.path} is listed, and cannot be found", action="look again"
                        ) from None
                    break
            else:
                return links


def _holds(link: Link, position: Position) -> bool:
    return link.generation == position.topic_id and link.start <= position.offset


def _behind(links: list[Link], position: Position) -> list[Link]:
    generation, offset = position.topic_id, position.offset
    ordinals = {link.name.ordinal for link in links if link.generation == generation}
    ordinal = max(ordinals, default=-1)
    return [
        link
        for link in links
        if link.name.ordinal > ordinal or (link.generation == generation and link.end > offset)
    ]


def _adding(links: Iterable[Link]) -> Iterator[Link]:
    """Links in order, without those whose offsets one ahead of them has."""
    ends: dict[str, int] = {}
    for link in links:
        if link.end > ends.get(link.generation, -1):
            ends[link.generation] = link.end
            yield link


def _first_unreachable(links: list[Link], position: Position | None) -> tuple[Link, str] | None:
    """The first link that neither continues those ahead of it nor tells of a gap behind them, and
    where they end."""
    at = position
    for link in links:
        if at is None:
            reachable = link.previous_generation is None
        else:
            previous = (link.previous_end or 0) <= at.offset
            follows = link.previous_generation == at.topic_id and previous
            reachable = follows or _holds(link, at)
        if not reachable:
            return link, f"offset {at.offset} of {at.topic_id}" if at else "the start of the log"
        if at is None or link.generation != at.topic_id or link.end > at.offset:
            at = link.position
    return None
