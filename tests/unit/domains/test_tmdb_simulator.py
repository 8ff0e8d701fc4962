"""The simulated catalogue: titles that appear, then change."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ingestion_platform.produce.simulators import simulate

START = datetime(2026, 3, 1, tzinfo=UTC)
KINDS = ("movie", "tv_series", "person")


def feed(kind: str, count: int, **how: Any) -> list[dict[str, Any]]:
    """Records in order of arrival; each is keyed by its number."""
    found = []
    for record in simulate(f"tmdb_{kind}", count, **{"start": START, "days": 3, **how}):
        found.append(json.loads(record.value))
        assert record.key == str(found[-1]["tmdb_id"]).encode()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_change_follows_earlier_version(kind: str) -> None:
    """Everything is old or new once, and then only changes, at later times."""
    last: dict[int, dict[str, Any]] = {}
    for record in feed(kind, 4000):
        before = last.get(record["tmdb_id"])
        assert (record["data_label"] == "change") == (before is not None)
        if before is not None:
            assert record["timestamp"] >= before["timestamp"]
        last[record["tmdb_id"]] = record
    assert 2000 < len(last) < 2800


@pytest.mark.parametrize("kind", KINDS)
def test_records_match_those_of_loader(kind: str) -> None:
    """The enrichment agrees with itself."""
    records = feed(kind, 500)
    assert len({record["ingestion_id"] for record in records}) == 1
    for record in records:
        place = f"{kind}/{record['data_label']}/"
        assert record["source_file"].startswith(place)
        assert (record["data_type"], record["id"]) == (kind, record["tmdb_id"])
    assert {record["data_label"] for record in records} == {"old", "new", "change"}


def test_runs_have_other_ids() -> None:
    """Runs of other arguments can be sent one after the other into one topic."""
    others = ({}, {"seed": 1}, {"start": datetime(2026, 4, 1)})
    runs = [feed("movie", 300, **other) for other in others]
    numbers = [{record["tmdb_id"] for record in run} for run in runs]
    assert len(set.union(*numbers)) == sum(map(len, numbers))


def test_films_may_have_no_genres() -> None:
    """Nested arrays vary in length, and some are empty."""
    sizes = {len(record["genres"]) for record in feed("movie", 500)}
    assert sizes == {0, 1, 2, 3}
