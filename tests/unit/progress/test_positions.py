"""The rules of positions against the plainest model: the records of a log, one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.positions import Position, TopicOrder, lower, waiting

IDS = ("A", "B", "C")
OFFSETS = st.integers(0, 12)
POSITIONS = st.none() | st.builds(Position, st.sampled_from(IDS), OFFSETS)
ORDERS = st.permutations(IDS).map(lambda ids: TopicOrder(tuple(ids)))


def passed(order: TopicOrder, at: Position | None) -> set[tuple[str, int]]:
    """The records that a reader at a position has: all of older topic ids, then offsets."""
    if at is None:
        return set()
    older = order.topic_ids[: order.topic_ids.index(at.topic_id)]
    every = {(of, offset) for of in older for offset in range(100)}
    return every | {(at.topic_id, offset) for offset in range(at.offset)}


@given(ORDERS, POSITIONS, POSITIONS)
def test_lower_position_is_what_both_have(
    order: TopicOrder, first: Position | None, second: Position | None
) -> None:
    """A reader at the lower position has exactly the records that both have."""
    both = passed(order, first) & passed(order, second)
    assert passed(order, lower(first, second, lambda: order)) == both
    assert passed(order, lower(second, first, lambda: order)) == both


@given(ORDERS, OFFSETS, OFFSETS, POSITIONS, POSITIONS)
def test_lag_is_what_one_table_lacks(
    order: TopicOrder, start: int, length: int, first: Position | None, second: Position | None
) -> None:
    """It counts the records of the present log that are not in both tables."""
    present = order.topic_ids[-1]
    log = {(present, offset) for offset in range(start, start + length)}
    lacking = log - (passed(order, first) & passed(order, second))
    found = waiting(start, start + length, present, first, second)
    assert {(present, offset) for offset in found} == lacking
    at = lower(first, second, lambda: order)
    assert len(waiting(start, start + length, present, at)) == len(found)


@given(OFFSETS, OFFSETS)
def test_one_topic_id_needs_no_lake(first: int, second: int) -> None:
    """Positions of one topic id compare by offset, without a look into the lake."""

    def never() -> TopicOrder:
        raise AssertionError("the lake was read")

    found = lower(Position("A", first), Position("A", second), never)
    assert found == Position("A", min(first, second))
    assert lower(None, Position("A", first), never) is None


def test_topic_ids_without_files_come_first() -> None:
    """What the lake has no files of any more is older than all that it has."""
    order = TopicOrder(("B",))
    gone, held = Position("A", 10), Position("B", 8)
    assert order.lower(held, gone) == gone
