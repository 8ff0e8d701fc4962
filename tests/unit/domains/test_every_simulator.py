"""What holds for every simulator: reproducible, in order, and right about what it broke."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.streams import declared_streams

START = datetime(2026, 3, 1, 6, tzinfo=UTC)
STREAMS = declared_streams()


def records(stream: str, count: int = 2000, **how: float) -> list[Record]:
    """Simulated records of a fixed span."""
    return list(simulate(stream, count, start=START, **how))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("stream", STREAMS)
def test_contract_rejects_exactly_the_faults(stream: str) -> None:
    """The labels can be trusted as an oracle for quarantine."""
    made = records(stream, 6000, seed=zlib.crc32(stream.encode()) % 100, bad_ratio=0.5)
    parsed = Validator(STREAMS[stream].contract).parse(
        pa.array([r.value for r in made], pa.binary())
    )
    valid = set(parsed.valid.to_pylist())
    assert len(valid) == 3000
    assert [
        (record.fault, record.value)
        for place, record in enumerate(made)
        if (place in valid) != (record.fault is None)
    ] == []


@pytest.mark.parametrize("stream", STREAMS)
def test_equal_arguments_give_equal_records(stream: str) -> None:
    """A failing test can be repeated, and another seed tells of something else."""
    made = records(stream, seed=5, bad_ratio=0.2)
    assert made == records(stream, seed=5, bad_ratio=0.2)
    assert made != records(stream, seed=6, bad_ratio=0.2)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("count", "days"), [(0, 1), (1, 0.001), (700, 0.001), (3000, 40)])
def test_any_span_is_filled_in_order(stream: str, count: int, days: float) -> None:
    """As many records as asked for, keyed, never out of the span, never back in time."""
    made = records(stream, count, days=days)
    assert len(made) == count
    stamps = [record.timestamp_ms or 0 for record in made]
    assert stamps == sorted(stamps)
    end = START + timedelta(days=days)
    assert all(START.timestamp() * 1000 <= stamp <= end.timestamp() * 1000 for stamp in stamps)
    assert all(record.key for record in made)
    if count > 1000:
        assert stamps[-1] / 1000 > (end - timedelta(days=1)).timestamp()
