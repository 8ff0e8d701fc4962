"""Schemas derived from contracts, checked by using them: Arrow rows into real Iceberg tables."""

from __future__ import annotations

import tempfile
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg import types as t
from pyiceberg.catalog import load_catalog

from ingestion_platform.contract import columns
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.contract.schemas import (
    arrow_schema,
    bronze_arrow_schema,
    duckdb_type,
    iceberg_schema,
    partition_spec,
    quarantine_arrow_schema,
    quarantine_partition_spec,
    quarantine_schema,
)
from tests.support.contract_documents import document

SCALARS = [
    ({"logicalType": "string"}, pa.string(), t.StringType()),
    ({"logicalType": "integer", "physicalType": "int"}, pa.int32(), t.IntegerType()),
    ({"logicalType": "integer"}, pa.int64(), t.LongType()),
    ({"logicalType": "number", "physicalType": "float"}, pa.float32(), t.FloatType()),
    ({"logicalType": "number"}, pa.float64(), t.DoubleType()),
    (
        {"logicalType": "number", "physicalType": "decimal(12,2)"},
        pa.decimal128(12, 2),
        t.DecimalType(12, 2),
    ),
    ({"logicalType": "boolean"}, pa.bool_(), t.BooleanType()),
    ({"logicalType": "date"}, pa.date32(), t.DateType()),
    (
        {"logicalType": "timestamp", "physicalType": "timestamp"},
        pa.timestamp("us"),
        t.TimestampType(),
    ),
    ({"logicalType": "timestamp"}, pa.timestamp("us", tz="UTC"), t.TimestamptzType()),
    ({"logicalType": "time"}, pa.time64("us"), t.TimeType()),
    ({"logicalType": "object", "physicalType": "json"}, pa.string(), t.StringType()),
]


@pytest.fixture
def catalog(tmp_path):
    """An Iceberg catalog of this test's own."""
    uri = f"sqlite:///{tmp_path / 'catalog.db'}"
    catalog = load_catalog("test", type="sql", uri=uri, warehouse=tmp_path.as_uri())
    catalog.create_namespace("n")
    return catalog


def shape(type_):
    """An Iceberg type without its ids: names and types only."""
    if isinstance(type_, t.StructType):
        return {f.name: shape(f.field_type) for f in type_.fields}
    return [shape(type_.element_type)] if isinstance(type_, t.ListType) else type_


def types_of_any_depth():
    """Pairs: an ODCS property without its name, and the Arrow and Iceberg types expected."""
    decimals = st.sampled_from([each for each in SCALARS if pa.types.is_decimal(each[1])])
    inside = st.sampled_from([each for each in SCALARS if not pa.types.is_decimal(each[1])])

    def array(inner):
        odcs, arrow, iceberg = inner
        given = {"logicalType": "array", "items": odcs}
        return given, pa.list_(pa.field("element", arrow)), [iceberg]

    def struct(inners):
        given = [{"name": f"f{i}", **odcs} for i, (odcs, _, _) in enumerate(inners)]
        arrow = pa.struct([(f"f{i}", arrow) for i, (_, arrow, _) in enumerate(inners)])
        iceberg = {f"f{i}": iceberg for i, (_, _, iceberg) in enumerate(inners)}
        return {"logicalType": "object", "properties": given}, arrow, iceberg

    return decimals | st.recursive(
        inside,
        lambda inner: inner.map(array) | st.lists(inner, min_size=1, max_size=3).map(struct),
        max_leaves=8,
    )


@given(st.lists(types_of_any_depth(), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_any_contract_keeps_its_types_in_arrow_iceberg_and_duckdb(expected):
    """From the ODCS file to every schema, kinds arrive as the exact types they stand for."""
    properties = [{"name": f"c{i}", **odcs} for i, (odcs, _, _) in enumerate(expected)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "any.odcs.yaml"
        file.write_text(yaml.safe_dump(document(*properties)))
        contract = load_contract(file)

    arrow = arrow_schema(contract)
    assert arrow == pa.schema([(f"c{i}", arrow) for i, (_, arrow, _) in enumerate(expected)])
    iceberg = iceberg_schema(contract)
    found = [shape(f.field_type) for f in iceberg.fields][: len(expected)]
    assert found == [iceberg for _, _, iceberg in expected]
    assert [f.field_id for f in iceberg.fields] == list(range(1, len(iceberg.fields) + 1))
    fields = ", ".join(f'"{f.name}" {duckdb_type(f)}' for f in contract.fields)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE x ({fields})")
        rows = pa.table({f.name: pa.nulls(1, f.type) for f in arrow}, schema=arrow)
        connection.register("rows", rows)
        connection.execute("INSERT INTO x SELECT * FROM rows")
        assert connection.execute("SELECT count(*) FROM x").fetchone() == (1,)


def test_bronze_rows_go_into_the_table_and_come_back(catalog):
    """A table made of the Iceberg schema takes rows of the Arrow schema, partitioned as asked."""
    item = Field("element", Kind.OBJECT, fields=(Field("n", Kind.INTEGER, bits=32),))
    contract = Contract(
        id="x", name="x", version="1", domain="d", stream="x", table="x",
        fields=(
            Field("day", Kind.DATE, required=True, description="The day."),
            Field("kind", Kind.STRING),
            Field("items", Kind.ARRAY, item=item),
            Field("price", Kind.DECIMAL, precision=9, scale=2),
        ),
        partition_by=("day", "kind"),
    )  # fmt: skip
    schema = iceberg_schema(contract)
    table = catalog.create_table("n.x", schema, partition_spec=partition_spec(contract))
    row = {"day": date(2026, 11, 20), "kind": "a", "items": [{"n": 1}, None], "price": None}
    row |= {columns.INGEST_DATE: date(2026, 11, 20), columns.PARTITION: 0, columns.OFFSET: 7}
    rows = pa.Table.from_pylist([row], schema=bronze_arrow_schema(contract))

    table.append(rows)

    assert table.schema() == schema  # creating it changed no id
    assert [f.name for f in table.spec().fields] == ["day", "kind"]
    assert not any(f.required for f in table.schema().fields)
    assert table.schema().find_field("day").doc == "The day."
    found = table.scan().to_arrow().to_pylist()
    assert found == rows.to_pylist()


def test_quarantine_rows_go_into_the_table_and_come_back(catalog):
    """The quarantine table keeps bytes, headers and reasons as they are."""
    schema = quarantine_schema()
    table = catalog.create_table("n.q", schema, partition_spec=quarantine_partition_spec())
    row = dict.fromkeys(columns.QUARANTINE_COLUMNS)
    row |= {
        columns.INGEST_DATE: date(2026, 11, 20),
        columns.TIMESTAMP: datetime(2026, 11, 20, 10, tzinfo=UTC),
        columns.VALUE: b"\x00\xff",
        columns.HEADERS: [{"key": b"\xff", "value": b"\x01"}, {"key": b"k", "value": None}],
        columns.REASONS: [{"code": "json", "field": "value", "message": "no JSON", "value": None}],
    }
    rows = pa.Table.from_pylist([row], schema=quarantine_arrow_schema())

    table.append(rows)

    assert table.schema() == schema
    assert table.spec().fields[0].name == columns.INGEST_DATE
    assert table.scan().to_arrow().to_pylist() == [row]


def test_platform_columns_follow_the_fields():
    """Names and order of the platform's columns are those that readers are told."""
    contract = Contract(
        id="x", name="x", version="1", domain="d", stream="x", table="x",
        fields=(Field("a", Kind.STRING),),
    )  # fmt: skip

    assert iceberg_schema(contract).column_names == [
        "a", "_ingest_date", "_topic_id", "_partition", "_offset", "_ingested_at", "_contract"
    ]  # fmt: skip
    assert arrow_schema(contract).names == ["a"]
    assert bronze_arrow_schema(contract).names == iceberg_schema(contract).column_names
