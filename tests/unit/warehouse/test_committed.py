"""Committed ranges compared with a plain model: one entry per offset."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.positions import Position
from ingestion_platform.warehouse.committed import (
    CommittedRanges,
    Span,
    parse_ranges,
    render_ranges,
)

TOPIC_IDS = "AB"
spans = st.builds(
    lambda topic_id, start, size, contract: Span(topic_id, start, start + size, contract),
    st.sampled_from(TOPIC_IDS),
    st.integers(0, 30),
    st.integers(1, 15),
    st.sampled_from(["x", "y", "z"]),
)
histories = st.lists(spans, max_size=12)


def model_of(history: list[Span]) -> dict[tuple[str, int], str]:
    """The contract that treated each offset last."""
    return {(s.topic_id, at): s.contract for s in history for at in range(s.start, s.end)}


def committed_of(history: list[Span]) -> CommittedRanges:
    """The committed offsets after a history of loads."""
    committed = CommittedRanges()
    for span in history:
        committed = committed.with_span(span)
    return committed


@given(histories)
def test_ranges_have_last_contract_of_each_offset(history: list[Span]) -> None:
    """Its spans, offset by offset, are what a plain dictionary would hold; none overlap."""
    committed = committed_of(history)
    found = [(s.topic_id, at) for s in committed.spans for at in range(s.start, s.end)]
    assert len(found) == len(set(found))
    assert model_of(list(committed.spans)) == model_of(history)
    assert all(span.start < span.end for span in committed.spans)


@given(histories)
def test_spans_are_ordered_and_merged(history: list[Span]) -> None:
    """Topic ids keep the order of their arrival, offsets ascend, equal neighbours are one."""
    committed = committed_of(history)
    order = list(dict.fromkeys(span.topic_id for span in history))
    keys = [(order.index(span.topic_id), span.start) for span in committed.spans]
    assert keys == sorted(keys)
    for left, right in zip(committed.spans, committed.spans[1:], strict=False):
        assert (left.topic_id, left.contract, left.end) != (
            right.topic_id,
            right.contract,
            right.start,
        )


@given(histories)
def test_the_position_is_the_end_of_the_last_topic_id(history: list[Span]) -> None:
    """Reloading an older topic id does not move the position into it."""
    committed = committed_of(history)
    if not history:
        assert committed.position is None
        return
    last = list(dict.fromkeys(span.topic_id for span in history))[-1]
    end = max(span.end for span in history if span.topic_id == last)
    assert committed.position == Position(last, end)


@given(histories, spans)
def test_parts_of_a_range(history: list[Span], span: Span) -> None:
    """`of` cuts what lies in a range out of the spans; `holds` says if one contract treated it."""
    committed, model = committed_of(history), model_of(history)
    wanted = [(span.topic_id, at) for at in range(span.start, span.end)]
    parts = committed.of(span.topic_id, span.start, span.end)
    assert model_of(parts) == {place: model[place] for place in wanted if place in model}
    assert committed.holds(span) == all(model.get(place) == span.contract for place in wanted)


@given(st.dictionaries(st.integers(0, 500), histories.map(committed_of), max_size=4))
def test_ranges_survive_as_table_properties(many: dict[int, CommittedRanges]) -> None:
    """Among the other properties of a table."""
    values = render_ranges(many) | {
        "commit.retry.num-retries": "0",
        "ingestion.position": "x",
    }
    assert parse_ranges(values) == many
