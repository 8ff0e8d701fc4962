"""Arrow tables as data files of an Iceberg table, split by its partitions; nothing is committed.

PyIceberg's own split costs as much as the writing; one partition, the usual case of a slice,
passes here without a copy.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingestion_platform.warehouse.catalog import answering

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.partitioning import PartitionKey
    from pyiceberg.table import Table


def write_data_files(table: Table, rows: pa.Table) -> list[DataFile]:
    """Write rows (columns by name, as the table's schema has them) as files of `table`.

    The table's partition fields must be identities of columns. Files that no commit comes to
    name are orphans, which maintenance removes.

    Raises:
        StoreUnavailable: the tables' store does not answer.
    """
    from pyiceberg.utils.concurrent import ExecutorFactory

    if rows.num_rows == 0:
        return []
    rows = conformed(table, rows)
    write = uuid.uuid4()
    parts = [(f"{i:05d}-{write}.parquet", *part) for i, part in enumerate(_split(table, rows))]
    writers = ExecutorFactory.get_or_create()
    with answering():
        return list(writers.map(lambda part: _write(table, *part), parts))


def conformed(table: Table, rows: pa.Table) -> pa.Table:
    """The rows with exactly the table's columns, types and field ids.

    PyIceberg's own projection makes empty lists of null ones; a cast keeps them.
    """
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    schema = schema_to_pyarrow(table.schema())
    columns = []
    for wanted in schema:
        if wanted.name not in rows.schema.names:
            columns.append(pa.nulls(rows.num_rows, wanted.type))
            continue
        column = rows[wanted.name]
        columns.append(column if column.type == wanted.type else column.cast(wanted.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _write(table: Table, name: str, key: PartitionKey | None, rows: pa.Table) -> DataFile:
    from pyiceberg.io.pyarrow import ParquetFormatWriter
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record

    location = table.location_provider().new_data_location(name, key)
    output = table.io.new_output(location)
    with ParquetFormatWriter(output, table.schema(), table.properties) as writer:
        writer.write(rows)
    file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=key.partition if key is not None else Record(),
        file_size_in_bytes=len(output),
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **writer.result().to_serialized_dict(),
    )
    file.spec_id = table.spec().spec_id
    return file


def _split(table: Table, rows: pa.Table) -> Iterator[tuple[PartitionKey | None, pa.Table]]:
    from pyiceberg.partitioning import PartitionFieldValue, PartitionKey

    spec, schema = table.spec(), table.schema()
    if spec.is_unpartitioned():
        yield None, rows
        return
    names = [schema.find_column_name(field.source_id) or "" for field in spec.fields]
    for values, part in split_by(rows, names):
        pairs = zip(spec.fields, values, strict=True)
        yield (
            PartitionKey(
                field_values=[PartitionFieldValue(field=f, value=v) for f, v in pairs],
                partition_spec=spec,
                schema=schema,
            ),
            part,
        )


def split_by(rows: pa.Table, names: Iterable[str]) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """The rows by each combination of values of some columns; the order within is kept."""
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
