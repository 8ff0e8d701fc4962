"""PyIceberg's private parts: each does what the platform needs, and each fix is still needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.expressions import GreaterThanOrEqual, LessThan
from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update import AssertTableUUID, SetPropertiesUpdate
from pyiceberg.types import LongType, NestedField, StringType

import ingestion_platform
from ingestion_platform.settings import Settings
from ingestion_platform.warehouse import pyiceberg_private as private
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.datafiles import DataFileWriter, write_data_files
from ingestion_platform.warehouse.reading import query
from tests.support.iceberg_deletes import delete_positions

PACKAGE = Path(ingestion_platform.__file__).parent
UNFIXED = """
import sys, pyarrow as pa, pyiceberg.io.pyarrow as io
try:
    print(io.truncate_upper_bound_text_string("ab\\ud7ffd", 3).encode())
except UnicodeEncodeError:
    print("surrogate")
from pyiceberg.schema import Schema
from pyiceberg.types import ListType, LongType, NestedField, StructType
item = StructType(NestedField(3, "id", LongType(), required=False))
schema = Schema(NestedField(1, "l", ListType(2, item, element_required=False), required=False))
arrow = io.schema_to_pyarrow(schema)
rows = pa.table([pa.array([None], arrow.field("l").type)], schema=arrow)
print(io._to_requested_schema(schema, schema, rows.to_batches()[0]).to_pylist())
"""
GENRE = pa.struct([("id", pa.int64()), ("tags", pa.list_(pa.struct([("name", pa.string())])))])
LISTS: list[list[dict[str, Any]] | None] = [
    None,
    [],
    [{"id": 1, "tags": None}, {"id": 2, "tags": []}],
    None,
    [{"id": 3, "tags": [{"name": "a"}, {"name": None}]}],
]


@pytest.fixture
def table(local_settings: Settings) -> Table:
    """A table of ten numbers in one file."""
    catalog = open_catalog(local_settings)
    catalog.create_namespace("bronze")
    schema = Schema(NestedField(1, "n", LongType(), required=False))
    table = catalog.create_table("bronze.numbers", schema)
    table.append(pa.table({"n": range(10)}))
    return table


def file_of(table: Table) -> DataFile:
    """Return the table's first data file."""
    return next(iter(table.scan().plan_files())).file


def test_only_one_module_uses_private_names() -> None:
    """Neither imports nor attributes that PyIceberg keeps to itself, outside of that module."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if path.name == "pyiceberg_private.py" or "pyiceberg" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyiceberg"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute):
                own = f"def {node.attr}", f"self.{node.attr}", f"    {node.attr}:"
                names = [] if any(text_of in text for text_of in own) else [node.attr]
            private_names = [n for n in names if n.startswith("_") and not n.startswith("__")]
            found += [f"{path.relative_to(PACKAGE)}: {name}" for name in private_names]
    assert [use for use in found if not use.split(": _")[1].isupper()] == []


def test_pyiceberg_still_needs_the_fixes() -> None:
    """Without them: a bound that is not text, and an empty list where there was none."""
    command = [sys.executable, "-c", UNFIXED]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["surrogate", "[{'l': []}]"]


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("ab", "ab"),
        ("abc", "abc"),
        ("abcd", "abd"),
        ("ab\ud7ffd", "ab\ue000"),
        ("ab\U0010ffffd", "ac"),
        ("\U0010ffff" * 4, None),
    ],
)
def test_upper_bound_is_the_next_text(text: str, bound: str | None) -> None:
    """Of three characters; None where no text of that length is greater."""
    assert private.upper_bound(text, 3) == bound


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 20))
def test_upper_bound_is_encodable_and_above(text: str, length: int) -> None:
    """Readers compare UTF-8 bytes, which order texts like their characters."""
    bound = private.upper_bound(text, length)
    assert bound is None or bound.encode() >= text.encode()


def test_text_before_the_surrogates_is_written(local_settings: Settings) -> None:
    """As the largest value of a file, with U+D7FF where the bound ends."""
    rows = pa.table({"text": ["x" * 15 + "\ud7ff" + "y"]})
    catalog = open_catalog(local_settings)
    catalog.create_namespace("bronze")
    table = catalog.create_table("bronze.texts", schema=rows.schema)
    (file,) = write_data_files(table, rows)
    assert file.upper_bounds[1].decode() == "x" * 15 + "\ue000"


@pytest.mark.parametrize("rows", [LISTS, [None, None], LISTS[1:3]], ids=["mixed", "nulls", "none"])
def test_null_lists_stay_null(local_settings: Settings, rows: list[Any]) -> None:
    """At every depth, by a scan of PyIceberg and by a query of DuckDB; empty ones stay empty."""
    table = pa.table({"n": range(len(rows)), "genres": pa.array(rows, pa.list_(GENRE))})
    catalog = open_catalog(local_settings)
    catalog.create_namespace("bronze")
    stored = catalog.create_table("bronze.titles", schema=table.schema)
    with stored.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        for file in write_data_files(stored, table):
            append.append_data_file(file)
    scanned = catalog.load_table("bronze.titles").scan().to_arrow()
    assert scanned["genres"].to_pylist() == rows
    queried = query(local_settings, "select genres from bronze.titles order by n")
    assert queried["genres"].to_pylist() == rows


def test_updates_are_staged_with_requirement(table: Table) -> None:
    """One update and its requirement, committed with the transaction."""
    transaction = table.transaction()
    update = SetPropertiesUpdate(updates={"a": "b"})
    private.stage(transaction, update, AssertTableUUID(uuid=table.metadata.table_uuid))
    assert private.table_of(transaction) is table
    transaction.commit_transaction()
    assert table.catalog.load_table(table.name()).properties["a"] == "b"


def test_schema_is_set_as_given(table: Table) -> None:
    """A column renamed, and a new one under its former name, in one commit."""
    schema = Schema(
        NestedField(1, "m", LongType(), required=False),
        NestedField(2, "n", StringType(), required=False),
        schema_id=1,
    )
    with table.transaction() as transaction:
        private.set_schema(transaction, schema)
    assert table.schema() == schema


@pytest.mark.parametrize("operation", [Operation.APPEND, Operation.OVERWRITE])
def test_manifests_pass_through_arrange(table: Table, operation: Operation) -> None:
    """All of them, the new one first; those that it returns are the snapshot's."""
    counts = []

    def arrange(_: Any, manifests: list[ManifestFile]) -> list[ManifestFile]:
        counts.append(len(manifests))
        return manifests[:1]

    with table.transaction() as transaction:  # noqa: SIM117 (commits at the end of the inner one)
        with private.new_snapshot(transaction, operation, {"k": "v"}, arrange) as snapshot:
            for file in write_data_files(table, pa.table({"n": [10, 11]})):
                snapshot.append_data_file(file)
    assert counts == [2]
    assert table.current_snapshot().summary["k"] == "v"
    assert sorted(table.scan().to_arrow()["n"].to_pylist()) == [10, 11]


def test_replace_snapshot_counts_its_files(table: Table) -> None:
    """Operation, manifests and totals are those of the listed files."""

    class Unchanged(private.ReplaceSnapshot):
        def list_manifests(self) -> tuple[list[ManifestFile], list[DataFile], set[DataFile]]:
            return table.current_snapshot().manifests(table.io), [], set()

    transaction = table.transaction()
    with Unchanged(transaction, {"k": "v"}, 4711):
        pass
    transaction.commit_transaction()
    snapshot = table.current_snapshot()
    assert (snapshot.snapshot_id, snapshot.summary.operation) == (4711, Operation.REPLACE)
    assert (snapshot.summary["total-records"], snapshot.summary["k"]) == ("10", "v")


def test_statistics_prove_that_all_rows_match(table: Table) -> None:
    """Numbers 0 to 9: all below 10, not all below 9."""
    assert private.all_rows_match(table.schema(), LessThan("n", 10), file_of(table))
    assert not private.all_rows_match(table.schema(), LessThan("n", 9), file_of(table))


def test_complement_keeps_null_rows(table: Table) -> None:
    """A delete removes rows that match; null does not match."""
    rest = private.rows_not_matching(table.schema(), GreaterThanOrEqual("n", 5))
    assert pa.table({"n": [4, 5, None]}).filter(rest)["n"].to_pylist() == [4, None]


def test_deleted_rows_are_not_read(table: Table) -> None:
    """With their position deletes applied."""
    delete_positions(table, file_of(table), [0, 3])
    batches = private.read_with_deletes(table, table.schema(), table.scan().plan_files())
    rows = pa.Table.from_batches(batches)
    assert rows["n"].to_pylist() == [1, 2, 4, 5, 6, 7, 8, 9]


def test_bytes_written_grow_with_rows(table: Table) -> None:
    """0 before the first full row group."""
    from pyiceberg.typedef import Record

    writer = DataFileWriter(table, Record(), "a.parquet")
    assert writer.bytes == 0
    writer.write(pa.table({"n": pa.array(range(200_000))}))
    assert 0 < writer.bytes <= writer.finish().file_size_in_bytes


def test_schema_from_arrow_numbers_columns() -> None:
    """From 1; a type that Iceberg lacks is a TypeError."""
    schema = private.schema_from_arrow(pa.schema([("a", pa.int64()), ("b", pa.string())]))
    assert [(f.field_id, f.name) for f in schema.fields] == [(1, "a"), (2, "b")]
    with pytest.raises(TypeError):
        private.schema_from_arrow(pa.schema([("a", pa.month_day_nano_interval())]))
