"""Define maintenance of streams, models and Dagster's runs as assets, with schedules.

Maintenance is implemented in `ingestion_platform.operations.maintenance`.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ingestion_platform.each import for_each
from ingestion_platform.errors import PlatformError, Transient
from ingestion_platform.logs import masked
from ingestion_platform.operations.maintenance import (
    MaintenanceResult,
    conditions,
    maintain_models,
    maintain_stream,
    models_of,
    tables_of,
)
from ingestion_platform.orchestration import metadata
from ingestion_platform.orchestration.failing import failure
from ingestion_platform.orchestration.sensors import UNFINISHED
from ingestion_platform.platform import Platform
from ingestion_platform.project import DBT_PROJECT
from ingestion_platform.streams import Stream, readable

if TYPE_CHECKING:
    from ingestion_platform.warehouse.maintenance.table import TableMaintenance

GROUP = "maintenance"
JOB = "maintain"
TAG, FREQUENT, THOROUGH = "maintenance", "frequent", "thorough"
"""The tag of a run and its values: tables only, or also the lake, orphans and run history."""
OFTEN, DAILY = "*/10 * * * *", "17 3 * * *"
RECENT = timedelta(days=8)
"""Age up to which ingest dates of the lake are checked daily.

An ingest date of a log partition stays open until the partition has records of a later date.
"""
ALL_INGEST_DATES = 6
"""Day of the week (Sunday) on which all ingest dates are checked."""
ATTEMPTS = 3
_HISTORY = dg.AssetKey([GROUP, "run_history"])
_FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
_BATCH = 200  # events per read


def maintenance_key(name: str) -> dg.AssetKey:
    """Return the key of a stream's maintenance, or of a domain's models: <domain>_models."""
    return dg.AssetKey([GROUP, f"{name}_maintenance"])


def maintenance_definitions(streams: Mapping[str, Stream]) -> dg.Definitions:
    """Return all maintenance assets and the job and schedules that materialize them."""
    of_stream = {maintenance_key(stream.name): stream for stream in readable(streams.values())[0]}
    domains = dict.fromkeys(stream.domain for stream in streams.values())
    modelled = [domain for domain in domains if (DBT_PROJECT / "models" / domain).is_dir()]
    of_domain = {maintenance_key(f"{domain}_models"): domain for domain in modelled}
    assets = [
        *(_stream_asset(key, stream) for key, stream in of_stream.items()),
        *(_models_asset(key, domain) for key, domain in of_domain.items()),
        _history_asset(),
    ]
    job = dg.define_asset_job(
        JOB, [*of_stream, *of_domain, _HISTORY], description="Maintain tables and the lake."
    )
    schedules = [_often(of_stream, of_domain), _daily()]
    return dg.Definitions(assets=assets, jobs=[job], schedules=schedules)


def _stream_asset(key: dg.AssetKey, stream: Stream) -> dg.AssetsDefinition:
    @dg.asset(
        key=key,
        description=f"Closed ingest dates of the lake of {stream.name} merged; small files of its "
        "tables made large, old snapshots and orphans removed. Without work there is "
        "no event.",
        output_required=False,
        group_name=GROUP,
        kinds={"iceberg", "python"},
        pool=f"maintenance_{stream.name}",
        owners=metadata.owners(stream.contract.owner),
        tags={"domain": stream.domain},
        metadata={"tables": tables_of(stream)},
        retry_policy=dg.RetryPolicy(max_retries=ATTEMPTS - 1, delay=10),
    )
    def maintenance(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        yield from _run(
            context,
            lambda: maintain_stream(
                platform,
                stream,
                thorough=_thorough(context),
                since=recent(context.run.tags, datetime.now(UTC).date()),
                on_table=_logged(context),
            ),
        )

    return maintenance


def _models_asset(key: dg.AssetKey, domain: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=key,
        description=f"Small files of the tables of the {domain} models made large, old snapshots "
        "and orphans removed. Without work there is no event.",
        output_required=False,
        group_name=GROUP,
        kinds={"iceberg", "python"},
        pool=f"maintenance_{domain}_models",
        tags={"domain": domain},
        retry_policy=dg.RetryPolicy(max_retries=ATTEMPTS - 1, delay=10),
    )
    def maintenance(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        yield from _run(
            context,
            lambda: maintain_models(
                platform, domain, thorough=_thorough(context), on_table=_logged(context)
            ),
        )

    return maintenance


def _history_asset() -> dg.AssetsDefinition:
    @dg.asset(
        key=_HISTORY,
        description="Dagster's own finished runs, with their events and logs: older ones are "
        "removed, but for those that last materialized a slice.",
        output_required=False,
        group_name=GROUP,
        kinds={"dagster", "python"},
        pool="maintenance_run_history",
    )
    def run_history(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        days = platform.settings.maintenance.run_days
        removed, kept = prune_runs(context.instance, datetime.now(UTC) - timedelta(days=days))
        context.log.info(f"{removed:,} runs older than {days} days removed, {kept:,} kept")
        if removed:
            yield dg.MaterializeResult(
                metadata={"runs_removed": removed, "old_runs_kept": kept, "retention_days": days}
            )

    return run_history


def prune_runs(instance: dg.DagsterInstance, before: datetime) -> tuple[int, int]:
    """Remove runs that ended before a time; return how many were removed and how many kept.

    A run is kept if it has the latest materialization of an asset or of an asset partition: without
    it Dagster would show that as missing.
    """
    old = instance.get_run_ids(dg.RunsFilter(statuses=_FINISHED, updated_before=before))
    needed = _needed_runs(instance) if old else set()
    removed = [run_id for run_id in old if run_id not in needed]
    for run_id in removed:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.delete_run(run_id)
    return len(removed), len(old) - len(removed)


def _needed_runs(instance: dg.DagsterInstance) -> set[str]:
    """Return the runs with the latest materialization of an asset or of an asset partition."""
    found: set[str] = set()
    storage = instance.event_log_storage
    for key in instance.all_asset_keys():
        latest = instance.get_latest_materialization_event(key)
        found |= {latest.run_id} if latest is not None else set()
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        ids = sorted(storage.get_latest_storage_id_by_partition(key, kind).values())
        for start in range(0, len(ids), _BATCH):
            some = dg.AssetRecordsFilter(key, storage_ids=ids[start : start + _BATCH])
            records = instance.fetch_materializations(some, limit=_BATCH).records
            found |= {record.run_id for record in records}
    return found


def _often(
    of_stream: Mapping[dg.AssetKey, Stream], of_domain: Mapping[dg.AssetKey, str]
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="maintenance",
        cron_schedule=OFTEN,
        job_name=JOB,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Requests maintenance of the tables that need it.",
    )
    def often(
        context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.RunRequest | dg.SkipReason:
        unfinished = dg.RunsFilter(statuses=UNFINISHED, tags={TAG: FREQUENT})
        if context.instance.get_runs(unfinished, limit=1):
            return dg.SkipReason("the maintenance asked for before is not finished")

        def needs(key: dg.AssetKey) -> bool:
            stream = of_stream.get(key)
            names = tables_of(stream) if stream else models_of(platform, of_domain[key])
            return _needs(platform, names)

        found = list(for_each(needs, [*of_stream, *of_domain]))
        needing = [of.item for of in found if of.found]
        errors = dict.fromkeys(str(of.error) for of in found if of.error is not None)
        said = masked("\n".join(errors), platform.settings.secrets)
        if not needing:
            return dg.SkipReason(said or "all tables are in good order")
        if said:
            context.log.warning(f"some tables cannot be looked at: {said}")
        return dg.RunRequest(asset_selection=needing, tags={TAG: FREQUENT})

    return often


def _needs(platform: Platform, names: Iterable[str]) -> bool:
    return any(condition.worthwhile for condition in conditions(platform, names))


def _daily() -> dg.ScheduleDefinition:
    @dg.schedule(
        name="maintenance_daily",
        cron_schedule=DAILY,
        job_name=JOB,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Maintain tables, closed ingest dates of the lake, orphans, run history.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags={TAG: THOROUGH})

    return daily


def _thorough(context: dg.AssetExecutionContext) -> bool:
    """Whether a run does all maintenance; runs started by hand do."""
    return context.run.tags.get(TAG) != FREQUENT


def recent(tags: Mapping[str, str], today: date) -> date | None:
    """Return the first ingest date whose lake files a run checks; None for all ingest dates.

    All are checked once a week and in runs started by hand; listing every ingest date of all years
    is too expensive to do daily.
    """
    if tags.get(TAG) != THOROUGH or today.weekday() == ALL_INGEST_DATES:
        return None
    return today - RECENT


def _logged(context: dg.AssetExecutionContext) -> Any:
    def log(done: "TableMaintenance") -> None:
        context.log.info(_sentence(done))

    return log


def _run(context: dg.AssetExecutionContext, act: Any) -> Iterator[dg.MaterializeResult[Any]]:
    """Run maintenance; yield its result unless there was nothing to do."""
    began = time.monotonic()
    try:
        kept: MaintenanceResult = act()
    except Transient:
        raise  # handled by the retry policy
    except PlatformError as error:
        raise failure(error) from error
    if kept.idle:
        context.log.info("nothing needed to be done")
        return
    yield dg.MaterializeResult(metadata=_metadata(kept) | {"seconds": time.monotonic() - began})


def _metadata(kept: MaintenanceResult) -> metadata.Metadata:
    """Return totals, and a Markdown table with a row per table."""
    pairs = [(table.before, table.after) for table in kept.tables]
    removed = [table.orphans for table in kept.tables if table.orphans is not None]
    found: metadata.Metadata = {
        f"{what}_{when}": sum(getattr(side[at], what) for side in pairs)
        for what in ("files", "manifests", "snapshots", "bytes")
        for at, when in enumerate(("before", "after"))
    }
    found |= {
        "files_rewritten": sum(table.rewritten for table in kept.tables),
        "snapshots_expired": sum(table.expired for table in kept.tables),
        "orphans_removed": sum(each.files for each in removed),
        "orphan_bytes_removed": sum(each.bytes for each in removed),
        "lake_files_before": sum(merged.files_before for merged in kept.lake),
        "lake_files_after": sum(merged.files_after for merged in kept.lake),
        "tables": dg.MetadataValue.md(_markdown(kept)),
    }
    return found


def _markdown(kept: MaintenanceResult) -> str:
    lines = ["| table | rows | files | manifests | snapshots | orphans removed |", "|---" * 6 + "|"]
    for table in kept.tables:
        before, after = table.before, table.after
        cells = [
            before.table,
            f"{before.rows:,}",
            *(
                f"{getattr(before, what):,} → {getattr(after, what):,}"
                for what in ("files", "manifests", "snapshots")
            ),
            "-" if table.orphans is None else f"{table.orphans.files:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sentence(done: "TableMaintenance") -> str:
    before, after = done.before, done.after
    if done.idle:
        return f"{before.table}: in good order"
    said = (
        f"{before.table}: files {before.files:,} to {after.files:,}, manifests "
        f"{before.manifests:,} to {after.manifests:,}, snapshots {before.snapshots:,} to "
        f"{after.snapshots:,}"
    )
    if done.orphans is not None:
        said += f"; {done.orphans.files:,} orphans removed, {done.orphans.waiting:,} wait"
    return said
