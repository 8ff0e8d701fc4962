"""Files that another engine rewrites and removes while they are read here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import IntegerType, LongType, NestedField, StringType

from ingestion_platform.settings import Settings
from ingestion_platform.warehouse import rewrite
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.commit import Change, commit, read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.maintenance import compact
from ingestion_platform.warehouse.maintenance.table import maintenance
from ingestion_platform.warehouse.tables import ensure_table

SCHEMA = Schema(
    NestedField(1, "_topic_id", StringType(), required=False),
    NestedField(2, "_partition", IntegerType(), required=False),
    NestedField(3, "_offset", LongType(), required=False),
    NestedField(4, "who", StringType(), required=False),
)
NAME = "bronze.things"


@pytest.fixture
def table(local_settings: Settings) -> Table:
    """Six files of three rows each, in an SQLite catalog."""
    table = ensure_table(open_catalog(local_settings), NAME, lambda: (SCHEMA, PartitionSpec()))
    for start in range(0, 18, 3):
        commit(table.catalog, NAME, [change(table, start, start + 3, "first")])
    return table.refresh()


def change(table: Table, start: int, end: int, who: str, *, replace: bool = False) -> Change:
    """Some rows of log partition 0, validated by a contract of its maker's name."""
    columns: dict[str, Any] = {"_topic_id": "A", "_partition": 0, "who": who}
    made = [columns | {"_offset": offset} for offset in range(start, end)]
    files = write_data_files(table, pa.Table.from_pylist(made, table.schema().as_arrow()))
    base = read_committed(table.refresh()).get(0, CommittedRanges())
    return Change(0, base, Span("A", start, end, who), files, replace)


def remove_files(table: Table) -> None:
    """As another engine does that expires snapshots."""
    for task in table.scan().plan_files():
        Path(urlsplit(task.file.file_path).path).unlink()


def optimize_and_expire(table: Table) -> None:
    """All rows in a new file, the old ones removed."""
    catalog = table.catalog
    before = catalog.load_table(NAME)
    catalog.load_table(NAME).overwrite(before.scan().to_arrow())
    remove_files(before)


def once(act: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    """A function ahead of whose first call something happens."""
    todo = [act]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if todo:
            todo.pop()()
        return function(*args, **kwargs)

    return wrapped


def makers(table: Table) -> dict[int, str]:
    """Who made the row of each offset."""
    rows = table.catalog.load_table(NAME).scan().to_arrow()
    assert len(set(rows["_offset"].to_pylist())) == rows.num_rows
    return dict(zip(rows["_offset"].to_pylist(), rows["who"].to_pylist(), strict=True))


def test_a_replacement_looks_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made on the files that hold the rows now."""
    act = once(lambda: optimize_and_expire(table), rewrite.without)
    monkeypatch.setattr(rewrite, "without", act)
    commit(table.catalog, NAME, [change(table, 4, 8, "second", replace=True)])
    expected = {n: "second" if 4 <= n < 8 else "first" for n in range(18)}
    assert makers(table) == expected


def test_maintenance_gives_up(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was about to rewrite is left to the next time."""
    act = once(lambda: optimize_and_expire(table), compact.compact)
    monkeypatch.setattr(compact, "compact", act)
    done = maintenance(table.catalog, NAME)
    assert done is not None
    assert (done.given_up, done.rewritten) == (6, 0)
    assert makers(table) == dict.fromkeys(range(18), "first")


def test_files_that_nobody_replaced_are_missed(table: Table) -> None:
    """A damaged table is no conflict: the error names the file."""
    late = change(table, 4, 8, "second", replace=True)
    remove_files(table)
    with pytest.raises(FileNotFoundError, match="parquet"):
        commit(table.catalog, NAME, [late])
    with pytest.raises(FileNotFoundError, match="parquet"):
        maintenance(table.catalog, NAME)
