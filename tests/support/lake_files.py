"""Lake files put by hand, so that segment log and loading are tested without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from ingestion_platform.lake.names import Name
from ingestion_platform.lake.records import SCHEMA, encode
from ingestion_platform.lake.segments import Segment
from ingestion_platform.lake.store import Store
from ingestion_platform.positions import Position

DAY = date(2026, 11, 18)


def segment_of(
    topic: str,
    start: int,
    end: int,
    *,
    partition: int = 0,
    ingest_date: date = DAY,
    topic_id: str = "A",
    ordinal: int = 0,
    previous: tuple[str, int] | None = None,
    rows: int | None = None,
) -> Segment:
    """The link of a file; by default each of its offsets has a record."""
    return Segment(
        name=Name(
            ordinal=ordinal, start=start, ingest_date=ingest_date, partition=partition, topic=topic
        ),
        topic_id=topic_id,
        cluster_id="cluster",
        end=end,
        rows=end - start if rows is None else rows,
        previous=Position(*previous) if previous else None,
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


def put(store: Store, segment: Segment, values: Sequence[bytes | None] | None = None) -> Segment:
    """Store a file for a link; without values, small JSON objects that no contract knows."""
    if values is None:
        values = [b'{"n": %d}' % n for n in range(segment.start, segment.end)]
    table = records(values, start=segment.start, partition=segment.name.partition)
    assert store.create(segment.name.path, encode(table, segment)), f"{segment.name.path} was there"
    return segment
