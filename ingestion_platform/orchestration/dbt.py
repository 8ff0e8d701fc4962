"""dbt: the models of each domain as assets by day, their tests as checks.

The models themselves, and what an ingest date touches, are the dbt project's.
"""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from dagster_dbt import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    DbtCliResource,
    DbtProject,
    dbt_assets,
)
from dagster_dbt.errors import DagsterDbtCliRuntimeError
from filelock import FileLock
from packaging.version import Version

from ingestion_platform.each import for_each
from ingestion_platform.errors import ACTION, TRANSIENT_CODE, Transient
from ingestion_platform.orchestration import metadata, partitions
from ingestion_platform.orchestration.automation import when_inputs_changed
from ingestion_platform.orchestration.column_lineage import column_lineage
from ingestion_platform.orchestration.failing import failure
from ingestion_platform.orchestration.resources import TablesResource
from ingestion_platform.platform import Platform
from ingestion_platform.project import DBT_PROJECT, IS_CHECKOUT
from ingestion_platform.settings import Settings, export
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.tables import ensure_bronze, load_or_none

ATTEMPTS = 3
_LOG = logging.getLogger("dagster")


def dbt_project() -> DbtProject:
    """The project, its manifest made again when something of it is newer.

    Artifacts have a folder of their own, so that a person's dbt commands do not meet Dagster's.
    """
    project = DbtProject(DBT_PROJECT, target_path=_target())
    if _stale(project):
        project.manifest_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(project.manifest_path.with_suffix(".lock")):
            if _stale(project):  # no other process was quicker
                _parse(project)
    return project


def _target() -> Path:
    """Return the folder of dbt's artifacts; all homes of a checkout share one."""
    return (
        DBT_PROJECT / "target" / "dagster"
        if IS_CHECKOUT
        else Settings.load().home / "dbt" / "project"
    )


def _parse(project: DbtProject) -> None:
    """Make the manifest; a reader meets the old one or the new one, never half of it.

    Should the project have an error, the manifest before it stays: the error is for the models'
    runs to tell, and no reason to stop streams.
    """
    manifest, began = project.manifest_path, time.time()
    with TemporaryDirectory(dir=manifest.parent) as folder:
        parsing = dbt_command(project).cli(["parse", "--quiet"], target_path=Path(folder))
        error = parsing.get_error()
        if error is None:
            (Path(folder) / manifest.name).replace(manifest)
        elif manifest.exists():
            _LOG.warning("the models stay as they were, since dbt cannot read them: %s", error)
        else:
            raise error
    # Edits made while dbt was reading count as newer.
    os.utime(manifest, (began, began))


def _stale(project: DbtProject) -> bool:
    """Whether a file of the project, or a folder (something was removed), is newer."""
    if not project.manifest_path.exists():
        return True
    seen = project.manifest_path.stat().st_mtime
    folders = [project.project_dir / name for name in ("models", "macros", "tests", "seeds")]
    files = [file for folder in folders for file in [folder, *folder.rglob("*")]]
    files += project.project_dir.glob("*.yml")
    return any(file.stat().st_mtime > seen for file in files if file.exists())


class Dbt(DbtCliResource):
    """dagster-dbt's resource without what it does ahead of every command, for seconds.

    It would start dbt to ask for its version, and open an adapter to fetch metadata that
    `iceberg_event` has from the catalog.
    """

    @cached_property
    def _cli_version(self) -> Version:
        return Version(version("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> None:  # type: ignore[override]
        return None


def dbt_command(project: DbtProject) -> Dbt:
    """dbt of the environment that this process runs in, whether it is activated or not."""
    beside = Path(sys.executable).with_name("dbt")
    return Dbt(
        project_dir=str(project.project_dir),
        dbt_executable=str(beside if beside.exists() else "dbt"),
    )


class Translator(DagsterDbtTranslator):
    """How dbt's nodes look as assets: namespace/table, grouped by domain, a day at a time."""

    def __init__(self) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_source_tests_as_checks=False))

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """The table's namespace and name."""
        name = dbt_resource_props.get("identifier") or dbt_resource_props.get("alias")
        return dg.AssetKey([dbt_resource_props["schema"], name or dbt_resource_props["name"]])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The domain: the folder below models/."""
        return str(dbt_resource_props["fqn"][1])

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        """`meta: {owner: ...}`."""
        return metadata.owners(str(dbt_resource_props.get("meta", {}).get("owner", "")))

    def get_partition_mapping(
        self,
        dbt_resource_props: Mapping[str, Any],
        dbt_parent_resource_props: Mapping[str, Any],
    ) -> dg.PartitionMapping | None:
        """A day of a source is that of all log partitions; models depend day on day."""
        if dbt_parent_resource_props["resource_type"] == "source":
            return dg.MultiToSingleDimensionPartitionMapping(partitions.INGEST_DATE)
        return None

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None
    ) -> dg.AssetSpec:
        """dagster-dbt's asset, and what it is in the platform."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        domain = self.get_group_name(self.get_resource_props(manifest, unique_id))
        layer = spec.key.path[0]
        models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
        together = [self.get_asset_key(m) for m in models if self.get_group_name(m) == domain]
        return spec.replace_attributes(
            automation_condition=when_inputs_changed(key for key in together if key != spec.key),
            description=f"{spec.description}\n\nMaterialize a day to replace what it touches. If a "
            "test fails: correct the rows that it names, then materialize the day again.",
            kinds={layer, "dbt", "iceberg"},
            tags={**spec.tags, "domain": domain, metadata.LAYER: layer},
        )


def dbt_definitions(
    streams: Mapping[str, Stream], first_date: Callable[[str], date], *, together: bool = False
) -> dg.Definitions:
    """Return the models of every domain that has any, and the resource that runs dbt.

    Each domain's models are one step, so that they do not wait for those of others; or all are,
    `together`, which starts dbt once. `first_date` gives the first partition of a domain.
    """
    project = dbt_project()
    domains = dict.fromkeys(stream.domain for stream in streams.values())
    modelled = [d for d in domains if (project.project_dir / "models" / d).is_dir()]
    groups = [modelled] if together else [[domain] for domain in modelled]
    models = [
        _models(
            project,
            group,
            [s for s in streams.values() if s.domain in group],
            min(map(first_date, group)),
        )
        for group in groups
        if group
    ]
    return dg.Definitions(
        assets=models,
        jobs=[_job(each) for each in models],
        resources={"dbt": dbt_command(project)},
    )


def _job(models: dg.AssetsDefinition) -> Any:
    return dg.define_asset_job(
        models.op.name.replace("dbt_", "dbt__", 1),
        dg.AssetSelection.assets(*models.keys),
        description="Build silver and gold by dbt, with their tests.",
    )


def _models(
    project: DbtProject, domains: Sequence[str], streams: Sequence[Stream], start: date
) -> dg.AssetsDefinition:
    name = "_".join(["dbt", *domains])

    translator = Translator()
    manifest = json.loads(project.manifest_path.read_text())

    @dbt_assets(
        manifest=manifest,
        project=project,
        select=" ".join(f"path:models/{domain}" for domain in domains),
        name=name,
        partitions_def=partitions.ingest_dates(start),
        backfill_policy=dg.BackfillPolicy.single_run(),
        dagster_dbt_translator=translator,
        pool=name,
    )
    def models(
        context: dg.AssetExecutionContext,
        dbt: Dbt,
        platform: dg.ResourceParam[Platform],
        duckdb: TablesResource,
    ) -> Iterator[Any]:
        # Models read the table of a stream that has sent nothing yet, too.
        for of in for_each(lambda stream: _ensure_table(platform, stream), streams):
            if isinstance(of.error, Transient):
                raise of.error
            if of.error is not None:  # models that read another stream's table are built
                context.log.warning(f"{of.item.name}: {of.error}")
        # dbt runs in the project's folder: it must not take another one for its home.
        export({"PLATFORM_HOME": str(platform.settings.home)})
        # Unit tests validate the models' code, not the data.
        arguments = ["build", "--exclude-resource-type", "unit_test"]
        arguments += ["--vars", json.dumps(ingest_date_vars(context.partition_keys))]
        folder = platform.settings.home / "dbt" / f"{context.run.run_id}-{context.retry_number}"
        try:
            for event in dbt.cli(arguments, context=context, target_path=folder).stream():
                if isinstance(event, dg.Output):
                    node = manifest["nodes"][event.metadata["unique_id"].value]
                    found = column_lineage(
                        node, manifest, project, translator, platform.catalog, folder
                    )
                    found |= _table(context, platform, duckdb, event)
                    yield event.with_metadata({**event.metadata, **found})
                else:
                    yield event
        except DagsterDbtCliRuntimeError as error:
            said = _reasons(folder) or str(error)
            if any(line.strip().startswith(TRANSIENT_CODE) for line in said.splitlines()):
                # The models that failed so changed nothing.
                raise dg.RetryRequested(ATTEMPTS - 1, seconds_to_wait=2) from error
            raise failure(said) from error
        shutil.rmtree(folder)  # kept for reading when dbt failed

    return models


def _ensure_table(platform: Platform, stream: Stream) -> None:
    if load_or_none(platform.catalog, stream.bronze_table) is None:
        ensure_bronze(platform.catalog, stream.bronze_table, stream.contract)


def _reasons(folder: Path) -> str:
    """What failed in a dbt run, with dbt's messages and the next action; empty if it says none."""
    try:
        results = json.loads((folder / "run_results.json").read_text())["results"]
    except (OSError, ValueError):
        return ""
    failed = [result for result in results if result["status"] in ("error", "fail")]
    lines = [f"{_name(result)}:\n{result['message']}" for result in failed]
    if not lines:
        return ""
    action = (
        f"mend the models, tests or rows that it names, then materialize the days again "
        f"(dbt's log is in {folder})"
    )
    return "\n".join(lines) + ACTION + action


def _name(result: Mapping[str, Any]) -> str:
    """The name of a node in dbt's results, without kind and project."""
    return str(result["unique_id"]).split(".")[2]


def ingest_date_vars(days: list[str] | tuple[str, ...]) -> dict[str, str]:
    """dbt's variables for a run of consecutive days: the end is the day after the last."""
    end = date.fromisoformat(max(days)) + timedelta(days=1)
    return {"ingest_date_start": min(days), "ingest_date_end": end.isoformat()}


def _table(
    context: dg.AssetExecutionContext,
    platform: Platform,
    duckdb: TablesResource,
    event: dg.Output[Any],
) -> metadata.Metadata:
    """Return what the event tells of the model's table, with its first rows."""
    key = context.asset_key_for_output(event.output_name)
    table = metadata.iceberg_event(platform.catalog.load_table(tuple(key.path)))
    rows = duckdb.query(f"FROM {'.'.join(key.path)} LIMIT {metadata.PREVIEW_ROWS}")
    return table | {"preview": metadata.preview(rows)}
