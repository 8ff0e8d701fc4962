"""Reading lists: what is null stays null, at every depth, and what is empty stays empty."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.reading import query

GENRE = pa.struct([("id", pa.int64()), ("tags", pa.list_(pa.struct([("name", pa.string())])))])
ROWS: list[list[dict[str, Any]] | None] = [
    None,
    [],
    [{"id": 1, "tags": None}, {"id": 2, "tags": []}],
    None,
    [{"id": 3, "tags": [{"name": "a"}, {"name": None}]}],
]


@pytest.mark.parametrize("rows", [ROWS, [None, None], ROWS[1:3]], ids=["mixed", "nulls", "none"])
def test_lists_of_objects_are_read_as_they_were_written(
    local_settings: Settings, rows: list[Any]
) -> None:
    """By a scan of PyIceberg's, and by a query of DuckDB's."""
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
