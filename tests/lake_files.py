"""Lake files put by hand, so that chain and loading are tested without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from ingestion_platform.lake.chain import Link
from ingestion_platform.lake.names import Name
from ingestion_platform.lake.records import SCHEMA, encode
from ingestion_platform.lake.store import Store

DAY = date(2026, 11, 18)


def link_of(
    topic: str,
    start: int,
    end: int,
    *,
    partition: int = 0,
    window: date = DAY,
    generation: str = "A",
    ordinal: int = 0,
    previous: tuple[str, int] | None = None,
    rows: int | None = None,
) -> Link:
    """The link of a file; by default each of its offsets has a record."""
    return Link(
        name=Name(ordinal=ordinal, start=start, window=window, partition=partition, topic=topic),
        generation=generation,
        cluster_id="cluster",
        end=end,
        rows=end - start if rows is None else rows,
        previous_generation=previous and previous[0],
        previous_end=previous and previous[1],
    )


def records(
    values: Sequence[bytes | None],
    *,
    start: int = 0,
    partition: int = 0,
    offsets: Sequence[int] | None = None,
) -> pa.Table:
    """Records at consecutive offsets from `start`, or at the offsets given; one per second."""
    count = len(values)
    places = list(offsets) if offsets is not None else list(range(start, start + count))
    noon = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
    columns = {
        "key": [b"key"] * count,
        "value": list(values),
        "headers": [[{"key": "n", "value": b"%d" % n}] for n in places],
        "timestamp": [noon + timedelta(seconds=n) for n in places],
        "timestamp_type": ["create_time"] * count,
        "timestamp_ms": [None] * count,
        "partition": [partition] * count,
        "offset": places,
    }
    return pa.table(columns, schema=SCHEMA)


def put(store: Store, link: Link, values: Sequence[bytes | None] | None = None) -> Link:
    """Store a file for a link; without values, small JSON objects that no contract knows."""
    if values is None:
        values = [b'{"n": %d}' % n for n in range(link.start, link.end)]
    table = records(values, start=link.start, partition=link.name.partition)
    assert store.create(link.name.path, encode(table, link)), f"{link.name.path} was there"
    return link
