"""The worker: streams landed and loaded in a loop, seconds behind their logs, until it is told to
stop. What an advance does is `pipeline`'s; when, and what happens in between, is decided here.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from ingestion_platform.alarms import WorkerMonitor
from ingestion_platform.errors import PlatformError, Transient, WriteConflict
from ingestion_platform.failures import counting_failures
from ingestion_platform.kafka.topic_log import Log, LogChanged
from ingestion_platform.lake.names import FILES, partition_label
from ingestion_platform.logs import bound
from ingestion_platform.pipeline import TopicIngestor, run_files
from ingestion_platform.platform import Platform
from ingestion_platform.retries import OUTAGE, YIELD, backoff
from ingestion_platform.settings import Settings, WorkerSettings
from ingestion_platform.sinks.declare import Delivery, stream_deliveries
from ingestion_platform.sinks.deliver import deliver
from ingestion_platform.streams import Stream

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from ingestion_platform.bronze.load import Loaded
    from ingestion_platform.lake.file_source import Handled
    from ingestion_platform.lake.land import Landed

LOG = logging.getLogger("ingestion_platform.worker")

GRACE = 30.0
"""Seconds that a pass under way has to end, once the worker was told to stop."""
LOOK, IDLE = 0.1, 0.5
"""Seconds between two looks at a log where records come in, and at a quiet one."""
NO_TOPIC = 1.0
"""Seconds between two looks for a topic that does not exist yet."""
DELIVER = 30.0
"""Seconds between two looks of a delivery at a table that this process does not load, at most."""
SMALLEST = 1_000
"""Records of a lake file that a stream may have, however many share a process."""
_RECORD_BYTES = 512.0  # before the first record was seen
# A child's exit code when streams of it failed and were told of; any other is a death.
_STREAMS_FAILED = 3


class Observer(Protocol):
    """Is told what happens, on the threads that do it: it must not keep them."""

    def landed(self, stream: Stream, landed: Landed) -> None:
        """A file is in the lake."""

    def loaded(self, stream: Stream, loaded: Loaded) -> None:
        """A file is in the tables."""

    def lag(self, stream: Stream, waiting: Mapping[int, int]) -> None:
        """So many offsets of each log partition wait; the mapping follows what is loaded."""


Observe = Callable[[Settings], AbstractContextManager[Sequence[Observer]]]
"""What a process sets up before it works, and ends after; it must be picklable."""


def due(waiting: int, seconds: float, record_bytes: float, limits: WorkerSettings) -> bool:
    """Whether waiting records, the oldest of them for at most some seconds, are to be taken now."""
    return waiting > 0 and (
        waiting >= limits.batch_size
        or seconds >= limits.flush_seconds
        or waiting * record_bytes >= limits.flush_bytes
    )


def idle(seconds: float) -> float:
    """Seconds until the next look at a log where nothing has come in for so long."""
    return min(IDLE, max(LOOK, seconds / 10))


def shared(limits: WorkerSettings, count: int) -> WorkerSettings:
    """The sizes for each of so many streams of a process, so that its memory stays bounded."""
    return replace(
        limits,
        batch_size=max(min(SMALLEST, limits.batch_size), limits.batch_size // count),
        flush_bytes=max(1, limits.flush_bytes // count),
    )


def spread(streams: Sequence[Stream], processes: int) -> list[list[Stream]]:
    """The streams of each process: as many processes as there is work for, evenly laden."""
    count = max(1, min(processes, len(streams)))
    return [list(streams[number::count]) for number in range(count)]


def run(
    settings: Settings, streams: Sequence[Stream], *, processes: int = 1, observe: Observe
) -> bool:
    """Serve streams until SIGTERM or SIGINT; whether none of them failed.

    With several processes, the streams are spread over as many children. A second signal ends at
    once, by the signal's exit code; a pass that does not end within GRACE is abandoned, which
    loses nothing.
    """
    groups = spread(streams, processes)
    with _signals(signal.SIGTERM, signal.SIGINT) as stop:
        if len(groups) > 1:
            return _supervise(settings, groups, observe, stop)
        return _serve_here(settings, streams, observe, stop)


def serve(
    settings: Settings,
    streams: Sequence[Stream],
    observers: Sequence[Observer],
    stop: threading.Event,
) -> Outcome:
    """Serve streams on threads of this process until `stop` is set, or all of them have failed."""
    platform = Platform(settings)
    limits = shared(settings.worker, len(streams))
    outcome = Outcome()
    threads = []
    deliveries = _deliveries(platform, streams)
    watch = WorkerMonitor(settings)
    told = [*observers, *deliveries, watch]
    sources = [each for stream in streams for each in _lines(platform, stream, limits, told, stop)]
    for each in [*sources, *deliveries]:
        line = Noted(each, settings.home)
        thread = threading.Thread(
            target=_keep, args=(line, stop, outcome, watch), name=line.name, daemon=True
        )
        thread.start()
        threads.append(thread)
    with watch:
        outcome.abandoned = _wait(threads, stop)
    return outcome


def _wait(threads: Sequence[threading.Thread], stop: threading.Event) -> list[str]:
    """Until all have ended, or GRACE is over; gives the names of those that have not."""
    deadline = float("inf")
    while alive := [thread for thread in threads if thread.is_alive()]:
        if stop.is_set():
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            return [thread.name for thread in alive]
        alive[0].join(0.1)
    return []


class Outcome:
    """How the lines of a process ended: errors by line, and passes that did not end in time."""

    def __init__(self) -> None:
        self.failed: dict[str, Exception] = {}
        self.abandoned: list[str] = []


class Line(Protocol):
    """One source of a stream, served by one thread."""

    name: str
    stream: str

    def step(self) -> float:
        """Look, and take what is due; gives the seconds until the next step."""

    def close(self) -> None:
        """Let go of what an error may have spoilt; the next step opens it again."""


class Noted:
    """A line whose failures are counted; to be overtaken is none."""

    def __init__(self, line: Line, home: Path) -> None:
        self.name, self.stream, self.close = line.name, line.stream, line.close
        self._line, self._home = line, home

    def step(self) -> float:
        """See Line."""
        moved: LogChanged | None = None
        with counting_failures(self._home, self.stream):
            try:
                return self._line.step()
            except LogChanged as error:
                moved = error
        raise moved


def _lines(
    platform: Platform,
    stream: Stream,
    limits: WorkerSettings,
    observers: Sequence[Observer],
    stop: threading.Event,
) -> Iterator[Line]:
    """What is served of a stream: its topic, and its drop zone if one is declared."""
    if stream.kafka:
        yield TopicLine(platform, stream, limits, observers, stop)
    if stream.files is not None or not stream.kafka:
        yield FilesLine(platform, stream, limits, observers, stop)


def _deliveries(platform: Platform, streams: Sequence[Stream]) -> list[DeliveryLine]:
    """The deliveries of some streams, where the settings tell where the sink is."""
    found = [each for stream in streams for each in stream_deliveries(stream)]
    return [DeliveryLine(platform, each) for each in found if each.configured(platform.settings)]


class TopicLine:
    """A topic on its way into its tables."""

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
        self._opened = ExitStack()
        self._log: Log | None = None
        self._flow: TopicIngestor | None = None
        self._record_bytes = _RECORD_BYTES
        self._emptied = self._moved = time.monotonic()
        self._waiting: dict[int, int] = {}

    def step(self) -> float:
        """See Line."""
        began = time.monotonic()
        if self._flow is None:
            flow = self._open()
            if flow is None:
                return NO_TOPIC
            self._look(flow)
            # Also when nothing seems to wait: the lake may have what the tables lack.
            self._advance(flow, one_commit=False)
            self._flow, self._emptied = flow, began
            return 0.0
        waiting = self._look(self._flow)
        if not waiting:
            self._emptied = began
            return idle(began - self._moved)
        self._moved = began
        waited = began - self._emptied
        if not due(waiting, waited, self._record_bytes, self._limits):
            return min(LOOK, self._limits.flush_seconds - waited)
        self._emptied = began  # what comes in meanwhile is the next pass's
        self._advance(self._flow, one_commit=waiting <= self._limits.batch_size)
        return 0.0

    def close(self) -> None:
        """See Line."""
        self._log = self._flow = None
        self._opened.close()

    def _open(self) -> TopicIngestor | None:
        """Open the topic; None while it does not exist yet, which is logged once."""
        first = self._log is None
        if self._log is None:
            self._log = self._opened.enter_context(self._platform.log(self._stream))
        flow = TopicIngestor.open(self._platform, self._stream, self._log)
        if flow is None and first:
            LOG.info("%s: no topic %s yet, waiting for it", self.name, self._stream.topic)
        return flow

    def _look(self, flow: TopicIngestor) -> int:
        """See what waits, and tell of it."""
        self._waiting = flow.waiting()
        for observer in self._observers:
            observer.lag(self._stream, self._waiting)
        return sum(self._waiting.values())

    def _advance(self, flow: TopicIngestor, *, one_commit: bool) -> None:
        flow.advance(
            rows=self._limits.batch_size,
            size=self._limits.flush_bytes,
            on_landed=self._landed,
            on_loaded=self._loaded,
            keep_going=lambda: not self._stop.is_set(),
            one_commit=one_commit,
        )

    def _landed(self, landed: Landed) -> None:
        if landed.segment.rows:
            self._record_bytes = landed.table["value"].nbytes / landed.segment.rows
        for observer in self._observers:
            observer.landed(self._stream, landed)

    def _loaded(self, loaded: Loaded) -> None:
        segment = loaded.segment
        left = self._waiting.get(segment.name.partition, 0) - (segment.end - segment.gap_start)
        self._waiting[segment.name.partition] = max(0, left)
        for observer in self._observers:
            observer.loaded(self._stream, loaded)


class FilesLine:
    """A drop zone on its way into the tables; it looks now and then."""

    def __init__(
        self,
        platform: Platform,
        stream: Stream,
        limits: WorkerSettings,
        observers: Sequence[Observer],
        stop: threading.Event,
    ) -> None:
        self.name = f"{stream.name} files"
        self.stream = stream.name
        self._platform = platform
        self._stream = stream
        self._limits = limits
        self._observers = observers
        self._stop = stop
        self._begun = False
        self._unsettled: dict[str, str] = {}

    def step(self) -> float:
        """See Line."""
        file_source = self._platform.file_source(self._stream)
        # At first also what another writer may have left half done.
        if file_source.zone.waiting() or not (self._begun or file_source.idle()):
            run_files(
                self._platform,
                self._stream,
                on_landed=self._landed,
                on_loaded=self._loaded,
                on_file=self._handled,
                keep_going=lambda: not self._stop.is_set(),
            )
        self._begun = True
        if not self._stream.kafka:  # else its topic's line tells
            for observer in self._observers:
                observer.lag(self._stream, {})
        return max(LOOK, self._limits.drop_seconds)

    def close(self) -> None:
        """See Line."""
        self._begun = False

    def _landed(self, landed: Landed) -> None:
        for observer in self._observers:
            observer.landed(self._stream, landed)

    def _loaded(self, loaded: Loaded) -> None:
        for observer in self._observers:
            observer.loaded(self._stream, loaded)

    def _handled(self, handled: Handled) -> None:
        again = handled.outcome in ("changing", "waiting")
        if again and self._unsettled.get(handled.name) == handled.outcome:
            return  # said at an earlier look
        self._unsettled.pop(handled.name, None)
        if again:
            self._unsettled[handled.name] = handled.outcome
        loud = handled.outcome in ("refused", "waiting", "copy")
        level = logging.WARNING if loud else logging.INFO
        said = f": {handled.detail}" if handled.detail else ""
        with bound(partition=partition_label(FILES)):
            LOG.log(level, "%s: file %s %s%s", self.name, handled.name, handled.outcome, said)


class DeliveryLine:
    """A target that follows its bronze table; also an observer, which tells it when to look."""

    def __init__(self, platform: Platform, delivery: Delivery) -> None:
        self.name = f"{delivery.source} to {delivery.name}"
        self.stream = delivery.source
        self._platform = platform
        self._delivery = delivery
        self._fresh = threading.Event()
        self._looked = float("-inf")

    def step(self) -> float:
        """See Line."""
        now = time.monotonic()
        # What others load is seen now and then.
        if self._fresh.is_set() or now - self._looked > DELIVER:
            self._fresh.clear()
            done = deliver(self._platform, self._delivery)
            self._looked = now
            if done.rejected:
                LOG.warning("%s: %s rows rejected, and kept", self.name, f"{done.rejected:,}")
        return IDLE

    def close(self) -> None:
        """See Line."""
        self._looked = float("-inf")

    def landed(self, stream: Stream, landed: Landed) -> None:
        """See Observer."""

    def loaded(self, stream: Stream, loaded: Loaded) -> None:
        """See Observer."""
        if stream.name == self._delivery.source:
            self._fresh.set()

    def lag(self, stream: Stream, waiting: Mapping[int, int]) -> None:
        """See Observer."""


def _keep(line: Line, stop: threading.Event, outcome: Outcome, watch: WorkerMonitor) -> None:
    """Step until told to stop, through outages and other writers; a lasting error ends the line."""
    with bound(stream=line.stream):
        try:
            _step_on(line, stop, watch)
        except PlatformError as error:
            outcome.failed[line.name] = error
            watch.stopped(line.name, line.stream, error)
            LOG.error("%s has stopped: %s", line.name, error)
        except Exception as error:
            outcome.failed[line.name] = error
            watch.stopped(line.name, line.stream, error)
            LOG.exception("%s has stopped: an unexpected error; please report it", line.name)
        finally:
            line.close()


def _step_on(line: Line, stop: threading.Event, watch: WorkerMonitor) -> None:
    outage = Outage(line.name)
    lost = 0
    while not stop.is_set():
        watch.begins(line.name, line.stream)
        try:
            seconds = line.step()
        except (WriteConflict, LogChanged) as moved:
            line.close()
            lost += 1
            LOG.debug("%s: starts again from the data: %s", line.name, moved.message)
            seconds = backoff(YIELD, lost)
        except Transient as error:
            line.close()
            watch.waits(line.name, line.stream, error)
            seconds = outage.goes_on(error)
        else:
            watch.well(line.name, line.stream)
            outage.over()
            lost = 0
        stop.wait(seconds)


class Outage:
    """Something that a line needs is away: says so once, and once when it is back."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._began = 0.0

    def goes_on(self, error: Transient) -> float:
        """Note a failure; gives the seconds until the next attempt."""
        self._failures += 1
        if self._failures == 1:
            self._began = time.monotonic()
            LOG.warning("%s waits, nothing is lost: %s", self._name, error)
        return backoff(OUTAGE, self._failures)

    def over(self) -> None:
        """Note that all is well."""
        if self._failures:
            LOG.warning("%s goes on after %.0f s", self._name, time.monotonic() - self._began)
        self._failures = 0


class Progress:
    """Logs how each stream fares, at most every `seconds` and only when something was loaded."""

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._since: dict[str, float] = {}

    def landed(self, stream: Stream, landed: Landed) -> None:
        """See Observer."""

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
            began = self._since.get(stream.name)
            seconds = 0.0 if began is None else time.monotonic() - began
            if began is None or seconds < self._seconds:
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


@contextmanager
def _signals(*numbers: signal.Signals) -> Iterator[threading.Event]:
    """An event that the first signal sets; the second one ends the process and its children."""
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve_here(
    settings: Settings, streams: Sequence[Stream], observe: Observe, stop: threading.Event
) -> bool:
    with observe(settings) as observers:
        LOG.info("serving %s", ", ".join(stream.name for stream in streams))
        outcome = serve(settings, streams, observers, stop)
    if outcome.abandoned:
        LOG.warning(
            "abandoned after %.0f s, to be done by the next worker: %s",
            GRACE,
            ", ".join(outcome.abandoned),
        )
        logging.shutdown()
        os._exit(1 if outcome.failed else 0)  # their threads would keep the process
    return not outcome.failed


def _supervise(
    settings: Settings,
    groups: Sequence[Sequence[Stream]],
    observe: Observe,
    stop: threading.Event,
) -> bool:
    """Have children serve the groups, and end them together; whether all went well."""
    context = multiprocessing.get_context("spawn")
    children = []
    for group in groups:
        # Without what they keep, such as their parsed contracts.
        plain = [replace(stream) for stream in group]
        child = context.Process(target=_child, args=(settings, plain, observe))
        child.name = ", ".join(stream.name for stream in group)
        child.start()
        children.append(child)
    well, deadline = True, float("inf")
    while children:
        wait([child.sentinel for child in children], timeout=0.2)
        ended = [child for child in children if child.exitcode is not None]
        children = [child for child in children if child not in ended]
        for child in ended:
            well &= _ended_well(child, stop)
        if stop.is_set() and deadline == float("inf"):
            deadline = time.monotonic() + GRACE + 10.0
            for child in children:
                child.terminate()
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
    return well


def _ended_well(child: SpawnProcess, stop: threading.Event) -> bool:
    """Whether a child ended as it should; one that died ends the others, too."""
    if child.exitcode == 0 or (stop.is_set() and child.exitcode == -signal.SIGTERM):
        return True  # the signal may come before a child has begun
    if child.exitcode != _STREAMS_FAILED:  # of which it has told, and the others go on
        LOG.error(
            "the process for %s died (exit code %s), so all end; start the worker again, it goes "
            "on from the data",
            child.name,
            child.exitcode,
        )
        stop.set()
    return False


def _child(settings: Settings, streams: Sequence[Stream], observe: Observe) -> None:
    # A Ctrl-C reaches all processes of a terminal; the parent tells the children once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _signals(signal.SIGTERM) as stop:
        parent = multiprocessing.parent_process()
        if parent is not None:
            threading.Thread(target=_outlive, args=(parent.sentinel, stop), daemon=True).start()
        if not _serve_here(settings, streams, observe, stop):
            raise SystemExit(_STREAMS_FAILED)


def _outlive(sentinel: int, stop: threading.Event) -> None:
    """Stop when the parent is gone."""
    wait([sentinel])
    stop.set()
