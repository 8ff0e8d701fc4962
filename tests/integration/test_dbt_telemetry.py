"""The models of telemetry: statistics of readings, errors of services, in any order of ingest
dates."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest

from tests.support import dbt_warehouse
from tests.support.dbt_warehouse import (
    FIRST,
    Bronze,
    assert_any_order_equals_a_rebuild,
    scattered,
    simulated_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore:Delete operation did not match")


@dataclass
class Warehouse(dbt_warehouse.Warehouse):
    """Readings and logs, and the models on them."""

    domain: ClassVar[str] = "telemetry"
    models: ClassVar[dict[str, str]] = {
        "readings": "silver.silver_telemetry_readings",
        "logs": "silver.silver_telemetry_logs",
        "hourly": "gold.gold_telemetry_readings_hourly",
        "errors": "gold.gold_telemetry_errors_daily",
    }


@cache
def simulated() -> Bronze:
    """Both streams over three days, doubled records and late ones among them."""
    return simulated_rows({"sensor_readings": 2000, "app_logs": 2000}, days=3)


def test_a_build_says_what_the_records_say(warehouse: Warehouse) -> None:
    """Models and tests succeed; gold agrees with what is counted record by record."""
    for stream, rows in simulated().items():
        warehouse.fill(stream, rows)
    results = warehouse.build()
    assert {"model", "test", "unit_test"} <= {r.node.resource_type for r in results}
    assert {r.status for r in results} <= {"success", "pass"}
    hourly = warehouse.rows(
        "select sensor_id, metric, reading_hour, readings, lowest, highest, mean"
        f" from {warehouse.models['hourly']}"
    )
    values = by_hour()
    assert {row[:3] for row in hourly} == values.keys()
    for *key, count, lowest, highest, mean in hourly:
        found = values[tuple(key)]
        assert (count, lowest, highest) == (len(found), min(found), max(found))
        assert mean == pytest.approx(sum(found) / len(found))
    errors = warehouse.rows(
        f"select log_date, service, errors from {warehouse.models['errors']} where errors > 0"
    )
    assert {(date, service): count for date, service, count in errors} == error_counts()


def by_hour() -> dict[tuple[Any, ...], list[float]]:
    """Values by sensor, metric and hour, each reading once."""
    readings = {
        (row["sensor_id"], row["metric"], row["reading_time"]): row["value"]
        for row in simulated()["sensor_readings"]
    }
    values = defaultdict(list)
    for (sensor, metric, time), value in readings.items():
        values[sensor, metric, time.replace(minute=0, second=0, microsecond=0)].append(value)
    return values


def error_counts() -> Counter[tuple[dt.date, str]]:
    """Errors by day and service, each entry once."""
    names = ("log_date", "service", "timestamp", "level", "host", "message", "trace_id", "fields")
    entries = {tuple(row[name] for name in names) for row in simulated()["app_logs"]}
    return Counter(entry[:2] for entry in entries if entry[3] in ("ERROR", "FATAL"))


def test_a_reading_that_is_sent_again_replaces_the_one_before(warehouse: Warehouse) -> None:
    """Also when it comes days later, and only until it is taken back."""
    warehouse.fill("app_logs", [])
    first = simulated()["sensor_readings"][0]
    later = first | {"value": -3.5, "_ingest_date": FIRST + dt.timedelta(days=5), "_offset": 9000}
    latest = f"select latest, readings from {warehouse.models['hourly']}"
    for rows, value in (([first], first["value"]), ([first, later], -3.5), ([first], None)):
        warehouse.fill("sensor_readings", rows)
        warehouse.run((0, 1) if len(rows) == 1 and value else (5, 6))
        assert warehouse.rows(latest) == [(first["value"] if value is None else value, 1)]


@pytest.mark.scales
@pytest.mark.slow
def test_runs_of_ingest_dates_in_any_order_equal_a_full_rebuild(
    warehouse: Warehouse, rounds: int
) -> None:
    """Whatever came late, twice, or left: running each changed ingest date once is enough."""
    assert_any_order_equals_a_rebuild(
        warehouse, scattered(simulated(), seed=1), seed=1, rounds=rounds
    )
