"""Rewriting a group of files as one: deletes applied, rows in log order, content the same.

Nothing is committed here; `rewrite` puts the new files in the place of the old ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract import columns
from ingestion_platform.warehouse.datafiles import conformed
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.maintenance.choose import Group, bounds

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table

_ROW_GROUP = 131_072
_ORDER = [(name, "ascending", "at_end") for name in (columns.PARTITION, columns.OFFSET)]


@dataclass(frozen=True)
class Rewritten:
    """A group, and the file that holds its rows; None when all of them are deleted."""

    group: Group
    file: DataFile | None


def compact(table: Table, group: Group) -> Rewritten:
    """Write a group's rows as one file; in memory are the files that overlap, at most the group.

    Raises:
        OSError: the store does not answer; what was written is an orphan.
    """
    from pyiceberg.io.pyarrow import ParquetFormatWriter

    spec = table.specs()[group.spec_id]
    name = f"00000-0-{uuid.uuid4()}.parquet"
    if not spec.is_unpartitioned():
        name = f"{spec.partition_to_path(group.partition, table.schema())}/{name}"
    location = table.location_provider().new_data_location(name)
    output = table.io.new_output(location)
    writer = ParquetFormatWriter(output, table.schema(), table.properties)
    count = 0
    for rows in _rows(table, group):
        writer.write(rows)
        count += rows.num_rows
    if not count:
        return Rewritten(group, None)
    statistics = writer.close()
    return Rewritten(group, _described(group, location, len(output), statistics))


def _described(group: Group, location: str, size: int, statistics: Any) -> DataFile:
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat

    file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=group.partition,
        file_size_in_bytes=size,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
    file.spec_id = group.spec_id
    return file


def _rows(table: Table, group: Group) -> Iterator[pa.Table]:
    """The rows of a group in their order, a row group at a time."""
    names = table.schema().column_names
    ordered = all(name in names for name, *_ in _ORDER)
    for tasks in _overlapping(table, group.tasks):
        rows = TableDataset(table).subset(tasks).scanner().to_table()
        order = pc.sort_indices(rows, _ORDER) if ordered else None
        for start in range(0, rows.num_rows, _ROW_GROUP):
            if order is None:
                part = rows.slice(start, _ROW_GROUP)
            else:
                part = rows.take(order.slice(start, _ROW_GROUP))
            yield conformed(table, part)


def _overlapping(table: Table, tasks: Sequence[FileScanTask]) -> Iterator[list[FileScanTask]]:
    """Files of which the rows interleave, together; the next ones come after all of theirs."""
    schema = table.schema()
    together: list[FileScanTask] = []
    end: Any = None
    for task in tasks:
        known = bounds(task, schema)
        if together and known is not None and end is not None and known[0] <= end:
            together.append(task)
            end = max(end, known[1])
            continue
        if together:
            yield together
        together, end = [task], known[1] if known is not None else None
    if together:
        yield together
