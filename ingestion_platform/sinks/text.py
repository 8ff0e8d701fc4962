"""Conversion of rows to text: JSON, scalar columns, CSV."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.types as pat


def json_row(row: Mapping[str, Any]) -> str:
    """Return the row as a JSON object; bytes become base64, other types without JSON their text."""
    return json.dumps({name: as_json(value) for name, value in row.items()}, ensure_ascii=False)


def as_json(value: Any) -> Any:
    """Return what stands for a value in JSON."""
    if isinstance(value, Mapping):
        return {str(name): as_json(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def flat_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that `flat` converts a type to."""
    return pa.string() if pat.is_nested(kind) or _is_bytes(kind) else kind


def flat(rows: pa.Table) -> pa.Table:
    """Return rows of scalars only: nested values as JSON text, bytes as `\\x` and hex digits."""
    import duckdb

    from ingestion_platform.warehouse.reading import quoted

    texts = [f for f in rows.schema if flat_type(f.type) != f.type]
    if not texts:
        return rows
    form = {True: "'\\x' || lower(hex({0})) AS {0}", False: "to_json({0})::VARCHAR AS {0}"}
    shown = ", ".join(form[_is_bytes(f.type)].format(quoted(f.name)) for f in texts)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.register("given", rows)
        made = connection.execute(f"SELECT {shown} FROM given").to_arrow_table()
    for name in (f.name for f in texts):
        index = rows.column_names.index(name)
        rows = rows.set_column(index, name, made[name].cast(pa.string()))
    return rows


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind))


def csv_bytes(rows: pa.Table, *, header: bool = False) -> bytes:
    """Return scalar columns as CSV: text in quotes, null as nothing, instants in UTC."""

    for index, field in enumerate(rows.schema):
        if pat.is_decimal(field.type) or pat.is_time(field.type):
            rows = rows.set_column(index, field.name, rows[field.name].cast(pa.string()))
    buffer = io.BytesIO()
    pa_csv.write_csv(rows, buffer, pa_csv.WriteOptions(include_header=header))
    return buffer.getvalue()
