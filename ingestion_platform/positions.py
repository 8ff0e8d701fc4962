"""Positions in a log partition, and the only rules that compare them: plain data, no I/O.

How far a stream is behind, and where to go on, is answered from these rules everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple


class Slice(NamedTuple):
    """One ingest date of one log partition: a Dagster partition."""

    ingest_date: date
    partition: int


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset of a topic id: everything before it is done.

    Positions of one topic id compare by offset. Across topic ids (a recreated topic) only the
    lake knows which is lower: see `TopicOrder`.
    """

    topic_id: str
    offset: int


@dataclass(frozen=True, slots=True)
class TopicOrder:
    """The topic ids of a log partition in the order of the lake, oldest first."""

    topic_ids: tuple[str, ...] = ()

    def key(self, at: Position) -> tuple[int, int]:
        """Return what sorts positions; a topic id that has no files any more comes first."""
        known = at.topic_id in self.topic_ids
        return (self.topic_ids.index(at.topic_id) if known else -1, at.offset)

    def lower(self, first: Position, second: Position) -> Position:
        """Return the position that comes first in the log."""
        return min(first, second, key=self.key)


def lower(
    first: Position | None, second: Position | None, order: Callable[[], TopicOrder]
) -> Position | None:
    """Return the lower of two positions; None, the start of the log, is below all others.

    `order` is called only when the topic ids differ, since it reads the lake.
    """
    if first is None or second is None:
        return None
    if first.topic_id == second.topic_id:
        return min(first, second, key=lambda at: at.offset)
    return order().lower(first, second)


def waiting(start: int, end: int, topic_id: str, *at: Position | None) -> range:
    """Return the offsets of a log that one of the readers at some positions has not passed.

    The log is of `topic_id`, its present one, and holds the offsets `start` to before `end`. The
    range's length is the lag; its start is the next offset to read. A reader at another topic id
    has passed nothing of the present one.
    """
    passed = (each.offset if each and each.topic_id == topic_id else 0 for each in at)
    return range(max(start, min(passed, default=0)), end)
