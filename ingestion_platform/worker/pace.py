"""When a topic is read, and how streams share a worker: plain decisions on numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ingestion_platform.settings import WorkerSettings
from ingestion_platform.streams import Stream

ACTIVE, IDLE = 0.1, 0.5
"""Seconds between two polls of an active topic, and of an idle one."""
MIN_BATCH = 1_000
"""Records that a lake file may have at least, however many streams share a process."""


def is_due(waiting: int, seconds: float, record_bytes: float, limits: WorkerSettings) -> bool:
    """Return whether to read now: `waiting` records, the oldest for at most `seconds`."""
    return waiting > 0 and (
        waiting >= limits.batch_size
        or seconds >= limits.flush_seconds
        or waiting * record_bytes >= limits.flush_bytes
    )


def poll_interval(seconds: float) -> float:
    """Return the seconds until the next poll of a topic without new records for `seconds`."""
    return min(IDLE, max(ACTIVE, seconds / 10))


def share_limits(limits: WorkerSettings, streams: int) -> WorkerSettings:
    """Return each stream's limits when several share a process, so that its memory is bounded."""
    return limits.replace(
        batch_size=max(min(MIN_BATCH, limits.batch_size), limits.batch_size // streams),
        flush_bytes=max(1, limits.flush_bytes // streams),
    )


def spread_streams(streams: Sequence[Stream], processes: int) -> list[list[Stream]]:
    """Return the streams of each process, evenly spread; no process has none."""
    count = max(1, min(processes, len(streams)))
    return [list(streams[number::count]) for number in range(count)]
