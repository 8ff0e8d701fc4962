"""What a target lacks of a bronze table: the table's ledger against its own; plain data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ingestion_platform.warehouse.ledger import Ledger, Span

Ledgers = Mapping[int, Ledger]
"""Ledgers by log partition."""


@dataclass(frozen=True, slots=True)
class Work:
    """A span of a log partition in which target and table differ.

    `fresh` says that the target has nothing of it; else its rows give way to those of the table,
    which has none when the span's contract is "".
    """

    partition: int
    span: Span
    fresh: bool


def differences(table: Ledgers, target: Ledgers) -> list[Work]:
    """All work, each partition's in the order of its log."""
    found: list[Work] = []
    for partition in sorted({*table, *target}):
        have, held = table.get(partition, Ledger()), target.get(partition, Ledger())
        found.extend(_of_partition(partition, have, held))
    return found


def without(ledger: Ledger, span: Span) -> Ledger:
    """A ledger that tells nothing of a span any more."""
    kept = []
    for old in ledger.spans:
        if old.generation != span.generation:
            kept.append(old)
            continue
        if old.start < span.start:
            kept.append(Span(old.generation, old.start, min(old.end, span.start), old.contract))
        if old.end > span.end:
            kept.append(Span(old.generation, max(old.start, span.end), old.end, old.contract))
    return Ledger(tuple(kept))


def ordinals(ledgers: Ledgers) -> dict[tuple[int, str], int]:
    """Which generation of its log partition a generation is, by partition and generation."""
    return {
        (partition, generation): number
        for partition, ledger in ledgers.items()
        for number, generation in enumerate(dict.fromkeys(s.generation for s in ledger.spans))
    }


def render(ledgers: Ledgers) -> str:
    """Ledgers as a position; "" without any."""
    spans = {str(p): json.loads(ledgers[p].to_json()) for p in sorted(ledgers) if ledgers[p].spans}
    return json.dumps(spans) if spans else ""


def parse(position: str) -> dict[int, Ledger]:
    """The ledgers of a position."""
    spans = json.loads(position) if position else {}
    return {int(p): Ledger.from_json(json.dumps(items)) for p, items in spans.items()}


def _of_partition(partition: int, table: Ledger, target: Ledger) -> Iterator[Work]:
    generations = dict.fromkeys(s.generation for s in (*table.spans, *target.spans))
    for generation in generations:
        ends = sorted(
            {
                end
                for span in (*table.spans, *target.spans)
                if span.generation == generation
                for end in (span.start, span.end)
            }
        )
        last: Work | None = None
        for start, end in pairwise(ends):
            wanted, held = (_contract(of, generation, start) for of in (table, target))
            if wanted == held:
                continue
            work = Work(partition, Span(generation, start, end, wanted or ""), held is None)
            if last is not None and _continues(last, work):
                work = Work(
                    partition, Span(generation, last.span.start, end, wanted or ""), work.fresh
                )
            elif last is not None:
                yield last
            last = work
        if last is not None:
            yield last


def _continues(last: Work, work: Work) -> bool:
    return (last.span.end, last.span.contract, last.fresh) == (
        work.span.start,
        work.span.contract,
        work.fresh,
    )


def _contract(ledger: Ledger, generation: str, offset: int) -> str | None:
    found = ledger.of(generation, offset, offset + 1)
    return found[0].contract if found else None
