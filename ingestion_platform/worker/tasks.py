"""What the worker does, in steps: read a topic, look into a drop zone, deliver to a target."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from ingestion_platform.kafka.topic_log import Log
from ingestion_platform.lake.names import FILES, partition_label
from ingestion_platform.logs import bound
from ingestion_platform.pipeline import TopicIngestor, run_files
from ingestion_platform.platform import Platform
from ingestion_platform.settings import WorkerSettings
from ingestion_platform.sinks.declare import Delivery, stream_deliveries
from ingestion_platform.sinks.deliver import deliver
from ingestion_platform.streams import Stream
from ingestion_platform.worker.pace import ACTIVE, IDLE, is_due, poll_interval

if TYPE_CHECKING:
    from ingestion_platform.bronze.load import Loaded
    from ingestion_platform.lake.file_source import Handled
    from ingestion_platform.lake.land import Landed

LOG = logging.getLogger("ingestion_platform.worker")

NO_TOPIC = 1.0
"""Seconds between two checks whether a missing topic exists."""
DELIVER = 30.0
"""Seconds between two checks of a table for rows that another process loaded, at most."""
_RECORD_BYTES = 512.0  # estimate until the first record was read


class Task(Protocol):
    """Work that one thread repeats."""

    name: str
    stream: str

    def step(self) -> float:
        """Do what is due and return the seconds until the next step."""

    def close(self) -> None:
        """Close clients and drop cached positions; the next step reopens them."""


class Observer(Protocol):
    """Receives events on the threads that cause them; must not block."""

    def landed(self, stream: Stream, landed: Landed) -> None:
        """Handle a new file in the lake."""

    def loaded(self, stream: Stream, loaded: Loaded) -> None:
        """Handle a file loaded into the tables."""

    def lag(self, stream: Stream, waiting: Mapping[int, int]) -> None:
        """Handle the lag by log partition; loads update the mapping."""


class IgnoreEvents:
    """An observer that does nothing, for classes that handle only some events."""

    def landed(self, stream: Stream, landed: Landed) -> None:
        """See Observer."""

    def loaded(self, stream: Stream, loaded: Loaded) -> None:
        """See Observer."""

    def lag(self, stream: Stream, waiting: Mapping[int, int]) -> None:
        """See Observer."""


def source_tasks(
    platform: Platform,
    stream: Stream,
    limits: WorkerSettings,
    observers: Sequence[Observer],
    stop: threading.Event,
) -> Iterator[Task]:
    """Yield the tasks of a stream's sources: its topic, and its drop zone if it declares one."""
    if stream.kafka:
        yield TopicTask(platform, stream, limits, observers, stop)
    if stream.files is not None or not stream.kafka:
        yield FilesTask(platform, stream, limits, observers, stop)


def delivery_tasks(platform: Platform, streams: Sequence[Stream]) -> list[DeliveryTask]:
    """Return the tasks of the deliveries whose sink the settings configure."""
    declared = [delivery for stream in streams for delivery in stream_deliveries(stream)]
    return [DeliveryTask(platform, d) for d in declared if d.configured(platform.settings)]


class _SourceTask:
    """What the tasks of a stream's sources have in common."""

    def __init__(
        self,
        platform: Platform,
        stream: Stream,
        limits: WorkerSettings,
        observers: Sequence[Observer],
        stop: threading.Event,
    ) -> None:
        self.name = self.stream = stream.name
        self._platform = platform
        self._stream = stream
        self._limits = limits
        self._observers = observers
        self._stop = stop

    def _running(self) -> bool:
        return not self._stop.is_set()

    def _landed(self, landed: Landed) -> None:
        for observer in self._observers:
            observer.landed(self._stream, landed)

    def _loaded(self, loaded: Loaded) -> None:
        for observer in self._observers:
            observer.loaded(self._stream, loaded)

    def _report_lag(self, waiting: Mapping[int, int]) -> None:
        for observer in self._observers:
            observer.lag(self._stream, waiting)


class TopicTask(_SourceTask):
    """Copy a topic into its tables."""

    def __init__(
        self,
        platform: Platform,
        stream: Stream,
        limits: WorkerSettings,
        observers: Sequence[Observer],
        stop: threading.Event,
    ) -> None:
        super().__init__(platform, stream, limits, observers, stop)
        self._clients = ExitStack()
        self._log: Log | None = None
        self._ingestor: TopicIngestor | None = None
        self._record_bytes = _RECORD_BYTES
        self._caught_up_at = self._active_at = time.monotonic()
        self._waiting: dict[int, int] = {}

    def step(self) -> float:
        """See Task."""
        now = time.monotonic()
        if self._ingestor is None:
            ingestor = self._open()
            if ingestor is None:
                return NO_TOPIC
            self._read_lag(ingestor)
            # Without lag, too: the lake may have records that the tables lack.
            self._advance(ingestor, one_commit=False)
            self._ingestor, self._caught_up_at = ingestor, now
            return 0.0
        waiting = self._read_lag(self._ingestor)
        if not waiting:
            self._caught_up_at = now
            return poll_interval(now - self._active_at)
        self._active_at = now
        waited = now - self._caught_up_at
        if not is_due(waiting, waited, self._record_bytes, self._limits):
            return min(ACTIVE, self._limits.flush_seconds - waited)
        self._caught_up_at = now  # later records wait for the next pass
        self._advance(self._ingestor, one_commit=waiting <= self._limits.batch_size)
        return 0.0

    def close(self) -> None:
        """See Task."""
        self._log = self._ingestor = None
        self._clients.close()

    def _open(self) -> TopicIngestor | None:
        """Open the topic; return None, logged once, while it does not exist."""
        first = self._log is None
        if self._log is None:
            self._log = self._clients.enter_context(self._platform.log(self._stream))
        ingestor = TopicIngestor.open(self._platform, self._stream, self._log)
        if ingestor is None and first:
            LOG.info("%s: no topic %s yet, waiting for it", self.name, self._stream.topic)
        return ingestor

    def _read_lag(self, ingestor: TopicIngestor) -> int:
        self._waiting = ingestor.waiting()
        self._report_lag(self._waiting)
        return sum(self._waiting.values())

    def _advance(self, ingestor: TopicIngestor, *, one_commit: bool) -> None:
        ingestor.advance(
            rows=self._limits.batch_size,
            size=self._limits.flush_bytes,
            on_landed=self._landed,
            on_loaded=self._loaded,
            keep_going=self._running,
            one_commit=one_commit,
        )

    def _landed(self, landed: Landed) -> None:
        if landed.segment.rows:
            self._record_bytes = landed.table["value"].nbytes / landed.segment.rows
        super()._landed(landed)

    def _loaded(self, loaded: Loaded) -> None:
        segment = loaded.segment
        left = self._waiting.get(segment.name.partition, 0) - (segment.end - segment.gap_start)
        self._waiting[segment.name.partition] = max(0, left)
        super()._loaded(loaded)


class FilesTask(_SourceTask):
    """Copy a drop zone into the tables, looked into every `drop_seconds`."""

    def __init__(
        self,
        platform: Platform,
        stream: Stream,
        limits: WorkerSettings,
        observers: Sequence[Observer],
        stop: threading.Event,
    ) -> None:
        super().__init__(platform, stream, limits, observers, stop)
        self.name = f"{stream.name} files"
        self._begun = False
        self._unsettled: dict[str, str] = {}

    def step(self) -> float:
        """See Task."""
        file_source = self._platform.file_source(self._stream)
        # The first step also finishes what another writer left half done.
        if file_source.zone.waiting() or not (self._begun or file_source.idle()):
            run_files(
                self._platform,
                self._stream,
                on_landed=self._landed,
                on_loaded=self._loaded,
                on_file=self._handled,
                keep_going=self._running,
            )
        self._begun = True
        if not self._stream.kafka:  # otherwise the task of the topic reports
            self._report_lag({})
        return max(ACTIVE, self._limits.drop_seconds)

    def close(self) -> None:
        """See Task."""
        self._begun = False

    def _handled(self, handled: Handled) -> None:
        """Log a file's outcome; once, while it stays the same."""
        unsettled = handled.outcome in ("changing", "waiting")
        if unsettled and self._unsettled.get(handled.name) == handled.outcome:
            return
        self._unsettled.pop(handled.name, None)
        if unsettled:
            self._unsettled[handled.name] = handled.outcome
        warn = handled.outcome in ("refused", "waiting", "copy")
        level = logging.WARNING if warn else logging.INFO
        detail = f": {handled.detail}" if handled.detail else ""
        with bound(partition=partition_label(FILES)):
            LOG.log(level, "%s: file %s %s%s", self.name, handled.name, handled.outcome, detail)


class DeliveryTask(IgnoreEvents):
    """Deliver a bronze table to a target; as an observer it learns of new rows."""

    def __init__(self, platform: Platform, delivery: Delivery) -> None:
        self.name = f"{delivery.source} to {delivery.name}"
        self.stream = delivery.source
        self._platform = platform
        self._delivery = delivery
        self._has_new_rows = threading.Event()
        self._delivered_at = float("-inf")

    def step(self) -> float:
        """See Task."""
        now = time.monotonic()
        # Another process may load rows without an event here.
        if self._has_new_rows.is_set() or now - self._delivered_at > DELIVER:
            self._has_new_rows.clear()
            delivered = deliver(self._platform, self._delivery)
            self._delivered_at = now
            if delivered.rejected:
                LOG.warning("%s: %s rows rejected, and kept", self.name, f"{delivered.rejected:,}")
        return IDLE

    def close(self) -> None:
        """See Task."""
        self._delivered_at = float("-inf")

    def loaded(self, stream: Stream, loaded: Loaded) -> None:
        """See Observer."""
        if stream.name == self._delivery.source:
            self._has_new_rows.set()


class ProgressLog(IgnoreEvents):
    """Log each stream's rows, rate and lag, at most every `seconds`, after something was loaded."""

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._since: dict[str, float] = {}

    def loaded(self, stream: Stream, loaded: Loaded) -> None:
        """See Observer."""
        with self._lock:
            counts = self._counts.setdefault(stream.name, Counter())
            self._since.setdefault(stream.name, time.monotonic())
            counts["bronze"] += loaded.bronze_rows
            counts["quarantine"] += loaded.quarantine_rows

    def lag(self, stream: Stream, waiting: Mapping[int, int]) -> None:
        """See Observer."""
        with self._lock:
            since = self._since.get(stream.name)
            seconds = 0.0 if since is None else time.monotonic() - since
            if since is None or seconds < self._seconds:
                return
            counts = self._counts.pop(stream.name)
            del self._since[stream.name]
        LOG.info(
            "%s: %s rows and %s in quarantine in %.0f s (%s records/s), %s waiting",
            stream.name,
            f"{counts['bronze']:,}",
            f"{counts['quarantine']:,}",
            seconds,
            f"{counts.total() / seconds:,.0f}",
            f"{sum(waiting.values()):,}",
        )
