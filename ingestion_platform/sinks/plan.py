"""What a target lacks of a bronze table: the table's committed offsets against its own; plain
data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ingestion_platform.warehouse.committed import CommittedRanges, Span

CommittedByPartition = Mapping[int, CommittedRanges]
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


def differences(table: CommittedByPartition, target: CommittedByPartition) -> list[Work]:
    """All work, each partition's in the order of its log."""
    found: list[Work] = []
    for partition in sorted({*table, *target}):
        have, held = (
            table.get(partition, CommittedRanges()),
            target.get(partition, CommittedRanges()),
        )
        found.extend(_of_partition(partition, have, held))
    return found


def without(committed: CommittedRanges, span: Span) -> CommittedRanges:
    """A committed offsets that tells nothing of a span any more."""
    kept = []
    for old in committed.spans:
        if old.topic_id != span.topic_id:
            kept.append(old)
            continue
        if old.start < span.start:
            kept.append(Span(old.topic_id, old.start, min(old.end, span.start), old.contract))
        if old.end > span.end:
            kept.append(Span(old.topic_id, max(old.start, span.end), old.end, old.contract))
    return CommittedRanges(tuple(kept))


def ordinals(committed_by_partition: CommittedByPartition) -> dict[tuple[int, str], int]:
    """Which topic id of its log partition a topic id is, by partition and topic id."""
    return {
        (partition, topic_id): number
        for partition, committed in committed_by_partition.items()
        for number, topic_id in enumerate(dict.fromkeys(s.topic_id for s in committed.spans))
    }


def render(committed_by_partition: CommittedByPartition) -> str:
    """Ledgers as a position; "" without any."""
    spans = {
        str(p): json.loads(committed_by_partition[p].to_json())
        for p in sorted(committed_by_partition)
        if committed_by_partition[p].spans
    }
    return json.dumps(spans) if spans else ""


def parse(position: str) -> dict[int, CommittedRanges]:
    """The committed offsets of a position."""
    spans = json.loads(position) if position else {}
    return {int(p): CommittedRanges.from_json(json.dumps(items)) for p, items in spans.items()}


def _of_partition(
    partition: int, table: CommittedRanges, target: CommittedRanges
) -> Iterator[Work]:
    topic_ids = dict.fromkeys(s.topic_id for s in (*table.spans, *target.spans))
    for topic_id in topic_ids:
        ends = sorted(
            {
                end
                for span in (*table.spans, *target.spans)
                if span.topic_id == topic_id
                for end in (span.start, span.end)
            }
        )
        last: Work | None = None
        for start, end in pairwise(ends):
            wanted, held = (_contract(of, topic_id, start) for of in (table, target))
            if wanted == held:
                continue
            work = Work(partition, Span(topic_id, start, end, wanted or ""), held is None)
            if last is not None and _continues(last, work):
                work = Work(
                    partition, Span(topic_id, last.span.start, end, wanted or ""), work.fresh
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


def _contract(committed: CommittedRanges, topic_id: str, offset: int) -> str | None:
    found = committed.of(topic_id, offset, offset + 1)
    return found[0].contract if found else None
