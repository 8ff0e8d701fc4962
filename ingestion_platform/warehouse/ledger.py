"""How far a table was loaded, per log partition, and by which contract: plain data.

A ledger lives in the table it speaks of, in a property and in the summary of the snapshot that
changed it. Its spans tile what was loaded: records of [start, end) of a generation, treated by
the contract of that fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ingestion_platform.progress.positions import Position

PREFIX = "ingestion.position."


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets `start` to before `end` of a generation, loaded by the contract of a fingerprint."""

    generation: str
    start: int
    end: int
    contract: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """The spans of one log partition in the order of its log; neighbours differ in something."""

    spans: tuple[Span, ...] = ()

    @property
    def position(self) -> Position | None:
        """The next offset to load, None when nothing was loaded."""
        return Position(self.spans[-1].generation, self.spans[-1].end) if self.spans else None

    def of(self, generation: str, start: int, end: int) -> list[Span]:
        """The parts of the spans that lie in a range, in order."""
        return [
            Span(s.generation, max(s.start, start), min(s.end, end), s.contract)
            for s in self.spans
            if s.generation == generation and s.start < end and start < s.end
        ]

    def holds(self, span: Span) -> bool:
        """Whether all of a span was loaded by its contract."""
        parts = self.of(span.generation, span.start, span.end)
        if any(part.contract != span.contract for part in parts):
            return False
        return sum(part.end - part.start for part in parts) == span.end - span.start

    def with_span(self, span: Span) -> Ledger:
        """This ledger after a span was loaded, in place of whatever covered its range."""
        before: list[Span] = []
        after: list[Span] = []
        for old in self.spans:
            if old.generation != span.generation:
                (after if self._follows(old, span) else before).append(old)
                continue
            if old.start < span.start:
                before.append(
                    Span(old.generation, old.start, min(old.end, span.start), old.contract)
                )
            if old.end > span.end:
                after.append(Span(old.generation, max(old.start, span.end), old.end, old.contract))
        return Ledger(tuple(_merged([*before, span, *after])))

    def _follows(self, old: Span, span: Span) -> bool:
        order = list(dict.fromkeys(s.generation for s in self.spans))
        if span.generation not in order:
            return False
        return order.index(old.generation) > order.index(span.generation)

    def to_json(self) -> str:
        """The text that is kept in the table."""
        return json.dumps([[s.generation, s.start, s.end, s.contract] for s in self.spans])

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """A ledger from the text that is kept in a table."""
        return cls(tuple(Span(*item) for item in json.loads(text)))


def disagreement(bronze: Ledger, quarantine: Ledger) -> list[Span]:
    """Return the ranges that the two tables have by different contracts, in order.

    A load that ended between its two commits, or a rollback of one table, leaves such ranges.
    """
    return [
        part
        for span in quarantine.spans
        for part in bronze.of(span.generation, span.start, span.end)
        if part.contract != span.contract
    ]


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if last and (last.generation, last.contract, last.end) == (
            span.generation,
            span.contract,
            span.start,
        ):
            merged[-1] = Span(last.generation, last.start, span.end, last.contract)
        else:
            merged.append(span)
    return merged


def parse(values: Mapping[str, str]) -> dict[int, Ledger]:
    """The ledgers among the properties of a table, or in a snapshot's summary."""
    return {
        int(key.removeprefix(PREFIX)): Ledger.from_json(text)
        for key, text in values.items()
        if key.startswith(PREFIX)
    }


def render(ledgers: Mapping[int, Ledger]) -> dict[str, str]:
    """Ledgers as properties of a table."""
    return {f"{PREFIX}{partition}": ledger.to_json() for partition, ledger in ledgers.items()}
