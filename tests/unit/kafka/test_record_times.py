"""Timestamps of any number: which of them tell how long a record has waited."""

from __future__ import annotations

from datetime import UTC, date, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from ingestion_platform.kafka.times import SKEW, first_plausible

SINCE = date(2026, 1, 1)
START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()

stamps = st.tuples(
    st.integers(0, 2),
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(int(START * 1000) - 2, int((NOW + SKEW) * 1000) + 2),
)


@given(st.lists(stamps, max_size=6))
@example([(1, 1_795_000_000_000_000), (1, -1), (0, 1), (1, int(NOW * 1000) - 5000)])
@example([(1, int((NOW + SKEW) * 1000) + 1), (1, int(START * 1000) - 1)])
def test_implausible_times_are_passed_over(found: list[tuple[int, int]]) -> None:
    """The first one since the stream's first day and not in the future counts, if there is one."""
    low, high = int(START * 1000), int((NOW + SKEW) * 1000)
    plausible = [millis / 1000 for kind, millis in found if kind and low <= millis <= high]
    assert first_plausible(found, since=SINCE, now=NOW) == next(iter(plausible), None)
