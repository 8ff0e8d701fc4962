"""PostgreSQL types of columns."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pat

from ingestion_platform.sinks.base import Column

_SCALARS = {
    "bool": "boolean",
    "int32": "integer",
    "int64": "bigint",
    "float": "real",
    "double": "double precision",
    "date32[day]": "date",
    "time64[us]": "time",
    "string": "text",
    "binary": "bytea",
}


def postgres_type(column: Column) -> str:
    """Return the PostgreSQL type of a column; jsonb where there is no other."""
    if column.json:
        return "jsonb"
    if pat.is_list(column.type):
        item = _scalar_type(column.type.value_type)
        return f"{item}[]" if item not in (None, "bytea") else "jsonb"
    return _scalar_type(column.type) or "jsonb"


def _scalar_type(kind: pa.DataType) -> str | None:
    if pat.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    if pat.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    return _SCALARS.get(str(kind))
