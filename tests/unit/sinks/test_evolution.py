"""The plan by which a target follows a changed source: nothing is lost, or it is a conflict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.sinks.base import Column, Shape
from ingestion_platform.sinks.evolution import Evolution, common_type, plan

TYPES = (pa.int32(), pa.int64(), pa.float64(), pa.string(), pa.decimal128(9, 2))
NAMES = ("a", "b", "c", "d", "e")


def shape(*columns: Column, key: tuple[str, ...] = (), identity: str = "t") -> Shape:
    """Return a shape of some columns."""
    return Shape("bronze.items", identity, columns, key)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Draw some columns of a table that may be created again."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    numbers = draw(st.permutations(range(1, 6)))
    columns = [
        Column(name, draw(st.sampled_from(TYPES)), number, draw(st.booleans()))
        for name, number in zip(names, numbers, strict=False)
    ]
    return shape(*columns, identity=draw(st.sampled_from("tu")))


def applied(evolution: Evolution) -> dict[str, pa.DataType]:
    """Return the columns of a table after the steps of a plan, as a sink makes them."""
    table = {column.name: column.type for column in evolution.have.columns}
    moved = {new: table.pop(old) for old, new in evolution.renamed.items()}
    assert not table.keys() & moved.keys()
    table |= moved
    for column in evolution.widened:
        assert common_type(table[column.name], column.type) == column.type
        table[column.name] = column.type
    for column in evolution.added:
        assert column.name not in table
        table[column.name] = column.type
    return table


@given(have=shapes(), want=shapes())
def test_steps_lead_to_the_planned_shape(have: Shape, want: Shape) -> None:
    """No column is removed or narrowed, and the next plan has nothing to do."""
    evolution = plan(have, want)
    if evolution.conflicts:
        return
    after = applied(evolution)
    assert after == {column.name: column.type for column in evolution.after.columns}
    assert {column.name for column in want.columns} <= after.keys()
    assert len(after) == len(have.columns) + len(evolution.added)
    again = plan(evolution.after, want)
    assert (again.changed, again.conflicts) == (False, ())


@given(have=shapes())
def test_unchanged_source_needs_no_step(have: Shape) -> None:
    """The shape survives the text that a target stores."""
    assert Shape.from_json(have.to_json()) == have
    assert not plan(have, have).changed


def test_columns_follow_their_numbers() -> None:
    """Exchanged names, and a new column by the old name of another one."""
    have = shape(Column("a", pa.int32(), 1), Column("b", pa.string(), 2))
    exchanged = shape(Column("b", pa.int32(), 1), Column("a", pa.string(), 2))
    assert plan(have, exchanged).renamed == {"a": "b", "b": "a"}
    shifted = shape(Column("c", pa.int32(), 1), Column("a", pa.string(), 3))
    found = plan(have, shifted)
    assert found.renamed == {"a": "c"}
    assert [column.name for column in found.added] == ["a"]
    assert [column.name for column in found.dropped] == ["b"]


def test_recreated_source_pairs_columns_by_name() -> None:
    """Numbers of another table mean nothing, also not those of its dropped columns."""
    have = shape(Column("a", pa.int32(), 1), Column("b", pa.string(), 2))
    want = shape(Column("b", pa.string(), 1), identity="u")
    found = plan(have, want)
    assert (found.renamed, found.conflicts) == ({}, ())
    later = shape(Column("b", pa.string(), 1), Column("x", pa.int64(), 2), identity="u")
    assert [column.name for column in plan(found.after, later).added] == ["x"]


@pytest.mark.parametrize(
    ("want", "message"),
    [
        (shape(Column("a", pa.string(), 1), key=("a",)), "column a is int32, and string in the"),
        (shape(Column("a", pa.int32(), 1), Column("b", pa.string(), 2)), "its key is a, not "),
        (
            shape(Column("a", pa.int32(), 1), Column("b", pa.string(), 2, json=True), key=("a",)),
            "column b is string, and JSON in the source",
        ),
        (shape(Column("b", pa.int32(), 1), key=("b",)), "a name that a dropped column has"),
    ],
)
def test_conflicts_are_named(want: Shape, message: str) -> None:
    """Another type, key or use of a name."""
    have = shape(Column("a", pa.int32(), 1), Column("b", pa.string(), 2), key=("a",))
    (conflict,) = plan(have, want).conflicts
    assert message in conflict


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.decimal128(9, 2), pa.decimal128(12, 2), pa.decimal128(12, 2)),
        (pa.decimal128(9, 2), pa.decimal128(12, 3), None),
        (pa.int64(), pa.float64(), None),
        (pa.string(), pa.int32(), None),
        (pa.list_(pa.int32()), pa.list_(pa.int64()), pa.list_(pa.int64())),
        (pa.list_(pa.int32()), pa.list_(pa.string()), None),
        (
            pa.struct([("a", pa.int32())]),
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
        ),
        (pa.struct([("a", pa.int32())]), pa.struct([("a", pa.string())]), None),
    ],
)
def test_common_type_holds_both(one: pa.DataType, other: pa.DataType, expected: Any) -> None:
    """The order does not matter; a wider type that is held stays."""
    assert common_type(one, other) == common_type(other, one) == expected
    if expected is not None:
        narrower = shape(Column("a", one, 1))
        wider = shape(Column("a", expected, 1))
        assert plan(wider, narrower).after == replace(wider, columns=wider.columns)
