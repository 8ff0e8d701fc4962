"""What doors count goes on from one to the next, and never back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_platform.metrics.doors import Kept, all_doors


def opened(home: Path) -> Kept:
    """A door that has begun."""
    door = Kept(["users"])
    door.open(home)
    return door


STEPS = ("count", "save", "restart", "kill", "second")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1)), max_size=25))
def test_counts_never_go_back(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    """Restarts lose nothing, kills what was not yet written: no reader has seen that."""
    home = tmp_path_factory.mktemp("home")
    doors = [opened(home)]
    seen: Counter[tuple[str, str]] = Counter()
    for what, number in steps:
        door = doors[number % len(doors)]
        if what == "count":
            door.counts.add("users", accepted=2, refused=1)
            door.counts.answered("/users", 201, 0.02)
        elif what == "second" and len(doors) < 2:
            doors.append(opened(home))
        elif what in ("save", "restart"):
            door.save()
        if what in ("restart", "kill"):
            doors.remove(door)
            door.close()
            doors.append(opened(home))
        now = all_doors(home).records
        assert all(now[key] >= count for key, count in seen.items())
        seen = now
    for door in doors:
        door.save()
        door.close()
    assert len(list((home / "doors").glob("*.json"))) <= 2


def test_two_doors_add_up(tmp_path: Path) -> None:
    """Doors side by side have a file each; what is told is both together."""
    one, other = opened(tmp_path), opened(tmp_path)
    one.counts.add("users", accepted=3)
    other.counts.add("users", accepted=4, failed=1)
    one.counts.answered("/users", 201, 0.02)
    other.counts.answered("/users", 201, 7.0)
    for door in (one, other):
        door.save()
        door.close()
    told = all_doors(tmp_path)
    assert told.by_outcome() == {
        "accepted": {"users": 7},
        "refused": {"users": 0},
        "failed": {"users": 1},
    }
    (histogram,) = told.requests.values()
    assert sum(histogram.counts) == 2
    assert histogram.seconds == pytest.approx(7.02)
    third = opened(tmp_path)
    third.counts.add("users", accepted=1)
    assert third.total().records["users", "accepted"] == 4
    third.close()
