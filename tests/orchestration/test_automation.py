"""Automation: which days of silver and gold are asked for when bronze changes."""

from __future__ import annotations

from datetime import date
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType

from ingestion_platform.definitions import defs
from ingestion_platform.orchestration.partitions import slice_key
from tests.support.dagster_lab import TODAY, days_ago

BRONZE = dg.AssetKey(["bronze", "service_events_raw"])
SILVER = dg.AssetKey(["silver", "silver_pgr_events"])
LIFECYCLE = dg.AssetKey(["gold", "gold_pgr_case_lifecycle"])
FUNNEL = dg.AssetKey(["gold", "gold_pgr_funnel_daily"])
MODELS = (SILVER, LIFECYCLE, FUNNEL)


class Automation:
    """The automation's ticks, one after the other, over the real definitions."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: Any = None

    def tick(self) -> dict[dg.AssetKey, set[str]]:
        """The days that a tick asks for, by model; they are not run."""
        result = dg.evaluate_automation_conditions(
            defs=defs(), instance=self.instance, cursor=self.cursor
        )
        self.cursor = result.cursor
        asked = {key: result.get_requested_partitions(key) for key in MODELS}
        return {key: days for key, days in asked.items() if days}

    def materialize(self, key: dg.AssetKey, partition: str) -> None:
        """Tell of a materialization, as a run would."""
        event = dg.AssetMaterialization(key, partition=partition)
        self.instance.report_runless_asset_event(event)

    def release(self, *ingest_dates: date, partition: int = 0) -> None:
        """Tell of slices of bronze."""
        for ingest_date in ingest_dates:
            self.materialize(BRONZE, slice_key((ingest_date, partition)))

    def build(self, day: date) -> None:
        """Tell of all models of a day."""
        for key in MODELS:
            self.materialize(key, day.isoformat())

    def start_run(self, *keys: dg.AssetKey, day: date) -> dg.DagsterRun:
        """A run of some assets of a day that has started and does nothing."""
        partition = slice_key((day, 1)) if BRONZE in keys else day.isoformat()
        job = defs().resolve_implicit_global_asset_job_def()
        run = self.instance.create_run_for_job(
            job, asset_selection=frozenset(keys), tags={"dagster/partition": partition}
        )
        started = DagsterEvent(DagsterEventType.RUN_START.value, job.name)
        self.instance.report_dagster_event(started, run.run_id)
        return run


@pytest.fixture
def automation(instance: dg.DagsterInstance) -> Automation:
    """An automation that has seen that there is nothing yet."""
    made = Automation(instance)
    assert made.tick() == {}
    return made


def _all_of(*days: date) -> dict[dg.AssetKey, set[str]]:
    return {key: {day.isoformat() for day in days} for key in MODELS}


def test_a_fresh_day_goes_on_to_silver_and_gold_at_once(automation: Automation) -> None:
    """One slice of one day asks for that day of every model, in one go."""
    automation.release(TODAY, partition=2)
    assert automation.tick() == _all_of(TODAY)
    assert automation.tick() == {}


def test_a_day_that_changes_again_goes_on_again(automation: Automation) -> None:
    """Intraday repeats are carried on each time."""
    for _ in range(3):
        automation.release(TODAY)
        assert automation.tick() == _all_of(TODAY)
        automation.build(TODAY)
        assert automation.tick() == {}


def test_old_days_go_on_like_today(automation: Automation) -> None:
    """A backfill of last week is carried on, those days and no others."""
    automation.release(days_ago(6), days_ago(5))
    assert automation.tick() == _all_of(days_ago(6), days_ago(5))


def test_a_day_that_is_held_back_is_not_asked_for(automation: Automation) -> None:
    """Observations of a bad day release nothing, whatever other days do."""
    observed = dg.AssetObservation(BRONZE, partition=slice_key((days_ago(1), 0)))
    automation.instance.report_runless_asset_event(observed)
    automation.release(TODAY)
    assert automation.tick() == _all_of(TODAY)


def test_gold_follows_a_silver_that_a_person_rebuilt(automation: Automation) -> None:
    """Materializing silver by hand carries that day on to gold."""
    automation.materialize(SILVER, TODAY.isoformat())
    day = {TODAY.isoformat()}
    assert automation.tick() == {LIFECYCLE: day, FUNNEL: day}


def test_a_day_waits_until_a_run_of_its_models_is_through(automation: Automation) -> None:
    """While gold is still being made, fresh bronze asks for nothing; then for all at once."""
    run = automation.start_run(LIFECYCLE, FUNNEL, day=TODAY)
    automation.release(TODAY, days_ago(1))
    assert automation.tick() == _all_of(days_ago(1))
    automation.instance.report_run_failed(run)
    assert automation.tick() == _all_of(TODAY)


def test_a_day_waits_while_bronze_is_being_loaded(automation: Automation) -> None:
    """A run of bronze under way will bring more: one run of the models takes it all."""
    automation.release(TODAY, partition=0)
    run = automation.start_run(BRONZE, day=TODAY)
    assert automation.tick() == {}
    automation.release(TODAY, partition=1)
    automation.instance.report_run_failed(run)
    assert automation.tick() == _all_of(TODAY)
