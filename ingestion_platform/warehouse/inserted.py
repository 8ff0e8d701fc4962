"""Rows of a bronze table that came from no log: others inserted them, by SQL for instance.

They have nulls in the platform's columns; whether they follow the contract is told elsewhere.
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
    """How many rows of a table are of no log; only files that have any are read, in one column.

    Raises:
        StoreUnavailable: the tables' store does not answer.
    """
    from pyiceberg.expressions import IsNull

    if table is None:
        return 0
    with answering():
        return int(table.scan(row_filter=IsNull(c.OFFSET)).count())


def inserted_rows(table: Table) -> Iterator[pa.RecordBatch]:
    """These rows with all columns, a batch at a time.

    Raises:
        StoreUnavailable: the tables' store does not answer.
    """
    import pyarrow.compute as pc

    from ingestion_platform.warehouse.dataset import TableDataset

    with answering():
        scanner = TableDataset(table).scanner(filter=pc.field(c.OFFSET).is_null())
        yield from scanner.to_reader()
