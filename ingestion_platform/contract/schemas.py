"""Derive table schemas from a contract: Arrow, Iceberg (bronze and quarantine), DuckDB types.

The column order is the same everywhere: the contract's fields, then the platform's columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Contract, Field, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.types import IcebergType

_FIRST_PARTITION_ID = 1000  # Iceberg numbers partition fields from here
_DOCS = {
    c.INGEST_DATE: "UTC day of the record in its log",
    c.TOPIC_ID: "topic id of the log that held the record",
    c.PARTITION: "partition of the log",
    c.OFFSET: "offset in the partition",
    c.INGESTED_AT: "when the row was written",
    c.CONTRACT: "fingerprint of the contract that validated the record",
    c.TIMESTAMP: "broker timestamp of the record; null beyond the years 1970 to 9999",
    c.KEY: "key, as sent",
    c.VALUE: "value, as sent",
    c.HEADERS: "headers, as sent",
    c.REASONS: "every reason for which the record was rejected",
    c.ORIGIN: "lake file that holds the record",
}


def reasons_type() -> pa.DataType:
    """Return the Arrow type of a list of reasons: structs with the members of `reasons.Reason`."""
    import pyarrow as pa

    members = [pa.field(name, pa.string()) for name in ("code", "field", "message", "value")]
    return pa.list_(pa.field("element", pa.struct(members)))


def duckdb_type(field: Field) -> str:
    """Return the DuckDB type of a field's column, as SQL. JSON is text."""
    match field.kind:
        case Kind.INTEGER:
            return "INTEGER" if field.bits == 32 else "BIGINT"
        case Kind.NUMBER:
            return "FLOAT" if field.bits == 32 else "DOUBLE"
        case Kind.DECIMAL:
            return f"DECIMAL({field.precision}, {field.scale})"
        case Kind.TIMESTAMP:
            return "TIMESTAMPTZ" if field.zoned else "TIMESTAMP"
        case Kind.OBJECT:
            inner = ", ".join(f'"{f.name}" {duckdb_type(f)}' for f in field.fields)
            return f"STRUCT({inner})"
        case Kind.ARRAY:
            return f"{duckdb_type(_item(field))}[]"
        case Kind.STRING | Kind.JSON:
            return "VARCHAR"
        case Kind.BOOLEAN | Kind.DATE | Kind.TIME:
            return field.kind.upper()


def arrow_type(field: Field) -> pa.DataType:
    """Return the Arrow type of a field's column.

    JSON is text; timestamps and times are in microseconds.
    """
    import pyarrow as pa

    match field.kind:
        case Kind.INTEGER:
            return pa.int32() if field.bits == 32 else pa.int64()
        case Kind.NUMBER:
            return pa.float32() if field.bits == 32 else pa.float64()
        case Kind.DECIMAL:
            return pa.decimal128(field.precision or 38, field.scale or 0)
        case Kind.TIMESTAMP:
            return pa.timestamp("us", tz="UTC" if field.zoned else None)
        case Kind.OBJECT:
            return pa.struct([pa.field(f.name, arrow_type(f)) for f in field.fields])
        case Kind.ARRAY:
            item = _item(field)
            return pa.list_(pa.field(item.name, arrow_type(item)))
        case _:
            return _plain_arrow_type(field.kind)


def arrow_schema(contract: Contract) -> pa.Schema:
    """Return the contract's columns in Arrow, all nullable, without the platform's columns."""
    import pyarrow as pa

    return pa.schema([pa.field(f.name, arrow_type(f)) for f in contract.fields])


def bronze_arrow_schema(contract: Contract) -> pa.Schema:
    """Return the columns of the bronze table in Arrow: the contract's, then the platform's."""
    import pyarrow as pa

    return pa.schema([*arrow_schema(contract), *_platform_columns(c.BRONZE_COLUMNS)])


def quarantine_arrow_schema() -> pa.Schema:
    """Return the columns of every quarantine table in Arrow."""
    import pyarrow as pa

    return pa.schema(_platform_columns(c.QUARANTINE_COLUMNS))


def iceberg_schema(contract: Contract) -> Schema:
    """Return the schema of the bronze table, with the ids that creating the table assigns.

    All columns are optional, so that other engines can insert rows that name only some columns.
    """
    return _iceberg(bronze_arrow_schema(contract), contract.fields)


def quarantine_schema() -> Schema:
    """Return the schema of every quarantine table, with ids as in `iceberg_schema`."""
    return _iceberg(quarantine_arrow_schema(), ())


def partition_spec(contract: Contract) -> PartitionSpec:
    """Return the identity partitions of the bronze table.

    These are the contract's partition columns in order, or else the ingest date.
    """
    return _identity(iceberg_schema(contract), contract.partition_by or (c.INGEST_DATE,))


def quarantine_partition_spec() -> PartitionSpec:
    """Return the identity partition of every quarantine table: the ingest date."""
    return _identity(quarantine_schema(), (c.INGEST_DATE,))


def _plain_arrow_type(kind: Kind) -> pa.DataType:
    import pyarrow as pa

    plain: dict[Kind, pa.DataType] = {
        Kind.STRING: pa.string(),
        Kind.JSON: pa.string(),
        Kind.BOOLEAN: pa.bool_(),
        Kind.DATE: pa.date32(),
        Kind.TIME: pa.time64("us"),
    }
    return plain[kind]


def _item(field: Field) -> Field:
    assert field.item is not None, f"array {field.name} has no item"
    return field.item


def _platform_columns(names: Iterable[str]) -> list[pa.Field[Any]]:
    import pyarrow as pa

    header = pa.struct([("key", pa.binary()), ("value", pa.binary())])
    types = {
        c.INGEST_DATE: pa.date32(),
        c.TOPIC_ID: pa.string(),
        c.PARTITION: pa.int32(),
        c.OFFSET: pa.int64(),
        c.INGESTED_AT: pa.timestamp("us", tz="UTC"),
        c.CONTRACT: pa.string(),
        c.TIMESTAMP: pa.timestamp("us", tz="UTC"),
        c.KEY: pa.binary(),
        c.VALUE: pa.binary(),
        c.HEADERS: pa.list_(pa.field("element", header)),
        c.REASONS: reasons_type(),
        c.ORIGIN: pa.string(),
    }
    return [pa.field(name, types[name]) for name in names]


def _iceberg(schema: pa.Schema, fields: tuple[Field, ...]) -> Schema:
    from pyiceberg.schema import Schema, assign_fresh_schema_ids
    from pyiceberg.types import NestedField

    ids = count(1)
    described = {f.name: f for f in fields}
    columns = [
        NestedField(
            next(ids),
            column.name,
            _iceberg_type(column.type, described.get(column.name), lambda: next(ids)),
            required=False,
            doc=_doc(described.get(column.name)) or _DOCS.get(column.name),
        )
        for column in schema
    ]
    # Creating a table assigns ids level by level; the same order here keeps the ids.
    return assign_fresh_schema_ids(Schema(*columns))


def _iceberg_type(
    type_: pa.DataType, field: Field | None, next_id: Callable[[], int]
) -> IcebergType:
    import pyarrow.types as pat
    from pyiceberg import types as t

    if pat.is_struct(type_):
        inner = {f.name: f for f in field.fields} if field else {}
        members = (type_.field(i) for i in range(type_.num_fields))
        return t.StructType(
            *(
                t.NestedField(
                    next_id(),
                    member.name,
                    _iceberg_type(member.type, inner.get(member.name), next_id),
                    required=False,
                    doc=_doc(inner.get(member.name)),
                )
                for member in members
            )
        )
    if pat.is_list(type_):
        item = _iceberg_type(type_.value_type, field.item if field else None, next_id)
        return t.ListType(next_id(), item, element_required=False)
    if pat.is_decimal(type_):
        return t.DecimalType(type_.precision, type_.scale)
    if pat.is_timestamp(type_):
        return t.TimestamptzType() if type_.tz else t.TimestampType()
    scalars: dict[str, IcebergType] = {
        "string": t.StringType(),
        "binary": t.BinaryType(),
        "int32": t.IntegerType(),
        "int64": t.LongType(),
        "float": t.FloatType(),
        "double": t.DoubleType(),
        "bool": t.BooleanType(),
        "date32[day]": t.DateType(),
        "time64[us]": t.TimeType(),
    }
    return scalars[str(type_)]


def _doc(field: Field | None) -> str | None:
    return (field.description or None) if field else None


def _identity(schema: Schema, names: Iterable[str]) -> PartitionSpec:
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.transforms import IdentityTransform

    return PartitionSpec(
        *(
            PartitionField(
                source_id=schema.find_field(name).field_id,
                field_id=_FIRST_PARTITION_ID + i,
                transform=IdentityTransform(),
                name=name,
            )
            for i, name in enumerate(names)
        )
    )
