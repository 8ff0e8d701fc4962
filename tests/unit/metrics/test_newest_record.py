"""The newest record's time of a lake file: one record dated in the future does not become it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from lake_files import link_of, records

from ingestion_platform.lake.records import SCHEMA, encode
from ingestion_platform.lake.store import LocalStore
from ingestion_platform.metrics.read import _newest
from ingestion_platform.sources.times import SKEW

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
    store, link = LocalStore(tmp_path), link_of("t", 0, len(times))
    millis = pa.array([None if t is None else int(t * 1000) for t in times], pa.int64())
    column = SCHEMA.get_field_index("timestamp")
    table = records([b"v"] * len(times)).set_column(
        column, SCHEMA.field(column), millis.cast(SCHEMA.field(column).type)
    )
    assert store.create(link.name.path, encode(table, link))
    assert _newest(store, link.name.path, NOW) == expected
