"""A contract as one DuckDB query: JSON text in, typed columns and the reasons against a row out.

The query expects records that passed the gate of `decoder`, so it reads leniently what is known
to be strict. It binds names; running it is done elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ingestion_platform.contract.exact import exact_of, is_epoch
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.contract.schemas import duckdb_type

INPUT = "_batch"
"""The relation the query reads; its columns are those of `input_schema`."""
EXACT = "_exact_"
"""How the names of the columns begin that hold the exact texts of fields."""
ODD = "_odd"
"""A column of its result: true of a record whose times it may misread, so that Python must."""
REASONS = "_reasons"
"""The last column of its result: reasons joined by SEPARATOR, empty for a valid row."""
SEPARATOR = "\x1f"

FORMATS = {
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "email": r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+",
    "hostname": r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    "ipv4": r"((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)",
    "ipv6": r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*",
}
"""What a string of each format looks like (RE2, the whole value)."""

# What Python, and so the libraries that read the tables, can hold.
_YEARS = (datetime.min, datetime.max)

_MANY = 24  # allowed values

# What only a cast of a text can tell, with what is expected.
_CAST = {Kind.DATE: "date", Kind.TIMESTAMP: "timestamp", Kind.TIME: "time"}


def input_schema(contract: Contract) -> pa.Schema:
    """Return the columns that a contract's query reads.

    `_value` is the record's JSON, `_broken` lists the fields that already have a reason (or is
    NULL), `_given` holds the reasons so far (or is NULL). The fields that `exact` reads follow,
    each a text (minified JSON, the digits of a decimal as they were sent) or the microseconds since
    1970 of a timestamp that is sent as a number.
    """
    texts = [f for f in contract.fields if exact_of(f)]
    return pa.schema(
        [
            ("_value", pa.string()),
            ("_broken", pa.list_(pa.string())),
            ("_given", pa.string()),
            *((f"{EXACT}{f.name}", pa.int64() if is_epoch(f) else pa.string()) for f in texts),
        ]
    )


def parse_query(contract: Contract, *, strict: bool) -> str:
    """The query of a contract: its columns in order, then ODD and REASONS.

    The strict one is the quicker, and fails as a whole on a record that lacks a field or has one
    twice; the other takes such records as they are.
    """
    sent = [f for f in contract.fields if f.derived is None]
    derived = [f for f in contract.fields if f.derived is not None]
    typed = ",\n    ".join(f"{_typed(f)} AS {quoted(f.name)}" for f in sent)
    computed = "".join(
        f",\n    TRY_CAST(({f.derived}\n) AS {duckdb_type(f)}) AS {quoted(f.name)}" for f in derived
    )
    reasons = [*_record_reasons(), *(r for f in sent for r in _type_reasons(f))]
    reasons += [r for f in contract.fields for r in _value_reasons(f)]
    reasons += [
        (f"NOT ({rule.expression}\n)", text(_rule_message(rule.name, rule.description)))
        for rule in contract.rules
    ]
    odd = " OR ".join(each for f in sent for each in _misread(f)) or "false"
    columns = ",\n    ".join(quoted(f.name) for f in contract.fields)
    messages = ",\n      ".join(f"CASE WHEN {when} THEN {said} END" for when, said in reasons)
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
)
SELECT
    {columns},
    coalesce({odd}, false) AS {ODD},
    concat_ws(chr({ord(SEPARATOR)}), _given,
      {messages}) AS {REASONS}
FROM complete"""


def structure(fields: list[Field]) -> str:
    """The shape that DuckDB's `from_json` reads, as JSON text."""
    return json.dumps({f.name: _shape(f, top=True) for f in fields})


def quoted(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string as a SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def value_literal(value: Any) -> str:
    """A Python value of a contract (a bound, an allowed value) as a SQL literal."""
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
            return "NULL"  # read apart; named here, so that a second such key is noticed
        case Kind.DATE | Kind.TIMESTAMP | Kind.TIME if top:
            return "VARCHAR"
    return duckdb_type(item)


def _typed(item: Field) -> str:
    """The typed value of a top-level field, NULL where its text cannot be one."""
    sent = _sent(item)
    match item.kind:
        case Kind.DATE | Kind.TIME | Kind.DECIMAL:
            return f"TRY_CAST({sent} AS {duckdb_type(item)})"
        case Kind.TIMESTAMP if is_epoch(item):
            return f"CAST(make_timestamp({sent}) AS {duckdb_type(item)})"
        case Kind.TIMESTAMP:
            # Through an instant: an offset counts, and without one the session's UTC holds.
            zoned = f"TRY_CAST({sent} AS TIMESTAMPTZ)"
            if item.zoned:
                return zoned
            # A text of that length has no offset, and the calendar need not be asked.
            plain = f"strlen({sent}) = {len('2026-11-20 10:00:00')}"
            return (
                f"CASE WHEN {plain} THEN TRY_CAST({sent} AS TIMESTAMP) "
                f"ELSE TRY_CAST({zoned} AS TIMESTAMP) END"
            )
    return sent


def _sent(item: Field) -> str:
    return quoted(EXACT + item.name) if exact_of(item) else f"_j.{quoted(item.name)}"


Reason = tuple[str, str]
"""A SQL condition that is true of a wrong row, and the SQL expression of what to say of it."""


def _record_reasons() -> Iterator[Reason]:
    yield ("_j IS NULL AND _broken IS NULL", "'value: is not valid JSON'")


def _type_reasons(item: Field) -> Iterator[Reason]:
    sent, name = _sent(item), quoted(item.name)
    if item.required:
        unsaid = f"(_broken IS NULL OR NOT list_has_any(_broken, ['*', {text(item.name)}]))"
        message = text(f"{item.name}: is required, but missing or null")
        yield (f"{sent} IS NULL AND {unsaid}", message)
    if item.kind in _CAST:
        said = _is(item.name, f"cannot be stored as {_CAST[item.kind]}", sent)
        yield (f"{sent} IS NOT NULL AND {name} IS NULL", said)
    if item.kind is Kind.DECIMAL:
        said = _is(item.name, f"does not fit decimal({item.precision},{item.scale})", sent)
        differs = f"{name} IS NULL OR {_digits_lost(item, sent, name)}"
        yield (f"{sent} IS NOT NULL AND ({differs})", said)


def _misread(item: Field) -> Iterator[str]:
    """Conditions under which a text that the gate took is to be read in Python: no value came of
    it, it has more digits than are stored, or it has no zone and does not mean UTC."""
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
    """Whether casting a decimal's text rounded it."""
    scale = item.scale or 0
    plain = text(rf"\.\d{{{scale}}}\d*[1-9]")
    wide = f"DECIMAL(38, {min(38, scale + 10)})"
    # What is too large for the wider type has no digits that it could lose.
    powers = f"coalesce(TRY_CAST({sent} AS {wide}) <> TRY_CAST({name} AS {wide}), false)"
    with_power = f"contains({sent}, 'e') OR contains({sent}, 'E')"
    return f"CASE WHEN {with_power} THEN {powers} ELSE regexp_matches({sent}, {plain}) END"


def _value_reasons(item: Field) -> Iterator[Reason]:
    """Reasons against a value of the top level; constraints inside nested ones are the gate's."""
    name = quoted(item.name)
    if item.derived is not None and item.required:
        yield (f"{name} IS NULL", text(f"{item.name}: cannot be derived, but is required"))
    if item.allowed:
        values = [value_literal(v) for v in item.allowed]
        # One by one where they are few: of a list to look in, DuckDB makes a join.
        others = " AND ".join(f"{name} <> {v}" for v in values)
        if len(values) > _MANY:
            others = f"{name} NOT IN ({', '.join(values)})"
        said = f"must be one of {', '.join(str(v) for v in item.allowed)}"
        yield (others, _is(item.name, said, name))
    limits = (
        ("<", "at least", item.minimum),
        (">", "at most", item.maximum),
        ("<=", "above", item.exclusive_minimum),
        (">=", "below", item.exclusive_maximum),
    )
    for operator, words, limit in limits:
        if limit is not None:
            condition = f"{name} {operator} {value_literal(limit)}"
            yield (condition, _is(item.name, f"must be {words} {limit}", name))
    yield from _length_reasons(item, name)
    if item.pattern is not None:
        condition = f"NOT regexp_full_match({name}, {text(item.pattern)})"
        yield (condition, _is(item.name, f"must match {item.pattern}", name))
    if item.format is not None and item.kind is Kind.STRING:
        condition = f"NOT regexp_full_match({name}, {text(FORMATS[item.format])})"
        yield (condition, _is(item.name, f"must be a valid {item.format}", name))


def _length_reasons(item: Field, name: str) -> Iterator[Reason]:
    if item.kind is Kind.ARRAY:  # the gate has validated its length
        if item.unique_items:
            # Distinct items are counted without nulls, of which one may be there.
            once = f"list_unique({name}) + least(1, len({name}) - list_count({name}))"
            condition = f"len({name}) <> {once}"
            yield (condition, text(f"{item.name}: must not repeat an item"))
        return
    if item.min_length is not None:
        said = f"must have at least {item.min_length} characters"
        # Bytes are known at once, characters have to be counted: only where they can matter.
        few = f"strlen({name}) < {4 * item.min_length} AND length({name}) < {item.min_length}"
        yield (few, _is(item.name, said, name))
    if item.max_length is not None:
        said = f"must have at most {item.max_length} characters"
        many = f"strlen({name}) > {item.max_length} AND length({name}) > {item.max_length}"
        yield (many, _is(item.name, said, name))


def _is(field: str, said: str, value: str) -> str:
    """A SQL expression for a message that ends with the offending value, cut short."""
    shown = f"left(CAST({value} AS VARCHAR), 80)"
    return f"concat({text(f'{field}: {said} (is ')}, {shown}, ')')"


def _rule_message(name: str, description: str) -> str:
    return f"rule {name}: {description}" if description else f"rule {name}: is broken"
