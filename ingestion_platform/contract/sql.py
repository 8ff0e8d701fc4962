"""Compile a contract to DuckDB queries: from JSON text to typed columns, and to reasons.

The query expects records that the fast path of `decoder` accepted, so it may read leniently.
Other modules run it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from ingestion_platform.contract.exact import exact_of, is_epoch
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.contract.reasons import RECORD, RULE, SHOWN, Code
from ingestion_platform.contract.schemas import duckdb_type

INPUT = "_batch"
"""The relation that the query reads; `input_schema` has its columns."""
EXACT = "_exact_"
"""Prefix of the columns that hold the exact texts of fields."""
SLOW = "_slow"
"""A result column: true if the query may misread the record's times.

Such a record needs the slow path.
"""
REJECTED = "_rejected"
"""The last result column: whether there is a reason against the row."""
REASONS = "_reasons"
"""The only column of `reasons_query`: a list of structs with the members of `reasons.Reason`."""

FORMATS = {
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "email": r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+",
    "hostname": r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    "ipv4": r"((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)",
    "ipv6": r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*",
}
"""The pattern of each string format (RE2; it must match the whole value)."""

# The range of Python's datetime, and so of the libraries that read the tables.
_YEARS = (datetime.min, datetime.max)

_MANY = 24  # allowed values; longer lists are compared with NOT IN

# Kinds that are checked by casting their text, with the type's name in messages.
_CAST = {Kind.DATE: "date", Kind.TIMESTAMP: "timestamp", Kind.TIME: "time"}


def input_schema(contract: Contract) -> pa.Schema:
    """Return the columns that a contract's query reads.

    `_value` is the record's JSON. `_broken` lists the fields that already have a reason, or is
    NULL. A column follows for each field that `exact` reads: a text (minified JSON, or the digits
    of a decimal as they were sent), or microseconds since 1970 for a timestamp that is sent as a
    number.
    """
    texts = [f for f in contract.fields if exact_of(f)]
    return pa.schema(
        [
            ("_value", pa.string()),
            ("_broken", pa.list_(pa.string())),
            *((f"{EXACT}{f.name}", pa.int64() if is_epoch(f) else pa.string()) for f in texts),
        ]
    )


def parse_query(contract: Contract, *, strict: bool) -> str:
    """Return the query of a contract: its columns in order, then SLOW and REJECTED.

    The strict query is faster, but fails on a batch with a record that lacks a field or has a
    duplicate key. The other query accepts such records.
    """
    sent = [f for f in contract.fields if f.derived is None]
    slow = " OR ".join(each for f in sent for each in _misread(f)) or "false"
    columns = ",\n    ".join(quoted(f.name) for f in contract.fields)
    rejected = "\n      OR ".join(
        f"coalesce({fault.condition}, false)" for fault in _faults(contract)
    )
    return f"""{_typed_rows(contract, strict=strict)}
SELECT
    {columns},
    coalesce({slow}, false) AS {SLOW},
    {rejected} AS {REJECTED}
FROM complete"""


def reasons_query(contract: Contract) -> str:
    """Return the query of all reasons against each row; the list of a valid row is empty."""
    structs = ",\n      ".join(
        f"CASE WHEN {fault.condition} THEN {_struct(fault)} END" for fault in _faults(contract)
    )
    return f"""{_typed_rows(contract, strict=False)}
SELECT list_filter([
      {structs}
    ], lambda reason: reason IS NOT NULL) AS {REASONS}
FROM complete"""


def _typed_rows(contract: Contract, *, strict: bool) -> str:
    """Return the SQL of the relation `complete`: the input with all columns of the contract."""
    sent = [f for f in contract.fields if f.derived is None]
    derived = [f for f in contract.fields if f.derived is not None]
    typed = ",\n    ".join(f"{_typed(f)} AS {quoted(f.name)}" for f in sent)
    computed = "".join(
        f",\n    TRY_CAST(({f.derived}\n) AS {duckdb_type(f)}) AS {quoted(f.name)}" for f in derived
    )
    shape = text(structure(sent))
    lenient = f"from_json(CASE WHEN json_valid(_value) THEN _value END, {shape})"
    reading = f"from_json_strict(_value, {shape})" if strict else lenient
    return f"""WITH read AS (
  SELECT *, {reading} AS _j FROM {INPUT}
), typed AS (
  SELECT *,
    {typed}
  FROM read
), complete AS (
  SELECT *{computed} FROM typed
)"""


def _faults(contract: Contract) -> Iterator[Fault]:
    """Yield every fault that a row can have."""
    sent = [f for f in contract.fields if f.derived is None]
    yield Fault("_j IS NULL AND _broken IS NULL", Code.JSON, RECORD, "is not valid JSON")
    for item in sent:
        yield from _type_faults(item)
    for item in contract.fields:
        yield from _value_faults(item)
    for rule in contract.rules:
        message = rule.description or "is broken"
        yield Fault(f"NOT ({rule.expression}\n)", RULE + rule.name, None, message)


def _struct(fault: Fault) -> str:
    """Return a reason as a SQL struct, with the invalid value cut to SHOWN characters."""
    value = f"left(CAST({fault.value} AS VARCHAR), {SHOWN})" if fault.value else "NULL::VARCHAR"
    field = text(fault.field) if fault.field else "NULL::VARCHAR"
    return (
        f"struct_pack(code := {text(fault.code)}, field := {field}, "
        f"message := {text(fault.message)}, value := {value})"
    )


def structure(fields: list[Field]) -> str:
    """Return the structure for DuckDB's `from_json`, as JSON text."""
    return json.dumps({f.name: _shape(f, top=True) for f in fields})


def quoted(name: str) -> str:
    """Return a name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a string as a SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def value_literal(value: Any) -> str:
    """Return a Python value of a contract (a bound, an allowed value) as a SQL literal.

    Raises:
        TypeError: the value's type has no SQL literal.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return text(value)
        case datetime():
            kind = "TIMESTAMP" if value.tzinfo is None else "TIMESTAMPTZ"
            return f"{kind} '{value.isoformat(sep=' ')}'"
        case date():
            return f"DATE '{value.isoformat()}'"
        case time():
            return f"TIME '{value.isoformat()}'"
        case int() | float() | Decimal():
            return str(value)
    raise TypeError(f"{value!r} has no SQL literal")


def _shape(item: Field, *, top: bool) -> Any:
    match item.kind:
        case Kind.OBJECT:
            return {f.name: _shape(f, top=False) for f in item.fields}
        case Kind.ARRAY:
            return [_shape(item.item, top=False)] if item.item else ["VARCHAR"]
        case Kind.JSON | Kind.DECIMAL if top:
            return "NULL"  # read separately; named here so that a duplicate key is detected
        case Kind.DATE | Kind.TIMESTAMP | Kind.TIME if top:
            return "VARCHAR"
    return duckdb_type(item)


def _typed(item: Field) -> str:
    """Return the SQL of a top-level field's typed value; NULL where its text is not a value."""
    sent = _sent(item)
    match item.kind:
        case Kind.DATE | Kind.TIME | Kind.DECIMAL:
            return f"TRY_CAST({sent} AS {duckdb_type(item)})"
        case Kind.TIMESTAMP if is_epoch(item):
            return f"CAST(make_timestamp({sent}) AS {duckdb_type(item)})"
        case Kind.TIMESTAMP:
            # Cast to an instant first: it applies an offset, or else the session's zone, UTC.
            zoned = f"TRY_CAST({sent} AS TIMESTAMPTZ)"
            if item.zoned:
                return zoned
            # A text of that length has no offset, so the cast needs no time zone calendar.
            plain = f"strlen({sent}) = {len('2026-11-20 10:00:00')}"
            return (
                f"CASE WHEN {plain} THEN TRY_CAST({sent} AS TIMESTAMP) "
                f"ELSE TRY_CAST({zoned} AS TIMESTAMP) END"
            )
    return sent


def _sent(item: Field) -> str:
    return quoted(EXACT + item.name) if exact_of(item) else f"_j.{quoted(item.name)}"


class Fault(NamedTuple):
    """A SQL condition that is true for an invalid row, and the reason to report."""

    condition: str
    code: str
    field: str | None
    message: str
    value: str | None = None
    """The SQL expression of the invalid value."""


def _type_faults(item: Field) -> Iterator[Fault]:
    sent, name = _sent(item), quoted(item.name)
    if item.required:
        unsaid = f"(_broken IS NULL OR NOT list_has_any(_broken, ['*', {text(item.name)}]))"
        message = "is required, but missing or null"
        yield Fault(f"{sent} IS NULL AND {unsaid}", Code.REQUIRED, item.name, message)
    if item.kind in _CAST:
        message = f"cannot be stored as {_CAST[item.kind]}"
        yield Fault(f"{sent} IS NOT NULL AND {name} IS NULL", Code.TYPE, item.name, message, sent)
    if item.kind is Kind.DECIMAL:
        message = f"does not fit decimal({item.precision},{item.scale})"
        differs = f"{name} IS NULL OR {_digits_lost(item, sent, name)}"
        condition = f"{sent} IS NOT NULL AND ({differs})"
        yield Fault(condition, Code.PRECISION, item.name, message, sent)


def _misread(item: Field) -> Iterator[str]:
    """Yield the conditions under which Python must read a text that the fast path accepted.

    The text gives no value or a year outside 1 to 9999, has more digits than are stored, or has no
    zone while the field's default zone is not UTC.
    """
    sent, name = _sent(item), quoted(item.name)
    if item.kind not in _CAST or is_epoch(item):
        return
    yield f"({sent} IS NOT NULL AND {name} IS NULL)"
    if item.kind is Kind.TIME:
        yield f"strlen({sent}) > {len('10:00:00.123456')}"
    if item.kind is Kind.TIMESTAMP:
        zone = UTC if item.zoned else None
        low, high = (value_literal(limit.replace(tzinfo=zone)) for limit in _YEARS)
        yield f"{name} NOT BETWEEN {low} AND {high}"
        long = f"strlen({sent}) > {len('2026-11-20 10:00:00.123456')}"
        yield rf"CASE WHEN {long} THEN regexp_matches({sent}, '\.\d{{7}}') ELSE false END"
        if item.default_zone != "UTC":
            yield rf"NOT regexp_matches({sent}, '([Zz]|[+-]\d\d:?\d\d)$')"


def _digits_lost(item: Field, sent: str, name: str) -> str:
    """Return the condition that is true if the cast of a decimal's text rounded it."""
    scale = item.scale or 0
    plain = text(rf"\.\d{{{scale}}}\d*[1-9]")
    wide = f"DECIMAL(38, {min(38, scale + 10)})"
    # A number that is too large for the wider type has no digits to lose.
    powers = f"coalesce(TRY_CAST({sent} AS {wide}) <> TRY_CAST({name} AS {wide}), false)"
    with_power = f"contains({sent}, 'e') OR contains({sent}, 'E')"
    return f"CASE WHEN {with_power} THEN {powers} ELSE regexp_matches({sent}, {plain}) END"


def _value_faults(item: Field) -> Iterator[Fault]:
    """Yield the faults of a top-level value; the decoder checks constraints inside nested ones."""
    name = quoted(item.name)
    if item.derived is not None and item.required:
        message = "cannot be derived, but is required"
        yield Fault(f"{name} IS NULL", Code.DERIVED, item.name, message)
    if item.allowed:
        values = [value_literal(v) for v in item.allowed]
        # Compare one by one if there are few: DuckDB turns NOT IN into a join.
        others = " AND ".join(f"{name} <> {v}" for v in values)
        if len(values) > _MANY:
            others = f"{name} NOT IN ({', '.join(values)})"
        message = f"must be one of {', '.join(map(str, item.allowed))}"
        yield Fault(others, Code.ENUM, item.name, message, name)
    yield from _bound_faults(item, name)
    if item.kind is Kind.ARRAY:  # the decoder has checked its length
        yield from _repeated_items(item, name)
    else:
        yield from _text_faults(item, name)


def _bound_faults(item: Field, name: str) -> Iterator[Fault]:
    bounds = (
        ("<", "at least", item.minimum, Code.MINIMUM),
        (">", "at most", item.maximum, Code.MAXIMUM),
        ("<=", "above", item.exclusive_minimum, Code.EXCLUSIVE_MINIMUM),
        (">=", "below", item.exclusive_maximum, Code.EXCLUSIVE_MAXIMUM),
    )
    for operator, words, bound, code in bounds:
        if bound is not None:
            condition = f"{name} {operator} {value_literal(bound)}"
            yield Fault(condition, code, item.name, f"must be {words} {bound}", name)


def _text_faults(item: Field, name: str) -> Iterator[Fault]:
    # strlen (bytes) is cheap; length counts characters, so it runs only where it can matter.
    low, high = item.min_length, item.max_length
    if low is not None:
        few = f"strlen({name}) < {4 * low} AND length({name}) < {low}"
        message = f"must have at least {low} characters"
        yield Fault(few, Code.MIN_LENGTH, item.name, message, name)
    if high is not None:
        many = f"strlen({name}) > {high} AND length({name}) > {high}"
        message = f"must have at most {high} characters"
        yield Fault(many, Code.MAX_LENGTH, item.name, message, name)
    if item.pattern is not None:
        condition = f"NOT regexp_full_match({name}, {text(item.pattern)})"
        yield Fault(condition, Code.PATTERN, item.name, f"must match {item.pattern}", name)
    if item.format is not None and item.kind is Kind.STRING:
        condition = f"NOT regexp_full_match({name}, {text(FORMATS[item.format])})"
        yield Fault(condition, Code.FORMAT, item.name, f"must be a valid {item.format}", name)


def _repeated_items(item: Field, name: str) -> Iterator[Fault]:
    if item.unique_items:
        # list_unique does not count nulls; one null is allowed.
        once = f"list_unique({name}) + least(1, len({name}) - list_count({name}))"
        message = "must not repeat an item"
        yield Fault(f"len({name}) <> {once}", Code.UNIQUE_ITEMS, item.name, message)
