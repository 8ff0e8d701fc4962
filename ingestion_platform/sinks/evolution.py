"""How a target follows a changed source: planned once for all sinks, from two shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations

import pyarrow as pa
import pyarrow.types as pat

from ingestion_platform.sinks.base import Column, Shape

_PROMOTIONS = {(pa.int32(), pa.int64()), (pa.float32(), pa.float64())}
"""Scalar types that Iceberg widens, besides the precision of decimals."""


@dataclass(frozen=True, slots=True)
class Evolution:
    """Steps from one shape to another: rename, then widen, then add columns."""

    have: Shape
    after: Shape
    """What the target holds afterwards: the columns of the source, then the dropped ones."""
    renamed: Mapping[str, str]
    """New names by old ones."""
    widened: tuple[Column, ...]
    """With the new name and type."""
    added: tuple[Column, ...]
    dropped: tuple[Column, ...]
    """Not in the source any more: they stay, and new rows have nulls there."""
    conflicts: tuple[str, ...]
    """Why the target cannot follow without losing data; then no step may be taken."""

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return self.after != self.have


def plan(have: Shape, want: Shape) -> Evolution:
    """Plan how a target that holds `have` becomes able to hold the rows of `want`."""
    pairs = _pairs(have, want)
    used = {held.name for held in pairs.values() if held}
    same = have.identity == want.identity
    dropped = tuple(
        column if same else replace(column, number=0)
        for column in have.columns
        if column.name not in used
    )
    renamed = {held.name: name for name, held in pairs.items() if held and held.name != name}
    after, added, widened, conflicts = [], [], [], _conflicts(have, want, renamed, dropped)
    for column in want.columns:
        held = pairs[column.name]
        if held is None:
            added.append(column)
            after.append(column)
            continue
        kind = common_type(held.type, column.type) if held.json == column.json else None
        if kind is None:
            types = f"{_type_name(held)}, and {_type_name(column)} in the source"
            conflicts.append(f"column {column.name} is {types}")
            continue
        after.append(replace(column, type=kind))
        if kind != held.type:
            widened.append(after[-1])
    return Evolution(
        have,
        replace(want, columns=(*after, *dropped)),
        renamed,
        tuple(widened),
        tuple(added),
        dropped,
        tuple(conflicts),
    )


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both without loss, None when there is none.

    Structs get the members of both.
    """
    if one == other:
        return one
    if pat.is_decimal(one) and pat.is_decimal(other):
        return (
            max(one, other, key=lambda kind: kind.precision) if one.scale == other.scale else None
        )
    if pat.is_list(one) and pat.is_list(other):
        item = common_type(one.value_type, other.value_type)
        return None if item is None else pa.list_(one.value_field.with_type(item))
    if pat.is_struct(one) and pat.is_struct(other):
        return _common_struct(one, other)
    return next((b for a, b in permutations((one, other)) if (a, b) in _PROMOTIONS), None)


def _common_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    members = {member.name: member for member in one}
    for member in other:
        held = members.get(member.name, member)
        kind = common_type(held.type, member.type)
        if kind is None:
            return None
        members[member.name] = held.with_type(kind)
    return pa.struct(list(members.values()))


def _pairs(have: Shape, want: Shape) -> dict[str, Column | None]:
    """Return the held column of each wanted one, by the wanted name.

    It has the same number, as long as the source is the same table; else the same name.
    """
    numbers = {o.number: o for o in have.columns} if have.identity == want.identity else {}
    pairs = {column.name: numbers.get(column.number) for column in want.columns}
    used = {held.name for held in pairs.values() if held}
    names = {o.name: o for o in have.columns if o.name not in used}
    return {name: held or names.get(name) for name, held in pairs.items()}


def _conflicts(
    have: Shape, want: Shape, renamed: Mapping[str, str], dropped: tuple[Column, ...]
) -> list[str]:
    """Return the conflicts of names: of the key, and with columns that stay."""
    found = []
    if tuple(renamed.get(name, name) for name in have.key) != want.key:
        found.append(f"its key is {', '.join(have.key)}, not {', '.join(want.key)}")
    stay = {column.name for column in dropped}
    found += [
        f"column {old} is now called {new}, a name that a dropped column has"
        for old, new in renamed.items()
        if new in stay
    ]
    return found


def _type_name(column: Column) -> str:
    return "JSON" if column.json else str(column.type)
