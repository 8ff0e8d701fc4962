"""The code location: what Dagster shows for the declared streams."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ingestion_platform import project
from ingestion_platform.bronze.validate import code_version
from ingestion_platform.cli.dev import LOCATION
from ingestion_platform.definitions import defs
from ingestion_platform.errors import ContractError
from ingestion_platform.lake.names import FILES
from ingestion_platform.orchestration import instance, metadata, partitions
from ingestion_platform.orchestration.component import Stream, StreamAttributes
from ingestion_platform.settings import Settings
from ingestion_platform.streams import declared_streams
from tests.support.dagster_lab import TODAY, days_ago

ROOT = Path(__file__).parents[2]
RAW, LAKE = dg.AssetKey(["raw", "pgr-events"]), dg.AssetKey(["lake", "pgr_events"])
BRONZE = dg.AssetKey(["bronze", "service_events_raw"])
SILVER = dg.AssetKey(["silver", "silver_pgr_events"])
LIFECYCLE = dg.AssetKey(["gold", "gold_pgr_case_lifecycle"])
FUNNEL = dg.AssetKey(["gold", "gold_pgr_funnel_daily"])
SEGMENT_LOG = [RAW, LAKE, BRONZE, SILVER, LIFECYCLE, FUNNEL]


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    """The whole code location."""
    return defs().get_repository_def()


def _node(repository: dg.RepositoryDefinition, key: dg.AssetKey) -> Any:
    return repository.asset_graph.get(key)


def test_the_lineage_goes_from_the_topic_to_gold(repository: dg.RepositoryDefinition) -> None:
    """Raw topic, lake, bronze, silver, gold: each asset depends on the one before."""
    assert set(SEGMENT_LOG) <= repository.asset_graph.get_all_asset_keys()
    for upstream, downstream in pairwise(SEGMENT_LOG):
        assert upstream in _node(repository, downstream).parent_keys


def test_slices_read_date_bar_partition(repository: dg.RepositoryDefinition) -> None:
    """Lake and bronze are partitioned by ingest date and log partition, today's ingest date
    included."""
    for key in (LAKE, BRONZE):
        keys = _node(repository, key).partitions_def.get_partition_keys()
        assert {f"{TODAY}|3", f"{days_ago(1)}|0"} <= set(keys)
    assert _node(repository, RAW).partitions_def.get_partition_keys() == [
        *("0", "1", "2", "3", "files"),
    ]
    for key in (SILVER, LIFECYCLE, FUNNEL):
        assert TODAY.isoformat() in _node(repository, key).partitions_def.get_partition_keys()


def test_a_range_is_one_run(repository: dg.RepositoryDefinition) -> None:
    """Backfills of any number of slices or days start one run."""
    for key in SEGMENT_LOG[1:]:
        assert _node(repository, key).backfill_policy == dg.BackfillPolicy.single_run()


def test_a_day_of_silver_needs_all_log_partitions_of_bronze(
    repository: dg.RepositoryDefinition,
) -> None:
    """And a slice of bronze concerns its own day only."""
    mapping = _node(repository, SILVER).partition_mappings[BRONZE]
    upstream = _node(repository, BRONZE).partitions_def
    downstream = _node(repository, SILVER).partitions_def
    needed = mapping.get_upstream_mapped_partitions_result_for_partitions(
        downstream.subset_with_partition_keys([TODAY.isoformat()]), downstream, upstream
    ).partitions_subset
    assert set(needed.get_partition_keys()) == {f"{TODAY}|{p}" for p in (0, 1, 2, 3, "files")}


def test_nodes_show_layer_owner_and_next_action(repository: dg.RepositoryDefinition) -> None:
    """Groups by domain; kinds, which the lineage shows on a node, begin with the layer."""
    kinds = {RAW: "kafka", LAKE: "parquet", BRONZE: "iceberg", SILVER: "dbt", FUNNEL: "iceberg"}
    layers = {RAW: "topic", LAKE: "lake", BRONZE: "bronze", SILVER: "silver"}
    for key in SEGMENT_LOG:
        layer = layers.get(key, "gold")
        assert layer in _node(repository, key).kinds
        assert _node(repository, key).tags["layer"] == layer
        assert "\n\n" in _node(repository, key).description
        node = _node(repository, key)
        assert node.group_name == "pgr"
        assert list(node.owners) == ["team:civic-data"]
        assert node.description
        assert node.tags["domain"] == "pgr"
        assert kinds.get(key, "dbt") in node.kinds


def test_bronze_carries_the_contract(repository: dg.RepositoryDefinition) -> None:
    """Its code version is contract and parser; its columns have the contract's words and bounds."""
    node = _node(repository, BRONZE)
    contract = declared_streams()["pgr_events"].contract
    assert node.code_version == code_version(contract)
    columns = {c.name: c for c in node.metadata["dagster/column_schema"].columns}
    assert columns["entity_id"].description == "The complaint; all events of one case share it."
    assert not columns["entity_id"].constraints.nullable
    assert "matches ^CMP_.+$" in columns["entity_id"].constraints.other
    assert "PII" in columns["actor_id"].tags


def test_bronze_has_its_checks_and_models_have_dbts_tests(
    repository: dg.RepositoryDefinition,
) -> None:
    """Contract, reconciliation, lag, freshness, inserted; and every dbt test of a model."""
    names = {key.name for key in _node(repository, BRONZE).check_keys}
    assert names == {"quarantine_limit", "reconciliation", "lag", "losses", "freshness", "inserted"}
    for key in (SILVER, LIFECYCLE, FUNNEL):
        assert any("not_null" in check.name for check in _node(repository, key).check_keys)
    # Tests of several models belong to the one that their meta names.
    lifecycle = {key.name for key in _node(repository, LIFECYCLE).check_keys}
    assert {"events_counted_once", "no_case_resolved_before_submitted"} <= lifecycle


def test_sensors_run_without_being_switched_on(repository: dg.RepositoryDefinition) -> None:
    """One per topic and per file source, and the automation, all quick; and that of alarms."""
    found = {sensor.name: sensor for sensor in repository.sensor_defs}
    streams = declared_streams().values()
    sources = {f"{stream.name}_files" for stream in streams if stream.files is not None}
    assert {"pgr_events_files", "recomart_products_files"} <= sources
    quick = {
        "build_models",
        "deliver_to_sinks",
        *sources,
        *(f"{stream.name}_log" for stream in streams),
    }
    assert found.keys() == {"alarms", *quick}
    for name, sensor in found.items():
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
        assert sensor.minimum_interval_seconds <= (2 if name in quick else 60)


def test_runs_of_sensors_and_schedules_have_named_jobs(
    repository: dg.RepositoryDefinition,
) -> None:
    """Only what automation conditions request has no job of its own."""
    streams = declared_streams()
    jobs = {name for name in repository.job_names if not name.startswith("__")}
    ingest = {f"ingest__{stream}" for stream in streams}
    models = {f"dbt__{stream.domain}" for stream in streams.values()}
    assert jobs == {*ingest, *models, "maintain"}
    assert repository.get_sensor_def("pgr_events_log").job_name == "ingest__pgr_events"
    assert repository.get_sensor_def("pgr_events_files").job_name == "ingest__pgr_events"
    assert {schedule.job_name for schedule in repository.schedule_defs} == {"maintain"}
    assert repository.get_job("ingest__pgr_events").partitions_def is not None
    assert repository.get_job("dbt__pgr").partitions_def is not None


def test_docs_name_sensors_schedules_and_jobs(repository: dg.RepositoryDefinition) -> None:
    """The table of docs/dagster.md has each, with `<stream>` for the name of one."""
    page = (ROOT / "docs" / "dagster.md").read_text()
    names = {sensor.name for sensor in repository.sensor_defs}
    names |= {schedule.name for schedule in repository.schedule_defs}
    names |= {name for name in repository.job_names if name != "__ASSET_JOB"}
    for name in names:
        general = re.sub(r"^.*(_log|_files)$", r"<stream>\1", name)
        general = re.sub(r"^(ingest|dbt)__.*$", r"\1__<", general)
        assert f"`{general}" in page, name


def test_streams_take_turns_and_steps_share_a_process(repository: dg.RepositoryDefinition) -> None:
    """A pool per stream and per domain's models; one process per run."""
    pools = {key: _node(repository, key).pools for key in SEGMENT_LOG[1:]}
    assert pools[LAKE] == pools[BRONZE] == {"stream_pgr_events"}
    assert pools[SILVER] == pools[FUNNEL] == {"dbt_pgr"}
    assert defs().executor is dg.in_process_executor


def test_a_wrong_declaration_names_file_and_attribute(tmp_path: Path) -> None:
    """The component says what the command line would say."""
    from ingestion_platform.streams import stream_of

    with pytest.raises(ContractError, match=r"defs\.yaml: stream x: no contract x\.odcs\.yaml"):
        stream_of({"name": "x", "topic": "t"}, tmp_path)
    with pytest.raises(ValueError, match="topics"):
        StreamAttributes(name="x", topic="t", topics="u")  # type: ignore[call-arg]
    assert Stream.get_model_cls() is StreamAttributes


def test_attributes_of_the_component_are_those_of_a_stream() -> None:
    """Nothing can be declared that only one of Dagster and the command line knows."""
    from dataclasses import fields

    from ingestion_platform.streams import Stream as Declared

    declared = {f.name for f in fields(Declared)} - {"domain", "contract_file"} | {"contract"}
    assert set(StreamAttributes.model_fields) == declared


@pytest.mark.parametrize(
    ("owner", "shown"),
    [
        ("civic-data", ["team:civic-data"]),
        ("a@b.org", ["a@b.org"]),
        ("A b/c", ["team:A-b-c"]),
        ("", []),
    ],
)
def test_owners_are_teams_or_addresses(owner: str, shown: list[str]) -> None:
    """Whatever a contract calls its owner, Dagster takes it."""
    assert metadata.owners(owner) == shown


def test_slice_keys_and_slices_are_each_others_inverse() -> None:
    """A key read is the slice that was written."""
    for of in ((TODAY, 12), (TODAY, FILES)):
        assert partitions.parse_slice(partitions.slice_key(of)) == of


def test_dagster_home_is_made_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has the project's configuration, and keeps one that somebody put there."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    settings = Settings.load({"PLATFORM_HOME": str(tmp_path / "home")}, root=tmp_path)
    for _ in range(2):
        home = instance.prepare_dagster_home(settings)
        assert home == tmp_path / "home" / "dagster"
        assert (home / "dagster.yaml").read_text() == project.DAGSTER_CONFIG.read_text()
    with dg.DagsterInstance.get() as made:
        assert made.root_directory == str(home)
        assert not made.telemetry_enabled
        assert made.run_coordinator.dequeue_interval_seconds == 1  # type: ignore[attr-defined]
    (home / "dagster.yaml").unlink()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    instance.prepare_dagster_home(settings)
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_the_command_line_can_prepare_dagster_without_importing_it() -> None:
    """`instance` is imported by commands that must answer at once."""
    code = (
        "import sys; from ingestion_platform.orchestration.instance import prepare_dagster_home;"
        "sys.exit('dagster' in sys.modules)"
    )
    root = Path(instance.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_code_location_has_one_name() -> None:
    """Dagster names a location by its module unless told: so do workspace.yaml and `dg`."""
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    module = workspace["load_from"][0]["python_module"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    names = {module["module_name"], module["location_name"], project["code_location_name"]}
    assert names == {LOCATION}
