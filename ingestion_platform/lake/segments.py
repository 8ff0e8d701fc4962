"""The segment log: the lake's files of a log partition in order.

A file counts when it starts where the previous one ended, or records the gap between them. The
files are the only state, so any number of readers and writers agree. Merging may replace files
while they are read: a reader that finds one missing, or the log broken, lists the files again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from ingestion_platform.errors import Permanent, WriteConflict
from ingestion_platform.files.reading import Encoding
from ingestion_platform.lake.names import Name, ingest_date_folder, parse_name, topic_folder
from ingestion_platform.lake.store import Store
from ingestion_platform.positions import Position, TopicOrder

FOOTER_KEY = b"ingestion"
_TAIL = 16_384


@dataclass(frozen=True, slots=True)
class Source:
    """The dropped file that a lake file is a part of.

    Its records have the offsets `start` to before `end`; `encoding` is their record format.
    """

    name: str
    sha256: str
    start: int
    end: int
    format: str
    encoding: Encoding


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
    """Set for segments of the log partition FILES."""

    @property
    def start(self) -> int:
        """Return the first offset of the file."""
        return self.name.start

    @property
    def position(self) -> Position:
        """Return the position after the file."""
        return Position(self.topic_id, self.end)

    @property
    def gap_start(self) -> int:
        """Return the start of the gap before the file; `start` when there is none."""
        if self.previous is None:
            return self.start
        if self.previous.topic_id != self.topic_id:
            return 0
        return min(self.start, self.previous.offset)

    @property
    def gaps(self) -> int:
        """Return the number of offsets without a record, from the gap's start to `end`."""
        return self.end - self.gap_start - self.rows

    def footer(self) -> bytes:
        """Return the JSON that the file's footer holds."""
        footer = {
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
            footer["file"] = asdict(self.file)
        return json.dumps(footer).encode()


class SegmentLogBroken(Permanent):
    """Files of the lake are missing or were changed from outside."""


def read_segment(store: Store, path: str) -> Segment:
    """Read the segment from a file's footer; reads only the end of the file.

    Raises:
        SegmentLogBroken: the file is damaged, renamed, or not one of the lake.
        FileNotFoundError: there is none.
    """
    return read_footer(store, path)[0]


def read_footer(
    store: Store, path: str, data: bytes | None = None
) -> tuple[Segment, pq.FileMetaData]:
    """Read the segment and the Parquet metadata of a file, from `data` if its content is given.

    Raises as `read_segment`.
    """
    name = parse_name(path)
    try:
        metadata = _footer(store, path) if data is None else pq.read_metadata(pa.BufferReader(data))
        footer = json.loads((metadata.metadata or {})[FOOTER_KEY])
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise _broken(store, path, "is damaged or was not written by the platform") from error
    if name is None or (footer["start"], footer["partition"]) != (name.start, name.partition):
        raise _broken(store, path, "was renamed: its footer has another start or partition")
    if name.end not in (0, footer["end"]):
        raise _broken(store, path, "was renamed: its footer has another end")
    segment = Segment(
        name=name,
        topic_id=footer["topic_id"],
        cluster_id=footer["cluster_id"],
        end=footer["end"],
        rows=footer["rows"],
        previous=Position(**footer["previous"]) if footer["previous"] else None,
        file=Source(**footer["file"]) if "file" in footer else None,
    )
    return segment, metadata


def _footer(store: Store, path: str) -> pq.FileMetaData:
    tail = store.tail(path, _TAIL)
    length = int.from_bytes(tail[-8:-4], "little")
    if length + 8 > len(tail):
        tail = store.tail(path, length + 8)
    # Parquet readers need only the magic number and the footer.
    return pq.read_metadata(pa.BufferReader(b"PAR1" + tail[-(length + 8) :]))


def _broken(store: Store, path: str, problem: str) -> SegmentLogBroken:
    return SegmentLogBroken(
        f"{store.url}/{path} {problem}",
        action="restore it from a backup, or move the topic's folder away to land the log again",
    )


class SegmentLog:
    """The segment logs of one topic. Listings are cached for the life of this object."""

    def __init__(self, store: Store, topic: str) -> None:
        self._store = store
        self._topic = topic
        self._ingest_dates: list[date] | None = None
        self._names: dict[date, dict[int, list[Name]]] = {}

    def ingest_dates(self) -> list[date]:
        """Return the ingest dates that have files, in order."""
        if self._ingest_dates is None:
            folders = self._store.folders(topic_folder(self._topic))
            dates = [f.removeprefix("date=") for f in folders if f.startswith("date=")]
            self._ingest_dates = sorted(date.fromisoformat(d) for d in dates)
        return self._ingest_dates

    def names(self, ingest_date: date) -> dict[int, list[Name]]:
        """Return the names of an ingest date's files by log partition, in log order."""
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
        """Return the last segment of each partition that has files."""
        remaining, tails = set(partitions), {}
        for ingest_date in reversed(self.ingest_dates()):
            for partition in sorted(remaining & self.names(ingest_date).keys()):
                last = self._segments(ingest_date, partition, last=True)
                if last:
                    tails[partition] = max(last, key=lambda segment: segment.end)
            remaining -= tails.keys()
            if not remaining:
                break
        return tails

    def slice(self, ingest_date: date, partition: int) -> list[Segment]:
        """Return the segments of one slice in log order.

        Those that earlier segments cover, which merging has still to remove, are left out.
        """
        return list(_adding(self._segments(ingest_date, partition)))

    def after(
        self, partition: int, position: Position | None, *, last: date | None = None
    ) -> list[Segment]:
        """Return the segments with records at or after a position, in log order.

        Args:
            partition: the log partition.
            position: where to start; None is the start of the log.
            last: the last ingest date to return.

        The first segment may start before the position, and segments may overlap: take from each
        only the offsets after the previous one.

        Raises:
            SegmentLogBroken: a file between the position and the end is missing.
            WriteConflict: merging keeps replacing files; list them again.
        """
        checked: set[Name] | None = None
        while True:
            segments = self._after(partition, position, last)
            broken = _first_unreachable(segments, position)
            if broken is None:
                return segments
            # A listing takes time: it may lack both a new merged file and those it replaced.
            known = self._names_up_to(partition, broken[0].name)
            if known == checked:
                segment, where = broken
                raise _broken(self._store, segment.name.path, f"does not follow {where}")
            checked = known
            self._ingest_dates, self._names = None, {}

    def topic_order(self, partition: int) -> TopicOrder:
        """Return the topic ids of a partition's files; reads the footers of few slices.

        Raises:
            SegmentLogBroken: a file is not one of the lake.
            WriteConflict: merging keeps replacing files; list them again.
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
        """Return the segments of a slice, or those with the last start.

        Lists the files again if one is missing.
        """
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
                            f"{name.path} is listed but cannot be read",
                            action="list the files again",
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
    """Yield segments in order, without those that an earlier one covers."""
    ends: dict[str, int] = {}
    for segment in segments:
        if segment.end > ends.get(segment.topic_id, -1):
            ends[segment.topic_id] = segment.end
            yield segment


def _first_unreachable(
    segments: list[Segment], position: Position | None
) -> tuple[Segment, str] | None:
    """Return the first segment that neither continues the previous ones nor records a gap after
    them, and where those end; None when all follow."""
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
