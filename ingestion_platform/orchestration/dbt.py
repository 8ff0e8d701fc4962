"""Define the dbt models of each domain as daily partitioned assets, and their tests as checks.

The models, and which rows an ingest date affects, are defined in the dbt project.
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
    """Return the dbt project; parse it again if a file is newer than its manifest.

    Artifacts have a separate folder, so that manual dbt commands do not conflict with Dagster's.
    """
    project = DbtProject(DBT_PROJECT, target_path=_target())
    if _stale(project):
        project.manifest_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(project.manifest_path.with_suffix(".lock")):
            if _stale(project):  # no other process has parsed it meanwhile
                _parse(project)
    return project


def _target() -> Path:
    """Return the folder of dbt's artifacts; in a checkout, all PLATFORM_HOMEs share one."""
    return (
        DBT_PROJECT / "target" / "dagster"
        if IS_CHECKOUT
        else Settings.load().home / "dbt" / "project"
    )


def _parse(project: DbtProject) -> None:
    """Parse the project and replace its manifest atomically.

    If the project has an error, the existing manifest stays in use and a warning is logged: runs of
    the models report the error, and streams continue.
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
    # Files edited during parsing must count as newer.
    os.utime(manifest, (began, began))


def _stale(project: DbtProject) -> bool:
    """Whether a file or folder is newer than the manifest (a removal changes its folder)."""
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
    """Return the dbt resource; uses the dbt of this Python environment, activated or not."""
    beside = Path(sys.executable).with_name("dbt")
    return Dbt(
        project_dir=str(project.project_dir),
        dbt_executable=str(beside if beside.exists() else "dbt"),
    )


class Translator(DagsterDbtTranslator):
    """Maps dbt nodes to assets: key namespace/table, grouped by domain, partitioned by day."""

    def __init__(self) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_source_tests_as_checks=False))

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """Return the table's namespace and name."""
        name = dbt_resource_props.get("identifier") or dbt_resource_props.get("alias")
        return dg.AssetKey([dbt_resource_props["schema"], name or dbt_resource_props["name"]])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """Return the domain: the folder below models/."""
        return str(dbt_resource_props["fqn"][1])

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        """Return the owner in `meta: {owner: ...}`."""
        return metadata.owners(str(dbt_resource_props.get("meta", {}).get("owner", "")))

    def get_partition_mapping(
        self,
        dbt_resource_props: Mapping[str, Any],
        dbt_parent_resource_props: Mapping[str, Any],
    ) -> dg.PartitionMapping | None:
        """Map a day to all log partitions of a source; a model to the same day of a model."""
        if dbt_parent_resource_props["resource_type"] == "source":
            return dg.MultiToSingleDimensionPartitionMapping(partitions.INGEST_DATE)
        return None

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None
    ) -> dg.AssetSpec:
        """Extend dagster-dbt's spec with description, kinds, tags and automation."""
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
    """Return the assets of all domains that have models, and the resource that runs dbt.

    The models of a domain are one step, so that domains do not wait for each other. With `together`
    all models are one step, which starts dbt only once. `first_date` returns the first partition of
    a domain.
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
        # Models need the bronze tables of all streams, even of those without records.
        for of in for_each(lambda stream: _ensure_table(platform, stream), streams):
            if isinstance(of.error, Transient):
                raise of.error
            if of.error is not None:  # build the models of the other streams
                context.log.warning(f"{of.item.name}: {of.error}")
        # dbt runs in the project's folder, where it would find another PLATFORM_HOME.
        export({"PLATFORM_HOME": str(platform.settings.home)})
        # Unit tests check the models' code, not the data.
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
                # Models with a transient error changed nothing.
                raise dg.RetryRequested(ATTEMPTS - 1, seconds_to_wait=2) from error
            raise failure(said) from error
        shutil.rmtree(folder)  # after a failure it is kept for inspection

    return models


def _ensure_table(platform: Platform, stream: Stream) -> None:
    if load_or_none(platform.catalog, stream.bronze_table) is None:
        ensure_bronze(platform.catalog, stream.bronze_table, stream.contract)


def _reasons(folder: Path) -> str:
    """Return the failed nodes of a dbt run with messages and the next action; "" without any."""
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
    """Return the name of a node in dbt's results, without resource type and project."""
    return str(result["unique_id"]).split(".")[2]


def ingest_date_vars(days: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Return dbt's variables for consecutive days; the end is exclusive."""
    end = date.fromisoformat(max(days)) + timedelta(days=1)
    return {"ingest_date_start": min(days), "ingest_date_end": end.isoformat()}


def _table(
    context: dg.AssetExecutionContext,
    platform: Platform,
    duckdb: TablesResource,
    event: dg.Output[Any],
) -> metadata.Metadata:
    """Return the metadata of a model's table, with a preview of its first rows."""
    key = context.asset_key_for_output(event.output_name)
    table = metadata.iceberg_event(platform.catalog.load_table(tuple(key.path)))
    rows = duckdb.query(f"FROM {'.'.join(key.path)} LIMIT {metadata.PREVIEW_ROWS}")
    return table | {"preview": metadata.preview(rows)}
