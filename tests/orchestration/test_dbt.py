"""dbt's models as assets: which ingest dates a run rebuilds, and a day's way to gold."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from dagster_dbt.errors import DagsterDbtCliRuntimeError

from ingestion_platform.definitions import defs
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.orchestration import dbt, failing
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import declared_streams
from ingestion_platform.warehouse.tables import ensure_namespace
from tests.support.dagster_lab import TODAY, Lab, days_ago


def test_the_ingest_dates_of_a_run_end_before_the_day_after_its_last() -> None:
    """dbt's end is excluded, Dagster's included."""
    assert dbt.ingest_date_vars(["2026-02-27", "2026-02-28"]) == {
        "ingest_date_start": "2026-02-27",
        "ingest_date_end": "2026-03-01",
    }
    assert dbt.ingest_date_vars(["2026-02-27"])["ingest_date_end"] == "2026-02-28"


@pytest.mark.slow
def test_the_manifest_follows_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dbt parses once, and again after an edit; an edit with an error leaves what there was."""
    project = tmp_path / "project"
    _copy(dbt.DBT_PROJECT, project)
    monkeypatch.setattr(dbt, "DBT_PROJECT", project)
    made = dbt.dbt_project().manifest_path
    first = made.stat()
    assert dbt.dbt_project().manifest_path.stat() == first
    (project / "models" / "pgr" / "unit_tests.yml").unlink()
    assert dbt.dbt_project().manifest_path.stat().st_ino != first.st_ino
    second = made.read_bytes()
    model = project / "models" / "pgr" / "silver_pgr_events.sql"
    model.write_text("select * from {{ ref('no_such_model') }}")
    assert dbt.dbt_project().manifest_path.read_bytes() == second
    assert list(made.parent.glob("tmp*")) == []


def test_a_project_that_never_parsed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any manifest there are no models to show: what dbt says is told."""
    project = tmp_path / "project"
    _copy(dbt.DBT_PROJECT, project)
    monkeypatch.setattr(dbt, "DBT_PROJECT", project)
    (project / "models" / "pgr" / "silver_pgr_events.sql").write_text(
        "select * from {{ ref('no_such_model') }}"
    )
    with pytest.raises(DagsterDbtCliRuntimeError, match="no_such_model"):
        dbt.dbt_project()


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("target*", "logs"))


@pytest.fixture
def pgr(
    alone_settings: Settings, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> Lab:
    """The declared stream; dbt, a process of its own, reads the settings from the environment."""
    catalog = "PYICEBERG_CATALOG__LAKEHOUSE__"
    monkeypatch.setenv("PLATFORM_HOME", str(alone_settings.home))
    monkeypatch.setenv("LAKE_URL", alone_settings.lake_url)
    monkeypatch.setenv(f"{catalog}URI", alone_settings.catalog["uri"])
    monkeypatch.setenv(f"{catalog}WAREHOUSE", alone_settings.catalog["warehouse"])
    stream = declared_streams()["pgr_events"]
    ensure_topic(alone_settings, stream.topic)
    return Lab(stream, alone_settings, instance)


@pytest.mark.slow
def test_models_of_a_stream_that_sent_nothing_yet_are_empty(pgr: Lab) -> None:
    """A day can be materialized before there is a bronze table: it is made as the contract says."""
    silver = dg.AssetKey(["silver", "silver_pgr_events"])
    job = defs().resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(
        instance=pgr.instance, asset_selection=[silver], partition_key=TODAY.isoformat()
    )
    assert done.success
    assert Platform(pgr.settings).catalog.load_table(tuple(silver.path)).scan().count() == 0


@pytest.mark.slow
def test_a_range_of_days_reaches_gold_with_its_checks_and_metadata(pgr: Lab) -> None:
    """Bronze's days become rows of silver and gold in one dbt run, told day by day."""
    pgr.produce(300, days_ago(1), bad=0.01)
    pgr.produce(300, TODAY, seed=2, bad=0.01)
    pgr.materialize((days_ago(1), 0), (TODAY, 3))
    job = defs().resolve_implicit_global_asset_job_def()
    keys = [
        dg.AssetKey(["silver", "silver_pgr_events"]),
        dg.AssetKey(["gold", "gold_pgr_case_lifecycle"]),
        dg.AssetKey(["gold", "gold_pgr_funnel_daily"]),
    ]
    tags = {
        "dagster/asset_partition_range_start": days_ago(1).isoformat(),
        "dagster/asset_partition_range_end": TODAY.isoformat(),
    }
    result = job.execute_in_process(instance=pgr.instance, asset_selection=keys, tags=tags)
    checks = [e for e in result.all_events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
    shown = {key.name for key in defs().get_repository_def().asset_graph.asset_check_keys}
    told = {check.event_specific_data.check_name for check in checks}  # type: ignore[union-attr]
    assert {"events_counted_once", "funnel_sums_equal_lifecycle"} <= told
    assert len(told) > 20
    assert told <= shown
    assert all(check.event_specific_data.passed for check in checks)  # type: ignore[union-attr]
    assert list((pgr.settings.home / "dbt").iterdir()) == []
    catalog = Platform(pgr.settings).catalog
    for key in keys:
        days = pgr.instance.get_materialized_partitions(key)
        assert days == {days_ago(1).isoformat(), TODAY.isoformat()}
        event = pgr.instance.get_latest_materialization_event(key)
        told = event.asset_materialization.metadata  # type: ignore[union-attr]
        rows = catalog.load_table(tuple(key.path)).scan().count()
        assert told["dagster/row_count"].value == rows > 0
        assert any(c.description for c in told["dagster/column_schema"].value.columns)
    silver = catalog.load_table(("silver", "silver_pgr_events")).scan().to_arrow()
    bronze = catalog.load_table(("bronze", "service_events_raw")).scan().to_arrow()
    assert set(silver["entity_id"].to_pylist()) == set(bronze["entity_id"].to_pylist())


@pytest.mark.slow
def test_a_failing_model_is_a_permanent_failure(pgr: Lab) -> None:
    """The run says which model failed, why, and what to do; alarms know that it fails again."""
    ensure_namespace(pgr.platform.catalog, "silver")
    # A table of that name without the model's columns.
    schema = pa.schema([("event_key", pa.string())])
    pgr.platform.catalog.create_table("silver.silver_pgr_events", schema=schema)
    silver = dg.AssetKey(["silver", "silver_pgr_events"])
    job = defs().resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(
        instance=pgr.instance,
        asset_selection=[silver],
        partition_key=TODAY.isoformat(),
        raise_on_error=False,
    )
    (failed,) = [e for e in done.all_events if e.event_type_value == "STEP_FAILURE"]
    data = failed.event_specific_data
    assert failing.kind_of(data) == failing.PERMANENT
    said = data.user_failure_data.description  # type: ignore[union-attr]
    assert "silver_pgr_events:" in said
    assert "Binder Error: Referenced column" in said
    assert "\n  -> mend" in said
