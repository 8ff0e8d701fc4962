"""The models of the media catalogue: latest versions, whatever order ingest dates run in."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest

from ingestion_platform.produce.labelled import find
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.streams import declared_streams
from tests.support import dbt_warehouse
from tests.support.dbt_warehouse import (
    PROJECT,
    START,
    Bronze,
    assert_any_order_equals_a_rebuild,
    bronze_rows,
    scattered,
    simulated_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore:Delete operation did not match")

DATA = PROJECT.parent / "data"
STREAMS = ("tmdb_movie", "tmdb_tv_series", "tmdb_person")


@dataclass
class Warehouse(dbt_warehouse.Warehouse):
    """The three types, and the models on them."""

    domain: ClassVar[str] = "tmdb"
    models: ClassVar[dict[str, str]] = {
        "movie": "silver.silver_tmdb_movie",
        "tv_series": "silver.silver_tmdb_tv_series",
        "person": "silver.silver_tmdb_person",
        "catalogue": "gold.gold_tmdb_catalogue",
        "changed": "gold.gold_tmdb_most_changed",
    }


@cache
def sample() -> Bronze:
    """The sample data of the repository, as loading them once makes it."""
    streams = {stream: declared_streams()[stream] for stream in STREAMS}
    records = list(find(DATA, list(streams.values())).records(seed=7))
    arrived = int(START.timestamp() * 1000)
    return {
        name: bronze_rows(
            name,
            [r._replace(timestamp_ms=arrived) for r in records if r.topic == stream.topic],
        )
        for name, stream in streams.items()
    }


def files(kind: str, label: str) -> list[dict[str, Any]]:
    """The sample's records of a type and label, as they stand in the files."""
    found = sorted((DATA / kind / label).glob("*.jsonl"))
    return [json.loads(line) for file in found for line in file.read_text().splitlines()]


def test_a_build_keeps_the_latest_of_the_sample_data(warehouse: Warehouse) -> None:
    """Models and tests succeed; a change supersedes, and gold counts what stands."""
    for stream, rows in sample().items():
        warehouse.fill(stream, rows)
    results = warehouse.build()
    assert {"model", "test", "unit_test"} <= {r.node.resource_type for r in results}
    assert {r.status for r in results} <= {"success", "pass"}

    films = {f["id"]: f for label in ("old", "new", "change") for f in files("movie", label)}
    stands = "select tmdb_id, title, vote_count, tagline from silver.silver_tmdb_movie"
    assert {row[0]: row[1:] for row in warehouse.rows(stands)} == {
        number: (film["title"], film["vote_count"], film["tagline"].strip() or None)
        for number, film in films.items()
    }

    series = {f["id"]: f for label in ("old", "new", "change") for f in files("tv_series", label)}
    expected = Counter(
        (kind, genre["name"], int(film[date][:4]) if film[date] else None)
        for kind, date, titles in (
            ("movie", "release_date", films),
            ("tv_series", "first_air_date", series),
        )
        for film in titles.values()
        for genre in film["genres"] or [{"name": None}]
    )
    catalogue = "select data_type, genre, release_year, titles from gold.gold_tmdb_catalogue"
    assert {row[:3]: row[3] for row in warehouse.rows(catalogue)} == expected

    changes = Counter(
        (kind, record["id"])
        for kind in ("movie", "tv_series", "person")
        for record in files(kind, "change")
    )
    changed = "select data_type, tmdb_id, change_count from gold.gold_tmdb_most_changed"
    assert {row[:2]: row[2] for row in warehouse.rows(changed)} == changes


def test_nested_arrays_are_kept_as_they_are(warehouse: Warehouse) -> None:
    """Objects with all their fields, empty arrays empty, absent ones null."""
    simulated = bronze_rows("tmdb_movie", simulate("tmdb_movie", 60, start=START, days=1))
    warehouse.fill("tmdb_movie", [*sample()["tmdb_movie"], *simulated])
    assert warehouse.dbt("run", "--exclude", "source:bronze.tmdb_tv_series+",
                         "source:bronze.tmdb_person+").success  # fmt: skip
    columns = "tmdb_id, genres, production_companies, origin_country, belongs_to_collection"
    latest = dict.fromkeys(row["tmdb_id"] for row in simulated)
    for row in sorted([*sample()["tmdb_movie"], *simulated], key=lambda row: row["timestamp"]):
        latest[row["tmdb_id"]] = tuple(row[name] for name in columns.split(", "))
    found = warehouse.rows(f"select {columns} from silver.silver_tmdb_movie")
    assert {row[0]: row for row in found} == latest
    assert {None, 0} <= {None if row[2] is None else len(row[2]) for row in found}


def test_types_that_never_had_a_record_are_missed_by_nobody(warehouse: Warehouse) -> None:
    """Gold is there with the first type, and its tests hold."""
    warehouse.fill("tmdb_tv_series", sample()["tmdb_tv_series"])
    result = warehouse.dbt("build", "--exclude-resource-type", "unit_test", "--exclude",
                           "silver_tmdb_movie", "silver_tmdb_person")  # fmt: skip
    assert result.success, [r.message for r in result.result]
    for model in ("catalogue", "changed"):
        types = warehouse.rows(f"select distinct data_type from {warehouse.models[model]}")
        assert types == [("tv_series",)]


@pytest.mark.scales
@pytest.mark.slow
def test_runs_of_ingest_dates_in_any_order_equal_a_full_rebuild(
    warehouse: Warehouse, rounds: int
) -> None:
    """Whatever came late, twice, or left: running each changed ingest date once is enough."""
    # Few titles, so that each has versions in several ingest dates.
    pool = {
        stream: [row | {"tmdb_id": row["tmdb_id"] % 11} for row in rows]
        for stream, rows in simulated_rows(dict.fromkeys(STREAMS, 150), days=4).items()
    }
    assert_any_order_equals_a_rebuild(warehouse, scattered(pool, seed=1), seed=1, rounds=rounds)
