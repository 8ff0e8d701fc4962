"""Reading what is delivered: ranges of a bronze table, newest rows of keys, changes of a model.

All of one metadata of the table: whatever is committed meanwhile, a delivery sees one state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Contract, Kind
from ingestion_platform.errors import WriteConflict
from ingestion_platform.sinks.interface import (
    DELIVERY,
    ORDER,
    ORDINAL,
    ORIGIN,
    Column,
    Shape,
    origin_fields,
)
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.committed import Span
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.reading import quoted, spill_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyiceberg.table import FileScanTask, Table

PLACE = (c.TOPIC_ID, c.PARTITION, c.OFFSET)
"""The key of rows that have no other."""
MEMORY = "1GB"
"""What DuckDB may use before it spills to disk."""
_NO_INGEST_DATE = date(1970, 1, 1)


def shape_of(table: Table, key: tuple[str, ...], contract: Contract | None) -> Shape:
    """The columns of an Iceberg table without those that the platform adds, and the key.

    The contract (None for a model) tells which texts are JSON, and what it is all about.
    """
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    schema = table.schema()
    arrow = schema_to_pyarrow(schema, include_field_ids=False)
    json = {f.name for f in contract.fields if f.kind is Kind.JSON} if contract else set()
    columns = tuple(
        Column(
            of.name, _small(arrow.field(of.name).type), of.field_id, of.name in json, of.doc or ""
        )
        for of in schema.fields
        if not of.name.startswith("_")
    )
    return Shape(
        source=".".join(table.name()),
        identity=str(table.metadata.table_uuid),
        columns=columns,
        key=key or PLACE,
        description=contract.description if contract else "",
    )


def _small(kind: pa.DataType) -> pa.DataType:
    """The type with offsets of 32 bits throughout, as the contract's types have them."""
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(_small(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_small(f.type)) for f in kind])
    return kind


class BronzeRows:
    """The rows of a bronze table that came from its log."""

    def __init__(
        self, table: Table, shape: Shape, ordinals: dict[tuple[int, str], int], delivery: str
    ) -> None:
        dataset = TableDataset(table)
        with answering():
            # Planned once: a delivery reads many ranges.
            self._dataset = dataset.subset(dataset.tasks())
        self._shape = shape
        self._ordinals = ordinals
        self._delivery = delivery
        self._columns = [*(o.name for o in shape.columns), c.INGEST_DATE, c.PARTITION, c.OFFSET]
        self._columns.append(c.TOPIC_ID)

    def between(self, partition: int, span: Span) -> pa.Table:
        """The rows of a span in the order of the log, of `Shape.schema`."""
        condition = (
            (pc.field(c.PARTITION) == pa.scalar(partition, pa.int32()))
            & (pc.field(c.TOPIC_ID) == span.topic_id)
            & (pc.field(c.OFFSET) >= span.start)
            & (pc.field(c.OFFSET) < span.end)
        )
        with _files_there():
            rows = self._dataset.scanner(columns=self._columns, filter=condition).to_table()
        rows = rows.sort_by(c.OFFSET)
        ordinal = self._ordinals.get((partition, span.topic_id), 0)
        numbers = pa.repeat(pa.scalar(ordinal, pa.int32()), rows.num_rows)
        return self._complete(rows.append_column(ORDINAL, numbers))

    def newest(self, keys: pa.Table, passed_over: Sequence[dict[str, Any]]) -> pa.Table:
        """The newest row of each key that has one, of `Shape.schema`, but for some places."""
        schema = pa.schema(field for field in origin_fields() if field.name in PLACE)
        places = pa.Table.from_pylist([{n: p[n] for n in PLACE} for p in passed_over], schema)
        key = ", ".join(quoted(name) for name in self._shape.key)
        by_key = ", ".join(f"b.{quoted(name)}" for name in self._shape.key)
        newest_first = ", ".join(
            f"{'o' if name == ORDINAL else 'b'}.{quoted(name)} DESC" for name in ORDER
        )
        columns = ", ".join(f"b.{quoted(name)}" for name in self._columns)
        query = f"""
            SELECT {columns}, o.{ORDINAL}
            FROM bronze b SEMI JOIN wanted USING ({key})
            JOIN ordinals o ON b.{c.PARTITION} = o.{c.PARTITION}
                AND b.{c.TOPIC_ID} = o.{c.TOPIC_ID}
            WHERE b.{c.OFFSET} IS NOT NULL AND NOT EXISTS (
                FROM places p WHERE p.{c.PARTITION} = b.{c.PARTITION}
                AND p.{c.TOPIC_ID} = b.{c.TOPIC_ID} AND p.{c.OFFSET} = b.{c.OFFSET})
            QUALIFY row_number() OVER (PARTITION BY {by_key} ORDER BY {newest_first}) = 1"""
        with _files_there(), duckdb_in_memory() as connection:
            connection.register("bronze", self._dataset)
            connection.register("wanted", keys)
            connection.register("ordinals", ordinals_table(self._ordinals))
            connection.register("places", places)
            return self._complete(connection.execute(query).to_arrow_table())

    def _complete(self, rows: pa.Table) -> pa.Table:
        """With the name of the delivery, in the columns' order and types."""
        named = rows.append_column(DELIVERY, pa.repeat(self._delivery, rows.num_rows))
        schema = self._shape.schema()
        return named.select(schema.names).cast(schema)


def ordinals_table(ordinals: Mapping[tuple[int, str], int]) -> pa.Table:
    """Topic ids and their numbers, by log partition."""
    return pa.table(
        {
            c.PARTITION: pa.array([p for p, _ in ordinals], pa.int32()),
            c.TOPIC_ID: pa.array([g for _, g in ordinals], pa.string()),
            ORDINAL: pa.array(ordinals.values(), pa.int32()),
        }
    )


class ModelRows:
    """The rows of a model's table at its present snapshot."""

    def __init__(self, table: Table, shape: Shape, delivery: str) -> None:
        self._table = table
        self._dataset = TableDataset(table)
        self._shape = shape
        snapshot = table.current_snapshot()
        origin = {
            c.INGEST_DATE: pa.scalar(_NO_INGEST_DATE, pa.date32()),
            c.PARTITION: pa.scalar(0, pa.int32()),
            ORDINAL: pa.scalar(0, pa.int32()),
            c.OFFSET: pa.scalar(snapshot.sequence_number if snapshot else 0, pa.int64()),
            c.TOPIC_ID: pa.scalar(shape.identity),
            DELIVERY: pa.scalar(delivery),
        }
        self._origin = [origin[name] for name in ORIGIN]

    def all(self, size: int) -> Iterator[pa.Table]:
        """All rows, of `Shape.schema`, at most so many at a time."""
        names = ", ".join(quoted(column.name) for column in self._shape.columns)
        with _files_there(), duckdb_in_memory() as connection:
            connection.register("come", self._dataset)
            reader = connection.execute(f"SELECT {names} FROM come").to_arrow_reader(size)
            for batch in reader:
                yield self._complete(pa.Table.from_batches([batch]))

    def since(self, snapshot_id: int, size: int) -> tuple[Iterator[pa.Table], Iterator[pa.Table]]:
        """What changed since another snapshot: rows that are new or different, then keys that are
        there no more; at most so many at a time. Only files that came and went are read."""
        come, gone = self._changed_files(snapshot_id)
        names = ", ".join(quoted(column.name) for column in self._shape.columns)
        same = " AND ".join(
            f"g.{quoted(k)} IS NOT DISTINCT FROM o.{quoted(k)}" for k in self._shape.key
        )
        key = ", ".join(f"g.{quoted(k)}" for k in self._shape.key)
        changed = f"SELECT {names} FROM come EXCEPT SELECT {names} FROM gone"
        left = f"SELECT DISTINCT {key} FROM gone g ANTI JOIN come o ON {same}"
        rows = (self._complete(part) for part in self._query(changed, come, gone, size))
        schema = self._shape.key_schema()
        keys = (part.cast(schema) for part in self._query(left, come, gone, size))
        return rows, keys

    def _query(
        self, query: str, come: TableDataset, gone: TableDataset, size: int
    ) -> Iterator[pa.Table]:
        with _files_there(), duckdb_in_memory() as connection:
            connection.register("come", come)
            connection.register("gone", gone)
            for batch in connection.execute(query).to_arrow_reader(size):
                yield pa.Table.from_batches([batch])

    def _changed_files(self, snapshot_id: int) -> tuple[TableDataset, TableDataset]:
        with answering():
            now = {_identity(task): task for task in self._dataset.tasks()}
            before = TableDataset(self._table, snapshot_id).tasks()
        then = {_identity(task): task for task in before}
        come = [task for name, task in now.items() if name not in then]
        gone = [task for name, task in then.items() if name not in now]
        return self._dataset.subset(come), self._dataset.subset(gone)

    def _complete(self, rows: pa.Table) -> pa.Table:
        """With the columns of ORIGIN."""
        for name, value in zip(ORIGIN, self._origin, strict=True):
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
        return rows.cast(self._shape.schema())


def _identity(task: FileScanTask) -> tuple[str, ...]:
    """A data file with the deletes that apply to it: other deletes leave other rows."""
    return (task.file.file_path, *sorted(each.file_path for each in task.delete_files))


@contextmanager
def duckdb_in_memory() -> Iterator[DuckDBPyConnection]:
    """A DuckDB of its own that spills what exceeds MEMORY, in UTC."""
    import duckdb

    config: Any = {"temp_directory": spill_folder(), "memory_limit": MEMORY}
    with duckdb.connect(config=config) as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.execute("SET preserve_insertion_order=false")
        yield connection


@contextmanager
def _files_there() -> Iterator[None]:
    """Files of a table may be gone when it was rewritten long ago: then it is to be opened
    again."""
    try:
        with answering():
            yield
    except FileNotFoundError as error:
        raise WriteConflict(
            "files of the table were removed while they were read", action="open it again"
        ) from error
