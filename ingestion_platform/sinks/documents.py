"""Rows as Elasticsearch has them: mappings of columns, documents, their ids, and back to Arrow.

What is sent where, and when, is `elasticsearch`'s.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pat

from ingestion_platform.contract import columns as c
from ingestion_platform.sinks.interface import DELIVERY, ORDINAL, Column, Shape
from ingestion_platform.sinks.text import json_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LONGEST_ID = 512
"""Bytes of an `_id` that Elasticsearch takes."""
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": 1024}
_DAY = {"type": "date", "format": "strict_date"}
_INSTANT = {"type": "date", "format": "strict_date_optional_time"}
_EXACT_DIGITS = 15
"""Decimals with more are not all different as doubles."""
_NUMBERS = {"int32": "integer", "int64": "long", "float": "float", "double": "double"}
_WIDER = {("integer", "long"), ("float", "double")}
_OPEN = {"type": "flattened", "ignore_above": 1024, "depth_limit": 50}
"""One field however many names there are in it: an open object cannot flood the mapping."""
_SIMPLE: list[tuple[Any, dict[str, Any]]] = [
    (pat.is_map, _OPEN),
    (pat.is_timestamp, _INSTANT),
    (pat.is_date, _DAY),
    (pat.is_boolean, {"type": "boolean"}),
    (pat.is_binary, {"type": "binary"}),
    (pat.is_time, {"type": "keyword"}),
]
_STAMP = "'%Y-%m-%dT%H:%M:%S.%fZ'"

ORIGIN_MAPPINGS: dict[str, dict[str, Any]] = {
    c.INGEST_DATE: _DAY,
    c.PARTITION: {"type": "integer"},
    ORDINAL: {"type": "integer"},
    c.OFFSET: {"type": "long"},
    c.TOPIC_ID: {"type": "keyword"},
    DELIVERY: {"type": "keyword"},
}


def mapping_of(column: Column, *, key: bool) -> dict[str, Any]:
    """The mapping of a column: text for people with a keyword beside it, exact values for keys."""
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


@dataclass(frozen=True, slots=True)
class Merged:
    """A mapping that also holds what the former one held.

    `reindex`: the index must be written again, since a mapping of Elasticsearch only grows.
    """

    mapping: dict[str, Any]
    reindex: bool = False


def merged(have: Mapping[str, Any], want: Mapping[str, Any]) -> Merged | None:
    """The mapping of a field that is mapped and is to be mapped; None when that loses data."""
    if "properties" in have and "properties" in want and have.get("type") == want.get("type"):
        members, reindex = dict(have["properties"]), False
        for name, member in want["properties"].items():
            found = merged(members[name], member) if name in members else Merged(member)
            if found is None:
                return None
            members[name], reindex = found.mapping, reindex or found.reindex
        return Merged({**have, "properties": members}, reindex)
    if have == want:
        return Merged(dict(want))
    types = have.get("type"), want.get("type")
    if types in _WIDER or (types == ("double", "double") and "fields" in want):
        return Merged(dict(want), reindex=True)
    if types[::-1] in _WIDER or types == ("double", "double"):
        return Merged(dict(have))
    return None


def documents(rows: pa.Table, shape: Shape) -> list[str]:
    """Each row as JSON without line breaks: nulls left out, decimals with all digits, JSON text as
    it is, instants in UTC."""
    from ingestion_platform.sinks.source import duckdb_in_memory

    json = {column.name for column in shape.columns if column.json}
    with duckdb_in_memory() as connection:
        connection.execute("SET preserve_insertion_order=true; SET threads=1")
        pieces = ", ".join(_member(field, field.name in json) for field in rows.schema)
        return _texts(connection, rows, f"'{{' || concat_ws(',', {pieces}) || '}}'")


def _texts(connection: DuckDBPyConnection, rows: pa.Table, expression: str) -> list[str]:
    connection.register("given", rows)
    made = connection.execute(f"SELECT {expression} AS made FROM given").to_arrow_table()
    texts: list[str] = made["made"].to_pylist()
    return texts


def _member(field: pa.Field[Any], json: bool) -> str:
    """SQL that gives `"name":value`, null for null."""
    name = json_row({field.name: 0}).removeprefix("{").removesuffix(" 0}").rstrip()
    of = '"' + field.name.replace('"', '""') + '"'
    if json:  # spliced in, not parsed: what it says stays as it was said
        value = f"replace(replace({of}, chr(10), ' '), chr(13), ' ')"
    else:
        value = f"to_json({_plain(of, field.type)})::VARCHAR"
    quoted = name.replace("'", "''")
    return f"CASE WHEN {of} IS NOT NULL THEN '{quoted}' || {value} END"


def _plain(of: str, kind: pa.DataType) -> str:
    """SQL that gives a value whose JSON says what Elasticsearch reads."""
    if pat.is_timestamp(kind):
        return f"strftime({of}, {_STAMP})"
    if pat.is_binary(kind):
        return f"to_base64({of})"
    if pat.is_time(kind):
        return f"{of}::VARCHAR"
    if pat.is_list(kind) and _plain("e", kind.value_type) != "e":
        return f"list_transform({of}, lambda e: {_plain('e', kind.value_type)})"
    if pat.is_struct(kind):
        names = ['"' + field.name.replace('"', '""') + '"' for field in kind]
        members = [_plain(f"{of}.{name}", f.type) for name, f in zip(names, kind, strict=True)]
        packed = ", ".join(f"{n} := {m}" for n, m in zip(names, members, strict=True))
        return f"CASE WHEN {of} IS NOT NULL THEN struct_pack({packed}) END"
    return of


def ids(keys: pa.Table) -> list[str]:
    """Each key's `_id`, the same for ever: its values with | between, or what stands for long ones.

    No two keys of a target have the same: a value's own | and \\ are escaped.
    """
    columns = [[_id_text(v) for v in keys[name].to_pylist()] for name in keys.column_names]
    if len(columns) == 1:
        found = columns[0]
    else:
        escaped = [[v.replace("\\", "\\\\").replace("|", "\\|") for v in of] for of in columns]
        found = ["|".join(values) for values in zip(*escaped, strict=True)]
    return [text if _speakable(text) else _digest(text) for text in found]


def _id_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _speakable(text: str) -> bool:
    short = bool(text) and len(text.encode(errors="surrogatepass")) <= LONGEST_ID
    return short and not text.startswith("sha256:")


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def table_of(sources: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Members of documents as the Arrow columns that they came from; scalars only.

    Numbers with a fraction must have been read as Decimal.
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
