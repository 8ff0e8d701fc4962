"""Taking rows out of a table by copy on write: which files go, and what stays of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING

from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.dataset import TableDataset

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table


def without(
    table: Table, filters: Iterable[BooleanExpression]
) -> tuple[list[DataFile], list[DataFile]]:
    """The files of `table` that hold rows of any filter, and new files with their other rows.

    Whole files go without being read. The others are read with their deletes applied, one at a
    time, into memory.
    """
    from pyiceberg.expressions import Or
    from pyiceberg.expressions.visitors import bind

    chosen = reduce(Or, filters)
    bound = bind(table.schema(), chosen, case_sensitive=True)
    removed: list[DataFile] = []
    kept: list[DataFile] = []
    for task in table.scan(row_filter=chosen).plan_files():
        if _all_match(table, task, chosen):
            removed.append(task.file)
        elif (rest := _rest(table, task, bound)) is not None:
            removed.append(task.file)
            kept.extend(rest)
    return removed, kept


def _all_match(table: Table, task: FileScanTask, chosen: BooleanExpression) -> bool:
    from pyiceberg.expressions.visitors import ROWS_MUST_MATCH, _StrictMetricsEvaluator

    evaluator = _StrictMetricsEvaluator(table.schema(), chosen, case_sensitive=True)
    return bool(evaluator.eval(task.file) == ROWS_MUST_MATCH)


def _rest(table: Table, task: FileScanTask, bound: BooleanExpression) -> list[DataFile] | None:
    """New files with the rows that do not match; None when all of them do not."""
    from pyiceberg.io.pyarrow import _expression_to_complementary_pyarrow

    # Not by PyIceberg's scan, which makes empty lists of null ones.
    rows = TableDataset(table).subset([task]).scanner().to_table()
    rest = rows.filter(_expression_to_complementary_pyarrow(bound, table.schema()))
    return None if rest.num_rows == rows.num_rows else write_data_files(table, rest)
