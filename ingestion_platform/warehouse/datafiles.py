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

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.partitioning import PartitionKey
    from pyiceberg.table import Table, WriteTask


def write_data_files(table: Table, rows: pa.Table) -> list[DataFile]:
    """Write rows (columns by name, as the table's schema has them) as files of `table`.

    The table's partition fields must be identities of columns. Files that no commit comes to
    name are orphans, which upkeep removes.
    """
    from pyiceberg.io.pyarrow import write_file

    if rows.num_rows == 0:
        return []
    tasks = _tasks(table, rows)
    return list(write_file(io=table.io, table_metadata=table.metadata, tasks=tasks))


def _tasks(table: Table, rows: pa.Table) -> Iterator[WriteTask]:
    from pyiceberg.io.pyarrow import pyarrow_to_schema
    from pyiceberg.table import WriteTask

    schema = pyarrow_to_schema(rows.schema, name_mapping=table.schema().name_mapping)
    write = uuid.uuid4()
    counter = itertools.count()
    for key, part in _split(table, rows):
        batches = part.combine_chunks().to_batches()
        yield WriteTask(
            write_uuid=write,
            task_id=next(counter),
            schema=schema,
            record_batches=batches,
            partition_key=key,
        )


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
