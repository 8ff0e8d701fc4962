"""Compares stored JSON with the record token by token, for verification only.

It shares no code with the validator that made the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ingestion_platform.contract.model import Field, Kind

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\[\]{}:,"\s]+', re.DOTALL)
_LOOSE = re.compile(r"[{\[,:]\s|\s[\]},:]")  # white space between tokens, or in a string
_OPENING, _CLOSING = {"{", "["}, {"}", "]"}


def tokens(text: str) -> list[str]:
    """Return the tokens of a JSON text, each as it is written."""
    return _TOKEN.findall(text)


def with_json(fields: Sequence[Field]) -> tuple[Field, ...]:
    """Return the fields that producers send and that are, or hold, open JSON."""
    return tuple(f for f in fields if f.derived is None and _has_json(f))


def as_sent(fields: Sequence[Field], value: bytes, row: dict[str, Any]) -> bool:
    """Return whether a row has the JSON tokens of its record in all of some fields.

    `value` is the record as it was sent, `row` the stored values by name.
    """
    quick = [f for f in fields if _stands_there(f, value, row[f.name])]
    if len(quick) == len(fields):
        return True
    try:
        members = dict(_members(tokens(value.decode())))
        return all(_same(f, _sent(f, members), row[f.name]) for f in fields if f not in quick)
    except (ValueError, IndexError):
        return False  # no JSON object: bronze should not have a row of it


def _stands_there(field: Field, value: bytes, stored: Any) -> bool:
    """Return whether the stored text follows the field's only key in the record, byte for byte."""
    if field.kind is not Kind.JSON or not isinstance(stored, str) or field.previous_names:
        return False
    key = b'"' + field.name.encode() + b'"'
    once = value.count(key) == 1 and key + b":" + stored.encode() in value
    return once and not _LOOSE.search(stored)


def _same(field: Field, sent: list[str] | None, stored: Any) -> bool:
    if sent is None or sent == ["null"]:
        return stored is None
    if stored is None:
        return False
    if len(sent) == 1 and sent[0].startswith('"') and _has_json(field):
        sent = tokens(json.loads(sent[0], strict=False))
    if field.kind is Kind.JSON:
        return isinstance(stored, str) and "".join(sent) == stored and sent == tokens(stored)
    if field.kind is Kind.ARRAY and field.item is not None:
        items = list(_items(sent))
        return len(items) == len(stored) and all(
            _same(field.item, item, kept) for item, kept in zip(items, stored, strict=True)
        )
    members = dict(_members(sent)) if field.fields else {}
    return all(_same(f, _sent(f, members), stored[f.name]) for f in with_json(field.fields))


def _sent(field: Field, members: dict[str, list[str]]) -> list[str] | None:
    names = (field.name, *field.previous_names)
    return next((members[name] for name in names if name in members), None)


def _members(found: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Return the members of an object, each a key and the tokens of its value."""
    for part in _items(found):
        yield json.loads(part[0], strict=False), part[2:]


def _items(found: list[str]) -> Iterator[list[str]]:
    """Return the parts between the commas of an object or array."""
    depth, start = 0, 1
    for place, token in enumerate(found):
        depth += (token in _OPENING) - (token in _CLOSING)
        if (depth == 1 and token == ",") or depth == 0:
            if place > start:
                yield found[start:place]
            start = place + 1


def _has_json(field: Field) -> bool:
    inner = (*field.fields, *((field.item,) if field.item else ()))
    return field.kind is Kind.JSON or any(map(_has_json, inner))
