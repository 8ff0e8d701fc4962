"""Simulators of the recommendation shop: users, products and transactions.

Users, items and their preferences are the same for all seeds, so that transactions refer to users
and items of the other two streams (to all of them, once those have USERS and ITEMS records; the
busiest come first).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from random import Random
from typing import Any

import numpy as np

from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulation import (
    Ints,
    Shape,
    Simulator,
    choose,
    instants,
    moments,
    with_repeats,
)

USERS, FIRST_USER = 2000, 1001
ITEMS, FIRST_ITEM = 500, 501
DEVICES = {"Mobile": 62, "Desktop": 28, "Tablet": 10}
CATEGORIES = ("Kitchen", "Garden", "Books", "Sports", "Toys", "Audio", "Shoes", "Lighting")
BRANDS = ("Alder", "Brightwell", "Corvo", "Dunlin", "Elmhurst", "Fennick", None)

VIEW, CART, PURCHASE = "view", "add_to_cart", "purchase"
MODES = (VIEW, VIEW, VIEW, CART, PURCHASE)
"""The steps of a visit to an item: a user views before carting, and carts before buying."""
RATINGS = {1: 4, 2: 7, 3: 17, 4: 37, 5: 35}
RATED, WITHOUT_TIME, DUPLICATES = 0.35, 0.02, 0.001

# Visits per hour of the day, midnight first.
_BY_HOUR = (5, 3, 2, 1, 1, 2, 4, 7, 9, 10, 11, 12, 14, 12, 11, 11, 12, 14, 17, 20, 22, 20, 15, 9)

USER_SHAPE = Shape(
    required=("user_id", "age", "gender", "device"),
    texts=("gender", "device"),
    numbers=("user_id", "age"),
    enums=("gender", "device"),
    rejected=(("age", (0, -3, 33.5)),),
)
PRODUCT_SHAPE = Shape(
    required=("item_id", "price"),
    texts=("category",),
    numbers=("item_id", "price"),
    rejected=(("price", (-1, -0.01)), ("rating", (5.1, -1)), ("in_stock", ("yes", 1))),
)
TRANSACTION_SHAPE = Shape(
    required=("user_id", "item_id", "view_mode"),
    texts=("view_mode",),
    numbers=("user_id", "item_id"),
    enums=("view_mode",),
    timestamps=("timestamp",),
    rejected=(("rating", (0, 6, 4.5, "5")),),
)

State = dict[str, Any]
"""The fields of a user or an item."""


def _user(number: int) -> State:
    rng = Random(f"user {number}")
    return {
        "user_id": FIRST_USER + number,
        "age": min(16 + int(rng.expovariate(1 / 22)), 95),
        "gender": rng.choice("MF"),
        "device": rng.choices(list(DEVICES), list(DEVICES.values()))[0],
    }


def _product(number: int) -> State:
    rng = Random(f"item {number}")
    return {
        "item_id": FIRST_ITEM + number,
        "price": round(rng.lognormvariate(3.2, 0.9), 2),
        "brand": rng.choice(BRANDS),
        "category": CATEGORIES[number % len(CATEGORIES)],
        "rating": round(rng.triangular(1.5, 5, 4.3), 1) if rng.random() < 0.9 else None,
        "in_stock": rng.random() < 0.9,
    }


def _changed_user(rng: Random, user: State) -> State:
    """Return a user one year older, or with another device."""
    if rng.random() < 0.5:
        return user | {"age": user["age"] + 1}
    return user | {"device": rng.choice([d for d in DEVICES if d != user["device"]])}


def _changed_product(rng: Random, item: State) -> State:
    """Return an item with another price, rating or stock."""
    change = rng.random()
    if change < 0.5:
        price = round(item["price"] * rng.uniform(0.8, 1.2), 2)
        return item | {"price": price if price != item["price"] else round(price + 0.01, 2)}
    if change < 0.8:
        rating = round(rng.triangular(1.5, 5, 4.3), 1)
        return item | {"rating": rating if rating != item["rating"] else round(rating - 0.1, 1)}
    return item | {"in_stock": not item["in_stock"]}


def _versions(
    count: int,
    seed: int,
    start: datetime,
    days: float,
    *,
    size: int,
    new: Callable[[int], State],
    changed: Callable[[Random, State], State],
) -> Iterator[Record]:
    """Yield each of `size` users or items once, in order of their numbers, then random changes."""
    rng = Random(f"versions {seed} {start.isoformat()}")
    begin, span = int(start.timestamp() * 1000), days * 86_400_000
    latest: dict[int, State] = {}
    for turn in range(count):
        number = turn if turn < size else rng.randrange(size)
        latest[number] = changed(rng, latest[number]) if turn >= size else new(number)
        value = latest[number]
        stamp = begin + int(span * (turn + rng.random()) / count)
        yield Record(None, json.dumps(value, separators=(",", ":")).encode(), (), stamp)


def _transactions(count: int, seed: int, start: datetime, days: float) -> Iterator[Record]:
    if not count:
        return
    rng = np.random.default_rng(seed)
    repeats = round(count * DUPLICATES)
    events = _visits(rng, count - repeats, start, int(days * 86_400))
    positions = with_repeats(rng, count - repeats, repeats)
    # A repeat has the time of its own arrival.
    stamps = np.maximum.accumulate(events["time"][positions]) + int(start.timestamp() * 1000)
    values = _rendered(events, start)
    for position, stamp in zip(positions.tolist(), stamps.tolist(), strict=True):
        yield Record(None, values[position], (), stamp)


def _visits(
    rng: np.random.Generator, count: int, start: datetime, seconds: int
) -> Mapping[str, Ints]:
    """Return the first `count` steps of visits within the span, in order of time."""
    blocks: list[dict[str, Ints]] = []
    while (missing := count - sum(len(block["time"]) for block in blocks)) > 0:
        blocks.append(_block(rng, missing // 2 + 16, start, seconds))
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    # Stable: steps of one visit stay in order.
    order = np.argsort(columns["time"], kind="stable")[:count]
    return {name: column[order] for name, column in columns.items()}


def _block(rng: np.random.Generator, size: int, start: datetime, seconds: int) -> dict[str, Ints]:
    user = choose(rng, [1 / (20 + n) for n in range(USERS)], size)
    item = choose(rng, [1 / (10 + n) for n in range(ITEMS)], size)
    # Half of the visits are to the user's preferred category.
    liked = item // len(CATEGORIES) * len(CATEGORIES) + user % len(CATEGORIES)
    item = np.where((rng.random(size) < 0.5) & (liked < ITEMS), liked, item)
    chance = rng.random((4, size))
    carted = chance[2] < 0.3
    present = np.column_stack(
        [np.ones(size, bool), chance[0] < 0.4, chance[1] < 0.15, carted, carted & (chance[3] < 0.5)]
    )
    delay = 5000 + rng.exponential(90_000, present.shape).astype(np.int64)
    delay[:, 0] = moments(rng, size, start, seconds, _BY_HOUR) * 1000 + rng.integers(
        1000, size=size
    )
    time = np.cumsum(np.where(present, delay, 0), axis=1)
    visit, step = np.nonzero(present & (time <= seconds * 1000))
    rating = choose(rng, list(RATINGS.values()), len(visit)) + 1
    rated = (step == len(MODES) - 1) & (rng.random(len(visit)) < RATED)
    return {
        "user": user[visit],
        "item": item[visit],
        "step": step,
        "time": time[visit, step],
        "rating": np.where(rated, rating, 0),
        "timed": (rng.random(len(visit)) >= WITHOUT_TIME).astype(np.int64),
    }


def _rendered(events: Mapping[str, Ints], start: datetime) -> list[bytes]:
    """Return the value of each event, without the fields that it lacks."""
    columns = [events[name].tolist() for name in ("user", "item", "step", "rating", "timed")]
    return [
        (
            f'{{"user_id":{FIRST_USER + user},"item_id":{FIRST_ITEM + item},'
            f'"view_mode":"{MODES[step]}"'
            + (f',"rating":{rating}' if rating else "")
            + (f',"timestamp":"{time}"' if timed else "")
            + "}"
        ).encode()
        for user, item, step, rating, timed, time in zip(
            *columns, instants(start, events["time"]), strict=True
        )
    ]


SIMULATORS = {
    "recomart_users": Simulator(
        partial(_versions, size=USERS, new=_user, changed=_changed_user), USER_SHAPE
    ),
    "recomart_products": Simulator(
        partial(_versions, size=ITEMS, new=_product, changed=_changed_product), PRODUCT_SHAPE
    ),
    "recomart_transactions": Simulator(_transactions, TRANSACTION_SHAPE),
}
