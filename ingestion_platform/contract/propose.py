"""Propose a contract, an ODCS document, from sample records.

The input and the output are plain data; the command line reads samples and writes files. People
fill in the placeholders for what values do not show: meaning, owner and freshness.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingestion_platform.contract.properties import IDENTIFIER
from ingestion_platform.contract.times import read_date, read_timestamp

PLACEHOLDER = "DESCRIBE:"
"""Prefix of a description that has still to be written."""
QUARANTINE_SHARE = 0.05

_MAX_DEPTH = 8  # levels of nested objects and arrays; deeper ones stay open
_FEW_KEYS = 8  # an object with at most this many keys is never treated as a map
_MAX_ENUM = 10
_SEEN_EACH = 5  # minimum of the average count of an enumeration's values
_INTEGER = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_NO_EVENT = re.compile(r"birth|expir|due|valid|until|end|start", re.IGNORECASE)
_OPEN_OBJECT = {"logicalType": "object", "physicalType": "json"}
_OPEN_ARRAY = {"logicalType": "array", "physicalType": "json"}

Property = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Proposal:
    """An ODCS document, and the reason for each top-level field that it leaves out, by name."""

    document: dict[str, Any]
    left_out: Mapping[str, str]


def propose(
    stream: str, domain: str, records: Sequence[Mapping[str, Any]], *, text: bool = False
) -> Proposal:
    """Propose a contract that all of these records fulfil.

    `records` are decoded JSON objects. With `text` their values are strings or None, as in a CSV
    file. A field is left out, and so ignored, if no type fits its values in all records.

    Raises:
        ValueError: there are no records, or no field could be declared.
    """
    if not records:
        raise ValueError("there are no records")
    columns = _columns(records)
    left_out = _unnameable(columns)
    properties: list[Property] = []
    for name, values in columns.items():
        if name in left_out:
            continue
        typed = _typed(values, text)
        if typed is None:
            left_out[name] = "its values are of types that do not go together"
        else:
            properties.append(_described(name, typed, values, len(records)))
    if not properties:
        raise ValueError("no field has a plain name and values of one type")
    _mark_key(properties, columns, stream)
    _mark_partition(properties)
    return Proposal(_document(stream, domain, properties), left_out)


def table_name(stream: str, domain: str) -> str:
    """Return the bronze table of a stream: its name, prefixed by the domain if it is not yet."""
    return stream if stream.split("_")[0] == domain else f"{domain}_{stream}"


def _document(stream: str, domain: str, properties: list[Property]) -> dict[str, Any]:
    title = stream.replace("_", " ").capitalize()
    return {
        "apiVersion": "v3.2.0",
        "kind": "DataContract",
        "id": table_name(stream, domain).replace("_", "-"),
        "name": title,
        "version": "0.1.0",
        "status": "draft",
        "domain": domain,
        "description": {"purpose": f"{PLACEHOLDER} what the data is for, and who answers for it."},
        "slaProperties": [
            {
                "property": "quarantineShare",
                "value": QUARANTINE_SHARE,
                "description": "More than this share of a slice in quarantine fails its check.",
            }
        ],
        "schema": [
            {
                "name": stream,
                "physicalName": table_name(stream, domain),
                "physicalType": "table",
                "logicalType": "object",
                "businessName": title,
                "description": f"{PLACEHOLDER} what one row is.",
                "properties": properties,
            }
        ],
    }


def _columns(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the non-null values of each field, with fields in the order of first appearance."""
    columns: dict[str, list[Any]] = {}
    for record in records:
        for name, value in record.items():
            values = columns.setdefault(name, [])
            if value is not None:
                values.append(value)
    return columns


def _unnameable(names: Iterable[str]) -> dict[str, str]:
    """Return the names that no column can have, each with the reason."""
    found: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name in names:
        if name.startswith("_"):
            found[name] = "names that start with an underscore are the platform's own"
        elif not IDENTIFIER.fullmatch(name):
            found[name] = "a column's name has letters, digits and _, a letter first"
        elif name.lower() in seen:
            found[name] = f"differs from {seen[name.lower()]} only by case"
        else:
            seen[name.lower()] = name
    return found


def _described(name: str, typed: Property, values: list[Any], owners: int) -> Property:
    seen = f"in {len(values):,} of {owners:,}" if len(values) < owners else "in every one"
    meaning = {"name": name, "description": f"{PLACEHOLDER} what {name} means; {seen} sampled."}
    required = {"required": True} if len(values) == owners else {}
    return meaning | typed | required


def _typed(values: list[Any], text: bool = False, depth: int = 0) -> Property | None:
    """Return the type that holds all values (none of them null); None if there is none."""
    if text:
        values = _spelled(values)
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return {"logicalType": "boolean"}
    if kinds == {int}:
        return _integer(values, depth)
    if kinds and kinds <= {int, float}:
        return _number(values)
    if kinds <= {str}:
        return _string(values)
    if kinds == {dict}:
        return _object(values, depth)
    if kinds == {list}:
        return _array(values, depth)
    return dict(_OPEN_OBJECT) if kinds <= {dict, list} else None


def _spelled(values: list[str]) -> list[Any]:
    """Return the booleans or numbers that all strings spell, else the strings.

    A number with a leading zero is a code and stays a string.
    """
    readings: list[tuple[Callable[[str], object], Callable[[str], Any]]] = [
        (lambda v: v.lower() in ("true", "false"), lambda v: v.lower() == "true"),
        (lambda v: _INTEGER.fullmatch(v) and -(2**63) <= int(v) < 2**63, int),
        (lambda v: _NUMBER.fullmatch(v) and math.isfinite(float(v)), float),
    ]
    for spells, read in readings:
        if values and all(len(v) <= 40 and spells(v) for v in values):
            return [read(v) for v in values]
    return values


def _integer(values: list[int], depth: int) -> Property | None:
    if all(-(2**63) <= v < 2**63 for v in values):
        return {"logicalType": "integer", "examples": [values[0]]}
    if depth == 0 and all(abs(v) < 10**38 for v in values):
        return {"logicalType": "number", "physicalType": "decimal(38,0)"}
    return None


def _number(values: list[int | float]) -> Property | None:
    try:
        finite = all(math.isfinite(float(v)) for v in values)
    except OverflowError:
        return None
    return {"logicalType": "number", "examples": [float(values[0])]} if finite else None


def _string(values: list[str]) -> Property:
    if not values:
        return {"logicalType": "string"}
    if all(map(_UUID.fullmatch, values)):
        options = {"logicalTypeOptions": {"format": "uuid"}}
        return {"logicalType": "string", **options, "examples": [values[0]]}
    if all(map(_EMAIL.fullmatch, values)):
        options = {"logicalTypeOptions": {"format": "email"}}
        # A sampled address is personal data.
        example = {"classification": "PII", "examples": ["name@example.org"]}
        return {"logicalType": "string", **options, **example}
    if all(map(_is_timestamp, values)):
        kind = {"logicalType": "timestamp", "physicalType": "timestamptz"}
        zone = {"logicalTypeOptions": {"defaultTimezone": "UTC"}}
        return {**kind, **zone, "examples": [values[0]]}
    if all(map(_is_date, values)):
        return {"logicalType": "date", "examples": [values[0]]}
    if few := _few(values):
        return {"logicalType": "string", "enum": [{"value": value} for value in few]}
    return {"logicalType": "string"}


def _is_timestamp(value: str) -> bool:
    return "-" in value and _reads(read_timestamp, value)  # digits alone may be an identifier


def _is_date(value: str) -> bool:
    return "-" in value and _reads(read_date, value)


def _reads(read: Callable[[str], object], value: str) -> bool:
    try:
        read(value)
    except ValueError:
        return False
    return True


def _few(values: list[str]) -> list[str]:
    """Return the distinct values if they look like an enumeration, else []."""
    distinct = sorted(set(values))
    if len(distinct) > min(_MAX_ENUM, len(values) // _SEEN_EACH):
        return []
    return distinct if all(v.isprintable() and 0 < len(v) <= 40 for v in distinct) else []


def _object(values: list[dict[str, Any]], depth: int) -> Property:
    """Return an object with declared fields if the objects are alike, else an open object."""
    columns = _columns(values)
    given = sum(map(len, values))
    like_a_map = len(columns) > _FEW_KEYS and given < len(columns) * len(values) / 2
    if not columns or like_a_map or _unnameable(columns) or depth >= _MAX_DEPTH:
        return dict(_OPEN_OBJECT)
    properties = []
    for name, inner in columns.items():
        typed = _typed(inner, depth=depth + 1)
        if typed is None:
            return dict(_OPEN_OBJECT)
        properties.append(_described(name, typed, inner, len(values)))
    return {"logicalType": "object", "properties": properties}


def _array(values: list[list[Any]], depth: int) -> Property:
    """Return an array of the items' type; an open array if they have no common type."""
    items = [item for value in values for item in value if item is not None]
    typed = _typed(items, depth=depth + 1) if items and depth < _MAX_DEPTH else None
    return dict(_OPEN_ARRAY) if typed is None else {"logicalType": "array", "items": typed}


def _mark_key(properties: list[Property], columns: Mapping[str, list[Any]], stream: str) -> None:
    """Make the first unique field with the name of an id the primary key."""
    nouns = {word.rstrip("s") for word in (stream, *stream.lower().split("_"))}

    def rank(each: Property) -> int:
        name = each["name"].lower()
        if name in ("id", "uuid"):
            return 0
        return 1 if name.removesuffix("_id").removesuffix("id") in nouns else 2

    def is_key(each: Property) -> bool:
        named = re.fullmatch(r"(?i:id|uuid)|.*(_(?i:id|uuid|key)|[a-z]I[dD])", each["name"])
        scalar = each["logicalType"] in ("string", "integer") and "enum" not in each
        if not (named and scalar and each.get("required")):
            return False
        values = columns[each["name"]]
        return len(values) > 1 and len(set(values)) == len(values)

    candidates = sorted(filter(is_key, properties), key=rank)
    if candidates:
        candidates[0] |= {"primaryKey": True, "primaryKeyPosition": 1}


def _mark_partition(properties: list[Property]) -> None:
    """Partition by the date of the event: an existing date field, or one from a timestamp."""
    dates = _of_events(properties, "date")
    times = _of_events(properties, "timestamp")
    plain = [each for each in dates if each["name"].lower() in ("date", "day", "event_date")]
    if plain or (dates and not times):
        (plain or dates)[0].update(partitioned=True, partitionKeyPosition=1)
    elif times:
        source = times[0]["name"]
        properties.insert(properties.index(times[0]) + 1, _day_of(source, properties))


def _of_events(properties: list[Property], kind: str) -> list[Property]:
    """Return the required fields of a kind that may hold the time of the event."""
    return [
        each
        for each in properties
        if each["logicalType"] == kind
        and each.get("required")
        and not _NO_EVENT.search(each["name"])
    ]


def _day_of(source: str, properties: list[Property]) -> Property:
    taken = {each["name"].lower() for each in properties}
    names = ("event_date", f"{source}_date", *(f"event_date_{n}" for n in range(2, 1000)))
    return {
        "name": next(name for name in names if name.lower() not in taken),
        "description": f"UTC day of {source}; the table is partitioned by it.",
        "logicalType": "date",
        "partitioned": True,
        "partitionKeyPosition": 1,
        "transformLogic": f"CAST(\"{source}\" AT TIME ZONE 'UTC' AS DATE)",
        "transformDescription": f"The UTC day of {source}.",
    }
