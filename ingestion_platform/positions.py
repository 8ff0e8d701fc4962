"""Positions in a log partition, and the only rules that compare them: plain data, no I/O.

All code that computes lag, or the offset to continue from, uses these rules.
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
    """The next offset of a topic id; all records before it are done.

    Positions of one topic id compare by offset. Across topic ids (a recreated topic) they compare
    by the order of the topic ids in the lake: see `TopicOrder`.
    """

    topic_id: str
    offset: int


@dataclass(frozen=True, slots=True)
class TopicOrder:
    """The topic ids of a log partition in the order of the lake: oldest first."""

    topic_ids: tuple[str, ...] = ()

    def key(self, at: Position) -> tuple[int, int]:
        """Return the sort key of a position. A topic id that no longer has files sorts first."""
        known = at.topic_id in self.topic_ids
        return (self.topic_ids.index(at.topic_id) if known else -1, at.offset)

    def lower(self, first: Position, second: Position) -> Position:
        """Return the position that comes first in the log."""
        return min(first, second, key=self.key)


def lower(
    first: Position | None, second: Position | None, order: Callable[[], TopicOrder]
) -> Position | None:
    """Return the lower of two positions. None is the start of the log, below all others.

    `order` is called only when the topic ids differ, since it reads the lake.
    """
    if first is None or second is None:
        return None
    if first.topic_id == second.topic_id:
        return min(first, second, key=lambda at: at.offset)
    return order().lower(first, second)


def waiting(start: int, end: int, topic_id: str, *at: Position | None) -> range:
    """Return the offsets of a log that at least one reader has not passed.

    The log's current topic id is `topic_id`. The log holds the offsets from `start` up to but not
    including `end`. `at` has the positions of the readers. The length of the range is the lag; its
    start is the next offset to read. A reader at another topic id has passed no offset of this one.
    """
    passed = (each.offset if each and each.topic_id == topic_id else 0 for each in at)
    return range(max(start, min(passed, default=0)), end)
