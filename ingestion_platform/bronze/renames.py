"""Renames keys of old records for a contract with renamed fields.

Only the validated copy changes; lake and quarantine keep the bytes as they were sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract.json_text import object_keys
from ingestion_platform.contract.model import Contract, Field

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Renames:
    """The previous names of a contract's fields, at any depth. Thread-safe."""

    def __init__(self, contract: Contract) -> None:
        self._root = _node(f for f in contract.fields if f.derived is None)
        self._names = sorted(_names(self._root))

    def applied(self, values: pa.BinaryArray) -> pa.BinaryArray:
        """Return the records (JSON objects) with current names.

        A previous name counts where the current one is absent. A record that is not JSON, or has a
        duplicate key, is not changed.
        """
        if not self._names:
            return values
        found = [pc.match_substring(values, f'"{name}"') for name in self._names]
        mask = found[0]
        for more in found[1:]:
            mask = pc.or_(mask, more)
        chosen = pc.fill_null(mask, False)
        if not pc.any(chosen).as_py():
            return values
        renamed = [_object(value, self._root) for value in values.filter(chosen).to_pylist()]
        return pc.replace_with_mask(values, chosen, pa.array(renamed, values.type))


@dataclass(frozen=True, slots=True)
class _Node:
    """The fields of an object: current names with the previous ones, and the objects inside."""

    previous: Mapping[str, tuple[str, ...]]
    inside: Mapping[str, _Node]


def _node(fields: Iterable[Field]) -> _Node | None:
    """Return None when nothing was renamed there."""
    previous: dict[str, tuple[str, ...]] = {}
    inside: dict[str, _Node] = {}
    for each in fields:
        if each.previous_names:
            previous[each.name] = each.previous_names
        within = each
        while within.item is not None:
            within = within.item
        if (node := _node(within.fields)) is not None:
            inside[each.name] = node
    return _Node(previous, inside) if previous or inside else None


def _names(node: _Node | None) -> set[str]:
    if node is None:
        return set()
    own = {name for names in node.previous.values() for name in names}
    return own.union(*map(_names, node.inside.values()))


def _object(text: bytes, node: _Node | None) -> bytes:
    """Return an object, or an array of them, with current names; anything else unchanged."""
    if node is None:
        return text
    try:
        if text.lstrip()[:1] == b"[":
            return b"[" + b",".join(_object(bytes(item), node) for item in _ARRAY(text)) + b"]"
        members = _OBJECT(text)
        if len(object_keys(text)) != len(members):
            return text
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    present = {
        old: new
        for new, names in node.previous.items()
        if new not in members
        for old in [next((name for name in names if name in members), None)]
        if old is not None
    }
    parts = []
    for name, value in members.items():
        name = present.get(name, name)
        parts.append(
            json.dumps(name).encode() + b":" + _object(bytes(value), node.inside.get(name))
        )
    return b"{" + b",".join(parts) + b"}"
