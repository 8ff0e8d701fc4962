"""Take rows out of a table by copy on write: which files go, and which rows of them stay."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING

from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.dataset import TableDataset

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table


def without(
    table: Table, filters: Iterable[BooleanExpression]
) -> tuple[list[DataFile], list[DataFile]]:
    """Return the files with rows that match any filter, and new files with their other rows.

    A file of which all rows match is not read. The others are read into memory one at a time, with
    their deletes applied.
    """
    from pyiceberg.expressions import Or

    from ingestion_platform.warehouse.pyiceberg_private import all_rows_match, rows_not_matching

    schema, chosen = table.schema(), reduce(Or, filters)
    others = rows_not_matching(schema, chosen)
    removed: list[DataFile] = []
    added: list[DataFile] = []
    for task in table.scan(row_filter=chosen).plan_files():
        if all_rows_match(schema, chosen, task.file):
            removed.append(task.file)
            continue
        rows = TableDataset(table).subset([task]).scanner().to_table()
        rest = rows.filter(others)
        if rest.num_rows < rows.num_rows:
            removed.append(task.file)
            added.extend(write_data_files(table, rest))
    return removed, added
