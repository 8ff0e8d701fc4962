"""What events show of a few records, whatever these hold."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ingestion_platform.lake.records import SCHEMA
from ingestion_platform.orchestration.metadata import raw_preview
from tests.support.lake_files import records


@pytest.mark.parametrize(
    ("instant", "number", "shown"),
    [
        (0, None, "1970-01-01 00:00:00+00:00"),
        (253_402_300_799_999, None, "9999-12-31 23:59:59.999000+00:00"),
        (None, 1_795_000_000_000_000, "1795000000000000 ms"),
        (None, -(2**63), "-9223372036854775808 ms"),
        (None, None, ""),
    ],
)
def test_any_timestamp_is_previewed(instant: int | None, number: int | None, shown: str) -> None:
    """An instant as such, any other number as the log has it, and none as nothing."""
    table = records([b"\xff|"])
    for name, value in (("timestamp", instant), ("timestamp_ms", number)):
        at = SCHEMA.get_field_index(name)
        column = pa.array([value], pa.int64()).cast(SCHEMA.field(at).type)
        table = table.set_column(at, SCHEMA.field(at), column)
    assert raw_preview(table).md_str.splitlines()[2] == f"| 0 | {shown} | key | \ufffd\\| |"
