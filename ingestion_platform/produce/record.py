"""The record that is produced to a topic; records read from a topic have other types."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """A record to produce. A named tuple, since millions are made."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None
    """Milliseconds since the epoch; None for the time of sending."""
    fault: str | None = None
    """The simulator's name of what is broken about the record; None for a valid one. Never sent."""
    topic: str | None = None
    """The topic; None for the default topic of `produce`."""
