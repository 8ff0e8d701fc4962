"""Replacing rows of a table: one snapshot, all or nothing, conflicts seen, nothing left behind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import EqualTo
from pyiceberg.table import Table

from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.replace import (
    ContentChanged,
    Outcome,
    Replacement,
    SchemaConflict,
    Shape,
)
from tests.support.iceberg_deletes import delete_positions

NAME = ("gold", "cases")
BY_DAY = Shape(partition_by=["day"])
DAYS = [dt.date(2026, 1, 1), dt.date(2026, 1, 2), dt.date(2026, 2, 1)]


def some(days: Iterable[dt.date], per_day: int = 3, **more: pa.Array) -> pa.Table:
    """A few numbered rows for each day."""
    listed = [day for day in days for _ in range(per_day)]
    return pa.table({"day": listed, "number": range(len(listed)), **more})


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A catalog in a folder of its own."""
    return open_catalog(Settings.load({"PLATFORM_HOME": str(tmp_path)}))


def put(
    catalog: Catalog,
    rows: pa.Table,
    base: Table | None = None,
    *,
    day: dt.date | None = None,
    shape: Shape = BY_DAY,
) -> Outcome:
    """Replace all rows, or those of one day."""
    with Replacement(catalog, NAME, base, rows.schema, shape) as replacement:
        replacement.write(rows.to_batches(max_chunksize=2))
        if base is None:
            return replacement.commit()
        tasks = TableDataset(base).tasks()
        days = None if day is None else (day - dt.date(1970, 1, 1)).days
        replacement.remove(t.file for t in tasks if day is None or t.file.partition[0] == days)
        return replacement.commit(None if day is None else EqualTo("day", day.isoformat()))


def content(catalog: Catalog) -> list[tuple[dt.date, int]]:
    """All rows, in order."""
    found = TableDataset(catalog.load_table(NAME)).to_table()
    return sorted(zip(found["day"].to_pylist(), found["number"].to_pylist(), strict=True))


def parquet_files(folder: Path) -> set[Path]:
    """Every data file below a folder, committed or not."""
    return set(folder.rglob("*.parquet"))


def test_first_replace_creates_the_table(catalog: Catalog) -> None:
    """Table, partitions, column docs and rows appear in one snapshot."""
    shape = Shape(["month(day)"], "Cases.", {"number": "Its number."})
    outcome = put(catalog, some(DAYS), shape=shape)
    table = catalog.load_table(NAME)
    assert (outcome.written, outcome.removed) == (9, 0)
    assert [s.snapshot_id for s in table.snapshots()] == [outcome.snapshot_id]
    assert str(table.spec().fields[0].transform) == "month"
    assert len(list(table.scan().plan_files())) == 2
    assert table.schema().find_field("number").doc == "Its number."
    assert table.properties["comment"] == "Cases."
    assert len(content(catalog)) == 9


def test_a_table_without_rows_has_its_columns(catalog: Catalog) -> None:
    """An empty result still makes a table that can be read."""
    outcome = put(catalog, some([]).cast(some(DAYS).schema))
    assert outcome == Outcome(0, 0, None)
    assert catalog.load_table(NAME).schema().column_names == ["day", "number"]
    assert content(catalog) == []


def test_replace_makes_one_snapshot(catalog: Catalog) -> None:
    """Only the files of the replaced day change."""
    put(catalog, some(DAYS))
    before = catalog.load_table(NAME)
    files = {t.file.file_path for t in before.scan().plan_files()}
    outcome = put(catalog, some([DAYS[1]], 5), before, day=DAYS[1])
    after = catalog.load_table(NAME)
    assert (outcome.written, outcome.removed) == (5, 3)
    assert len(after.snapshots()) == 2
    assert len(files & {t.file.file_path for t in after.scan().plan_files()}) == 2
    assert len(content(catalog)) == 11


def test_a_day_whose_rows_are_gone_is_cleared(catalog: Catalog) -> None:
    """No new rows still means that the old ones go."""
    put(catalog, some(DAYS))
    outcome = put(catalog, some(DAYS).slice(0, 0), catalog.load_table(NAME), day=DAYS[0])
    assert (outcome.written, outcome.removed) == (0, 3)
    assert {day for day, _ in content(catalog)} == {DAYS[1], DAYS[2]}


def test_nothing_to_change_is_no_snapshot(catalog: Catalog) -> None:
    """An empty replacement of an empty part commits nothing."""
    put(catalog, some(DAYS))
    base = catalog.load_table(NAME)
    outcome = put(catalog, some([]).cast(some(DAYS).schema), base, day=dt.date(2030, 1, 1))
    assert outcome == Outcome(0, 0, None)
    assert catalog.load_table(NAME).current_snapshot() == base.current_snapshot()


def test_rows_with_deletes_are_replaced_like_others(catalog: Catalog) -> None:
    """Files that a MERGE left deletes for go away, and the deletes do not hit the new rows."""
    put(catalog, some(DAYS))
    table = catalog.load_table(NAME)
    for task in list(table.scan().plan_files()):
        delete_positions(table, task.file, [0])
    put(catalog, some([DAYS[0]], 4), catalog.load_table(NAME), day=DAYS[0])
    days = [day for day, _ in content(catalog)]
    assert [days.count(day) for day in DAYS] == [4, 2, 2]


def test_properties_of_others_stay(catalog: Catalog) -> None:
    """What another tool noted on the table survives."""
    put(catalog, some(DAYS))
    table = catalog.load_table(NAME)
    with table.transaction() as transaction:
        transaction.set_properties({"someone.position": "42"})
    put(catalog, some(DAYS), catalog.load_table(NAME))
    assert catalog.load_table(NAME).properties["someone.position"] == "42"


def test_failed_replace_leaves_no_files(catalog: Catalog, tmp_path: Path) -> None:
    """An error half way through the rows commits nothing and removes what was written."""
    put(catalog, some(DAYS))
    base = catalog.load_table(NAME)
    files, rows = parquet_files(tmp_path), some(DAYS, 1000)

    def failing() -> Iterable[pa.RecordBatch]:
        yield from rows.to_batches(max_chunksize=1500)
        raise RuntimeError("the query failed")

    with (
        pytest.raises(RuntimeError, match="the query failed"),
        Replacement(catalog, NAME, base, rows.schema, BY_DAY) as replacement,
    ):
        replacement.write(failing())
    assert parquet_files(tmp_path) == files
    assert catalog.load_table(NAME).metadata == base.metadata


def test_a_failure_of_the_first_call_creates_nothing(catalog: Catalog) -> None:
    """There is no table without its rows."""

    def failing() -> Iterable[pa.RecordBatch]:
        yield from some(DAYS).to_batches()
        raise RuntimeError("the query failed")

    with (
        pytest.raises(RuntimeError, match="the query failed"),
        Replacement(catalog, NAME, None, some(DAYS).schema, BY_DAY) as replacement,
    ):
        replacement.write(failing())
    with pytest.raises(NoSuchTableError):
        catalog.load_table(NAME)


def test_concurrent_write_of_same_rows_conflicts(catalog: Catalog, tmp_path: Path) -> None:
    """A commit to the replaced day in between makes ours fail, and it leaves no file."""
    put(catalog, some(DAYS))
    base = catalog.load_table(NAME)
    catalog.load_table(NAME).append(some([DAYS[0]], 1).cast(base.schema().as_arrow()))
    files, before = parquet_files(tmp_path), content(catalog)
    with pytest.raises(ContentChanged, match=r"gold\.cases"):
        put(catalog, some([DAYS[0]], 7), base, day=DAYS[0])
    assert content(catalog) == before
    assert parquet_files(tmp_path) == files


def test_another_writer_of_other_rows_is_let_pass(catalog: Catalog) -> None:
    """A commit to another day in between and ours are both there afterwards."""
    put(catalog, some(DAYS))
    base = catalog.load_table(NAME)
    put(catalog, some([DAYS[2]], 1), catalog.load_table(NAME), day=DAYS[2])
    put(catalog, some([DAYS[0]], 7), base, day=DAYS[0])
    days = [day for day, _ in content(catalog)]
    assert [days.count(day) for day in DAYS] == [7, 3, 1]


def test_any_concurrent_write_conflicts_with_full_replace(catalog: Catalog) -> None:
    """A full rebuild does not take rows with it that it has not seen."""
    put(catalog, some(DAYS))
    base = catalog.load_table(NAME)
    put(catalog, some([DAYS[2]], 1), catalog.load_table(NAME), day=DAYS[2])
    with pytest.raises(ContentChanged):
        put(catalog, some(DAYS), base)


def test_two_creators_are_one_table(catalog: Catalog) -> None:
    """The second one to create the table fails instead of replacing or doubling it."""
    rows = some(DAYS)
    with Replacement(catalog, NAME, None, rows.schema, BY_DAY) as slow:
        slow.write(rows.to_batches())
        put(catalog, rows)
        with pytest.raises(ContentChanged):
            slow.commit()
    assert len(content(catalog)) == 9


def test_new_columns_are_appended(catalog: Catalog) -> None:
    """Old rows have null in a new column, new rows null in a column that they lack."""
    put(catalog, some(DAYS))
    base = catalog.load_table(NAME)
    put(catalog, some([DAYS[0]], 2, extra=pa.array(["a", "b"])), base, day=DAYS[0])
    table = catalog.load_table(NAME)
    assert table.schema().column_names == ["day", "number", "extra"]
    assert sorted(TableDataset(table).to_table()["extra"].drop_null().to_pylist()) == ["a", "b"]
    put(catalog, some([DAYS[1]], 1), table, day=DAYS[1])
    assert TableDataset(catalog.load_table(NAME)).to_table()["extra"].null_count == 4


def test_a_wider_type_widens_the_column(catalog: Catalog) -> None:
    """int becomes long; a narrower result is written as what the column is."""
    narrow = some(DAYS).set_column(1, "number", pa.array(range(9), pa.int32()))
    put(catalog, narrow)
    base = catalog.load_table(NAME)
    put(catalog, some([DAYS[0]], 2), base, day=DAYS[0])
    table = catalog.load_table(NAME)
    assert str(table.schema().find_field("number").field_type) == "long"
    put(catalog, narrow.slice(0, 3), table, day=DAYS[0])
    assert len(content(catalog)) == 9


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (pa.array(["x"] * 9), "number is long, the result has string"),
        (pa.array([1.5] * 9), "number is long, the result has double"),
    ],
)
def test_another_type_is_rejected(catalog: Catalog, values: pa.Array, says: str) -> None:
    """A column never changes its meaning silently."""
    put(catalog, some(DAYS))
    changed = some(DAYS).set_column(1, "number", values)
    with pytest.raises(SchemaConflict, match=says):
        put(catalog, changed, catalog.load_table(NAME))


def test_a_partition_column_that_is_missing_is_named(catalog: Catalog) -> None:
    """A typing error in the model's config says what there is."""
    with pytest.raises(SchemaConflict, match="'dya'"):
        put(catalog, some(DAYS), shape=Shape(partition_by=["dya"]))


def test_rows_in_any_order_reach_their_partitions(catalog: Catalog) -> None:
    """More partitions at once than files may be open cost files, never rows."""
    days = [DAYS[0] + dt.timedelta(days=n) for n in range(50)]
    rows = pa.concat_tables([some(days, 1)] * 3)
    outcome = put(catalog, rows)
    assert outcome.written == 150
    table = catalog.load_table(NAME)
    for task in table.scan().plan_files():
        bounds = {task.file.lower_bounds[1], task.file.upper_bounds[1]}
        assert len(bounds) == 1
    assert len(content(catalog)) == 150


def test_large_results_are_split_into_files(catalog: Catalog) -> None:
    """A file ends once it has the table's target size."""
    put(catalog, some(DAYS).slice(0, 0), shape=Shape())
    table = catalog.load_table(NAME)
    with table.transaction() as transaction:
        transaction.set_properties({"write.target-file-size-bytes": "100000"})
    rows = some([DAYS[0]], 400_000)
    with Replacement(catalog, NAME, catalog.load_table(NAME), rows.schema, Shape()) as replacement:
        replacement.write(rows.to_batches(max_chunksize=100_000))
        replacement.commit()
    files = [t.file for t in catalog.load_table(NAME).scan().plan_files()]
    assert len(files) > 1
    assert sum(f.record_count for f in files) == 400_000
