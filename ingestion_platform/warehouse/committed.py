"""Which offset ranges a table has, per log partition, and by which contract: plain data.

The ranges are stored in the table itself, as a property and in the summary of the snapshot that
changed them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ingestion_platform.positions import Position

PREFIX = "ingestion.position."


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets `start` to before `end` of a topic id, loaded by the contract of a fingerprint."""

    topic_id: str
    start: int
    end: int
    contract: str


@dataclass(frozen=True, slots=True)
class CommittedRanges:
    """The loaded spans of one log partition in log order; adjacent equal ones are merged."""

    spans: tuple[Span, ...] = ()

    @property
    def position(self) -> Position | None:
        """The next position to load; None when nothing was loaded."""
        return Position(self.spans[-1].topic_id, self.spans[-1].end) if self.spans else None

    def of(self, topic_id: str, start: int, end: int) -> list[Span]:
        """Return the parts of the spans within `start` to before `end`, in order."""
        return [
            Span(s.topic_id, max(s.start, start), min(s.end, end), s.contract)
            for s in self.spans
            if s.topic_id == topic_id and s.start < end and start < s.end
        ]

    def holds(self, span: Span) -> bool:
        """Return whether all offsets of a span were loaded by its contract."""
        parts = self.of(span.topic_id, span.start, span.end)
        if any(part.contract != span.contract for part in parts):
            return False
        return sum(part.end - part.start for part in parts) == span.end - span.start

    def with_span(self, span: Span) -> CommittedRanges:
        """Return the ranges after a span was loaded; it replaces what covered its offsets."""
        before: list[Span] = []
        after: list[Span] = []
        for old in self.spans:
            if old.topic_id != span.topic_id:
                (after if self._follows(old, span) else before).append(old)
                continue
            if old.start < span.start:
                before.append(Span(old.topic_id, old.start, min(old.end, span.start), old.contract))
            if old.end > span.end:
                after.append(Span(old.topic_id, max(old.start, span.end), old.end, old.contract))
        return CommittedRanges(tuple(_merged([*before, span, *after])))

    def _follows(self, old: Span, span: Span) -> bool:
        order = list(dict.fromkeys(s.topic_id for s in self.spans))
        if span.topic_id not in order:
            return False
        return order.index(old.topic_id) > order.index(span.topic_id)

    def to_json(self) -> str:
        """Return the text stored in the table."""
        return json.dumps([[s.topic_id, s.start, s.end, s.contract] for s in self.spans])

    @classmethod
    def from_json(cls, text: str) -> CommittedRanges:
        """Return the ranges that a stored text describes."""
        return cls(tuple(Span(*values) for values in json.loads(text)))


def disagreement(bronze: CommittedRanges, quarantine: CommittedRanges) -> list[Span]:
    """Return the ranges that two tables loaded by different contracts, in order.

    A load that died between its two commits leaves such ranges, and so does a rollback.
    """
    return [
        part
        for span in quarantine.spans
        for part in bronze.of(span.topic_id, span.start, span.end)
        if part.contract != span.contract
    ]


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if last and (last.topic_id, last.contract, last.end) == (
            span.topic_id,
            span.contract,
            span.start,
        ):
            merged[-1] = Span(last.topic_id, last.start, span.end, last.contract)
        else:
            merged.append(span)
    return merged


def parse_ranges(values: Mapping[str, str]) -> dict[int, CommittedRanges]:
    """Return the ranges by log partition in table properties or a snapshot's summary."""
    return {
        int(key.removeprefix(PREFIX)): CommittedRanges.from_json(text)
        for key, text in values.items()
        if key.startswith(PREFIX)
    }


def render_ranges(ranges: Mapping[int, CommittedRanges]) -> dict[str, str]:
    """Return ranges by log partition as table properties."""
    return {f"{PREFIX}{partition}": committed.to_json() for partition, committed in ranges.items()}
