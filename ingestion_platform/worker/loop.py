"""Run tasks on threads until stopped: wait out outages, retry after write conflicts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ingestion_platform.alarms import WorkerMonitor
from ingestion_platform.errors import PlatformError, Transient, WriteConflict
from ingestion_platform.failures import counting_failures
from ingestion_platform.kafka.topic_log import LogChanged
from ingestion_platform.logs import bound
from ingestion_platform.platform import Platform
from ingestion_platform.retries import OUTAGE, YIELD, backoff
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.worker.pace import share_limits
from ingestion_platform.worker.tasks import Observer, Task, delivery_tasks, source_tasks

LOG = logging.getLogger("ingestion_platform.worker")

GRACE = 30.0
"""Seconds that a step under way may take after the worker was told to stop."""


class Outcome:
    """How the tasks of a process ended: errors by task, and tasks abandoned after GRACE."""

    def __init__(self) -> None:
        self.failed: dict[str, Exception] = {}
        self.abandoned: list[str] = []


def serve(
    settings: Settings,
    streams: Sequence[Stream],
    observers: Sequence[Observer],
    stop: threading.Event,
) -> Outcome:
    """Run the tasks of streams on threads until `stop` is set or all of them have failed."""
    platform = Platform(settings)
    limits = share_limits(settings.worker, len(streams))
    outcome = Outcome()
    deliveries = delivery_tasks(platform, streams)
    monitor = WorkerMonitor(settings)
    told = [*observers, *deliveries, monitor]
    sources = [t for stream in streams for t in source_tasks(platform, stream, limits, told, stop)]
    threads = []
    for task in [*sources, *deliveries]:
        counted = CountFailures(task, settings.home)
        thread = threading.Thread(
            target=run_task, args=(counted, stop, outcome, monitor), name=task.name, daemon=True
        )
        thread.start()
        threads.append(thread)
    with monitor:
        outcome.abandoned = _join(threads, stop)
    return outcome


def _join(threads: Sequence[threading.Thread], stop: threading.Event) -> list[str]:
    """Wait for the threads, at most GRACE after `stop`; return the names of those still alive."""
    deadline = float("inf")
    while alive := [thread for thread in threads if thread.is_alive()]:
        if stop.is_set():
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            return [thread.name for thread in alive]
        alive[0].join(0.1)
    return []


class CountFailures:
    """A task whose failed steps are counted for the metrics; a changed log is no failure."""

    def __init__(self, task: Task, home: Path) -> None:
        self.name, self.stream, self.close = task.name, task.stream, task.close
        self._task, self._home = task, home

    def step(self) -> float:
        """See Task."""
        changed: LogChanged | None = None
        with counting_failures(self._home, self.stream):
            try:
                return self._task.step()
            except LogChanged as error:
                changed = error
        raise changed


def run_task(task: Task, stop: threading.Event, outcome: Outcome, monitor: WorkerMonitor) -> None:
    """Repeat a task's step until `stop`; a permanent or unexpected error ends the task."""
    with bound(stream=task.stream):
        try:
            _repeat(task, stop, monitor)
        except Exception as error:
            outcome.failed[task.name] = error
            monitor.stopped(task.name, task.stream, error)
            if isinstance(error, PlatformError):
                LOG.error("%s has stopped: %s", task.name, error)
            else:
                LOG.exception("%s has stopped: an unexpected error; please report it", task.name)
        finally:
            task.close()


def _repeat(task: Task, stop: threading.Event, monitor: WorkerMonitor) -> None:
    outage = Outage(task.name)
    conflicts = 0
    while not stop.is_set():
        monitor.begins(task.name, task.stream)
        try:
            seconds = task.step()
        except (WriteConflict, LogChanged) as changed:
            task.close()
            conflicts += 1
            LOG.debug("%s: starts again from the data: %s", task.name, changed.message)
            seconds = backoff(YIELD, conflicts)
        except Transient as error:
            task.close()
            monitor.waits(task.name, task.stream, error)
            seconds = outage.fail(error)
        else:
            monitor.well(task.name, task.stream)
            outage.end()
            conflicts = 0
        stop.wait(seconds)


class Outage:
    """Consecutive failures of a task's server: logged at the first one and at the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._began = 0.0

    def fail(self, error: Transient) -> float:
        """Count a failure and return the seconds until the next attempt."""
        self._failures += 1
        if self._failures == 1:
            self._began = time.monotonic()
            LOG.warning("%s waits, nothing is lost: %s", self._name, error)
        return backoff(OUTAGE, self._failures)

    def end(self) -> None:
        """Log the end of an outage, if there was one."""
        if self._failures:
            LOG.warning("%s goes on after %.0f s", self._name, time.monotonic() - self._began)
        self._failures = 0
