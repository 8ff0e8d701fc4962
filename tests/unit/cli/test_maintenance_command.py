"""`ingest maintain`: what it tells people and machines, and what it leaves behind."""

from __future__ import annotations

import pytest

from tests.support.command_line import Ingest

TABLE = "bronze.service_events_raw"


@pytest.fixture
def worn(ingest: Ingest) -> Ingest:
    """`ingest` on a platform that was loaded a few records at a time."""
    for _ in range(6):
        ingest("produce", "pgr_events", "--count", "40", "--quiet")
        assert ingest("run", "pgr_events").code == 0
    return ingest


def rows(ingest: Ingest) -> int:
    """Rows in bronze."""
    return int(ingest("query", f"SELECT count(*) AS n FROM {TABLE}", "--json").json[0]["n"])


def test_maintenance_makes_small_files_large(worn: Ingest) -> None:
    """A dry run tells what would be done, the real one does it, and a third has nothing to do."""
    (trial,) = worn("maintain", "pgr_events", "--dry-run", "--json").json
    needs = next(t["before"] for t in trial["tables"] if t["before"]["table"] == TABLE)
    assert needs["small_files"] >= 5
    assert "too many" in worn("maintain", "pgr_events", "--dry-run").out
    before = rows(worn)
    (done,) = worn("maintain", "pgr_events", "--json").json
    table = next(t for t in done["tables"] if t["before"]["table"] == TABLE)
    assert table["rewritten"] == needs["small_files"]
    assert table["after"]["files"] < table["before"]["files"] == needs["files"]
    assert rows(worn) == before
    assert worn("verify", "pgr_events").code == 0
    assert "nothing needed to be done" in worn("maintain", "pgr_events").err


def test_maintenance_accepts_streams_without_tables(ingest: Ingest) -> None:
    """--all is for a platform of any age."""
    answer = ingest("maintain", "--all", "--json")
    assert answer.code == 0
    names = [each["name"] for each in answer.json]
    assert {"pgr_events", "pgr"} <= set(names)
    assert all(not each["tables"] for each in answer.json)


def test_maintenance_wants_names_or_all(ingest: Ingest) -> None:
    """As the other commands do."""
    assert ingest("maintain").code == 2
