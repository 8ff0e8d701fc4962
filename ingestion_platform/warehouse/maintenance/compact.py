"""Rewrite a group of files as one: same rows, in log order, deletes applied.

`rewrite` commits the new files in place of the old ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract import columns
from ingestion_platform.warehouse.datafiles import ROW_GROUP, DataFileWriter, conformed
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.maintenance.choose import Group, bounds

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table

_ORDER = [(name, "ascending", "at_end") for name in (columns.PARTITION, columns.OFFSET)]


@dataclass(frozen=True)
class Rewritten:
    """A group and the file with its rows; None if all of them are deleted."""

    group: Group
    file: DataFile | None


def compact(table: Table, group: Group) -> Rewritten:
    """Write a group's rows as one file; files that overlap are in memory together.

    Raises:
        OSError: the store does not answer; a partial file stays as an orphan.
    """
    name = f"00000-0-{uuid.uuid4()}.parquet"
    writer = DataFileWriter(table, group.partition, name, spec_id=group.spec_id)
    for rows in _rows(table, group):
        writer.write(rows)
    return Rewritten(group, writer.finish() if writer.rows else None)


def _rows(table: Table, group: Group) -> Iterator[pa.Table]:
    """Yield the rows of a group in log order."""
    names = table.schema().column_names
    ordered = all(name in names for name, *_ in _ORDER)
    for tasks in _overlapping(table, group.tasks):
        rows = TableDataset(table).subset(tasks).scanner().to_table()
        order = pc.sort_indices(rows, _ORDER) if ordered else None
        for start in range(0, rows.num_rows, ROW_GROUP):
            if order is None:
                part = rows.slice(start, ROW_GROUP)
            else:
                part = rows.take(order.slice(start, ROW_GROUP))
            yield conformed(table.schema(), part)


def _overlapping(table: Table, tasks: Sequence[FileScanTask]) -> Iterator[list[FileScanTask]]:
    """Yield files whose offsets overlap together; later files follow all of theirs."""
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
