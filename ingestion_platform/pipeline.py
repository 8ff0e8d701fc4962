"""Land and load a stream, as the command line, the worker and the assets do it: one function each.

Conflicts with other writers are met by starting again from the positions, which the data keep.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from ingestion_platform.bronze.load import (
    WORKERS,
    Loaded,
    Loader,
    LoadItem,
    SegmentValidator,
    count_reasons,
)
from ingestion_platform.errors import Permanent, TopicMissing, Transient, WriteConflict
from ingestion_platform.failures import counting_failures
from ingestion_platform.kafka.topic_log import Log, LogChanged, Topic
from ingestion_platform.lake.file_source import FileLanding, FilesRefused, Handled
from ingestion_platform.lake.land import BYTES, ROWS, Landed, backlogs, heal_sidecar, land
from ingestion_platform.lake.land_files import landed_position
from ingestion_platform.lake.names import FILES
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.lake.store import Store, open_drop, open_store
from ingestion_platform.positions import waiting
from ingestion_platform.retries import CONFLICT, retry
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import open_catalog

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

P = ParamSpec("P")
R = TypeVar("R")

TOGETHER = 8
"""Files of an advance that are validated at once, when all of them are in memory."""
IDENTITY_SECONDS = 2.0
"""How old what is known of a topic's identity may be while its watermarks are compared."""


@dataclass
class Platform:
    """The stores that settings name, opened when first used."""

    settings: Settings

    @cached_property
    def store(self) -> Store:
        """The lake's object store."""
        return open_store(self.settings)

    @cached_property
    def drop(self) -> Store:
        """The store of the drop zones."""
        return open_drop(self.settings)

    @cached_property
    def catalog(self) -> Catalog:
        """The Iceberg catalog."""
        return open_catalog(self.settings)

    @contextmanager
    def log(self, stream: Stream) -> Iterator[Log]:
        """The stream's topic, opened for reading."""
        with Log(self.settings, stream.topic, stream.group_id) as log:
            yield log

    def file_source(self, stream: Stream) -> FileLanding:
        """The stream's file source."""
        spool = self.settings.home / "spool"
        return FileLanding(self.store, self.drop, stream, spool, self.settings.files)


@dataclass
class Outcome:
    """What a call landed and loaded."""

    landed: list[Landed] = field(default_factory=list)
    loaded: list[Loaded] = field(default_factory=list)


def topic_of(log: Log, store: Store) -> Topic | None:
    """Return the topic now; None while it does not exist yet.

    Raises:
        TopicMissing: records of it were landed, so it is gone.
        SourceUnavailable, StoreUnavailable: one of them does not answer.
    """
    try:
        return log.topic()
    except TopicMissing as error:
        segment_log = SegmentLog(store, log.name)
        if any(
            set(segment_log.names(ingest_date)) - {FILES}
            for ingest_date in segment_log.ingest_dates()
        ):
            raise TopicMissing(
                f"topic {log.name} is gone: records of it were landed, and the brokers do not "
                "know it any more",
                action="wait if the brokers have just started; else create it again, or remove "
                "the stream's declaration",
            ) from error
        return None


def _nothing(_: object) -> None:
    """Nobody listens."""


def _counts_failures(
    call: Callable[Concatenate[Platform, Stream, P], R],
) -> Callable[Concatenate[Platform, Stream, P], R]:
    """Have an error that leaves the call counted, for whoever watches."""

    @wraps(call)
    def noted(platform: Platform, stream: Stream, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with counting_failures(platform.settings.home, stream.name):
            return call(platform, stream, *args, **kwargs)

    return noted


@_counts_failures
def land_stream(
    platform: Platform,
    stream: Stream,
    *,
    partitions: Iterable[int] | None = None,
    last: date | None = None,
    on_landed: Callable[[Landed], None] = _nothing,
    on_file: Callable[[Handled], None] = _nothing,
) -> int:
    """Copy what the log has and the lake has not, then the files that wait in the drop zone;
    gives the number of records.

    `on_file` is told what became of each file. Files are of today: with an earlier `last` they
    wait.

    Raises:
        Transient: the log or the store does not answer, or other writers keep being quicker.
        Permanent: as `land`.
        FilesRefused: some files could not be parsed; all else is landed.
    """
    chosen = None if partitions is None else list(partitions)
    rows = 0
    refused: list[Handled] = []

    def attempt() -> None:
        nonlocal rows
        for landed in _landing(platform, stream, chosen, last, _noting(on_file, refused)):
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
    note: Callable[[Handled], None],
) -> Iterator[Landed]:
    """What is landed now: of the topic, then of the drop zone."""
    topic = None if chosen is None else [p for p in chosen if p != FILES]
    if stream.kafka and topic != []:
        with platform.log(stream) as log:
            if topic_of(log, platform.store) is not None:
                first = stream.first_date
                yield from land(log, platform.store, first=first, partitions=topic, last=last)
    if (chosen is None or FILES in chosen) and (last is None or last >= datetime.now(UTC).date()):
        settle = platform.settings.drop_settle_seconds
        yield from platform.file_source(stream).land_waiting(settle, note)


def _noting(
    on_file: Callable[[Handled], None], refused: list[Handled]
) -> Callable[[Handled], None]:
    """Tell of each file, and remember those that were refused."""

    def note(handled: Handled) -> None:
        on_file(handled)
        if handled.outcome == "refused":
            refused.append(handled)

    return note


@_counts_failures
def load_stream(
    platform: Platform,
    stream: Stream,
    *,
    partitions: Iterable[int],
    ingest_dates: Iterable[date] = (),
    last: date | None = None,
    on_loaded: Callable[[Loaded], None] = _nothing,
) -> None:
    """Make bronze and quarantine equal to the lake under the present contract.

    New files up to ingest date `last` are appended for `partitions`; of those already loaded, the
    slices of `ingest dates` are replaced where another contract validated them.

    Raises:
        Transient, Permanent: as `Loader.load`.
    """
    chosen, days = list(partitions), list(ingest_dates)

    def attempt() -> None:
        loader = Loader(platform.catalog, platform.store, stream)
        segment_log = SegmentLog(platform.store, stream.topic)
        slices = [(day, p) for p in chosen for day in days]
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
    slices: Iterable[tuple[date, int]],
    *,
    on_loaded: Callable[[Loaded], None] = _nothing,
) -> None:
    """Replace some slices (ingest date and log partition) where another contract validated them.

    Raises:
        Transient, Permanent: as `Loader.load`.
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
    on_landed: Callable[[Landed], None] = _nothing,
    on_loaded: Callable[[Loaded], None] = _nothing,
    on_file: Callable[[Handled], None] = _nothing,
) -> None:
    """Land and load once: up to the end of the log as it is now, then the files that wait.

    What is landed goes on to be loaded without being read back.

    Raises:
        Transient, Permanent: as `land` and `Loader.load`.
        FilesRefused: some files could not be parsed; all else is landed and loaded.
    """
    refused: list[Handled] = []

    def of_topic() -> None:
        with platform.log(stream) as log:
            flow = TopicIngestor.open(platform, stream, log)
            if flow is not None:
                flow.advance(on_landed=on_landed, on_loaded=on_loaded)

    def of_files() -> None:
        if platform.file_source(stream).idle():
            return  # the tables need not be opened
        note = _noting(on_file, refused)
        run_files(platform, stream, on_landed=on_landed, on_loaded=on_loaded, on_file=note)

    if stream.kafka:
        retry_on_conflict(of_topic)
    retry_on_conflict(of_files)
    if refused:
        raise FilesRefused(refused)


class TopicIngestor:
    """A stream's topic on its way into its tables, opened for any number of advances.

    It remembers the ends of the segment log and of the tables, so that nothing is read again
    between them. Once an advance has failed, for whatever reason, it must be opened again. Not
    thread-safe."""

    @classmethod
    def open(cls, platform: Platform, stream: Stream, log: Log) -> TopicIngestor | None:
        """Open the topic; None while it does not exist yet. Raises as `topic_of`."""
        topic = topic_of(log, platform.store)
        return None if topic is None else cls(platform, stream, log, topic)

    def __init__(self, platform: Platform, stream: Stream, log: Log, topic: Topic) -> None:
        self._store = platform.store
        self._log = log
        self._first = stream.first_date
        self._loader = Loader(platform.catalog, platform.store, stream)
        self._topic = topic
        self._asked = time.monotonic()
        self._tails: dict[int, Segment] | None = None

    def waiting(self) -> dict[int, int]:
        """How many offsets of each log partition the lake lacks, by what is remembered of it;
        before the first advance, how many the tables lack.

        Raises:
            SourceUnavailable: the broker does not answer.
            Permanent: the log ends before what was landed from it.
        """
        if time.monotonic() - self._asked > IDENTITY_SECONDS:
            self._identify()
        try:
            return self._beyond()
        except Permanent:  # perhaps another topic has the name by now
            self._identify()
            return self._beyond()

    def advance(
        self,
        *,
        rows: int = ROWS,
        size: int = BYTES,
        on_landed: Callable[[Landed], None] = _nothing,
        on_loaded: Callable[[Loaded], None] = _nothing,
        go_on: Callable[[], bool] = lambda: True,
        together: bool = False,
    ) -> None:
        """Land and load up to the end of the log as it is now, in files of about `rows` records
        or `size` bytes, then tell the group's offsets.

        It ends sooner once `go_on` gives False: what is landed by then is loaded now or later.
        `together` says that all of it fits into memory: then it becomes one commit, as a rule.

        Raises:
            Transient, Permanent: as `land` and `Loader.load`.
        """
        items: Iterable[LoadItem] = self._fresh(rows, size, on_landed, go_on)
        workers = WORKERS
        if together:
            items = list(items)
            workers = min(max(WORKERS, len(items)), TOGETHER)
        for loaded in self._loader.load(items, workers=workers):
            on_loaded(loaded)
        commit_group(self._log, self._loader)

    def _fresh(
        self, rows: int, size: int, on_landed: Callable[[Landed], None], go_on: Callable[[], bool]
    ) -> Iterator[LoadItem]:
        """At first what the lake has and the tables lack, then what is landed now."""
        self._identify()
        if self._tails is None:
            for item in self._loader.behind(
                SegmentLog(self._store, self._topic.name), self._partitions
            ):
                yield item
                if not go_on():
                    return
            self._tails = SegmentLog(self._store, self._topic.name).tails(self._partitions)
            for tail in self._tails.values():
                heal_sidecar(self._store, tail)
        first, tails = self._first, self._tails
        for landed in land(self._log, self._store, first=first, rows=rows, size=size, tails=tails):
            tails[landed.segment.name.partition] = landed.segment
            on_landed(landed)
            yield LoadItem(landed.segment, landed.table)
            if not go_on():
                return

    @property
    def _partitions(self) -> tuple[int, ...]:
        return self._topic.partitions

    def _identify(self) -> None:
        self._topic, self._asked = self._log.topic(), time.monotonic()

    def _beyond(self) -> dict[int, int]:
        marks = self._log.watermarks(self._partitions)
        if self._tails is None:
            topic_id = self._topic.topic_id
            at = {p: self._loader.position(p) for p in marks}
            return {p: len(waiting(m.start, m.end, topic_id, at[p])) for p, m in marks.items()}
        found = backlogs(self._topic, marks, self._tails)
        return {p: max(0, backlog.end - backlog.start) for p, backlog in found.items()}


def run_files(
    platform: Platform,
    stream: Stream,
    *,
    on_landed: Callable[[Landed], None] = _nothing,
    on_loaded: Callable[[Loaded], None] = _nothing,
    on_file: Callable[[Handled], None] = _nothing,
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Land and load the files that wait in the drop zone, once; `on_file` is told of each.

    It ends sooner once `go_on` gives False; the next run ends a file that was begun.

    Raises:
        Transient, Permanent: as `Door.land_waiting` and `Loader.load`.
    """
    landing = _landing(platform, stream, [FILES], None, on_file)
    _load_files(platform, stream, landing, on_landed, on_loaded, go_on)


@_counts_failures
def load_files(
    platform: Platform,
    stream: Stream,
    files: Iterable[Path],
    *,
    again: bool = False,
    on_read: Callable[[int], None] = _nothing,
    on_landed: Callable[[Landed], None] = _nothing,
    on_loaded: Callable[[Loaded], None] = _nothing,
    on_file: Callable[[Handled], None] = _nothing,
) -> None:
    """Land and load files by hand, one after the other; they stay where they are.

    `on_read` is told how many records of the file at hand were read. With `again`, contents that
    were landed under other names are landed once more under these: see `Door.land_file`.

    Raises:
        UnreadableFile: one cannot be parsed; nothing of it is landed, and those ahead of it are.
        Transient, Permanent: as `run_stream`.
    """
    for file in files:

        def attempt(file: Path = file) -> None:
            landing = platform.file_source(stream).land_file(file, on_file, on_read, again=again)
            _load_files(platform, stream, landing, on_landed, on_loaded)

        retry_on_conflict(attempt)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a file would become: its records, how many bronze would take, and why not the others."""

    records: int
    good: int
    rejected: int
    reasons: Counter[str]


def try_file(
    platform: Platform,
    stream: Stream,
    file: Path,
    *,
    on_read: Callable[[int], None] = _nothing,
) -> Trial:
    """Read and validate a file without landing anything.

    Raises:
        UnreadableFile: there is no such file, or it cannot be parsed.
    """
    validator = SegmentValidator(stream.contract)
    good = refused = 0
    reasons: Counter[str] = Counter()
    with platform.file_source(stream).reading(file) as content:
        for batch in content.records(stream.contract):
            parsed = validator.parse(batch.values, content.format.encoding, batch.problems)
            good += len(parsed.valid)
            refused += len(parsed.rejected)
            reasons.update(count_reasons(parsed.reasons))
            on_read(good + refused)
    return Trial(good + refused, good, refused, reasons)


def _load_files(
    platform: Platform,
    stream: Stream,
    landing: Iterator[Landed],
    on_landed: Callable[[Landed], None],
    on_loaded: Callable[[Loaded], None],
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Load what bronze lacks of the files, then what is landed now."""
    loader = Loader(platform.catalog, platform.store, stream)

    def items() -> Iterator[LoadItem]:
        if _files_behind(platform, stream, loader):
            yield from loader.behind(SegmentLog(platform.store, stream.topic), [FILES])
        for landed in landing:
            on_landed(landed)
            yield LoadItem(landed.segment, landed.table)
            if not go_on():
                return

    # One worker: the reader beside it keeps another core busy, and memory stays small.
    for loaded in loader.load(items(), workers=1, ahead=0):
        on_loaded(loaded)


def _files_behind(platform: Platform, stream: Stream, loader: Loader) -> bool:
    """Whether the tables lack records of files; a few small reads, however old the last file is."""
    landed = landed_position(platform.store, stream.topic)
    return landed is not None and landed != loader.position(FILES)


def commit_group(log: Log, loader: Loader) -> None:
    """Commit the group's offsets after the data, so that ordinary lag tools see the truth."""
    topic = log.topic()
    at = {p: loader.position(p) for p in topic.partitions}
    log.commit({p: a.offset for p, a in at.items() if a and a.topic_id == topic.topic_id})


def retry_on_conflict(attempt: Callable[[], None]) -> None:
    """Start again when another writer, or the log itself, moved underneath.

    Whoever loses waits, longer each time, so that the one ahead stays ahead.
    """
    retry(
        attempt,
        CONFLICT,
        (WriteConflict, LogChanged),
        gave_up=lambda last: Transient(
            f"gave up after {CONFLICT.attempts} attempts: {getattr(last, 'message', last)}",
            action="see which other runs are at work on this stream",
        ),
    )
