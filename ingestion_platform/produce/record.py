"""The record that is produced to a topic; what is read back from one has its own types."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """One record on its way to a topic. A named tuple: one is made per record produced."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None
    """Milliseconds since the epoch; None lets the producer take the present time."""
    fault: str | None = None
    """What a simulator broke about the record, None for a good one; never sent."""
    topic: str | None = None
    """Where it belongs; None leaves that to `produce`, which is told a topic."""
