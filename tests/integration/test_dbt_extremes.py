"""No record that a contract accepts, and no row that SQL can insert, fails a model."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.streams import declared_streams
from tests.support import dbt_warehouse, extremes
from tests.support.dbt_warehouse import PROJECT, WIDE

pytestmark = [
    pytest.mark.filterwarnings("ignore:Delete operation did not match"),
    pytest.mark.slow,
]

INGEST_DATES = 2
Bronze = Mapping[str, list[dict[str, Any]]]


@dataclass
class Warehouse(dbt_warehouse.Warehouse):
    """All streams and all models."""

    models: ClassVar[dict[str, str]] = {
        file.stem: f"{file.stem.partition('_')[0]}.{file.stem}"
        for file in sorted((PROJECT / "models").rglob("*.sql"))
    }

    def fill_all(self, bronze: Bronze) -> None:
        """Make all bronze tables hold exactly these rows."""
        for stream, rows in bronze.items():
            self.fill(stream, rows)

    def failed_tests(self) -> dict[str, str]:
        """The data tests that do not pass, by name: warn or fail."""
        result = self.dbt("test", "--exclude-resource-type", "unit_test")
        return {r.node.name: str(r.status) for r in result.result if r.status != "pass"}


@cache
def accepted() -> Bronze:
    """Extreme records of all streams; the parser accepts each of them."""
    return {s: extremes.accepted_rows(s, ingest_dates=INGEST_DATES) for s in declared_streams()}


@cache
def inserted() -> Bronze:
    """Rows by SQL beside a few records: nulls everywhere, and the limits of each type."""
    return {s: extremes.inserted_rows(s) for s in declared_streams()}


def test_no_accepted_record_fails_a_model(warehouse: Warehouse) -> None:
    """Ingest dates one by one, in any order, give what a full run gives; tests pass."""
    warehouse.fill_all(accepted())
    for number in random.Random(1).sample(range(INGEST_DATES), INGEST_DATES):
        warehouse.run((number, number + 1))
    incremental = warehouse.content()
    warehouse.run()
    for model, rows in warehouse.content().items():
        assert rows, model
        assert incremental[model] == rows, model
    assert set(warehouse.failed_tests().items()) <= {("no_case_resolved_before_submitted", "warn")}


def test_no_inserted_row_fails_a_model(warehouse: Warehouse) -> None:
    """What does not follow its contract is left out, or warned of, and stops nothing."""
    warehouse.fill_all(inserted())
    warehouse.run()
    warehouse.run(WIDE)
    failed = warehouse.failed_tests()
    assert {"bronze_rows_without_identity", "transactions_without_identity"} <= failed.keys()
    assert sum(name.startswith("taken_as_null") for name in failed) > 5
    assert set(failed.values()) == {"warn"}


@pytest.mark.parametrize(
    ("stream", "name", "good", "bad"),
    [
        ("recomart_products", "price", 1e9, 1e15),
        ("tmdb_movie", "popularity", 1e9, 1e15),
        ("tmdb_tv_series", "vote_count", 10**9, 2**62),
        ("pgr_events", "attributes_json", {"sla_hours": 876_000}, {"sla_hours": 1e300}),
        ("pgr_events", "attributes_json", {"sla_hours": "1"}, {"sla_hours": "nan"}),
    ],
)
def test_contracts_bound_what_models_add_up(stream: str, name: str, good: Any, bad: Any) -> None:
    """The largest value is accepted, and an absurd one goes to quarantine."""
    (plain, *_) = extremes.records(stream)
    record = json.loads(plain)
    values = [json.dumps(record | {name: value}).encode() for value in (good, bad)]
    parsed = Validator(declared_streams()[stream].contract).parse(pa.array(values, pa.binary()))
    assert parsed.valid.to_pylist() == [0]


def test_empty_tables_give_empty_models(warehouse: Warehouse) -> None:
    """Tables that are there and have no row yet; a model by day says nothing then."""
    warehouse.fill_all({stream: [] for stream in declared_streams()})
    warehouse.run((0, 1))
    assert all(rows == [] for rows in warehouse.content().values())
    assert warehouse.failed_tests() == {}
