"""The ledger against the plainest model of it: one entry per offset."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.progress.positions import Position
from ingestion_platform.warehouse import ledger as ledgers
from ingestion_platform.warehouse.ledger import Ledger, Span

GENERATIONS = "AB"
spans = st.builds(
    lambda generation, start, size, contract: Span(generation, start, start + size, contract),
    st.sampled_from(GENERATIONS),
    st.integers(0, 30),
    st.integers(1, 15),
    st.sampled_from(["x", "y", "z"]),
)
histories = st.lists(spans, max_size=12)


def model_of(history: list[Span]) -> dict[tuple[str, int], str]:
    """The contract that treated each offset last."""
    return {(s.generation, at): s.contract for s in history for at in range(s.start, s.end)}


def ledger_of(history: list[Span]) -> Ledger:
    """The ledger after a history of loads."""
    ledger = Ledger()
    for span in history:
        ledger = ledger.with_span(span)
    return ledger


@given(histories)
def test_a_ledger_knows_the_last_contract_of_each_offset(history: list[Span]) -> None:
    """Its spans, offset by offset, are what a plain dictionary would hold; none overlap."""
    ledger = ledger_of(history)
    found = [(s.generation, at) for s in ledger.spans for at in range(s.start, s.end)]
    assert len(found) == len(set(found))
    assert model_of(list(ledger.spans)) == model_of(history)
    assert all(span.start < span.end for span in ledger.spans)


@given(histories)
def test_spans_are_in_the_order_of_the_log_and_as_few_as_can_be(history: list[Span]) -> None:
    """Generations keep the order of their arrival, offsets ascend, equal neighbours are one."""
    ledger = ledger_of(history)
    order = list(dict.fromkeys(span.generation for span in history))
    keys = [(order.index(span.generation), span.start) for span in ledger.spans]
    assert keys == sorted(keys)
    for left, right in zip(ledger.spans, ledger.spans[1:], strict=False):
        assert (left.generation, left.contract, left.end) != (
            right.generation,
            right.contract,
            right.start,
        )


@given(histories)
def test_the_position_is_the_end_of_the_last_generation(history: list[Span]) -> None:
    """Reloading an older generation does not move the position into it."""
    ledger = ledger_of(history)
    if not history:
        assert ledger.position is None
        return
    last = list(dict.fromkeys(span.generation for span in history))[-1]
    end = max(span.end for span in history if span.generation == last)
    assert ledger.position == Position(last, end)


@given(histories, spans)
def test_parts_of_a_range(history: list[Span], span: Span) -> None:
    """`of` cuts what lies in a range out of the spans; `holds` says if one contract treated it."""
    ledger, model = ledger_of(history), model_of(history)
    wanted = [(span.generation, at) for at in range(span.start, span.end)]
    parts = ledger.of(span.generation, span.start, span.end)
    assert model_of(parts) == {place: model[place] for place in wanted if place in model}
    assert ledger.holds(span) == all(model.get(place) == span.contract for place in wanted)


@given(st.dictionaries(st.integers(0, 500), histories.map(ledger_of), max_size=4))
def test_ledgers_survive_being_properties(many: dict[int, Ledger]) -> None:
    """As text among a table's other properties, and back."""
    values = ledgers.render(many) | {"commit.retry.num-retries": "0", "ingestion.position": "x"}
    assert ledgers.parse(values) == many
