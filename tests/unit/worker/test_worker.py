"""When the worker reads, how streams share its memory, and what it logs of outages."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.alarms import WorkerMonitor
from ingestion_platform.bronze.load import Loaded
from ingestion_platform.errors import Permanent, StoreUnavailable, WriteConflict
from ingestion_platform.lake.names import Name
from ingestion_platform.lake.segments import Segment
from ingestion_platform.settings import Settings, WorkerSettings
from ingestion_platform.streams import Stream
from ingestion_platform.worker import loop, pace
from ingestion_platform.worker.tasks import ProgressLog

LIMITS = WorkerSettings(batch_size=1_000, flush_seconds=2.0, flush_bytes=100_000)


def a_stream(name: str) -> Stream:
    """A stream that is never served."""
    return Stream(name, "test", name, Path("none.odcs.yaml"), "group")


@pytest.mark.parametrize(
    ("waiting", "seconds", "record_bytes", "expected"),
    [
        (0, 3600.0, 10.0, False),
        (1, 0.0, 10.0, False),
        (1, 1.9, 10.0, False),
        (1, 2.0, 10.0, True),
        (999, 0.0, 10.0, False),
        (1_000, 0.0, 10.0, True),
        (99, 0.0, 1_000.0, False),
        (100, 0.0, 1_000.0, True),
    ],
)
def test_topic_is_read_by_count_time_or_bytes(
    waiting: int, seconds: float, record_bytes: float, expected: bool
) -> None:
    """Whichever limit is met first; never when nothing waits."""
    assert pace.is_due(waiting, seconds, record_bytes, LIMITS) is expected


@given(st.floats(0, 1e6))
def test_idle_topic_is_polled_less_often(seconds: float) -> None:
    """Ten times a second at most, twice at least."""
    assert pace.ACTIVE <= pace.poll_interval(seconds) <= pace.IDLE


@given(st.integers(1, 500))
def test_streams_of_a_process_share_limits(count: int) -> None:
    """Their sum stays within the limits, except that no batch is smaller than the minimum."""
    limits = pace.share_limits(WorkerSettings(), count)
    whole = WorkerSettings()
    assert limits.flush_bytes * count <= whole.flush_bytes
    assert limits.batch_size == pace.MIN_BATCH or limits.batch_size * count <= whole.batch_size


def test_a_small_batch_stays_small() -> None:
    """A configured batch below the minimum stays as it is."""
    assert pace.share_limits(LIMITS.replace(batch_size=7), 3).batch_size == 7


@given(st.integers(1, 40), st.integers(1, 20))
def test_streams_are_spread_evenly(count: int, processes: int) -> None:
    """Each stream once, no process without one, and none with two more than another."""
    streams = [a_stream(f"s{number}") for number in range(count)]
    groups = pace.spread_streams(streams, processes)
    sizes = [len(group) for group in groups]
    assert sorted(s.name for group in groups for s in group) == sorted(s.name for s in streams)
    assert len(groups) == min(count, processes)
    assert max(sizes) - min(sizes) <= 1


class Scripted:
    """A task whose steps raise given errors and then stop the worker."""

    name = stream = "scripted"

    def __init__(self, stop: threading.Event, *steps: Exception | None) -> None:
        self.closed = 0
        self._stop = stop
        self._steps = list(steps)

    def step(self) -> float:
        """Raise the next error."""
        outcome = self._steps.pop(0)
        if not self._steps:
            self._stop.set()
        if outcome is not None:
            raise outcome
        return 0.0

    def close(self) -> None:
        """Count."""
        self.closed += 1


def run_script(monkeypatch: pytest.MonkeyPatch, *steps: Exception | None) -> tuple[Scripted, dict]:
    """Run a task to its end; return it and the errors that ended it."""
    monkeypatch.setattr(loop, "backoff", lambda *_: 0.0)
    stop = threading.Event()
    task, outcome = Scripted(stop, *steps), loop.Outcome()
    loop.run_task(task, stop, outcome, WorkerMonitor(Settings.load({})))  # not started
    return task, outcome.failed


class Recorded(threading.Event):
    """An event whose waits take no time and are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Return at once."""
        self.waits.append(timeout or 0.0)
        return self.is_set()


@pytest.mark.parametrize(
    ("error", "longest"),
    [(StoreUnavailable("it is away"), 30.0), (WriteConflict("another writer"), 2.0)],
)
def test_retry_backs_off_between_attempts(error: Exception, longest: float) -> None:
    """Each wait is at least half of a bound that doubles up to a limit; a success resets it."""
    stop = Recorded()
    task = Scripted(stop, *[error] * 9, None, error)
    loop.run_task(task, stop, loop.Outcome(), WorkerMonitor(Settings.load({})))
    bounds = [min(longest, 0.5 * 2**number) for number in range(9)]
    for waited, bound in zip(stop.waits, [*bounds, 0.0, bounds[0]], strict=True):
        assert bound / 2 <= waited <= bound


def test_outage_is_logged_at_begin_and_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many attempts it takes."""
    away = StoreUnavailable("the store is away", action="see to it")
    task, failed = run_script(monkeypatch, None, away, away, away, None, None)
    assert failed == {}
    assert [r.message.splitlines()[0].split(" after")[0] for r in caplog.records] == [
        "scripted waits, nothing is lost: the store is away",
        "scripted goes on",
    ]
    assert task.closed == 4  # after each failure, and at the end


def test_write_conflicts_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The task starts again from the data."""
    task, failed = run_script(monkeypatch, WriteConflict("moved"), WriteConflict("moved"), None)
    assert (failed, task.closed, caplog.records) == ({}, 3, [])


@pytest.mark.parametrize("error", [Permanent("wrong", action="mend it"), KeyError("a bug")])
def test_permanent_error_ends_the_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """It is logged with its action; the task is closed once."""
    task, failed = run_script(monkeypatch, None, error, None, None)
    assert (failed, task.closed) == ({"scripted": error}, 1)
    assert caplog.records[0].levelno == logging.ERROR


def test_progress_is_logged_after_a_load(caplog: pytest.LogCaptureFixture) -> None:
    """Rows, rate and lag; then nothing until the next load."""
    stream = a_stream("shop")
    progress = ProgressLog(seconds=0.0)
    segment = Segment(Name(0, 0, date(2026, 1, 1), 0, "shop"), "g", "c", 1_500, 1_500)
    with caplog.at_level(logging.INFO):
        progress.lag(stream, {0: 5})
        progress.loaded(stream, Loaded(segment, 1_490, 10, Counter(), replaced=False))
        progress.lag(stream, {0: 5, 1: 2})
        progress.lag(stream, {0: 5})
    (record,) = caplog.records
    assert record.message.startswith("shop: 1,490 rows and 10 in quarantine in ")
    assert record.message.endswith(", 7 waiting")
