"""Maintenance in Dagster: asked for when there is something to do, told when something was done."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_platform.orchestration import maintenance
from ingestion_platform.pipeline import run_stream
from ingestion_platform.warehouse.maintenance.table import condition
from tests.support.dagster_lab import TODAY, Lab


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on disk, as schedules need one."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    with dg.DagsterInstance.local_temp(str(folder)) as made:
        yield made


def definitions(lab: Lab) -> dg.Definitions:
    """Maintenance of the lab's stream."""
    return dg.Definitions.merge(
        maintenance.maintenance_definitions({lab.stream.name: lab.stream}),
        dg.Definitions(resources={"platform": lab.platform}, executor=dg.in_process_executor),
    )


def run(lab: Lab, *keys: dg.AssetKey, **tags: str) -> dg.ExecuteInProcessResult:
    """Execute a run of maintenance in this process."""
    job = definitions(lab).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=lab.instance, asset_selection=list(keys), tags=tags)


def told(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any] | None:
    """The metadata of the run's materialization of an asset, None when there is none."""
    found = result.asset_materializations_for_node(key.to_python_identifier())
    return {k: v.value for k, v in found[0].metadata.items()} if found else None


def tick(lab: Lab) -> Any:
    """One evaluation of the frequent schedule."""
    made = definitions(lab)
    schedule = made.get_repository_def().get_schedule_def("maintenance")
    context = dg.build_schedule_context(
        instance=lab.instance,
        scheduled_execution_time=datetime.now(UTC),
        resources={"platform": lab.platform},
        repository_def=made.get_repository_def(),
    )
    return schedule.evaluate_tick(context)


@pytest.fixture
def worn(lab: Lab) -> Lab:
    """A stream that was loaded a few records at a time."""
    for seed in range(6):
        lab.produce(20, TODAY, seed=seed)
        run_stream(lab.platform, lab.stream)
    return lab


def test_the_schedule_asks_for_what_needs_it(worn: Lab) -> None:
    """A run for the stream's maintenance alone, and none once that is done."""
    key = maintenance.maintenance_key(worn.stream.name)
    (request,) = tick(worn).run_requests
    assert request.asset_selection == [key]
    rows = worn.rows()
    metadata = told(run(worn, key, **request.tags), key)
    assert metadata is not None
    assert metadata["files_before"] > metadata["files_after"] > 0
    assert metadata["files_rewritten"] > 0
    assert worn.stream.bronze_table in metadata["tables"]
    assert worn.rows() == rows
    skipped = tick(worn)
    assert skipped.run_requests == []
    assert "good order" in skipped.skip_message


def test_a_run_with_nothing_to_do_tells_nothing(lab: Lab) -> None:
    """Neither an event nor a commit."""
    lab.produce(20, TODAY)
    run_stream(lab.platform, lab.stream)
    key = maintenance.maintenance_key(lab.stream.name)
    result = run(lab, key)
    assert result.success
    assert told(result, key) is None
    found = condition(lab.platform.catalog, lab.stream.bronze_table)
    assert found is not None
    assert found.snapshots == 1


def test_a_catalog_that_is_down_is_no_failure_of_the_schedule(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and comes again."""
    from ingestion_platform.errors import CatalogUnavailable

    def down(*_: object) -> None:
        raise CatalogUnavailable("the catalog does not answer")

    monkeypatch.setattr(maintenance, "conditions", down)
    assert "does not answer" in tick(lab).skip_message


def test_every_asset_is_of_the_group_and_has_a_schedule(lab: Lab) -> None:
    """The daily run takes them all, run history as well."""
    made = definitions(lab)
    graph = made.get_repository_def().asset_graph
    assert {graph.get(key).group_name for key in graph.get_all_asset_keys()} == {"maintenance"}
    daily = made.get_repository_def().get_schedule_def("maintenance_daily")
    assert daily.default_status is dg.DefaultScheduleStatus.RUNNING


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def parted() -> None:
    """An asset with two partitions."""


@dg.asset
def whole() -> None:
    """An asset without partitions."""


def test_runs_that_tell_the_state_of_an_asset_stay(instance: dg.DagsterInstance) -> None:
    """Of the others, those that ended before the time go with their events; later ones stay."""
    made = dg.Definitions(assets=[parted, whole], executor=dg.in_process_executor)
    job = made.resolve_implicit_global_asset_job_def()

    def execute(key: dg.AssetKey, partition: str | None = None) -> str:
        how = {"partition_key": partition} if partition else {}
        return job.execute_in_process(instance=instance, asset_selection=[key], **how).run_id

    first, second = execute(parted.key, "a"), execute(parted.key, "b")
    third, fourth = execute(parted.key, "a"), execute(whole.key)
    fifth = execute(whole.key)
    unfinished = instance.create_run_for_job(job, asset_selection=frozenset([whole.key])).run_id
    assert maintenance.prune_runs(instance, datetime.now(UTC) - timedelta(hours=1)) == (0, 0)
    assert maintenance.prune_runs(instance, datetime.now(UTC) + timedelta(hours=1)) == (2, 3)
    assert {run.run_id for run in instance.get_runs()} == {second, third, fifth, unfinished}
    assert instance.get_records_for_run(first).records == []
    assert instance.get_records_for_run(fourth).records == []
    assert instance.get_materialized_partitions(parted.key) == {"a", "b"}
    latest = instance.get_latest_materialization_event(whole.key)
    assert latest is not None
    assert latest.run_id == fifth


def test_all_ingest_dates_of_the_lake_are_looked_at_once_a_week() -> None:
    """Daily the recent ones alone; all of them on Sundays, and when somebody asks by hand."""
    daily = {maintenance.TAG: maintenance.THOROUGH}
    week = [date(2026, 11, 16) + timedelta(days=n) for n in range(7)]  # from a Monday on
    looked = [maintenance.recent(daily, day) for day in week]
    assert looked == [*(day - timedelta(days=8) for day in week[:6]), None]
    assert maintenance.recent({}, week[0]) is None
