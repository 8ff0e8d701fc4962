"""Describe the records that producers send as JSON Schema (2020-12), with an example record.

The schema shows people and tools what the contract accepts; the contract itself validates records.
JSON Schema cannot express rules over whole rows, so the description lists them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain
from typing import Any

from ingestion_platform.contract.decoder import Decoder
from ingestion_platform.contract.exact import is_epoch
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.contract.sql import EXACT, INPUT, parse_query, quoted, text
from ingestion_platform.contract.times import EPOCHS, NO_ZONE, micros_of, pattern

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TYPES: dict[Kind, str | list[str]] = {
    Kind.STRING: "string",
    Kind.INTEGER: "integer",
    Kind.NUMBER: "number",
    Kind.DECIMAL: "number",
    Kind.BOOLEAN: "boolean",
    Kind.DATE: "string",
    Kind.TIMESTAMP: "string",
    Kind.TIME: "string",
    Kind.JSON: ["object", "array", "string"],
    Kind.OBJECT: "object",
    Kind.ARRAY: "array",
}


def json_schema(contract: Contract) -> dict[str, Any]:
    """Return the schema of a record as producers send it, without derived fields.

    Unknown fields are allowed, since the platform ignores them.
    """
    sent = [f for f in contract.fields if f.derived is None]
    described = [contract.description.strip()]
    described += [f"Rule {r.name}: {r.description or r.expression}" for r in contract.rules]
    return {
        "$schema": DIALECT,
        "$id": f"urn:contract:{contract.id}:{contract.version}",
        "title": contract.name or contract.stream,
        "description": "\n\n".join(filter(None, described)),
        **_members(tuple(sent)),
        "examples": [example(contract)],
    }


def field_schema(field: Field) -> dict[str, Any]:
    """Return the schema of one field's value. An optional field may be null."""
    described = {"title": field.business_name, "description": _description(field)}
    schema: dict[str, Any] = {
        **{key: words for key, words in described.items() if words},
        "type": _type(field),
        **_constraints(field),
    }
    if field.kind is Kind.OBJECT:
        schema |= {k: v for k, v in _members(field.fields).items() if k != "type"}
    if field.kind is Kind.ARRAY and field.item is not None:
        schema["items"] = field_schema(field.item)
    if field.examples:
        schema["examples"] = [plain(value) for value in field.examples]
    return schema


def example(contract: Contract) -> dict[str, Any]:
    """Return a record that the contract accepts, built from its examples and allowed values.

    Optional fields are left out if they have neither, or if they would break a row rule.
    """
    sent = tuple(f for f in contract.fields if f.derived is None)
    record = _example(sent)
    optional = [f.name for f in sent if not f.required and f.name in record]
    smallest = {name: value for name, value in record.items() if name not in optional}
    if not contract.rules:
        return record
    without_one = ({k: v for k, v in record.items() if k != name} for name in optional)
    candidates = chain([record], without_one)
    return next(_accepted(contract, candidates), smallest)


def _accepted(contract: Contract, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the records that the contract accepts."""
    import duckdb

    query, examine = parse_query(contract, strict=False), Decoder(contract).examine
    with duckdb.connect(config={"threads": "1"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for record in records:
            examined = examine(json.dumps(record).encode())
            exact = "".join(
                f", {_exact(value)} AS {quoted(EXACT + name)}"
                for name, value in examined.texts.items()
            )
            clean = text((examined.clean or b"").decode())
            batch = f"SELECT {clean} AS _value, NULL::VARCHAR[] AS _broken{exact}"
            connection.execute(f"CREATE OR REPLACE VIEW {INPUT} AS {batch}")
            row = connection.execute(query).fetchone()
            if row is not None and not row[-1] and not examined.reasons:
                yield record


def _exact(value: bytes | int | None) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else text(value.decode())


def _members(fields: tuple[Field, ...]) -> dict[str, Any]:
    members: dict[str, Any] = {
        "type": "object",
        "properties": {f.name: field_schema(f) for f in fields},
    }
    if required := [f.name for f in fields if f.required]:
        members["required"] = required
    return members


def _type(field: Field) -> str | list[str]:
    own = _TYPES[field.kind]
    if is_epoch(field):
        own = "number" if field.format == "epoch_seconds" else "integer"
    if field.required:
        return own
    return [*([own] if isinstance(own, str) else own), "null"]


def _description(field: Field) -> str:
    words = [field.description]
    if field.kind is Kind.TIMESTAMP:
        words.append(_meaning(field))
    if field.kind is Kind.JSON:
        words.append("An object or array, or the JSON text of one.")
    if field.kind is Kind.DECIMAL:
        words.append(f"Exact, decimal({field.precision},{field.scale}).")
    return " ".join(filter(None, words))


def _meaning(field: Field) -> str:
    """Return in words how a timestamp is sent."""
    if is_epoch(field):
        unit = str(field.format).removeprefix("epoch_")
        return f"{unit.capitalize()} since 1970-01-01T00:00:00Z."
    if field.default_zone == NO_ZONE:
        return "ISO 8601, with a zone."
    return f"ISO 8601; without a zone it is {field.default_zone}."


def _constraints(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if field.allowed:
        found["enum"] = [_sent(field, value) for value in field.allowed]
        if not field.required:
            found["enum"].append(None)
    if field.kind in (Kind.DATE, Kind.TIME, Kind.TIMESTAMP) and not is_epoch(field):
        # No `format`: it would require a zone and reject accepted forms beyond RFC 3339.
        zone_needed = field.default_zone == NO_ZONE
        found["pattern"] = pattern(str(field.kind), zone_needed=zone_needed)
    if field.kind is Kind.INTEGER:
        half = 1 << (field.bits - 1)
        found |= {"minimum": -half, "maximum": half - 1}
    if field.kind is Kind.DECIMAL and field.scale is not None:
        whole = 10 ** ((field.precision or 38) - field.scale)
        found |= {"exclusiveMinimum": -whole, "exclusiveMaximum": whole}
        found["multipleOf"] = float(Decimal(1).scaleb(-field.scale))
    return found | _bounds(field) | _text(field)


def _bounds(field: Field) -> dict[str, Any]:
    # JSON Schema compares only numbers; the contract checks the bounds of times.
    if field.kind not in (Kind.INTEGER, Kind.NUMBER, Kind.DECIMAL):
        return {}
    bounds = {
        "minimum": field.minimum,
        "maximum": field.maximum,
        "exclusiveMinimum": field.exclusive_minimum,
        "exclusiveMaximum": field.exclusive_maximum,
    }
    return {name: plain(bound) for name, bound in bounds.items() if bound is not None}


def _text(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = {}
    unit = "Items" if field.kind is Kind.ARRAY else "Length"
    for name, limit in (("min", field.min_length), ("max", field.max_length)):
        if limit is not None:
            found[f"{name}{unit}"] = limit
    if field.unique_items:
        found["uniqueItems"] = True
    if field.pattern is not None:
        found["pattern"] = f"^(?:{field.pattern})$"
    if field.format is not None and field.kind is Kind.STRING:
        found["format"] = field.format
    return found


def _example(fields: tuple[Field, ...]) -> dict[str, Any]:
    pairs = ((f, _example_value(f)) for f in fields)
    return {f.name: value for f, value in pairs if value is not None or f.required}


def _example_value(field: Field) -> Any:
    if field.examples:
        return plain(field.examples[0])
    if field.allowed:
        return _sent(field, field.allowed[0])
    if not field.required:
        return None
    if field.kind is Kind.OBJECT:
        return _example(field.fields)
    if field.kind is Kind.ARRAY and field.item is not None:
        return [_example_value(field.item)]
    return (
        1_795_168_800 * 1_000_000 // EPOCHS[str(field.format)]
        if is_epoch(field)
        else _ORDINARY[field.kind]
    )


_ORDINARY: dict[Kind, Any] = {
    Kind.STRING: "text",
    Kind.INTEGER: 1,
    Kind.NUMBER: 1.5,
    Kind.DECIMAL: 1,
    Kind.BOOLEAN: True,
    Kind.DATE: "2026-11-20",
    Kind.TIMESTAMP: "2026-11-20T10:00:00Z",
    Kind.TIME: "10:00:00",
    Kind.JSON: {},
}


def _sent(field: Field, value: Any) -> Any:
    """Return an allowed value as a producer sends it."""
    if not is_epoch(field):
        return plain(value)
    micros = micros_of(value)
    unit = EPOCHS[str(field.format)]
    return micros // unit if micros % unit == 0 else micros / unit


def plain(value: Any) -> Any:
    """Return a value of a contract as data that JSON can represent."""
    match value:
        case datetime() if value.tzinfo is not None:
            return value.isoformat().replace("+00:00", "Z")
        case datetime():
            return value.isoformat(sep=" ")
        case date() | time():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case dict():
            return {name: plain(member) for name, member in value.items()}
        case list() | tuple():
            return [plain(member) for member in value]
    return value
