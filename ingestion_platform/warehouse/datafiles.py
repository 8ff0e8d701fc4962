"""Write Arrow tables as data files of an Iceberg table, split by its partitions; commit nothing.

PyIceberg's own split costs as much as the writing. Here a slice that lies in one partition, the
usual case, is written without a copy.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingestion_platform.warehouse.catalog import answering

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.typedef import Record

ROW_GROUP = 131_072
"""Rows of a row group, and of a batch that a query hands over."""


class DataFileWriter:
    """Write rows of one partition as one data file.

    The file is created by the first write. `metadata` is that of a transaction that changes the
    table; `spec_id` names a partition spec other than the present one.
    """

    def __init__(
        self,
        table: Table,
        partition: Record,
        name: str,
        *,
        metadata: TableMetadata | None = None,
        spec_id: int | None = None,
    ) -> None:
        from pyiceberg.io.pyarrow import ParquetFormatWriter

        metadata = metadata or table.metadata
        self._spec_id = metadata.default_spec_id if spec_id is None else spec_id
        self._partition = partition
        spec, schema = metadata.specs()[self._spec_id], metadata.schema()
        if not spec.is_unpartitioned():
            name = f"{spec.partition_to_path(partition, schema)}/{name}"
        self.location = str(table.location_provider().new_data_location(name))
        self._output = table.io.new_output(self.location)
        self._writer = ParquetFormatWriter(self._output, schema, metadata.properties)
        self._buffer: list[pa.Table] = []
        self._buffered = self.rows = 0

    @property
    def bytes(self) -> int:
        """Bytes written so far, without the rows of a row group that is not full."""
        from ingestion_platform.warehouse.pyiceberg_private import bytes_written

        return bytes_written(self._writer)

    def write(self, rows: pa.Table) -> None:
        """Add rows in the table's schema (see `conformed`); full row groups are written."""
        self._buffer.append(rows)
        self._buffered += rows.num_rows
        self.rows += rows.num_rows
        if self._buffered >= ROW_GROUP:
            self._flush()

    def finish(self) -> DataFile:
        """Complete the file and return its entry for a manifest."""
        from pyiceberg.manifest import DataFile, DataFileContent, FileFormat

        self._flush()
        statistics = self._writer.close()
        file = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.location,
            file_format=FileFormat.PARQUET,
            partition=self._partition,
            file_size_in_bytes=len(self._output),
            sort_order_id=None,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )
        file.spec_id = self._spec_id
        return file

    def abandon(self) -> None:
        """Close the file without using it."""
        if self.rows > self._buffered:
            self._writer.close()

    def _flush(self) -> None:
        if self._buffer:
            self._writer.write(pa.concat_tables(self._buffer))
            self._buffer, self._buffered = [], 0


def write_data_files(table: Table, rows: pa.Table) -> list[DataFile]:
    """Write rows (columns by name) as data files of `table`, one per partition.

    The table's partition fields must be identities of columns. Files that are never committed are
    orphans, which maintenance removes.

    Raises:
        StoreUnavailable: the tables' store does not answer.
    """
    from pyiceberg.utils.concurrent import ExecutorFactory

    if rows.num_rows == 0:
        return []
    rows = conformed(table.schema(), rows)
    write = uuid.uuid4()
    parts = [(f"{i:05d}-{write}.parquet", *part) for i, part in enumerate(_split(table, rows))]

    def write_part(part: tuple[str, tuple[Any, ...], pa.Table]) -> DataFile:
        name, values, rows = part
        writer = DataFileWriter(table, partition_of(table.spec(), table.schema(), values), name)
        writer.write(rows)
        return writer.finish()

    with answering():
        return list(ExecutorFactory.get_or_create().map(write_part, parts))


def conformed(schema: Schema, rows: pa.Table) -> pa.Table:
    """Return the rows with exactly the columns, types and field ids of a table's schema.

    A missing column becomes null. Texts and bytes keep the width of their offsets, which Parquet
    does not store. PyIceberg's own projection makes null lists empty; a cast keeps them.
    """
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    fields, columns = [], []
    for field in schema_to_pyarrow(schema):
        if field.name not in rows.schema.names:
            column = pa.nulls(rows.num_rows, field.type)
        else:
            column = rows[field.name]
            if _NARROW.get(field.type) == column.type:
                field = field.with_type(column.type)
            elif field.type != column.type:
                column = column.cast(field.type)
        fields.append(field)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


_NARROW: dict[Any, Any] = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}


def partition_of(spec: PartitionSpec, schema: Schema, values: Iterable[Any]) -> Record:
    """Return the partition record of the (transformed) values of a spec's fields."""
    from pyiceberg.partitioning import partition_record_value
    from pyiceberg.typedef import Record

    pairs = zip(spec.fields, values, strict=True)
    return Record(*(partition_record_value(field, value, schema) for field, value in pairs))


def column_bounds(schema: Schema, file: DataFile, name: str) -> tuple[Any, Any]:
    """Return the lowest and the highest value of a column in a file (None: not in its statistics).

    Dates are days, and timestamps microseconds, since 1970.
    """
    from pyiceberg.conversions import from_bytes

    if name not in schema.column_names:
        return None, None
    field = schema.find_field(name)
    lower = (file.lower_bounds or {}).get(field.field_id)
    upper = (file.upper_bounds or {}).get(field.field_id)
    return (
        None if lower is None else from_bytes(field.field_type, lower),
        None if upper is None else from_bytes(field.field_type, upper),
    )


def _split(table: Table, rows: pa.Table) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    names = [table.schema().find_column_name(f.source_id) or "" for f in table.spec().fields]
    return split_by(rows, names)


def split_by(rows: pa.Table, names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """Yield the rows of each combination of values of some columns, in their order."""
    codes = np.zeros(rows.num_rows, np.int64)
    dictionaries: list[pa.Array] = []
    for name in names:
        column = rows[name].combine_chunks()
        encoded = column.dictionary_encode(null_encoding="encode")
        dictionaries.append(encoded.dictionary)
        codes = codes * max(1, len(encoded.dictionary)) + encoded.indices.to_numpy()
    first = codes[0]
    if (codes == first).all():
        yield _values(int(first), dictionaries), rows
        return
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    edges = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(ordered)]
    for start, stop in itertools.pairwise(edges):
        yield _values(int(ordered[start]), dictionaries), rows.take(pa.array(order[start:stop]))


def _values(code: int, dictionaries: list[pa.Array]) -> tuple[Any, ...]:
    values = []
    for dictionary in reversed(dictionaries):
        code, index = divmod(code, max(1, len(dictionary)))
        values.append(dictionary[index].as_py())
    return tuple(reversed(values))
