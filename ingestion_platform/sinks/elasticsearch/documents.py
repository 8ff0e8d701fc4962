"""Conversion of rows for Elasticsearch: mappings, documents, ids, and back to Arrow."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pat

from ingestion_platform.sinks.base import ORIGIN_COLUMNS, Column, Shape
from ingestion_platform.sinks.text import as_json, json_row
from ingestion_platform.warehouse.reading import quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LONGEST_ID = 512
"""Bytes that Elasticsearch allows in an `_id`."""
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": 1024}
_DAY = {"type": "date", "format": "strict_date"}
_INSTANT = {"type": "date", "format": "strict_date_optional_time"}
_EXACT_DIGITS = 15
"""Decimals with more digits are not all distinct as doubles."""
_NUMBERS = {"int32": "integer", "int64": "long", "float": "float", "double": "double"}
_OPEN = {"type": "flattened", "ignore_above": 1024, "depth_limit": 50}
"""One field for all members: an open object cannot flood the mapping."""
_SIMPLE: list[tuple[Any, dict[str, Any]]] = [
    (pat.is_map, _OPEN),
    (pat.is_timestamp, _INSTANT),
    (pat.is_date, _DAY),
    (pat.is_boolean, {"type": "boolean"}),
    (pat.is_binary, {"type": "binary"}),
    (pat.is_time, {"type": "keyword"}),
]
_STAMP = "'%Y-%m-%dT%H:%M:%S.%fZ'"


def mapping_of(column: Column, *, key: bool) -> dict[str, Any]:
    """Return the mapping of a column: text with a keyword beside it, exact values for keys."""
    if column.json:
        return _OPEN
    if key and pat.is_string(column.type):
        return {"type": "keyword"}
    return _mapping(column.type)


def _mapping(kind: pa.DataType) -> dict[str, Any]:
    if pat.is_struct(kind):
        return {"properties": {field.name: _mapping(field.type) for field in kind}}
    if pat.is_list(kind):
        item = _mapping(kind.value_type)
        return {"type": "nested", **item} if "properties" in item else item
    if pat.is_decimal(kind):
        exact = {"fields": {"exact": {"type": "keyword"}}} if kind.precision > _EXACT_DIGITS else {}
        return {"type": "double", **exact}
    if str(kind) in _NUMBERS:
        return {"type": _NUMBERS[str(kind)]}
    simple = next((mapping for is_one, mapping in _SIMPLE if is_one(kind)), None)
    return simple or {"type": "text", "fields": {"keyword": _KEYWORD}}


ORIGIN_MAPPINGS = {column.name: mapping_of(column, key=True) for column in ORIGIN_COLUMNS}


def documents(rows: pa.Table, shape: Shape) -> list[str]:
    """Return each row as JSON in one line.

    Nulls are left out, decimals keep all digits, JSON text stays as it is, instants are in UTC.
    """
    from ingestion_platform.sinks.source import duckdb_in_memory

    of_json = {column.name for column in shape.columns if column.json}
    with duckdb_in_memory() as connection:
        connection.execute("SET preserve_insertion_order=true; SET threads=1")
        pieces = ", ".join(_member(field, field.name in of_json) for field in rows.schema)
        return _texts(connection, rows, f"'{{' || concat_ws(',', {pieces}) || '}}'")


def _texts(connection: DuckDBPyConnection, rows: pa.Table, expression: str) -> list[str]:
    connection.register("given", rows)
    made = connection.execute(f"SELECT {expression} AS made FROM given").to_arrow_table()
    texts: list[str] = made["made"].to_pylist()
    return texts


def _member(field: pa.Field[Any], is_json: bool) -> str:
    """Return SQL for `"name":value`, null for null."""
    name = json_row({field.name: 0}).removeprefix("{").removesuffix(" 0}").rstrip()
    of = quoted(field.name)
    if is_json:  # spliced in, not parsed: numbers and escapes stay as they were sent
        value = f"replace(replace({of}, chr(10), ' '), chr(13), ' ')"
    else:
        value = f"to_json({_plain(of, field.type)})::VARCHAR"
    escaped = name.replace("'", "''")
    return f"CASE WHEN {of} IS NOT NULL THEN '{escaped}' || {value} END"


def _plain(of: str, kind: pa.DataType) -> str:
    """Return SQL for a value whose JSON is in the notation of Elasticsearch."""
    if pat.is_timestamp(kind):
        return f"strftime({of}, {_STAMP})"
    if pat.is_binary(kind):
        return f"to_base64({of})"
    if pat.is_time(kind):
        return f"{of}::VARCHAR"
    if pat.is_list(kind) and _plain("e", kind.value_type) != "e":
        return f"list_transform({of}, lambda e: {_plain('e', kind.value_type)})"
    if pat.is_struct(kind):
        names = [quoted(field.name) for field in kind]
        members = [_plain(f"{of}.{name}", f.type) for name, f in zip(names, kind, strict=True)]
        packed = ", ".join(f"{n} := {m}" for n, m in zip(names, members, strict=True))
        return f"CASE WHEN {of} IS NOT NULL THEN struct_pack({packed}) END"
    return of


def ids(keys: pa.Table) -> list[str]:
    """Return the `_id` of each key: its values with | between, or a hash of them if too long.

    No two keys have the same one: | and \\ within a value are escaped.
    """
    columns = [[_id_text(v) for v in keys[name].to_pylist()] for name in keys.column_names]
    if len(columns) == 1:
        found = columns[0]
    else:
        escaped = [[v.replace("\\", "\\\\").replace("|", "\\|") for v in of] for of in columns]
        found = ["|".join(values) for values in zip(*escaped, strict=True)]
    return [_id(text) for text in found]


def _id_text(value: Any) -> str:
    text = as_json(value)
    return text if isinstance(text, str) else json.dumps(text)


def _id(text: str) -> str:
    data = text.encode(errors="surrogatepass")
    if 0 < len(data) <= LONGEST_ID and not text.startswith("sha256:"):
        return text
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def table_of(sources: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return members of documents as the Arrow columns that they came from; scalars only.

    Numbers with a fraction must have been decoded as Decimal.
    """
    arrays = []
    for field in schema:
        values = [_back(source.get(field.name), field.type) for source in sources]
        arrays.append(pa.array(values, field.type))
    return pa.table(arrays, schema=schema)


def _back(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pat.is_timestamp(kind):
        return datetime.fromisoformat(value if kind.tz else value.removesuffix("Z"))
    if pat.is_date(kind):
        return date.fromisoformat(value)
    if pat.is_time(kind):
        return time.fromisoformat(value)
    if pat.is_decimal(kind):
        return Decimal(value)
    if pat.is_floating(kind):
        return float(value)
    if pat.is_binary(kind):
        return base64.b64decode(value)
    return value
