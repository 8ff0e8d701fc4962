"""Build the Markdown parts of generated pages: header, tables, fields and their rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ingestion_platform.contract.json_schema import plain
from ingestion_platform.contract.model import Field, Kind
from ingestion_platform.contract.times import NO_ZONE

HEADER = "<!-- Generated from the contracts by `make docs`. Do not edit: change the contract. -->"
_FIELD_COLUMNS = ("Field", "Type", "Required", "Rules", "Description", "Classification")


def document(*blocks: str) -> str:
    """Return a page: the header and the blocks that are not empty, with blank lines between."""
    return "\n\n".join(filter(None, (HEADER, *blocks))) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; an empty text without rows."""
    lines = [_row(cells) for cells in rows]
    if not lines:
        return ""
    return "\n".join((_row(columns), _row(["---"] * len(columns)), *lines))


def code(value: str) -> str:
    """Return a name or value as inline code; it may contain any characters."""
    fence = "``" if "`" in value else "`"
    pad = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{pad}{value}{pad}{fence}"


def fields_table(fields: Iterable[Field]) -> str:
    """Return the table that describes fields, including nested ones."""
    return table(_FIELD_COLUMNS, (row for field in fields for row in _field_rows(field, "")))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


def _field_rows(field: Field, within: str) -> Iterator[Sequence[str]]:
    path = f"{within}{field.name}"
    words = field.description or field.business_name
    rules = "; ".join(_rules(field))
    yield code(path), type_name(field), _required(field), rules, words, field.classification
    for inner in field.fields:
        yield from _field_rows(inner, f"{path}.")
    item = field.item
    if item is None:
        return
    for inner in item.fields:
        yield from _field_rows(inner, f"{path}[].")
    if rules := "; ".join(_rules(item)):
        yield code(f"{path}[]"), type_name(item), _required(item), rules, item.description, ""


def _required(field: Field) -> str:
    if field.derived is not None:
        return "derived"
    return "yes" if field.required else "no"


def type_name(field: Field) -> str:
    """Return the type of a field in words."""
    match field.kind:
        case Kind.INTEGER if field.bits != 64:
            return f"integer ({field.bits} bits)"
        case Kind.DECIMAL:
            return f"decimal({field.precision},{field.scale})"
        case Kind.TIMESTAMP:
            return "timestamp" + "".join(f" ({said})" for said in _of_time(field))
        case Kind.ARRAY if field.item is not None:
            return f"array of {type_name(field.item)}"
    return str(field.kind)


def _of_time(field: Field) -> Iterator[str]:
    """Yield what differs from the default: sent as text in UTC, stored with a zone."""
    if not field.zoned:
        yield "UTC wall time"
    if field.format:
        yield f"sent as {field.format}"
    elif field.default_zone != "UTC":
        yield "a zone is needed" if field.default_zone == NO_ZONE else f"in {field.default_zone}"


def _rules(field: Field) -> Iterator[str]:
    if field.derived is not None:
        yield f"= {code(field.derived)}"
    if field.default is not None:
        yield f"by HTTP and Python {field.default}, if not given"
    if field.allowed:
        yield f"one of {', '.join(code(_value(value)) for value in field.allowed)}"
    if field.format is not None:
        yield f"{field.format}"
    if field.pattern is not None:
        yield f"matches {code(field.pattern)}"
    for sign, bound in (
        ("≥", field.minimum),
        ("\\>", field.exclusive_minimum),
        ("≤", field.maximum),
        ("<", field.exclusive_maximum),
    ):
        if bound is not None:
            yield f"{sign} {_value(bound)}"
    yield from _lengths(field)
    if field.unique_items:
        yield "no item twice"


def _lengths(field: Field) -> Iterator[str]:
    low, high = field.min_length, field.max_length
    unit = "items" if field.kind is Kind.ARRAY else "characters"
    if low is not None and high is not None:
        yield f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
    elif low == 1:
        yield "not empty"
    elif low is not None:
        yield f"at least {low} {unit}"
    elif high is not None:
        yield f"at most {high} {unit}"


def _value(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(plain(value))
