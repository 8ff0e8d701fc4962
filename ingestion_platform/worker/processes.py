"""Start and stop the worker: signals, and several processes under one parent."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from multiprocessing.connection import wait
from types import FrameType
from typing import TYPE_CHECKING

from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.worker.loop import GRACE, serve
from ingestion_platform.worker.pace import spread_streams
from ingestion_platform.worker.tasks import Observer

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

LOG = logging.getLogger("ingestion_platform.worker")

# A child that ends with this code has logged its failed streams; any other code is a crash.
_STREAMS_FAILED = 3

Observe = Callable[[Settings], AbstractContextManager[Sequence[Observer]]]
"""Sets up the observers of a process, and ends them; must be picklable."""


def run(
    settings: Settings, streams: Sequence[Stream], *, processes: int = 1, observe: Observe
) -> bool:
    """Serve streams until SIGTERM or SIGINT, and return whether none of them failed.

    Several processes are children that share the streams. A second signal ends all at once, with
    the signal's exit code. A step that does not end within GRACE is abandoned, which loses nothing.
    """
    groups = spread_streams(streams, processes)
    with _signals(signal.SIGTERM, signal.SIGINT) as stop:
        if len(groups) > 1:
            return _supervise(settings, groups, observe, stop)
        return _serve_here(settings, streams, observe, stop)


@contextmanager
def _signals(*numbers: signal.Signals) -> Iterator[threading.Event]:
    """Give an event that the first signal sets; the second ends the process and its children."""
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
            "abandoned after %.0f s, the next worker repeats it: %s",
            GRACE,
            ", ".join(outcome.abandoned),
        )
        logging.shutdown()
        os._exit(1 if outcome.failed else 0)  # running threads would keep the process alive
    return not outcome.failed


def _supervise(
    settings: Settings,
    groups: Sequence[Sequence[Stream]],
    observe: Observe,
    stop: threading.Event,
) -> bool:
    """Serve each group in a child, end all together, and return whether none failed."""
    context = multiprocessing.get_context("spawn")
    children = []
    for group in groups:
        # A copy has no cached contract, which cannot be pickled.
        copies = [replace(stream) for stream in group]
        child = context.Process(target=_child, args=(settings, copies, observe))
        child.name = ", ".join(stream.name for stream in group)
        child.start()
        children.append(child)
    succeeded, deadline = True, float("inf")
    while children:
        wait([child.sentinel for child in children], timeout=0.2)
        ended = [child for child in children if child.exitcode is not None]
        children = [child for child in children if child not in ended]
        for child in ended:
            succeeded &= _has_succeeded(child, stop)
        if stop.is_set() and deadline == float("inf"):
            deadline = time.monotonic() + GRACE + 10.0
            for child in children:
                child.terminate()
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
    return succeeded


def _has_succeeded(child: SpawnProcess, stop: threading.Event) -> bool:
    """Return whether an ended child succeeded; a crashed one stops the others."""
    if child.exitcode == 0 or (stop.is_set() and child.exitcode == -signal.SIGTERM):
        return True  # SIGTERM may arrive before a child handles it
    if child.exitcode != _STREAMS_FAILED:
        LOG.error(
            "the process for %s died (exit code %s), so the worker stops; start it again, it "
            "continues from the data",
            child.name,
            child.exitcode,
        )
        stop.set()
    return False


def _child(settings: Settings, streams: Sequence[Stream], observe: Observe) -> None:
    # Ctrl-C reaches all processes of a terminal; only the parent stops the children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _signals(signal.SIGTERM) as stop:
        parent = multiprocessing.parent_process()
        if parent is not None:
            threading.Thread(target=_stop_with, args=(parent.sentinel, stop), daemon=True).start()
        if not _serve_here(settings, streams, observe, stop):
            raise SystemExit(_STREAMS_FAILED)


def _stop_with(sentinel: int, stop: threading.Event) -> None:
    """Set `stop` when the parent process has ended."""
    wait([sentinel])
    stop.set()
