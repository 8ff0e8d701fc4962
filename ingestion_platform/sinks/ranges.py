"""Positions of targets of a log: committed offset ranges, compared with those of the table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ingestion_platform.warehouse.committed import CommittedRanges, Span

ByPartition = Mapping[int, CommittedRanges]
"""Committed ranges by log partition."""


@dataclass(frozen=True, slots=True)
class Work:
    """A span of a log partition in which target and table differ."""

    partition: int
    span: Span
    """With the contract of the table; "" if the table does not have the span."""
    fresh: bool
    """Whether the target has nothing of the span; otherwise its rows are replaced."""


def differences(table: ByPartition, target: ByPartition) -> list[Work]:
    """Return all work, that of each partition in the order of its log."""
    found: list[Work] = []
    for partition in sorted({*table, *target}):
        both = (of.get(partition, CommittedRanges()) for of in (table, target))
        found.extend(_of_partition(partition, *both))
    return found


def without(committed: CommittedRanges, span: Span) -> CommittedRanges:
    """Return committed ranges with a span cut out."""
    left = []
    for old in committed.spans:
        if old.topic_id != span.topic_id:
            left.append(old)
            continue
        if old.start < span.start:
            left.append(Span(old.topic_id, old.start, min(old.end, span.start), old.contract))
        if old.end > span.end:
            left.append(Span(old.topic_id, max(old.start, span.end), old.end, old.contract))
    return CommittedRanges(tuple(left))


def ordinals(committed: ByPartition) -> dict[tuple[int, str], int]:
    """Return the number of each topic id in its log partition, by partition and topic id."""
    return {
        (partition, topic_id): number
        for partition, ranges in committed.items()
        for number, topic_id in enumerate(dict.fromkeys(s.topic_id for s in ranges.spans))
    }


def render(committed: ByPartition) -> str:
    """Return committed ranges as a position; "" if there are none."""
    spans = {
        str(partition): json.loads(committed[partition].to_json())
        for partition in sorted(committed)
        if committed[partition].spans
    }
    return json.dumps(spans) if spans else ""


def parse(position: str) -> dict[int, CommittedRanges]:
    """Return the committed ranges of a position.

    Raises:
        ValueError: it is the position of a model.
    """
    spans = json.loads(position) if position else {}
    return {int(p): CommittedRanges.from_json(json.dumps(each)) for p, each in spans.items()}


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
        work: list[Work] = []
        for start, end in pairwise(ends):
            want, have = (_contract(of, topic_id, start) for of in (table, target))
            kind = (start, want or "", have is None)
            if want == have:
                continue
            if work and (work[-1].span.end, work[-1].span.contract, work[-1].fresh) == kind:
                start = work.pop().span.start
            work.append(Work(partition, Span(topic_id, start, end, want or ""), have is None))
        yield from work


def _contract(committed: CommittedRanges, topic_id: str, offset: int) -> str | None:
    found = committed.of(topic_id, offset, offset + 1)
    return found[0].contract if found else None
