"""Land and load a stream: one function for each thing that the CLI, the worker and assets do.

After a write conflict a function starts again from the positions, which the data itself holds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from ingestion_platform.bronze.load import (
    WORKERS,
    Loaded,
    Loader,
    LoadItem,
)
from ingestion_platform.bronze.validate import Validator, count_reasons
from ingestion_platform.errors import Permanent, Transient, WriteConflict
from ingestion_platform.failures import counting_failures
from ingestion_platform.kafka.topic_log import Log, LogChanged, Topic
from ingestion_platform.lake.file_source import FilesRefused, Handled
from ingestion_platform.lake.land import (
    BYTES,
    ROWS,
    Landed,
    backlogs,
    ensure_sidecar,
    find_topic,
    land,
)
from ingestion_platform.lake.land_files import landed_position
from ingestion_platform.lake.names import FILES
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Slice, waiting
from ingestion_platform.retries import CONFLICT, retry
from ingestion_platform.streams import Stream

P = ParamSpec("P")
R = TypeVar("R")

MAX_WORKERS = 8
"""Files validated at once when a whole advance fits into memory."""
IDENTITY_SECONDS = 2.0
"""Maximum age of the topic's identity when its watermarks are compared with the lake."""


def _ignore(_: object) -> None:
    """Do nothing."""


def _counts_failures(
    call: Callable[Concatenate[Platform, Stream, P], R],
) -> Callable[Concatenate[Platform, Stream, P], R]:
    """Count exceptions raised by the call."""

    @wraps(call)
    def counted(platform: Platform, stream: Stream, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with counting_failures(platform.settings.home, stream.name):
            return call(platform, stream, *args, **kwargs)

    return counted


@_counts_failures
def land_stream(
    platform: Platform,
    stream: Stream,
    *,
    partitions: Iterable[int] | None = None,
    last: date | None = None,
    on_landed: Callable[[Landed], None] = _ignore,
    on_file: Callable[[Handled], None] = _ignore,
) -> int:
    """Land the topic's new records, then the files waiting in the drop zone.

    Args:
        partitions: log partitions to land; all of them by default.
        last: the last ingest date to land. Files belong to today, so an earlier date skips them.
        on_landed: called with each new lake file.
        on_file: called with what became of each dropped file.

    Returns:
        The number of landed records.

    Raises:
        Transient: the log or a store does not answer, or every attempt met a write conflict.
        Permanent: see `land`.
        FilesRefused: some files could not be parsed; everything else is landed.
    """
    chosen = None if partitions is None else list(partitions)
    rows = 0
    refused: list[Handled] = []

    def attempt() -> None:
        nonlocal rows
        for landed in _landing(platform, stream, chosen, last, _collecting(on_file, refused)):
            rows += landed.segment.rows
            on_landed(landed)

    retry_on_conflict(attempt)
    if refused:
        raise FilesRefused(refused)
    return rows


def _landing(
    platform: Platform,
    stream: Stream,
    chosen: list[int] | None,
    last: date | None,
    on_file: Callable[[Handled], None],
) -> Iterator[Landed]:
    """Land the chosen partitions of the topic, then the drop zone."""
    topic = None if chosen is None else [p for p in chosen if p != FILES]
    if stream.kafka and topic != []:
        with platform.log(stream) as log:
            if find_topic(log, platform.store) is not None:
                first = stream.first_date
                yield from land(log, platform.store, first=first, partitions=topic, last=last)
    if (chosen is None or FILES in chosen) and (last is None or last >= datetime.now(UTC).date()):
        settle = platform.settings.drop_settle_seconds
        yield from platform.file_source(stream).land_waiting(settle, on_file)


def _collecting(
    on_file: Callable[[Handled], None], refused: list[Handled]
) -> Callable[[Handled], None]:
    """Return `on_file`, which also appends refused files to `refused`."""

    def collect(handled: Handled) -> None:
        on_file(handled)
        if handled.outcome == "refused":
            refused.append(handled)

    return collect


@_counts_failures
def load_stream(
    platform: Platform,
    stream: Stream,
    *,
    partitions: Iterable[int],
    ingest_dates: Iterable[date] = (),
    last: date | None = None,
    on_loaded: Callable[[Loaded], None] = _ignore,
) -> None:
    """Make bronze and quarantine equal to the lake under the current contract.

    Append new lake files of `partitions` up to ingest date `last`, and replace the slices of
    `ingest_dates` that another contract version validated.

    Raises:
        Transient, Permanent: see `Loader.load`.
    """
    chosen, dates = list(partitions), list(ingest_dates)

    def attempt() -> None:
        loader = Loader(platform.catalog, platform.store, stream)
        segment_log = SegmentLog(platform.store, stream.topic)
        slices = [Slice(ingest_date, p) for p in chosen for ingest_date in dates]
        for loaded in loader.load(loader.stale(segment_log, slices)):
            on_loaded(loaded)
        behind = [p for p in chosen if p != FILES or _files_behind(platform, stream, loader)]
        for loaded in loader.load(loader.behind(segment_log, behind, last=last)):
            on_loaded(loaded)

    retry_on_conflict(attempt)


@_counts_failures
def reload_slices(
    platform: Platform,
    stream: Stream,
    slices: Iterable[Slice],
    *,
    on_loaded: Callable[[Loaded], None] = _ignore,
) -> None:
    """Replace those of the slices that another contract version validated.

    Raises:
        Transient, Permanent: see `Loader.load`.
    """
    chosen = list(slices)

    def attempt() -> None:
        loader = Loader(platform.catalog, platform.store, stream)
        segment_log = SegmentLog(platform.store, stream.topic)
        for loaded in loader.load(loader.stale(segment_log, chosen)):
            on_loaded(loaded)

    retry_on_conflict(attempt)


@_counts_failures
def run_stream(
    platform: Platform,
    stream: Stream,
    *,
    on_landed: Callable[[Landed], None] = _ignore,
    on_loaded: Callable[[Loaded], None] = _ignore,
    on_file: Callable[[Handled], None] = _ignore,
) -> None:
    """Land and load once: the topic up to its current end, then the waiting files.

    Landed records are passed to the loader without reading them back from the lake.

    Raises:
        Transient, Permanent: see `land` and `Loader.load`.
        FilesRefused: some files could not be parsed; everything else is landed and loaded.
    """
    refused: list[Handled] = []

    def run_topic() -> None:
        with platform.log(stream) as log:
            ingestor = TopicIngestor.open(platform, stream, log)
            if ingestor is not None:
                ingestor.advance(on_landed=on_landed, on_loaded=on_loaded)

    def run_zone() -> None:
        if platform.file_source(stream).idle():
            return  # opening the tables takes time
        collect = _collecting(on_file, refused)
        run_files(platform, stream, on_landed=on_landed, on_loaded=on_loaded, on_file=collect)

    if stream.kafka:
        retry_on_conflict(run_topic)
    retry_on_conflict(run_zone)
    if refused:
        raise FilesRefused(refused)


class TopicIngestor:
    """Lands and loads one topic any number of times.

    Keeps the ends of the segment logs and of the tables, so that an advance reads neither again.
    After a failed advance, open a new one. Not thread-safe.
    """

    @classmethod
    def open(cls, platform: Platform, stream: Stream, log: Log) -> TopicIngestor | None:
        """Open the topic; return None while it does not exist yet. Raises as `find_topic`."""
        topic = find_topic(log, platform.store)
        return None if topic is None else cls(platform, stream, log, topic)

    def __init__(self, platform: Platform, stream: Stream, log: Log, topic: Topic) -> None:
        self._store = platform.store
        self._log = log
        self._first = stream.first_date
        self._loader = Loader(platform.catalog, platform.store, stream)
        self._topic = topic
        self._identified = time.monotonic()
        self._tails: dict[int, Segment] | None = None

    def waiting(self) -> dict[int, int]:
        """Return the number of offsets per log partition that the lake lacks.

        Before the first advance: the number of offsets that the tables lack.

        Raises:
            SourceUnavailable: the broker does not answer.
            Permanent: the log ends before what was landed from it.
        """
        if time.monotonic() - self._identified > IDENTITY_SECONDS:
            self._identify()
        try:
            return self._offsets_behind()
        except Permanent:  # the topic may have been recreated
            self._identify()
            return self._offsets_behind()

    def advance(
        self,
        *,
        rows: int = ROWS,
        size: int = BYTES,
        on_landed: Callable[[Landed], None] = _ignore,
        on_loaded: Callable[[Loaded], None] = _ignore,
        keep_going: Callable[[], bool] = lambda: True,
        one_commit: bool = False,
    ) -> None:
        """Land and load up to the current end of the log, then commit the group's offsets.

        Args:
            rows: records per lake file, about.
            size: bytes per lake file, about.
            on_landed: called with each new lake file.
            on_loaded: called with each loaded lake file.
            keep_going: checked after each file; what is landed when it returns False is loaded.
            one_commit: land everything before loading, so that one commit can hold all of it;
                everything must fit into memory.

        Raises:
            Transient, Permanent: see `land` and `Loader.load`.
        """
        items: Iterable[LoadItem] = self._new_items(rows, size, on_landed, keep_going)
        workers = WORKERS
        if one_commit:
            items = list(items)
            workers = min(max(WORKERS, len(items)), MAX_WORKERS)
        for loaded in self._loader.load(items, workers=workers):
            on_loaded(loaded)
        commit_group(self._log, self._loader)

    def _new_items(
        self,
        rows: int,
        size: int,
        on_landed: Callable[[Landed], None],
        keep_going: Callable[[], bool],
    ) -> Iterator[LoadItem]:
        """Yield lake files that the tables lack, then files landed now."""
        self._identify()
        if self._tails is None:
            for item in self._loader.behind(
                SegmentLog(self._store, self._topic.name), self._partitions
            ):
                yield item
                if not keep_going():
                    return
            self._tails = SegmentLog(self._store, self._topic.name).tails(self._partitions)
            for tail in self._tails.values():
                ensure_sidecar(self._store, tail)
        first, tails = self._first, self._tails
        for landed in land(self._log, self._store, first=first, rows=rows, size=size, tails=tails):
            tails[landed.segment.name.partition] = landed.segment
            on_landed(landed)
            yield LoadItem(landed.segment, landed.table)
            if not keep_going():
                return

    @property
    def _partitions(self) -> tuple[int, ...]:
        return self._topic.partitions

    def _identify(self) -> None:
        self._topic, self._identified = self._log.topic(), time.monotonic()

    def _offsets_behind(self) -> dict[int, int]:
        marks = self._log.watermarks(self._partitions)
        if self._tails is None:
            topic_id = self._topic.topic_id
            at = {p: self._loader.position(p) for p in marks}
            return {p: len(waiting(m.start, m.end, topic_id, at[p])) for p, m in marks.items()}
        by_partition = backlogs(self._topic, marks, self._tails)
        return {p: len(backlog.offsets) for p, backlog in by_partition.items()}


def run_files(
    platform: Platform,
    stream: Stream,
    *,
    on_landed: Callable[[Landed], None] = _ignore,
    on_loaded: Callable[[Loaded], None] = _ignore,
    on_file: Callable[[Handled], None] = _ignore,
    keep_going: Callable[[], bool] = lambda: True,
) -> None:
    """Land and load the files waiting in the drop zone; call `on_file` with each.

    Stop once `keep_going` returns False; the next run finishes a file that was begun.

    Raises:
        Transient, Permanent: see `FileLanding.land_waiting` and `Loader.load`.
    """
    landing = _landing(platform, stream, [FILES], None, on_file)
    _load_files(platform, stream, landing, on_landed, on_loaded, keep_going)


@_counts_failures
def load_files(
    platform: Platform,
    stream: Stream,
    files: Iterable[Path],
    *,
    again: bool = False,
    on_read: Callable[[int], None] = _ignore,
    on_landed: Callable[[Landed], None] = _ignore,
    on_loaded: Callable[[Loaded], None] = _ignore,
    on_file: Callable[[Handled], None] = _ignore,
) -> None:
    """Land and load local files one after the other, without moving them.

    Args:
        again: land a content that was landed under another name again; see `FileLanding.land_file`.
        on_read: called with the number of records read so far of the current file.
        on_landed: called with each new lake file.
        on_loaded: called with each loaded lake file.
        on_file: called with what became of each file.

    Raises:
        UnreadableFile: a file cannot be parsed; nothing of it is landed, the files before it are.
        Transient, Permanent: see `run_stream`.
    """
    for file in files:

        def attempt(file: Path = file) -> None:
            landing = platform.file_source(stream).land_file(file, on_file, on_read, again=again)
            _load_files(platform, stream, landing, on_landed, on_loaded)

        retry_on_conflict(attempt)


@dataclass(frozen=True, slots=True)
class Trial:
    """How many records of a file are valid, how many are rejected, and why."""

    records: int
    valid: int
    rejected: int
    reasons: Counter[str]


def try_file(
    platform: Platform,
    stream: Stream,
    file: Path,
    *,
    on_read: Callable[[int], None] = _ignore,
) -> Trial:
    """Read and validate a file without landing anything.

    Raises:
        UnreadableFile: the file does not exist or cannot be parsed.
    """
    validator = Validator(stream.contract)
    valid = rejected = 0
    reasons: Counter[str] = Counter()
    with platform.file_source(stream).reading(file) as content:
        for batch in content.records(stream.contract):
            parsed = validator.parse(batch.values, content.format.encoding, batch.reasons)
            valid += len(parsed.valid)
            rejected += len(parsed.rejected)
            reasons.update(count_reasons(parsed.reasons))
            on_read(valid + rejected)
    return Trial(valid + rejected, valid, rejected, reasons)


def _load_files(
    platform: Platform,
    stream: Stream,
    landing: Iterator[Landed],
    on_landed: Callable[[Landed], None],
    on_loaded: Callable[[Loaded], None],
    keep_going: Callable[[], bool] = lambda: True,
) -> None:
    """Load the landed files' records that bronze lacks, then those landed now."""
    loader = Loader(platform.catalog, platform.store, stream)

    def items() -> Iterator[LoadItem]:
        if _files_behind(platform, stream, loader):
            yield from loader.behind(SegmentLog(platform.store, stream.topic), [FILES])
        for landed in landing:
            on_landed(landed)
            yield LoadItem(landed.segment, landed.table)
            if not keep_going():
                return

    # One worker: reading the file takes another core, and memory stays small.
    for loaded in loader.load(items(), workers=1, ahead=0):
        on_loaded(loaded)


def _files_behind(platform: Platform, stream: Stream, loader: Loader) -> bool:
    """Return whether the tables lack records of files; takes a few small reads."""
    landed = landed_position(platform.store, stream.topic)
    return landed is not None and landed != loader.position(FILES)


def commit_group(log: Log, loader: Loader) -> None:
    """Commit the positions of the tables as the group's offsets, for Kafka's lag tools."""
    topic = log.topic()
    at = {p: loader.position(p) for p in topic.partitions}
    log.commit({p: a.offset for p, a in at.items() if a and a.topic_id == topic.topic_id})


def retry_on_conflict(attempt: Callable[[], None]) -> None:
    """Call `attempt` again after a write conflict or a changed log, as CONFLICT says.

    Raises:
        Transient: every attempt met a conflict.
    """
    retry(
        attempt,
        CONFLICT,
        (WriteConflict, LogChanged),
        gave_up=lambda last: Transient(
            f"gave up after {CONFLICT.attempts} attempts: {getattr(last, 'message', last)}",
            action="stop the other runs that write this stream, then run it again",
        ),
    )
