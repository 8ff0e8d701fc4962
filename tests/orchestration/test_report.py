"""Reports of the worker to Dagster: the events that runs of the assets would have told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from ingestion_platform.definitions import defs
from ingestion_platform.orchestration import report
from ingestion_platform.orchestration.partitions import Slice, parse_slice
from ingestion_platform.settings import Settings, WorkerSettings
from ingestion_platform.streams import declared_streams
from ingestion_platform.worker.loop import serve
from tests.support.dagster_lab import TODAY, Lab, days_ago

PATIENCE = 60.0


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.05)


@contextmanager
def working(
    lab: Lab, instance: Callable[[], dg.DagsterInstance] | None = None, interval: float = 0.2
) -> Iterator[None]:
    """A worker of the lab's stream that reports to the lab's instance."""
    limits = WorkerSettings(flush_seconds=0.1, report_seconds=interval)
    platform = replace(lab.platform, settings=lab.settings.replace(worker=limits))
    stop = threading.Event()
    with report.Reporter(platform, instance or (lambda: lab.instance)) as reporter:
        arguments = (platform.settings, [lab.stream], [reporter], stop)
        thread = threading.Thread(target=serve, args=arguments)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def events(lab: Lab, key: dg.AssetKey, kind: Any = dg.AssetMaterialization) -> dict[Slice, Any]:
    """The metadata of the latest event of each slice of an asset."""
    if kind is dg.AssetMaterialization:
        records = lab.instance.fetch_materializations(key, limit=1000).records
        found = [r.asset_materialization for r in reversed(records)]
    else:
        records = lab.instance.fetch_observations(key, limit=1000).records
        found = [r.asset_observation for r in reversed(records)]
    return {
        parse_slice(e.partition): {name: v.value for name, v in e.metadata.items()}
        for e in found
        if e is not None and e.partition
    }


def evaluations(lab: Lab, name: str) -> list[Any]:
    """The evaluations of a check, the latest first."""
    key = dg.AssetCheckKey(lab.bronze, name)
    records = lab.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    return [r.event.dagster_event.event_specific_data for r in records if r.event]


def rows(found: dict[Slice, Any]) -> int:
    """The rows that events tell of."""
    return sum(told["rows"] for told in found.values())


def test_what_was_loaded_is_told_as_a_run_would(lab: Lab) -> None:
    """The events of lake and bronze have what a run of the assets tells of the same slices."""
    lab.produce(200, TODAY, bad=0.02)
    with working(lab):
        until(lambda: rows(events(lab, lab.bronze)) == 196, "bronze told")
        lab.produce(100, TODAY, seed=2)
        until(lambda: rows(events(lab, lab.bronze)) == 296, "bronze told again")
    told = {key: events(lab, key) for key in (lab.lake, lab.bronze)}
    run = lab.materialize((TODAY, 0), (TODAY, 3))
    for key in (lab.lake, lab.bronze):
        by_run = run.of(key)
        assert told[key].keys() == by_run.keys()
        for of, metadata in told[key].items():
            assert "|" in metadata.pop("preview")
            by_run[of].pop("preview", None)  # a run that lands nothing has no records to show
            assert metadata == by_run[of]


def test_checks_are_evaluated(lab: Lab) -> None:
    """The contract's each time, the reconciliation where the day was counted."""
    lab.produce(100, TODAY)
    with working(lab):
        until(lambda: evaluations(lab, "quarantine_limit"), "contract evaluated")
    assert evaluations(lab, "quarantine_limit")[0].passed
    assert evaluations(lab, "reconciliation")[0].passed
    assert lab.released() == {TODAY}


def test_a_bad_day_is_not_released(lab: Lab) -> None:
    """It is observed with the reason, the check fails, and other days go on."""
    lab.produce(100, days_ago(1), bad=0.6)
    lab.produce(100, TODAY)
    with working(lab):
        until(lambda: lab.released() and events(lab, lab.bronze, dg.AssetObservation), "told")
        until(lambda: lab.rows() == 140, "loaded")
    assert lab.released() == {TODAY}
    held = events(lab, lab.bronze, dg.AssetObservation)
    assert {ingest_date for ingest_date, _ in held} == {days_ago(1)}
    assert all("in quarantine" in told["held_back"] for told in held.values())
    assert not all(evaluation.passed for evaluation in evaluations(lab, "quarantine_limit"))


def test_a_day_that_gets_better_is_released_as_a_whole(lab: Lab) -> None:
    """Once the share in quarantine is small enough, the rows that were held back are told too."""
    lab.produce(40, TODAY, bad=0.6)
    with working(lab):
        until(lambda: events(lab, lab.bronze, dg.AssetObservation), "held back")
        assert lab.released() == set()
        lab.produce(40_000, TODAY, seed=2)
        until(lab.released, "released")
        until(lambda: rows(events(lab, lab.bronze)) == lab.rows() == 40_016, "all told")


def test_what_another_writer_loaded_is_told_with_the_next_file(lab: Lab) -> None:
    """Sums are not added up over a gap: the day is counted again."""
    lab.produce(100, TODAY)
    with working(lab, interval=0.0):
        until(lambda: rows(events(lab, lab.bronze)) == 100, "told")
        for seed in (2, 3):
            lab.produce(100, TODAY, seed=seed)
            lab.materialize((TODAY, 0), (TODAY, 3))
        lab.produce(50, TODAY, seed=4)
        until(lambda: rows(events(lab, lab.bronze)) == 350, "all told")
    assert all(evaluation.passed for evaluation in evaluations(lab, "reconciliation"))


def test_automation_carries_on_what_was_told(
    alone_settings: Settings, instance: dg.DagsterInstance
) -> None:
    """Silver and gold of the day are asked for, as after a run."""
    lab = Lab(declared_streams()["pgr_events"], alone_settings, instance)
    before = dg.evaluate_automation_conditions(defs=defs(), instance=instance)
    lab.produce(50, TODAY)
    with working(lab):
        until(lambda: TODAY in lab.released(), "told")
    after = dg.evaluate_automation_conditions(defs=defs(), instance=instance, cursor=before.cursor)
    for key in (["silver", "silver_pgr_events"], ["gold", "gold_pgr_case_lifecycle"]):
        assert TODAY.isoformat() in after.get_requested_partitions(dg.AssetKey(key))


def test_data_go_on_when_dagster_cannot_be_told(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, and what was not told is told once Dagster is back."""
    away = True

    def instance() -> dg.DagsterInstance:
        if away:
            raise OSError("no such database")
        return lab.instance

    lab.produce(100, TODAY)
    with working(lab, instance), caplog.at_level(logging.WARNING):
        until(lambda: _loaded(lab) == 100, "loaded")
        until(lambda: "no such database" in caplog.text, "warned")
        lab.produce(100, TODAY, seed=2)
        until(lambda: _loaded(lab) == 200, "loaded")
        away = False
        until(lambda: rows(events(lab, lab.bronze)) == 200, "told")
    assert caplog.text.count("cannot report") == 1


def _loaded(lab: Lab) -> int:
    return lab.rows() if lab.platform.catalog.table_exists(lab.stream.bronze_table) else 0


def test_what_a_worker_did_not_tell_is_told_by_the_next(lab: Lab) -> None:
    """It may have been killed; and what was told is not told again."""

    def none() -> dg.DagsterInstance:
        raise OSError("no such database")

    lab.produce(100, TODAY)
    with working(lab, none):
        until(lambda: _loaded(lab) == 100, "loaded")
    for _ in range(2):
        with working(lab):
            until(lambda: rows(events(lab, lab.bronze)) == 100, "told")
    assert len(lab.instance.fetch_materializations(lab.bronze, limit=1000).records) == 4


def test_reports_come_at_a_bounded_rate(lab: Lab) -> None:
    """However many passes there are, a slice is told of once per interval, and at the end."""
    with working(lab, interval=1000.0):
        for seed in range(4):
            lab.produce(20, TODAY, seed=seed)
            until(lambda n=seed + 1: _loaded(lab) == 20 * n, "loaded")  # type: ignore[misc]
    records = lab.instance.fetch_materializations(lab.bronze, limit=1000).records
    assert len(records) <= 2 * 4
    assert rows(events(lab, lab.bronze)) == 80
