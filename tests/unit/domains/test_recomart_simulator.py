"""The simulated shop: one world, in which interactions have causes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from ingestion_platform.domains.recomart.simulator import ITEMS, USERS
from ingestion_platform.produce.simulators import simulate

START = datetime(2026, 3, 1, tzinfo=UTC)


def feed(stream: str, count: int, key: str, **how: Any) -> list[dict[str, Any]]:
    """Records in order of arrival; each is keyed by the field."""
    found = []
    for record in simulate(stream, count, **{"start": START, "days": 3, **how}):
        found.append(json.loads(record.value))
        assert record.key == str(found[-1][key]).encode()
    return found


def test_transactions_refer_to_existing_users_and_items() -> None:
    """Whatever the seeds and spans of the three streams are."""
    users = {user["user_id"] for user in feed("recomart_users", USERS, "user_id", seed=1)}
    items = {item["item_id"] for item in feed("recomart_products", ITEMS, "item_id", days=1)}
    assert (len(users), len(items)) == (USERS, ITEMS)
    met = feed("recomart_transactions", 5000, "user_id", seed=9, days=20)
    assert {event["user_id"] for event in met} <= users
    assert {event["item_id"] for event in met} <= items


def test_purchases_follow_cart_and_view() -> None:
    """A user views an item before carting it, and carts it before purchasing it."""
    before: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for event in feed("recomart_transactions", 20_000, "user_id"):
        seen = before[event["user_id"], event["item_id"]]
        if event["view_mode"] == "add_to_cart":
            assert seen["view"]
        if event["view_mode"] == "purchase":
            assert seen["add_to_cart"]
        seen[event["view_mode"]] += 1
    total = sum(before.values(), Counter())
    assert total["view"] > total["add_to_cart"] > total["purchase"] > 500


def test_optional_fields_are_sometimes_present() -> None:
    """Some purchases are rated and nothing else is; a few interactions have no time."""
    events = feed("recomart_transactions", 10_000, "user_id")
    assert {event["view_mode"] for event in events if "rating" in event} == {"purchase"}
    assert {event["rating"] for event in events if "rating" in event} == {1, 2, 3, 4, 5}
    assert 100 < sum("timestamp" not in event for event in events) < 300
    end = START + timedelta(days=3)
    times = [datetime.fromisoformat(e["timestamp"]) for e in events if "timestamp" in e]
    assert all(START <= time <= end for time in times)


def test_users_and_items_change_after_first_versions() -> None:
    """First each of them, then new versions that differ from the one before."""
    for stream, key, size in (
        ("recomart_users", "user_id", USERS),
        ("recomart_products", "item_id", ITEMS),
    ):
        versions: dict[int, dict[str, Any]] = {}
        for turn, value in enumerate(feed(stream, size + 300, key)):
            assert (value[key] in versions) == (turn >= size)
            assert value != versions.get(value[key])
            versions[value[key]] = value


def test_users_prefer_a_category() -> None:
    """Interests are there to be found: half of the visits go to one category in eight."""
    category = {i["item_id"]: i["category"] for i in feed("recomart_products", ITEMS, "item_id")}
    events = feed("recomart_transactions", 20_000, "user_id")
    busiest, _ = Counter(event["user_id"] for event in events).most_common(1)[0]
    liked = Counter(category[e["item_id"]] for e in events if e["user_id"] == busiest)
    assert liked.most_common(1)[0][1] > 0.35 * liked.total()
