"""What a target lacks of a table, found from their committed offsets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.sinks.plan import Work, differences, ordinals, parse, render, without
from ingestion_platform.warehouse.committed import CommittedRanges, Span

TOPIC_IDS = ("A", "B")


@st.composite
def committed_by_partition(draw: st.DrawFn) -> CommittedRanges:
    """A committed offsets of a few spans, loaded in any order."""
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
    """The contract of each offset."""
    return {(s.topic_id, n): s.contract for s in committed.spans for n in range(s.start, s.end)}


@given(table=committed_by_partition(), target=committed_by_partition())
def test_doing_all_work_makes_the_ledgers_tell_the_same(
    table: CommittedRanges, target: CommittedRanges
) -> None:
    """Each offset that differs is in one piece of work, others in none; fresh means unknown."""
    work = differences({3: table}, {3: target})
    wanted, held = offsets(table), offsets(target)
    touched = [(w.span.topic_id, n) for w in work for n in range(w.span.start, w.span.end)]
    assert len(touched) == len(set(touched))
    assert set(touched) == {p for p in {*wanted, *held} if wanted.get(p) != held.get(p)}
    after = target
    for each in work:
        first = (each.span.topic_id, each.span.start)
        assert each.partition == 3
        assert each.fresh == (first not in held)
        assert each.span.contract == wanted.get(first, "")
        after = after.with_span(each.span) if each.span.contract else without(after, each.span)
    assert offsets(after) == wanted
    assert differences({3: table}, {3: after}) == []


@given(one=committed_by_partition(), other=committed_by_partition())
def test_a_position_is_read_as_it_was_written(one: CommittedRanges, other: CommittedRanges) -> None:
    """Partitions of which nothing is known are left out; nothing at all is the empty text."""
    known = {p: committed for p, committed in {-1: one, 7: other}.items() if committed.spans}
    assert parse(render({-1: one, 7: other})) == known
    assert (render({}), parse("")) == ("", {})


def test_neighbouring_spans_are_one_piece_of_work() -> None:
    """What others validated in two ways is replaced in one go; topic ids stay apart."""
    table = CommittedRanges((Span("A", 0, 10, "c2"), Span("B", 0, 5, "c2")))
    target = CommittedRanges((Span("A", 0, 4, "c0"), Span("A", 4, 8, "c1")))
    assert differences({0: table}, {0: target}) == [
        Work(0, Span("A", 0, 8, "c2"), fresh=False),
        Work(0, Span("A", 8, 10, "c2"), fresh=True),
        Work(0, Span("B", 0, 5, "c2"), fresh=True),
    ]
    assert ordinals({0: table}) == {(0, "A"): 0, (0, "B"): 1}
