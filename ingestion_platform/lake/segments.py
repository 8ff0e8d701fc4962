"""The lake as a segment log of files per log partition: where it ends, and what follows a position.

A file counts when it starts where the one before ended, or records the gap between them. No
state is kept but the files themselves, so any number of readers and writers agree. Files may give
way to a merged one while somebody reads: who finds one gone, or the segment log broken, looks
again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from ingestion_platform.errors import Permanent, WriteConflict
from ingestion_platform.lake.names import Name, ingest_date_folder, parse_name, topic_folder
from ingestion_platform.lake.store import Store
from ingestion_platform.positions import Position, TopicOrder

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
class Segment:
    """One file of the segment log: offsets `start` to before `end` of a topic id, `rows` records.

    Offsets in that range without a record (transaction markers, compacted records) are gaps, and
    so are those from the end of the previous segment to `start`, which retention deleted before
    they were landed.
    """

    name: Name
    topic_id: str
    cluster_id: str
    end: int
    rows: int
    previous: Position | None = None
    file: Source | None = None
    """Of a link of the log partition FILES."""

    @property
    def start(self) -> int:
        """The first offset that the file accounts for."""
        return self.name.start

    @property
    def position(self) -> Position:
        """Where a reader of the whole file is."""
        return Position(self.topic_id, self.end)

    @property
    def gap_start(self) -> int:
        """Where the gap before this file starts; equal to `start` when there is none."""
        if self.previous is None:
            return self.start
        if self.previous.topic_id != self.topic_id:
            return 0
        return min(self.start, self.previous.offset)

    @property
    def gaps(self) -> int:
        """How many offsets it accounts for without a record."""
        return self.end - self.gap_start - self.rows

    def footer(self) -> bytes:
        """What the file's footer says, as JSON."""
        said = {
            "topic": self.name.topic,
            "ingest_date": self.name.ingest_date.isoformat(),
            "partition": self.name.partition,
            "ordinal": self.name.ordinal,
            "topic_id": self.topic_id,
            "cluster_id": self.cluster_id,
            "start": self.start,
            "end": self.end,
            "rows": self.rows,
            "previous": self.previous and asdict(self.previous),
        }
        if self.file is not None:
            said["file"] = asdict(self.file)
        return json.dumps(said).encode()


class SegmentLogBroken(Permanent):
    """Files of the lake are missing or were changed from outside."""


def read_segment(store: Store, path: str) -> Segment:
    """The link that a file's footer describes; reads the end of the file only.

    Raises:
        ChainBroken: it is not a file of the lake.
        FileNotFoundError: there is none.
    """
    return read_footer(store, path)[0]


def read_footer(
    store: Store, path: str, data: bytes | None = None
) -> tuple[Segment, pq.FileMetaData]:
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
    segment = Segment(
        name=name,
        topic_id=said["topic_id"],
        cluster_id=said["cluster_id"],
        end=said["end"],
        rows=said["rows"],
        previous=Position(**said["previous"]) if said["previous"] else None,
        file=Source(**said["file"]) if "file" in said else None,
    )
    return segment, metadata


def _footer(store: Store, path: str) -> pq.FileMetaData:
    tail = store.tail(path, _TAIL)
    length = int.from_bytes(tail[-8:-4], "little")
    if length + 8 > len(tail):
        tail = store.tail(path, length + 8)
    # A Parquet reader asks for nothing but the magic number and the footer.
    return pq.read_metadata(pa.BufferReader(b"PAR1" + tail[-(length + 8) :]))


def _broken(store: Store, path: str, problem: str) -> SegmentLogBroken:
    return SegmentLogBroken(
        f"{store.url}/{path} {problem}",
        action="restore it from a backup, or move the topic's folder away to land the log again",
    )


class SegmentLog:
    """The segment logs of one topic, as they are while this object lives (listings are kept)."""

    def __init__(self, store: Store, topic: str) -> None:
        self._store = store
        self._topic = topic
        self._ingest_dates: list[date] | None = None
        self._names: dict[date, dict[int, list[Name]]] = {}

    def ingest_dates(self) -> list[date]:
        """The ingest dates that have files, in order."""
        if self._ingest_dates is None:
            folders = self._store.folders(topic_folder(self._topic))
            dates = [f.removeprefix("date=") for f in folders if f.startswith("date=")]
            self._ingest_dates = sorted(date.fromisoformat(d) for d in dates)
        return self._ingest_dates

    def names(self, ingest_date: date) -> dict[int, list[Name]]:
        """The files of an ingest date by log partition, in the order of the log."""
        if ingest_date not in self._names:
            found: dict[int, list[Name]] = {}
            for entry in self._store.files(ingest_date_folder(self._topic, ingest_date)):
                name = parse_name(entry.path)
                if name is not None:
                    found.setdefault(name.partition, []).append(name)
            self._names[ingest_date] = {
                p: sorted(names, key=lambda name: name.order) for p, names in found.items()
            }
        return self._names[ingest_date]

    def tails(self, partitions: Iterable[int]) -> dict[int, Segment]:
        """The last file of each partition; a partition without files is left out."""
        wanted, found = set(partitions), {}
        for ingest_date in reversed(self.ingest_dates()):
            for partition in sorted(wanted & self.names(ingest_date).keys()):
                last = self._segments(ingest_date, partition, last=True)
                if last:
                    found[partition] = max(last, key=lambda segment: segment.end)
            wanted -= found.keys()
            if not wanted:
                break
        return found

    def slice(self, ingest_date: date, partition: int) -> list[Segment]:
        """The files of one slice, in the order of the log, but for those that add nothing to the
        ones ahead of them (what merging has still to remove)."""
        return list(_adding(self._segments(ingest_date, partition)))

    def after(
        self, partition: int, position: Position | None, *, last: date | None = None
    ) -> list[Segment]:
        """The files with records at or after a position, in log order.

        Without a position, all of them; with `last`, none of later ingest dates. The first may
        start before the position, and files may overlap: take from each what lies behind the one
        ahead.

        Raises:
            ChainBroken: a file between the position and the end is missing.
            PositionMoved: files keep giving way to merged ones; look again.
        """
        looked: set[Name] | None = None
        while True:
            segments = self._after(partition, position, last)
            broken = _first_unreachable(segments, position)
            if broken is None:
                return segments
            # A listing takes a while: a merged file may be missed, and what it covers be gone.
            known = self._names_up_to(partition, broken[0].name)
            if known == looked:
                segment, where = broken
                raise _broken(self._store, segment.name.path, f"does not follow {where}")
            looked = known
            self._ingest_dates, self._names = None, {}

    def topic_order(self, partition: int) -> TopicOrder:
        """Return the topic ids that a partition has files of; reads the footers of few slices.

        Raises:
            ChainBroken: a file is not one of the lake.
            PositionMoved: files keep giving way to merged ones; look again.
        """
        found: dict[int, str] = {}
        for ingest_date in self.ingest_dates():
            names = self.names(ingest_date).get(partition, [])
            if {name.ordinal for name in names} - found.keys():
                segments = self._segments(ingest_date, partition)
                found |= {segment.name.ordinal: segment.topic_id for segment in segments}
        return TopicOrder(tuple(found[ordinal] for ordinal in sorted(found)))

    def _after(self, partition: int, position: Position | None, last: date | None) -> list[Segment]:
        segments: list[Segment] = []
        for ingest_date in reversed(self.ingest_dates()):
            if last is not None and ingest_date > last:
                continue
            found = self.slice(ingest_date, partition)
            segments += found
            if position is not None and any(_holds(segment, position) for segment in found):
                break
        # By offset, not by ingest date: writers' clocks may differ.
        segments.sort(key=lambda segment: segment.name.order)
        return segments if position is None else _behind(segments, position)

    def _names_up_to(self, partition: int, name: Name) -> set[Name]:
        every = (
            each
            for ingest_date in self.ingest_dates()
            for each in self.names(ingest_date).get(partition, [])
        )
        return {each for each in every if each.order <= name.order}

    def _segments(self, ingest_date: date, partition: int, *, last: bool = False) -> list[Segment]:
        """The files of a slice, or those that start last; listed again if one is gone."""
        while True:
            names = self.names(ingest_date).get(partition, [])
            if last:
                names = [n for n in names if (n.ordinal, n.start) == names[-1].order[:2]]
            segments = []
            for name in names:
                try:
                    segments.append(read_segment(self._store, name.path))
                except FileNotFoundError:
                    del self._names[ingest_date]
                    if name in self.names(ingest_date).get(partition, []):
                        raise WriteConflict(
                            f"{name.path} is listed, and cannot be found", action="look again"
                        ) from None
                    break
            else:
                return segments


def _holds(segment: Segment, position: Position) -> bool:
    return segment.topic_id == position.topic_id and segment.start <= position.offset


def _behind(segments: list[Segment], position: Position) -> list[Segment]:
    topic_id, offset = position.topic_id, position.offset
    ordinals = {segment.name.ordinal for segment in segments if segment.topic_id == topic_id}
    ordinal = max(ordinals, default=-1)
    return [
        segment
        for segment in segments
        if segment.name.ordinal > ordinal or (segment.topic_id == topic_id and segment.end > offset)
    ]


def _adding(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Links in order, without those whose offsets one ahead of them has."""
    ends: dict[str, int] = {}
    for segment in segments:
        if segment.end > ends.get(segment.topic_id, -1):
            ends[segment.topic_id] = segment.end
            yield segment


def _first_unreachable(
    segments: list[Segment], position: Position | None
) -> tuple[Segment, str] | None:
    """The first link that neither continues those ahead of it nor tells of a gap behind them, and
    where they end."""
    at = position
    for segment in segments:
        previous = segment.previous
        if at is None or previous is None:
            reachable = at == previous
        else:
            reachable = previous.topic_id == at.topic_id and previous.offset <= at.offset
        reachable = reachable or (at is not None and _holds(segment, at))
        if not reachable:
            return segment, f"offset {at.offset} of {at.topic_id}" if at else "the start of the log"
        if at is None or segment.topic_id != at.topic_id or segment.end > at.offset:
            at = segment.position
    return None
