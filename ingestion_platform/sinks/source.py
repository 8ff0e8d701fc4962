"""Rows to deliver: ranges of a bronze table, newest rows of keys, changes of a model.

All are read from one version of the table, whatever is committed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Contract, Kind
from ingestion_platform.errors import WriteConflict
from ingestion_platform.sinks.base import (
    DELIVERY,
    ORDER,
    ORDINAL,
    ORIGIN_COLUMNS,
    Column,
    Part,
    Shape,
)
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.committed import Span
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.reading import quoted, spill_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyiceberg.table import FileScanTask, Table

PLACE = (c.TOPIC_ID, c.PARTITION, c.OFFSET)
"""The key of rows without a key of their own."""
MEMORY = "1GB"
"""Memory of DuckDB before it spills to disk."""
_NO_INGEST_DATE = date(1970, 1, 1)


def shape_of(table: Table, key: tuple[str, ...], contract: Contract | None) -> Shape:
    """Return the columns of an Iceberg table, without those of the platform, and the key.

    The contract (None for a model) says which strings are JSON, and describes the table.
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
    """Return the type with 32-bit offsets throughout, like the types of contracts."""
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
    """Rows of a bronze table that came from its log, not from SQL inserts."""

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
        """Return the rows of a span in the order of the log, of `Shape.schema`."""
        condition = Part(partition, span).filter()
        with _reading():
            rows = self._dataset.scanner(columns=self._columns, filter=condition).to_table()
        rows = rows.sort_by(c.OFFSET)
        ordinal = self._ordinals.get((partition, span.topic_id), 0)
        numbers = pa.repeat(pa.scalar(ordinal, pa.int32()), rows.num_rows)
        return self._complete(rows.append_column(ORDINAL, numbers))

    def newest(self, keys: pa.Table, excluded: Iterable[Mapping[str, Any]]) -> pa.Table:
        """Return the newest row of each key, of `Shape.schema`; `excluded` rows do not count."""
        columns = ", ".join(f"b.{quoted(name)}" for name in self._columns)
        query = newest_rows(
            self._shape, f"{columns}, o.{ORDINAL}", "SEMI JOIN wanted USING ({key})"
        )
        with _reading(), duckdb_in_memory() as connection:
            connection.register("bronze", self._dataset)
            connection.register("wanted", keys)
            connection.register("ordinals", ordinals_table(self._ordinals))
            connection.register("excluded", places_table(excluded))
            return self._complete(connection.execute(query).to_arrow_table())

    def _complete(self, rows: pa.Table) -> pa.Table:
        """Add the name of the delivery, and select and cast the columns of the shape."""
        named = rows.append_column(DELIVERY, pa.repeat(self._delivery, rows.num_rows))
        schema = self._shape.schema()
        return named.select(schema.names).cast(schema)


def ordinals_table(ordinals: Mapping[tuple[int, str], int]) -> pa.Table:
    """Return the topic ids and their numbers, by log partition."""
    return pa.table(
        {
            c.PARTITION: pa.array([p for p, _ in ordinals], pa.int32()),
            c.TOPIC_ID: pa.array([g for _, g in ordinals], pa.string()),
            ORDINAL: pa.array(ordinals.values(), pa.int32()),
        }
    )


def places_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return the places of rows in the log."""
    schema = pa.schema([(o.name, o.type) for o in ORIGIN_COLUMNS if o.name in PLACE])
    return pa.Table.from_pylist([{name: row[name] for name in PLACE} for row in rows], schema)


def newest_rows(shape: Shape, columns: str, join: str = "") -> str:
    """Return SQL for the newest row of each key in the view `bronze b`.

    Needs the views `ordinals o` and `excluded`, the places of rows that do not count. `join`
    may restrict the rows of bronze; {key} in it is the key.
    """
    key = ", ".join(f"b.{quoted(name)}" for name in shape.key)
    known = " AND ".join(f"b.{quoted(name)} IS NOT NULL" for name in shape.key)
    place = " AND ".join(f"b.{name} = e.{name}" for name in PLACE)
    newest_first = ", ".join(
        f"{'o' if name == ORDINAL else 'b'}.{quoted(name)} DESC" for name in ORDER
    )
    return f"""
        SELECT {columns}
        FROM bronze b {join.format(key=", ".join(map(quoted, shape.key)))}
        JOIN ordinals o ON b.{c.PARTITION} = o.{c.PARTITION} AND b.{c.TOPIC_ID} = o.{c.TOPIC_ID}
        WHERE b.{c.OFFSET} IS NOT NULL AND {known}
            AND NOT EXISTS (FROM excluded e WHERE {place})
        QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {newest_first}) = 1"""


class ModelRows:
    """Rows of a model's table at its current snapshot."""

    def __init__(self, table: Table, shape: Shape, delivery: str) -> None:
        self._table = table
        self._dataset = TableDataset(table)
        self._shape = shape
        snapshot = table.current_snapshot()
        self._origin = {
            c.INGEST_DATE: pa.scalar(_NO_INGEST_DATE, pa.date32()),
            c.PARTITION: pa.scalar(0, pa.int32()),
            ORDINAL: pa.scalar(0, pa.int32()),
            c.OFFSET: pa.scalar(snapshot.sequence_number if snapshot else 0, pa.int64()),
            c.TOPIC_ID: pa.scalar(shape.identity),
            DELIVERY: pa.scalar(delivery),
        }

    def all(self, size: int) -> Iterator[pa.Table]:
        """Yield all rows, of `Shape.schema`, at most `size` at a time."""
        names = ", ".join(quoted(column.name) for column in self._shape.columns)
        with _reading(), duckdb_in_memory() as connection:
            connection.register("model", self._dataset)
            reader = connection.execute(f"SELECT {names} FROM model").to_arrow_reader(size)
            for batch in reader:
                yield self._complete(pa.Table.from_batches([batch]))

    def since(self, snapshot_id: int, size: int) -> tuple[Iterator[pa.Table], Iterator[pa.Table]]:
        """Return new and changed rows, and removed keys, since another snapshot.

        At most `size` at a time; only files that were added or removed are read.
        """
        added, removed = self._changed_files(snapshot_id)
        names = ", ".join(quoted(column.name) for column in self._shape.columns)
        same = " AND ".join(
            f"r.{quoted(k)} IS NOT DISTINCT FROM a.{quoted(k)}" for k in self._shape.key
        )
        key = ", ".join(f"r.{quoted(k)}" for k in self._shape.key)
        changed = f"SELECT {names} FROM added EXCEPT SELECT {names} FROM removed"
        gone = f"SELECT DISTINCT {key} FROM removed r ANTI JOIN added a ON {same}"
        rows = (self._complete(part) for part in self._query(changed, added, removed, size))
        schema = self._shape.key_schema()
        keys = (part.cast(schema) for part in self._query(gone, added, removed, size))
        return rows, keys

    def _query(
        self, query: str, added: TableDataset, removed: TableDataset, size: int
    ) -> Iterator[pa.Table]:
        with _reading(), duckdb_in_memory() as connection:
            connection.register("added", added)
            connection.register("removed", removed)
            for batch in connection.execute(query).to_arrow_reader(size):
                yield pa.Table.from_batches([batch])

    def _changed_files(self, snapshot_id: int) -> tuple[TableDataset, TableDataset]:
        with answering():
            now = {_identity(task): task for task in self._dataset.tasks()}
            before = TableDataset(self._table, snapshot_id).tasks()
        then = {_identity(task): task for task in before}
        added = [task for name, task in now.items() if name not in then]
        removed = [task for name, task in then.items() if name not in now]
        return self._dataset.subset(added), self._dataset.subset(removed)

    def _complete(self, rows: pa.Table) -> pa.Table:
        """Add the columns of ORIGIN."""
        for name, value in self._origin.items():
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
        return rows.cast(self._shape.schema())


def _identity(task: FileScanTask) -> tuple[str, ...]:
    """Return the paths of a data file and of the deletes that apply to it."""
    return (task.file.file_path, *sorted(each.file_path for each in task.delete_files))


@contextmanager
def duckdb_in_memory() -> Iterator[DuckDBPyConnection]:
    """Open an in-memory DuckDB in UTC that spills to disk beyond MEMORY."""
    import duckdb

    config: Any = {"temp_directory": spill_folder(), "memory_limit": MEMORY}
    with duckdb.connect(config=config) as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.execute("SET preserve_insertion_order=false")
        yield connection


@contextmanager
def _reading() -> Iterator[None]:
    """Turn a missing file into a WriteConflict: the table was rewritten, its files removed."""
    try:
        with answering():
            yield
    except FileNotFoundError as error:
        raise WriteConflict(
            "files of the table were removed while they were read", action="open the table again"
        ) from error
