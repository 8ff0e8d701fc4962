"""Which types a table's column may be widened to: those that Iceberg reads old files as."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.types import (
    BinaryType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    StringType,
    TimestampType,
)

from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.evolve import Step, widens
from ingestion_platform.warehouse.replace import Replacement, SchemaConflict, Shape

TYPES = [
    IntegerType(),
    LongType(),
    FloatType(),
    DoubleType(),
    DecimalType(9, 2),
    DecimalType(12, 2),
    DecimalType(12, 3),
    StringType(),
    BinaryType(),
    DateType(),
    TimestampType(),
]
WIDER = {
    (IntegerType(), LongType()),
    (FloatType(), DoubleType()),
    (DecimalType(9, 2), DecimalType(12, 2)),
}


@pytest.mark.parametrize("narrow", TYPES, ids=str)
@pytest.mark.parametrize("wide", TYPES, ids=str)
def test_only_what_iceberg_promotes_is_wider(narrow: IcebergType, wide: IcebergType) -> None:
    """No other pair, in no other direction; the same type is not wider than itself."""
    assert widens(narrow, wide) == ((narrow, wide) in WIDER)


def test_a_models_column_keeps_its_scale(tmp_path: Path) -> None:
    """What a dbt model writes is held to the same: old files cannot be read at another scale."""
    uri = f"sqlite:///{tmp_path / 'catalog.db'}"
    catalog = load_catalog("test", type="sql", uri=uri, warehouse=tmp_path.as_uri())

    def write(price: pa.DataType) -> None:
        rows = pa.table({"price": pa.array([1], price)})
        base = catalog.load_table("silver.x") if catalog.table_exists("silver.x") else None
        with Replacement(catalog, ("silver", "x"), base, rows.schema, Shape()) as replacement:
            replacement.write(rows.to_batches())
            replacement.commit()

    write(pa.decimal128(9, 2))
    write(pa.decimal128(12, 2))
    with pytest.raises(SchemaConflict, match="price"):
        write(pa.decimal128(12, 3))


@pytest.mark.parametrize("holder", ["struct", "list", "map"])
def test_a_field_renamed_inside_is_read_by_its_id(tmp_path: Path, holder: str) -> None:
    """Whatever holds it: a file of before has the value under the new name, one of after too."""
    inside = pa.struct([("a", pa.int64())])
    kinds = {"struct": inside, "list": pa.list_(inside), "map": pa.map_(pa.string(), inside)}
    values = {"struct": {"a": 7}, "list": [{"a": 7}], "map": [("k", {"a": 7})]}
    paths = {"struct": "x.a", "list": "x.element.a", "map": "x.value.a"}
    uri = f"sqlite:///{tmp_path / 'catalog.db'}"
    catalog = load_catalog("test", type="sql", uri=uri, warehouse=tmp_path.as_uri())
    catalog.create_namespace("n")
    schema = pa.schema([("x", kinds[holder])])
    table = catalog.create_table("n.t", schema)
    table.append(pa.table({"x": pa.array([values[holder]], kinds[holder])}))
    with table.update_schema() as update:
        update.rename_column(paths[holder], "b")
    table.append(table.scan().to_arrow())
    dataset = TableDataset(table.refresh())
    rows = dataset.scanner().to_table()["x"].to_pylist()
    assert [str(row).count("'b': 7") for row in rows] == [1, 1]
    assert len(dataset._plan(None).slow) == 1


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step("add", "a.b", "", "long"), "add a.b (long)"),
        (Step("rename", "b", "a", "b"), "rename a to b"),
        (Step("widen", "a", "int", "long"), "widen a from int to long"),
        (Step("optional", "a", "required", "optional"), "let a be null"),
        (Step("describe", "a", "", "What."), "describe a: What."),
        (Step("partition", "", "a", "b"), "partition by b from now on (was: a)"),
    ],
)
def test_a_step_says_what_will_be_done(step: Step, text: str) -> None:
    """In words for people."""
    assert str(step) == text
