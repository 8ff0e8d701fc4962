"""The gate: what breaks the contract too often is not released, day by day."""

from __future__ import annotations

from typing import Any

import dagster as dg

from tests.support.dagster_lab import TODAY, Lab, days_ago


def _allow(share: float) -> Any:
    """An edit of the contract: the share of a slice that may be in quarantine."""

    def edit(document: dict[str, Any]) -> None:
        for level in document["slaProperties"]:
            if level["property"] == "quarantineShare":
                level["value"] = share

    return edit


def _reject_web(document: dict[str, Any]) -> None:
    """An edit of the contract by mistake: the most used channel is no longer allowed."""
    channel = next(p for p in document["schema"][0]["properties"] if p["name"] == "channel")
    channel["examples"] = ["MOBILE"]
    channel["enum"] = [choice for choice in channel["enum"] if choice["value"] != "WEB"]


def test_a_bad_day_is_held_back_and_a_good_one_released(lab: Lab) -> None:
    """In one run over both, the good day has events; the bad one is observed, with the reason."""
    lab.produce(100, days_ago(1), bad=0.6)
    lab.produce(100, TODAY)
    told = lab.materialize((days_ago(1), 0), (TODAY, 3))
    assert lab.released() == {TODAY}
    held = told.of(lab.bronze, dg.AssetObservation)
    assert {ingest_date for ingest_date, _ in held} == {days_ago(1)}
    assert all("in quarantine" in event["held_back"] for event in held.values())
    assert not told.checks["quarantine_limit"].passed
    assert told.checks["quarantine_limit"].blocking
    assert not told.success
    assert days_ago(1).isoformat() in (told.checks["quarantine_limit"].description or "")
    assert told.checks["reconciliation"].passed


def test_a_bad_day_keeps_its_good_rows_and_positions(lab: Lab) -> None:
    """Held back is the release; good rows are in bronze, and nothing is loaded twice."""
    lab.produce(100, TODAY, bad=0.6)
    lab.materialize((TODAY, 0), (TODAY, 3))
    assert lab.rows() == 40
    lab.materialize((TODAY, 0), (TODAY, 3))
    assert lab.rows() == 40


def test_a_later_good_day_does_not_release_a_bad_one(lab: Lab) -> None:
    """A run of another day leaves the bad day as it is."""
    lab.produce(100, days_ago(2), bad=0.6)
    lab.materialize((days_ago(2), 0), (days_ago(2), 3))
    lab.produce(100, days_ago(1))
    lab.materialize((days_ago(1), 0), (days_ago(1), 3))
    assert lab.released() == {days_ago(1)}


def test_a_repaired_contract_releases_the_day(lab: Lab) -> None:
    """Rows that a contract's mistake rejected come back, and the day with them."""
    lab.produce(200, days_ago(1))
    broken = lab.under(_reject_web)
    told = broken.materialize((days_ago(1), 0), (days_ago(1), 3))
    assert not told.checks["quarantine_limit"].passed
    assert "channel" in str(told.checks["quarantine_limit"].metadata["reasons"].value)
    assert lab.released() == set()
    told = lab.materialize((days_ago(1), 0), (days_ago(1), 3), only=[lab.bronze])
    assert told.checks["quarantine_limit"].passed
    assert told.success
    assert lab.released() == {days_ago(1)}
    assert lab.rows() == 200


def test_slices_held_back_with_their_day_are_released_with_it(lab: Lab) -> None:
    """Once one slice is mended, the day's other slices, long good, are told of as well."""
    lab.produce(200, days_ago(1))
    broken = lab.under(_reject_web)
    broken.materialize((days_ago(1), 0), (days_ago(1), 3))
    for partition in range(3):
        lab.materialize((days_ago(1), partition), only=[lab.bronze])
        assert lab.released() == set()
    told = lab.materialize((days_ago(1), 3), only=[lab.bronze])
    assert told.of(lab.bronze).keys() == {(days_ago(1), p) for p in range(4)}


def test_the_contract_says_how_much_is_too_much(lab: Lab) -> None:
    """The same records pass under a contract that allows more."""
    lab.produce(200, TODAY, bad=0.3)
    lab.materialize((TODAY, 0), (TODAY, 3))
    assert lab.released() == set()
    lenient = lab.under(_allow(0.9))
    told = lenient.materialize((TODAY, 0), (TODAY, 3), only=[lab.bronze])
    assert told.checks["quarantine_limit"].passed
    assert lab.released() == {TODAY}
