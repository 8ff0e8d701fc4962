"""Rows as text: JSON for quarantines, plain columns and CSV for what takes no nested values."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def json_row(row: Mapping[str, Any]) -> str:
    """The row as one JSON object; what JSON lacks becomes text, bytes base64."""
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def flat_type(kind: pa.DataType) -> pa.DataType:
    """What `flat` makes of a type."""
    import pyarrow.types as pat

    if pat.is_nested(kind) or pat.is_binary(kind) or pat.is_large_binary(kind):
        import pyarrow as pa

        return pa.string()
    return kind


def flat(rows: pa.Table) -> pa.Table:
    """Rows whose columns all are scalars: what is nested as JSON text, bytes as `\\x` and hex."""
    import pyarrow as pa
    import pyarrow.types as pat

    nested = [f.name for f in rows.schema if pat.is_nested(f.type)]
    if nested:
        rows = _with_json(rows, nested)
    for index, field in enumerate(rows.schema):
        if pat.is_binary(field.type) or pat.is_large_binary(field.type):
            hexed = [None if v is None else f"\\x{v.hex()}" for v in rows[field.name].to_pylist()]
            rows = rows.set_column(index, field.name, pa.array(hexed, pa.string()))
    return rows


def csv_bytes(rows: pa.Table, *, header: bool = False) -> bytes:
    """CSV of scalar columns: text in quotes, null as nothing, instants in UTC."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.types as pat

    for index, field in enumerate(rows.schema):
        if pat.is_decimal(field.type) or pat.is_time(field.type):
            rows = rows.set_column(index, field.name, rows[field.name].cast(pa.string()))
    buffer = io.BytesIO()
    pa_csv.write_csv(rows, buffer, pa_csv.WriteOptions(include_header=header))
    return buffer.getvalue()


def _with_json(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    import duckdb
    import pyarrow as pa

    quoted = {name: '"' + name.replace('"', '""') + '"' for name in names}
    shown = ", ".join(f"to_json({of})::VARCHAR AS {of}" for of in quoted.values())
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.register("given", rows)
        made = connection.execute(f"SELECT {shown} FROM given").to_arrow_table()
    for name in names:
        index = rows.column_names.index(name)
        rows = rows.set_column(index, name, made[name].cast(pa.string()))
    return rows
