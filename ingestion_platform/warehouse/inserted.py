"""Rows of a bronze table that others inserted, for example by SQL.

They are null in the platform's columns, and are validated by `bronze.inserted`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ingestion_platform.contract import columns as c
from ingestion_platform.warehouse.catalog import answering

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table


def count_inserted(table: Table | None) -> int:
    """Return the number of inserted rows; reads one column of the files that have any.

    Raises:
        StoreUnavailable: the tables' store does not answer.
    """
    from pyiceberg.expressions import IsNull

    if table is None:
        return 0
    with answering():
        return int(table.scan(row_filter=IsNull(c.OFFSET)).count())


def inserted_rows(table: Table) -> Iterator[pa.RecordBatch]:
    """Yield the inserted rows with all columns.

    Raises:
        StoreUnavailable: the tables' store does not answer.
    """
    import pyarrow.compute as pc

    from ingestion_platform.warehouse.dataset import TableDataset

    with answering():
        scanner = TableDataset(table).scanner(filter=pc.field(c.OFFSET).is_null())
        yield from scanner.to_reader()
