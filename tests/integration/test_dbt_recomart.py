"""The models of the shop: what they say of users and items, whatever order ingest dates run in."""

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
    START,
    Bronze,
    assert_any_order_equals_a_rebuild,
    scattered,
    simulated_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore:Delete operation did not match")

COUNTS = {"recomart_users": 250, "recomart_products": 560, "recomart_transactions": 900}
WEIGHTS = {"view": 1, "add_to_cart": 3, "purchase": 5}


@dataclass
class Warehouse(dbt_warehouse.Warehouse):
    """The three streams, and the models on them."""

    domain: ClassVar[str] = "recomart"
    models: ClassVar[dict[str, str]] = {
        "users": "silver.silver_recomart_users",
        "products": "silver.silver_recomart_products",
        "transactions": "silver.silver_recomart_transactions",
        "interactions": "gold.gold_recomart_interactions",
        "popularity": "gold.gold_recomart_item_popularity_daily",
        "features": "gold.gold_recomart_user_features",
    }


@cache
def simulated() -> Bronze:
    """All streams over four days, with doubled interactions and such without a time."""
    return simulated_rows(COUNTS, days=4)


def interactions() -> list[dict[str, Any]]:
    """Each once, with the day that it counts on."""
    found = {}
    for row in simulated()["recomart_transactions"]:
        said = tuple(row[name] for name in ("user_id", "item_id", "view_mode"))
        place = row["timestamp"] or (row["_partition"], row["_offset"])
        found[said, place] = row | {"day": row["event_date"] or row["_ingest_date"]}
    return list(found.values())


def test_a_build_says_what_the_records_say(warehouse: Warehouse) -> None:
    """Models and tests succeed; gold agrees with what is counted one by one."""
    for stream, rows in simulated().items():
        warehouse.fill(stream, rows)
    results = warehouse.build()
    assert {"model", "test", "unit_test"} <= {r.node.resource_type for r in results}
    assert {r.status for r in results} <= {"success", "pass"}

    scores: Counter[tuple[int, int]] = Counter()
    popularity: Counter[tuple[dt.date, int]] = Counter()
    for row in interactions():
        scores[row["user_id"], row["item_id"]] += WEIGHTS[row["view_mode"]]
        popularity[row["day"], row["item_id"]] += WEIGHTS[row["view_mode"]]
    matrix = f"select user_id, item_id, implicit_score from {warehouse.models['interactions']}"
    assert {row[:2]: row[2] for row in warehouse.rows(matrix)} == scores
    daily = f"select event_date, item_id, popularity_score from {warehouse.models['popularity']}"
    assert {row[:2]: row[2] for row in warehouse.rows(daily)} == popularity

    users = {row["user_id"]: row for row in simulated()["recomart_users"]}
    prices = {row["item_id"]: row["price"] for row in simulated()["recomart_products"]}
    spent: dict[int, float] = defaultdict(float)
    for row in interactions():
        spent[row["user_id"]] += prices[row["item_id"]] * (row["view_mode"] == "purchase")
    features = f"select user_id, device, spent from {warehouse.models['features']}"
    found = {row[0]: row[1:] for row in warehouse.rows(features)}
    assert set(found) == set(users) | set(spent)
    for user, (device, amount) in found.items():
        assert device == users.get(user, {}).get("device")
        assert amount == pytest.approx(spent.get(user, 0))


def test_a_new_price_reaches_whoever_bought(warehouse: Warehouse) -> None:
    """A run of the ingest date that an item changed in recomputes its buyers."""
    bought = {
        "user_id": 1, "item_id": 7, "view_mode": "purchase", "event_date": FIRST,
        "timestamp": START.replace(tzinfo=None),
        "_ingest_date": FIRST, "_partition": 0, "_offset": 0,
    }  # fmt: skip
    item = {"item_id": 7, "price": 2.0, "category": "Toys", "_ingest_date": FIRST, "_offset": 0}
    warehouse.fill("recomart_users", [])
    warehouse.fill("recomart_transactions", [bought])
    warehouse.fill("recomart_products", [item])
    warehouse.run()
    spent = f"select spent from {warehouse.models['features']}"
    assert warehouse.rows(spent) == [(2.0,)]
    later = item | {"price": 3.0, "_ingest_date": dbt_warehouse.day(5), "_offset": 1}
    warehouse.fill("recomart_products", [item, later])
    warehouse.run((5, 6))
    assert warehouse.rows(spent) == [(3.0,)]


def test_rating_sent_later_is_no_second_purchase(warehouse: Warehouse) -> None:
    """The same purchase with a rating, days later: one interaction with one rating, in any run."""
    bought = {
        "user_id": 1, "item_id": 7, "view_mode": "purchase", "event_date": FIRST, "rating": None,
        "timestamp": START.replace(tzinfo=None),
        "_ingest_date": FIRST, "_partition": 0, "_offset": 0,
    }  # fmt: skip
    rated = bought | {"rating": 4, "_ingest_date": dbt_warehouse.day(5), "_offset": 1}
    for stream in ("recomart_users", "recomart_products"):
        warehouse.fill(stream, [])
    counts = f"select purchases, ratings, mean_rating from {warehouse.models['popularity']}"
    matrix = f"select implicit_score, rating from {warehouse.models['interactions']}"
    for rows, ingest_date, rating in (
        ([bought], (0, 1), None),
        ([bought, rated], (5, 6), 4),
        ([bought], (5, 6), None),
        ([rated], (0, 6), 4),
    ):
        warehouse.fill("recomart_transactions", rows)
        warehouse.run(ingest_date)
        assert warehouse.rows(counts) == [(1, 0 if rating is None else 1, rating)]
        assert warehouse.rows(matrix) == [(5, rating)]


def test_streams_that_never_had_a_record_are_missed_by_nobody(warehouse: Warehouse) -> None:
    """Features are there with the first users, and their tests hold."""
    warehouse.fill("recomart_users", simulated()["recomart_users"])
    result = warehouse.dbt("build", "--exclude-resource-type", "unit_test", "--exclude",
                           "silver_recomart_products", "silver_recomart_transactions",
                           "gold_recomart_interactions", "gold_recomart_item_popularity_daily",
                           "interactions_counted_once", "transactions_without_identity",
                          )  # fmt: skip
    assert result.success, [r.message for r in result.result]
    ((count, items),) = warehouse.rows(
        f"select count(*), cast(sum(items) as int) from {warehouse.models['features']}"
    )
    assert (count, items) == (250, 0)


@pytest.mark.scales
@pytest.mark.slow
def test_runs_of_ingest_dates_in_any_order_equal_a_full_rebuild(
    warehouse: Warehouse, rounds: int
) -> None:
    """Whatever came late, twice, or left: running each changed ingest date once is enough."""
    # Few users and items, so that each has versions in several ingest dates.
    few = {"user_id": 9, "item_id": 7}
    pool = {
        stream: [
            row | {name: row[name] % size for name, size in few.items() if name in row}
            for row in rows
        ]
        for stream, rows in simulated().items()
    }
    assert_any_order_equals_a_rebuild(warehouse, scattered(pool, seed=1), seed=1, rounds=rounds)


def test_a_ingest_date_takes_what_later_ones_have_of_its_days(warehouse: Warehouse) -> None:
    """The models agree after every run, also while later ingest dates wait."""
    for stream in ("recomart_users", "recomart_products"):
        warehouse.fill(stream, [])
    base = {"view_mode": "view", "event_date": FIRST, "_partition": 0}
    first, late, copy = (
        base
        | {"user_id": user, "item_id": 7,
           "_ingest_date": dbt_warehouse.day(ingest_date), "_offset": offset,
           "timestamp": START.replace(tzinfo=None) + dt.timedelta(hours=user)}
        for user, ingest_date, offset in ((1, 0, 0), (2, 5, 1), (1, 3, 2))
    )  # fmt: skip
    warehouse.fill("recomart_transactions", [first])
    warehouse.run()
    warehouse.fill("recomart_transactions", [first, late, copy])
    result = warehouse.dbt("build", "--exclude-resource-type", "unit_test", ingest_dates=(3, 4))
    assert result.success, [(r.node.name, r.message) for r in result.result]
    for model in ("transactions", "interactions", "popularity", "features"):
        table = warehouse.models[model]
        expected = 1 if model == "popularity" else 2
        assert warehouse.rows(f"select count(*) from {table}") == [(expected,)]
