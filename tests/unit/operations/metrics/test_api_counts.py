"""What sources count goes on from one to the next, and never back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_platform.operations.metrics.api_counts import CountsFile, all_api_counts


def opened(home: Path) -> CountsFile:
    """A source that has begun."""
    file_source = CountsFile(["users"])
    file_source.open(home)
    return file_source


STEPS = ("count", "save", "restart", "kill", "second")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1)), max_size=25))
def test_counts_never_go_back(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    """Restarts lose nothing, kills what was not yet written: no reader has seen that."""
    home = tmp_path_factory.mktemp("home")
    sources = [opened(home)]
    seen: Counter[tuple[str, str]] = Counter()
    for what, number in steps:
        file_source = sources[number % len(sources)]
        if what == "count":
            file_source.counts.add("users", accepted=2, rejected=1)
            file_source.counts.answered("/users", 201, 0.02)
        elif what == "second" and len(sources) < 2:
            sources.append(opened(home))
        elif what in ("save", "restart"):
            file_source.save()
        if what in ("restart", "kill"):
            sources.remove(file_source)
            file_source.close()
            sources.append(opened(home))
        now = all_api_counts(home).records
        assert all(now[key] >= count for key, count in seen.items())
        seen = now
    for file_source in sources:
        file_source.save()
        file_source.close()
    assert len(list((home / "http_api").glob("*.json"))) <= 2


def test_two_apis_add_up(tmp_path: Path) -> None:
    """Each process of the HTTP API has a file; the counts are their sum."""
    one, other = opened(tmp_path), opened(tmp_path)
    one.counts.add("users", accepted=3)
    other.counts.add("users", accepted=4, failed=1)
    one.counts.answered("/users", 201, 0.02)
    other.counts.answered("/users", 201, 7.0)
    for file_source in (one, other):
        file_source.save()
        file_source.close()
    told = all_api_counts(tmp_path)
    assert told.by_outcome() == {
        "accepted": {"users": 7},
        "rejected": {"users": 0},
        "failed": {"users": 1},
    }
    (histogram,) = told.requests.values()
    assert sum(histogram.counts) == 2
    assert histogram.seconds == pytest.approx(7.02)
    third = opened(tmp_path)
    third.counts.add("users", accepted=1)
    assert third.total().records["users", "accepted"] == 4
    third.close()
