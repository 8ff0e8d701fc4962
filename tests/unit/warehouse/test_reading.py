"""Reading Iceberg tables through TableDataset and DuckDB: right, pruned, lazy, read only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.reading import QueryError, connect, query, register
from tests.support.iceberg_deletes import delete_positions

SCHEMA = pa.schema(
    [
        ("day", pa.date32()),
        ("number", pa.int64()),
        ("name", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("wall", pa.timestamp("us")),
        ("amount", pa.decimal128(9, 2)),
        ("ratio", pa.float64()),
    ]
)
JAN = [dt.date(2026, 1, day) for day in range(1, 5)]


def rows(day: dt.date | None, numbers: range) -> pa.Table:
    """Rows of one day, every third name null."""
    midnight = dt.datetime.combine(day or JAN[0], dt.time())
    return pa.table(
        {
            "day": [day] * len(numbers),
            "number": list(numbers),
            "name": [None if n % 3 == 0 else f"name {n}" for n in numbers],
            "at": [midnight.replace(tzinfo=dt.UTC) + dt.timedelta(seconds=n) for n in numbers],
            "wall": [midnight + dt.timedelta(seconds=n) for n in numbers],
            "amount": [Decimal(n) / 4 for n in numbers],
            "ratio": [float("nan") if n % 5 == 0 else n / 3 for n in numbers],
        },
        schema=SCHEMA,
    )


@pytest.fixture
def platform(tmp_path: Path) -> Settings:
    """Settings of an embedded platform in a folder of its own."""
    return Settings.load({"PLATFORM_HOME": str(tmp_path)})


@pytest.fixture
def catalog(platform: Settings) -> Catalog:
    """Its catalog, with a namespace."""
    found = open_catalog(platform)
    found.create_namespace("ns")
    return found


@pytest.fixture
def table(catalog: Catalog) -> Table:
    """Four days of ten rows and ten rows without a day, a file each, partitioned by day."""
    made = catalog.create_table("ns.events", schema=SCHEMA)
    with made.update_spec() as spec:
        spec.add_identity("day")
    for index, day in enumerate([*JAN, None]):
        made.append(rows(day, range(index * 10, index * 10 + 10)))
    return catalog.load_table("ns.events")


def file_of(table: Table, day: dt.date | None) -> DataFile:
    """The data file of one day."""
    return next(
        task.file for task in table.scan().plan_files() if task.file.partition[0] == _days(day)
    )


def _days(day: dt.date | None) -> int | None:
    return None if day is None else (day - dt.date(1970, 1, 1)).days


def opened(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> tuple[Any, int]:
    """What `act` gives, and how many data files a scan was planned over."""
    planned: list[int] = []
    original = TableDataset._plan

    def plan(self: TableDataset, condition: pc.Expression | None) -> Any:
        found = original(self, condition)
        planned.append(len(list(found.fast.get_fragments())) + len(found.slow))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(TableDataset, "_plan", plan)
        result = act()
    return result, sum(planned)


def test_all_rows_come_back_as_they_were_written(table: Table) -> None:
    """A scan without a condition gives every row and every type."""
    found = TableDataset(table).to_table().sort_by("number")
    expected = pa.concat_tables(
        rows(day, range(i * 10, i * 10 + 10)) for i, day in enumerate([*JAN, None])
    )
    # NaN is not equal to itself, so floats are compared as text.
    assert found.cast(SCHEMA).drop(["ratio"]) == expected.drop(["ratio"])
    assert str(found["ratio"].to_pylist()) == str(expected["ratio"].to_pylist())


@pytest.mark.parametrize(
    ("condition", "files"),
    [
        ("day = date '2026-01-02'", 1),
        ("day in (date '2026-01-02', date '2026-01-04')", 2),
        ("day >= date '2026-01-03'", 2),
        ("number between 12 and 14", 1),
        ("number > 1000", 0),
        ("name = 'name 25'", 2),  # as texts, 'name 1' to 'name 8' enclose it
        ("name = 'name 9'", 0),
        ("\"at\" < timestamptz '2026-01-01 00:00:05+00'", 1),
        ("wall >= timestamp '2026-01-04 00:00:30'", 1),
        ("name is null", 5),  # which DuckDB does not push down
    ],
)
def test_a_condition_opens_only_files_that_may_match(
    table: Table, monkeypatch: pytest.MonkeyPatch, condition: str, files: int
) -> None:
    """Partition values and column bounds rule files out, and the result stays right."""
    connection = duckdb.connect()
    register(connection, "events", table)
    connection.register("plain", table.scan().to_arrow())
    sql = "select count(*), sum(number) from {} where " + condition
    found, planned = opened(
        monkeypatch, lambda: connection.execute(sql.format("events")).fetchall()
    )
    assert found == connection.execute(sql.format("plain")).fetchall()
    assert planned == files


VALUES = {
    "number": st.integers(-5, 55).map(str),
    "day": st.sampled_from(JAN).map(lambda d: f"date '{d}'"),
    "name": st.integers(-1, 50).map(lambda n: f"'name {n}'"),
    "ratio": st.integers(-2, 20).map(lambda n: f"{n}::double"),
    "amount": st.integers(-2, 15).map(str),
}
COMPARISONS = st.sampled_from(sorted(VALUES)).flatmap(
    lambda column: st.one_of(
        st.tuples(st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), VALUES[column]).map(
            lambda pair: f"{column} {pair[0]} {pair[1]}"
        ),
        st.lists(VALUES[column], min_size=1, max_size=3).map(
            lambda values: f"{column} in ({', '.join(values)})"
        ),
        st.sampled_from([f"{column} is null", f"{column} is not null"]),
    )
)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
        lambda parts: f"({' '.join(parts)})"
    ),
    max_leaves=4,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(condition=CONDITIONS)
def test_pruning_never_changes_a_result(table: Table, condition: str) -> None:
    """Any condition gives what it gives over all rows in memory, deletes included."""
    if not any(task.delete_files for task in table.scan().plan_files()):
        delete_positions(table, file_of(table, JAN[1]), [0, 7])
        delete_positions(table, file_of(table, None), [3])
    connection = duckdb.connect()
    register(connection, "events", table)
    connection.register("plain", table.scan().to_arrow())
    sql = f"select number from {{}} where {condition} order by 1"
    found = connection.execute(sql.format("events")).fetchall()
    assert found == connection.execute(sql.format("plain")).fetchall()


def test_deleted_positions_are_not_read(table: Table) -> None:
    """Position deletes are applied, with a condition and without, in every way of reading."""
    delete_positions(table, file_of(table, JAN[1]), [0, 1, 9])
    dataset = TableDataset(table)
    assert dataset.count_rows() == 47
    assert dataset.to_table(columns=["number"]).num_rows == 47
    assert dataset.head(3).num_rows == 3
    connection = duckdb.connect()
    register(connection, "ns.events", table)
    count = "select count(*), min(number), max(number) from ns.events"
    assert connection.execute(count).fetchone() == (47, 0, 49)
    day = " where day = date '2026-01-02'"
    assert connection.execute(count + day).fetchone() == (7, 12, 18)
    assert connection.execute(count + day + " and number > 12").fetchone() == (6, 13, 18)


def test_second_delete_adds_to_the_first(table: Table) -> None:
    """Several delete files for one data file are united."""
    delete_positions(table, file_of(table, JAN[0]), [0])
    delete_positions(table, file_of(table, JAN[0]), [5])
    left = TableDataset(table).to_table(filter=pc.field("day") == JAN[0])["number"].to_pylist()
    assert sorted(left) == [1, 2, 3, 4, 6, 7, 8, 9]


def test_deleted_rows_are_read_from_an_older_snapshot(table: Table) -> None:
    """A named snapshot shows the table as it was."""
    before = table.current_snapshot()
    assert before is not None
    delete_positions(table, file_of(table, JAN[0]), [0, 1])
    assert TableDataset(table).count_rows() == 48
    assert TableDataset(table, before.snapshot_id).count_rows() == 50


def test_the_snapshot_of_the_first_use_stays(table: Table, catalog: Catalog) -> None:
    """What is committed later does not show in a dataset that is in use."""
    dataset = TableDataset(catalog.load_table("ns.events"))
    assert dataset.count_rows() == 50
    table.append(rows(JAN[0], range(100, 110)))
    assert dataset.count_rows() == 50
    assert TableDataset(catalog.load_table("ns.events")).count_rows() == 60


def test_columns_are_found_by_id_after_a_rename(table: Table, catalog: Catalog) -> None:
    """A renamed column keeps its values, and one that takes its old name starts empty."""
    with table.update_schema() as update:
        update.rename_column("name", "label")
    with table.update_schema() as update:
        update.add_column("name", table.schema().find_type("label"))
    connection = duckdb.connect()
    register(connection, "events", catalog.load_table("ns.events"))
    found = connection.execute("select count(label), count(name) from events").fetchone()
    assert found == (33, 0)


def test_rows_from_before_a_column_have_null_there(table: Table, catalog: Catalog) -> None:
    """A column that was added later reads as null in the old files."""
    with table.update_schema() as update:
        update.add_column("extra", table.schema().find_type("number"))
    found = TableDataset(catalog.load_table("ns.events")).to_table(columns=["extra"])
    assert found["extra"].null_count == 50


def test_an_empty_table_has_its_columns(catalog: Catalog) -> None:
    """A table without a snapshot reads as no rows."""
    dataset = TableDataset(catalog.create_table("ns.empty", schema=SCHEMA))
    assert dataset.schema.names == SCHEMA.names
    assert dataset.to_table().num_rows == 0


def test_nothing_is_loaded_before_it_is_needed(table: Table) -> None:
    """The table is asked for once, and not before the schema or a scan needs it."""
    calls = []

    def load() -> Table:
        calls.append(1)
        return table

    dataset = TableDataset(load)
    assert calls == []
    assert dataset.schema.names == SCHEMA.names
    assert dataset.count_rows() == 50
    assert len(calls) == 1


def test_what_needs_a_dataset_of_files_says_so(table: Table) -> None:
    """Methods of pyarrow that would crash the process raise instead."""
    dataset = TableDataset(table)
    for act in (dataset.get_fragments, lambda: dataset.partition_expression, dataset.filter):
        with pytest.raises(NotImplementedError, match="scanner"):
            act()


def test_eight_threads_read_deletes_without_a_deadlock(table: Table) -> None:
    """DuckDB may pull from several threads at once."""
    delete_positions(table, file_of(table, JAN[0]), [0])
    connection = duckdb.connect(config={"threads": 8})
    register(connection, "events", table)
    found = connection.execute(
        "select count(*) from events a join events b using (number) join events c using (number)"
    ).fetchone()
    assert found == (49,)


def test_query_opens_only_the_tables_that_it_names(
    platform: Settings, table: Table, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tables of the catalog are not even loaded."""
    catalog.create_table("ns.other", schema=SCHEMA)
    loaded = []
    original = type(catalog).load_table

    def load(self: Catalog, identifier: Any) -> Table:
        loaded.append(identifier)
        return original(self, identifier)

    monkeypatch.setattr(type(catalog), "load_table", load)
    assert query(platform, "select count(*) as n from ns.events").to_pylist() == [{"n": 50}]
    assert loaded == [("ns", "events")]


def test_names_are_found_however_they_are_written(platform: Settings, table: Table) -> None:
    """Quotes, case, line breaks, CTEs and aliases do not hide a table."""
    for sql in (
        'select count(*) as n from "ns"."events"',
        "select count(*) as n from NS.Events as e where e.number >= 0",
        "with x as (select * from ns\n.events) select count(*) as n from x",
        "select count(ns.events.number) as n from ns.events",
        "from ns.events select count(*) as n",
    ):
        assert query(platform, sql).to_pylist() == [{"n": 50}], sql


def test_times_with_a_zone_come_in_utc(platform: Settings, table: Table) -> None:
    """The session's zone is UTC wherever the machine is."""
    sql = 'select cast("at" as varchar) as t from ns.events where number = 1'
    assert query(platform, sql).to_pylist() == [{"t": "2026-01-01 00:00:01+00"}]


def test_the_catalog_can_be_listed(platform: Settings, table: Table) -> None:
    """A listing statement opens every table."""
    sql = "select table_name from information_schema.tables where table_schema = 'ns'"
    assert query(platform, sql).to_pylist() == [{"table_name": "events"}]


def test_connect_has_every_table(platform: Settings, table: Table) -> None:
    """A connection for exploring shows the whole catalog."""
    assert connect(platform).execute("select count(*) from ns.events").fetchone() == (50,)


@pytest.mark.parametrize(
    "sql",
    [
        "delete from ns.events",
        "create table x as select 1",
        "copy (select 1) to '/dev/null'",
        "select 1; select 2",
        "attach 'x.db'",
        "",
        "selec 1",
        "select * from ns.missing",
        "select * from read_text('/etc/hostname')",
        "select no_such_column from ns.events",
    ],
)
def test_query_rejects_what_does_not_only_read(platform: Settings, table: Table, sql: str) -> None:
    """Writing, several statements, files of the machine and mistakes are one kind of error."""
    with pytest.raises(QueryError) as caught:
        query(platform, sql)
    assert caught.value.action


def test_long_texts_of_a_filter_may_be_cut(table: Table) -> None:
    """Arrow's text of a filter is no UTF-8 then, and does not say which columns it names."""
    names = ["\U0001f600" * 33 + "é", "name 1"]
    found = TableDataset(table).to_table(columns=["number"], filter=pc.field("name").isin(names))
    assert found["number"].to_pylist() == [1]
