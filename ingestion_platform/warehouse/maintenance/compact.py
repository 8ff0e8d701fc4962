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
from ingestion_platform.warehouse.datafiles import ROW_GROUP, DataFileWriter, conformed
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.maintenance.choose import Group, bounds

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table

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
    name = f"00000-0-{uuid.uuid4()}.parquet"
    writer = DataFileWriter(table, group.partition, name, spec_id=group.spec_id)
    for rows in _rows(table, group):
        writer.write(rows)
    return Rewritten(group, writer.finish() if writer.rows else None)


def _rows(table: Table, group: Group) -> Iterator[pa.Table]:
    """The rows of a group in their order, a row group at a time."""
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
