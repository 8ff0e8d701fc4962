"""Committed ranges of a table and of its target, compared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.sinks.ranges import Work, differences, ordinals, parse, render, without
from ingestion_platform.warehouse.committed import CommittedRanges, Span

TOPIC_IDS = ("A", "B")


@st.composite
def committed_ranges(draw: st.DrawFn) -> CommittedRanges:
    """Draw a few spans, committed in any order."""
    committed = CommittedRanges()
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, 20))
        span = Span(
            draw(st.sampled_from(TOPIC_IDS)),
            start,
            start + draw(st.integers(1, 8)),
            draw(st.sampled_from(("c1", "c2"))),
        )
        committed = committed.with_span(span)
    return committed


def offsets(committed: CommittedRanges) -> dict[tuple[str, int], str]:
    """Return the contract of each offset."""
    return {(s.topic_id, n): s.contract for s in committed.spans for n in range(s.start, s.end)}


@given(table=committed_ranges(), target=committed_ranges())
def test_work_makes_the_target_equal(table: CommittedRanges, target: CommittedRanges) -> None:
    """Each offset that differs is in one piece of work; fresh ones are unknown to the target."""
    work = differences({3: table}, {3: target})
    want, have = offsets(table), offsets(target)
    touched = [(w.span.topic_id, n) for w in work for n in range(w.span.start, w.span.end)]
    assert len(touched) == len(set(touched))
    assert set(touched) == {p for p in {*want, *have} if want.get(p) != have.get(p)}
    after = target
    for each in work:
        first = (each.span.topic_id, each.span.start)
        assert each.partition == 3
        assert each.fresh == (first not in have)
        assert each.span.contract == want.get(first, "")
        after = after.with_span(each.span) if each.span.contract else without(after, each.span)
    assert offsets(after) == want
    assert differences({3: table}, {3: after}) == []


@given(one=committed_ranges(), other=committed_ranges())
def test_position_round_trip(one: CommittedRanges, other: CommittedRanges) -> None:
    """Partitions without spans are left out; no spans at all are the empty text."""
    known = {p: committed for p, committed in {-1: one, 7: other}.items() if committed.spans}
    assert parse(render({-1: one, 7: other})) == known
    assert (render({}), parse("")) == ("", {})


def test_adjacent_spans_are_one_piece_of_work() -> None:
    """Spans of several old contracts are replaced together, those of topic ids separately."""
    table = CommittedRanges((Span("A", 0, 10, "c2"), Span("B", 0, 5, "c2")))
    target = CommittedRanges((Span("A", 0, 4, "c0"), Span("A", 4, 8, "c1")))
    assert differences({0: table}, {0: target}) == [
        Work(0, Span("A", 0, 8, "c2"), fresh=False),
        Work(0, Span("A", 8, 10, "c2"), fresh=True),
        Work(0, Span("B", 0, 5, "c2"), fresh=True),
    ]
    assert ordinals({0: table}) == {(0, "A"): 0, (0, "B"): 1}
