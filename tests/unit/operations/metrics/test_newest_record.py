"""The newest record's time of a lake file: one record dated in the future does not become it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ingestion_platform.kafka.times import SKEW
from ingestion_platform.lake.local import LocalStore
from ingestion_platform.lake.records import SCHEMA, encode
from ingestion_platform.operations.metrics.lake import newest_timestamp
from tests.support.lake_files import records, segment_of

NOW = 1_795_000_000.0


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([NOW - 5, NOW - 60], NOW - 5),
        ([NOW - 60, NOW + SKEW], NOW + SKEW),
        ([NOW - 60, 32_503_680_000.0, None], NOW - 60),
        ([None], None),
        ([32_503_680_000.0], None),
    ],
)
def test_future_times_are_passed_over(
    tmp_path: Path, times: list[float | None], expected: float | None
) -> None:
    """The latest time that is not in the future counts; None when there is none."""
    store, segment = LocalStore(tmp_path), segment_of("t", 0, len(times))
    millis = pa.array([None if t is None else int(t * 1000) for t in times], pa.int64())
    column = SCHEMA.get_field_index("timestamp")
    table = records([b"v"] * len(times)).set_column(
        column, SCHEMA.field(column), millis.cast(SCHEMA.field(column).type)
    )
    assert store.create(segment.name.path, encode(table, segment))
    assert newest_timestamp(store, segment.name.path, NOW) == expected
