"""Assets of a stream: its topic (observed), its lake and its bronze table, slice by slice.

The platform's functions land and load; here their results become Dagster's events.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from ingestion_platform.errors import PlatformError, SourceUnavailable, Transient
from ingestion_platform.kafka.times import first_plausible
from ingestion_platform.lake.file_source import FilesRefused
from ingestion_platform.lake.names import FILES, partition_label
from ingestion_platform.logs import bound, mask_error
from ingestion_platform.orchestration import checks, metadata, partitions
from ingestion_platform.orchestration.checks import Findings
from ingestion_platform.orchestration.failing import failure
from ingestion_platform.orchestration.metadata import Stored
from ingestion_platform.orchestration.partitions import Slice, slice_key
from ingestion_platform.pipeline import land_stream, load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream

if TYPE_CHECKING:
    from ingestion_platform.bronze.inserted import Inserted
    from ingestion_platform.bronze.load import Loaded
    from ingestion_platform.lake.file_source import Handled
    from ingestion_platform.lake.land import Landed
    from ingestion_platform.operations.slice_counts import SliceCount
    from ingestion_platform.progress.status import StreamStatus

LAKE_VERSION = "1"
"""Version of the code that lands: raise it when the same records would make other files."""

PREVIEWS = 4  # newest slices of a run, whose events show rows
ATTEMPTS = 3  # of a step with transient errors


def raw_key(stream: Stream) -> dg.AssetKey:
    """Return the key of the topic."""
    return dg.AssetKey(["raw", stream.topic])


def lake_key(stream: Stream) -> dg.AssetKey:
    """Return the key of the lake's copy."""
    return dg.AssetKey(["lake", stream.name])


def bronze_key(stream: Stream) -> dg.AssetKey:
    """Return the key of the typed table."""
    return dg.AssetKey(stream.bronze_table.split("."))


def job_name(stream: Stream) -> str:
    """Return the name of the job whose runs land and load the stream."""
    return f"ingest__{stream.name}"


def ingest_job(stream: Stream) -> Any:
    """Return the job that lands and loads the stream; its sensors request runs of it by name."""
    return dg.define_asset_job(
        job_name(stream),
        [lake_key(stream), bronze_key(stream)],
        description=f"Land {stream.name} in the lake and load it into bronze.",
        tags={"domain": stream.domain},
    )


def pool(stream: Stream) -> str:
    """Return the pool that the runs of a stream share, so that they take turns."""
    return f"stream_{stream.name}"


def raw_asset(stream: Stream) -> dg.AssetSpec:
    """Return topic and drop zone as an asset by log partition; sensors observe it."""
    contract = stream.contract
    source = (
        f"Kafka topic {stream.topic}" if stream.kafka else f"Files of {stream.file_source.folder}"
    )
    return dg.AssetSpec(
        raw_key(stream),
        description=f"{source}. {contract.description}\n\nIts sensor observes it; there is nothing "
        f"to materialize. If it has records that bronze lacks: `ingest status {stream.name}`.",
        partitions_def=partitions.log_partitions(stream),
        kinds={"topic", "kafka"} if stream.kafka else {"files"},
        metadata={
            "topic": stream.topic,
            "group": stream.group_id,
            "drop_zone": stream.file_source.folder,
        },
        group_name=stream.domain,
        owners=metadata.owners(contract.owner),
        tags=_tags(stream, "topic"),
    )


def lake_asset(stream: Stream, start: date) -> dg.AssetsDefinition:
    """Return the lake as an asset: materializing slices lands the log up to their last ingest date,
    and for the partition of files what waits in the drop zone."""
    key = lake_key(stream)

    @dg.asset(
        key=key,
        deps=[
            dg.AssetDep(
                raw_key(stream),
                partition_mapping=dg.MultiToSingleDimensionPartitionMapping(
                    partitions.LOG_PARTITION
                ),
            )
        ],
        description=f"Every record of topic {stream.topic} and of files as it was sent, in Parquet "
        "files by ingest date and log partition.\n\nMaterialize slices to land what is missing of "
        "them; complete slices stay as they are.",
        partitions_def=partitions.slices(stream, start),
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=LAKE_VERSION,
        kinds={"lake", "parquet"},
        metadata={"dagster/column_schema": metadata.lake_schema()},
        pool=pool(stream),
        group_name=stream.domain,
        owners=metadata.owners(stream.contract.owner),
        tags=_tags(stream, "lake"),
    )
    def lake(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> dg.MaterializeResult[Any]:
        requested = partitions.requested_slices(context)
        newest: dict[Slice, Landed] = {}
        files: list[Handled] = []

        def note(landed: "Landed") -> None:
            name = landed.segment.name
            newest[name.ingest_date, name.partition] = landed
            with _bound_to((name.ingest_date, name.partition)):
                context.log.info(f"landed {landed.segment.rows:,} records: {name.path}")

        def note_file(handled: "Handled") -> None:
            files.append(handled)
            loud = handled.outcome in ("refused", "waiting", "copy")
            log = context.log.warning if loud else context.log.info
            detail = f": {handled.detail}" if handled.detail else ""
            kept = f" (now {handled.kept})" if handled.kept else ""
            log(f"file {handled.name} {handled.outcome}{detail}{kept}")

        rejected: FilesRefused | None = None
        rows = 0
        with bound(stream=stream.name), _dagster_errors(platform):
            try:
                rows = land_stream(
                    platform,
                    stream,
                    partitions=sorted({p for _, p in requested}),
                    last=max(ingest_date for ingest_date, _ in requested),
                    on_landed=note,
                    on_file=note_file,
                )
            except FilesRefused as error:  # reported after what was landed
                rejected = error
            events = _lake_events(platform, stream, {*requested, *newest}, newest, context.log.info)
            if files and (of_files := [of for of in events if of[1] == FILES]):
                events[max(of_files)]["files"] = metadata.files_table(files)
        for of in sorted(set(events) - set(requested)):
            context.log_event(lake_event(stream, of, events[of]))
        for of in requested:
            context.add_asset_metadata(events[of], asset_key=key, partition_key=slice_key(of))
        if rejected is not None:
            raise failure(rejected)
        context.log.info(f"{rows:,} records landed; the rest of the slices was there")
        return dg.MaterializeResult()

    return lake


def bronze_asset(stream: Stream, start: date) -> dg.AssetsDefinition:
    """Return the typed table and its checks: materializing slices makes them equal to f(lake,
    contract).

    Only days within their quarantine limit are materialized, which publishes them to silver and
    gold; others are observed, with the reason.
    """
    from ingestion_platform.bronze.validate import code_version

    key = bronze_key(stream)
    version = code_version(stream.contract)
    schema = metadata.bronze_schema(stream.contract)

    @dg.multi_asset(
        name=f"load_{stream.name}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[lake_key(stream)],
                skippable=True,
                description=f"{stream.contract.description}\n\nRecords that break the contract "
                f"are in {stream.quarantine_table}, with the reasons: `ingest quarantine list "
                f"{stream.name}`. Materialize slices to load what is missing of them, or to "
                "validate them again after an edit of the contract.",
                code_version=version,
                kinds={"bronze", "iceberg"},
                metadata={
                    "dagster/table_name": stream.bronze_table,
                    "dagster/column_schema": schema,
                    "contract": f"{stream.contract.id} {stream.contract.version}",
                },
                partitions_def=partitions.slices(stream, start),
                group_name=stream.domain,
                owners=metadata.owners(stream.contract.owner),
                tags=_tags(stream, "bronze"),
            )
        ],
        check_specs=checks.specs(stream, key),
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=pool(stream),
    )
    def bronze(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.AssetCheckResult]:
        selected = {check.name for check in context.selected_asset_check_keys}
        requested = partitions.requested_slices(context)
        with bound(stream=stream.name), _dagster_errors(platform):
            if context.selected_asset_keys:
                touched = _load(context, platform, stream, requested, start)
                findings = _findings(platform, stream, touched, selected)
                _log_slices(context, platform, stream, touched, findings, version)
            else:
                findings = _findings(
                    platform, stream, requested or _all(platform, stream), selected
                )
        for name in sorted(selected):
            yield checks.evaluate(name, stream, key, findings)

    return bronze


def _tags(stream: Stream, layer: str) -> dict[str, str]:
    tags = {"domain": stream.domain, metadata.LAYER: layer}
    return tags | metadata.tags(stream.contract.tags)


def _bound_to(of: Slice) -> AbstractContextManager[None]:
    """Add the slice to log messages."""
    return bound(ingest_date=of[0], partition=partition_label(of[1]))


@contextmanager
def _dagster_errors(platform: Platform) -> Iterator[None]:
    """Retry transient errors; let permanent ones fail the step with their next action."""
    try:
        yield
    except Transient as error:
        mask_error(error, platform.settings)
        raise dg.RetryRequested(ATTEMPTS - 1, error.retry_after) from error
    except PlatformError as error:
        mask_error(error, platform.settings)
        raise failure(error) from error


def _lake_events(
    platform: Platform,
    stream: Stream,
    touched: Iterable[Slice],
    landed: "dict[Slice, Landed]",
    log: Callable[[str], None],
) -> dict[Slice, metadata.Metadata]:
    held = metadata.stored(platform, stream, partitions.declared(stream, touched))
    status = status_of(platform, stream)
    if status is not None and status.no_topic_yet:
        log(f"no topic {stream.topic} yet: nothing to land from it")
    lags = _lags(status)
    events = {
        of: metadata.lake_event(stream, platform.store.url, of, what, lags.get(of[1]))
        for of, what in held.items()
    }
    for of in sorted(set(landed) & set(events))[-PREVIEWS:]:
        events[of]["preview"] = metadata.raw_preview(landed[of].table)
    return events


def _load(
    context: dg.AssetExecutionContext,
    platform: Platform,
    stream: Stream,
    requested: list[Slice],
    start: date,
) -> list[Slice]:
    """Load; return the requested slices and those that had to be loaded before them."""
    touched = set(requested)

    def note(loaded: "Loaded") -> None:
        name = loaded.segment.name
        touched.add((name.ingest_date, name.partition))
        verb = "replaced" if loaded.replaced else "loaded"
        counts = f"{loaded.bronze_rows:,} rows, {loaded.quarantine_rows:,} in quarantine"
        with _bound_to((name.ingest_date, name.partition)):
            context.log.info(f"{verb} {name.path}: {counts}")

    load_stream(
        platform,
        stream,
        partitions=sorted({p for _, p in requested}),
        ingest_dates=sorted({ingest_date for ingest_date, _ in requested}),
        last=max(ingest_date for ingest_date, _ in requested),
        on_loaded=note,
    )
    if beyond := sorted(of for of in touched if of[0] < start):
        context.log.warning(
            f"loaded slices before {start}, the first partition: "
            f"{', '.join(map(slice_key, beyond))}; reload the code location to see them"
        )
    return partitions.declared(stream, touched)


def _findings(
    platform: Platform, stream: Stream, touched: Iterable[Slice], selected: set[str]
) -> Findings:
    """Read what the checks evaluate: all slices of the touched ingest dates."""
    ingest_dates = sorted({ingest_date for ingest_date, _ in touched})
    days = [
        (ingest_date, p) for ingest_date in ingest_dates for p in partitions.all_partitions(stream)
    ]
    status = status_of(platform, stream)
    waits = waits_of(platform, stream, status) if checks.FRESHNESS in selected else None
    reasons = metadata.quarantine_reasons(platform, stream, ingest_dates)
    inserted = _inserted(platform, stream) if checks.INSERTED in selected else None
    return Findings(_counts(platform, stream, days), reasons, status, waits, inserted)


def _inserted(platform: Platform, stream: Stream) -> "Inserted":
    from ingestion_platform.bronze.inserted import validate_inserted
    from ingestion_platform.warehouse.tables import load_or_none

    table = load_or_none(platform.catalog, stream.bronze_table)
    return validate_inserted(table, stream.contract)


def _counts(platform: Platform, stream: Stream, slices: list[Slice]) -> "dict[Slice, SliceCount]":
    from ingestion_platform.operations.slice_counts import slice_counts

    counts = slice_counts(platform, stream, slices)
    if all(count.ok for count in counts.values() if count.loaded):
        return counts
    # The two tables are read one after the other: a writer may have come in between.
    return slice_counts(platform, stream, slices)


def _all(platform: Platform, stream: Stream) -> list[Slice]:
    from ingestion_platform.lake.segments import SegmentLog

    segment_log = SegmentLog(platform.store, stream.topic)
    found = [
        (ingest_date, p)
        for ingest_date in segment_log.ingest_dates()
        for p in segment_log.names(ingest_date)
    ]
    return partitions.declared(stream, found)


def status_of(platform: Platform, stream: Stream) -> "StreamStatus | None":
    from ingestion_platform.progress.status import stream_status

    try:
        return stream_status(platform, stream)
    except SourceUnavailable:
        return None  # a slice of the lake can be loaded without its log


def _lags(status: "StreamStatus | None") -> dict[int, int]:
    return {} if status is None else {p.partition: p.lag for p in status.partitions}


def waits_of(
    platform: Platform, stream: Stream, status: "StreamStatus | None"
) -> dict[int, float] | None:
    """Return the seconds that the oldest record missing in bronze has waited, by log partition.

    Records without a plausible time are skipped; 0 where none of the first ones has one.
    """
    if status is None:
        return None
    # What came in files was in the lake when it got its timestamp.
    behind = [p for p in status.partitions if p.lag > 0 and p.partition != FILES]
    if not behind:
        return {}
    now = datetime.now(UTC).timestamp()
    waits = {}
    try:
        with platform.log(stream) as log:
            for p in behind:
                stamps = log.first_stamps(p.partition, p.log_end - p.lag, p.log_end)
                since = first_plausible(stamps, since=stream.first_date, now=now)
                waits[p.partition] = 0.0 if since is None else max(0.0, now - since)
    except Transient:
        return None
    return waits


def _log_slices(
    context: dg.AssetExecutionContext,
    platform: Platform,
    stream: Stream,
    touched: list[Slice],
    findings: Findings,
    version: str,
) -> None:
    """Log an event for each slice: materializations of released days, observations of others."""
    bad = checks.held_back(stream, findings.counts)
    for ingest_date, why in bad.items():
        with bound(ingest_date=ingest_date):
            context.log.warning(f"{ingest_date} is held back from silver and gold: {why}")
    waiting = released_with(context.instance, stream, touched, findings.counts, bad)
    events = _bronze_events(platform, stream, [*touched, *waiting], findings)
    # Those with rows last: overviews show the latest event.
    for of in sorted(events, key=lambda of: (findings.counts[of].bronze > 0, of)):
        event, held = events[of]
        context.log_event(bronze_event(stream, of, event, held, bad.get(of[0]), version))


def lake_event(
    stream: Stream, of: Slice, event_metadata: metadata.Metadata
) -> dg.AssetMaterialization:
    """Return the event of a lake slice that its run did not request."""
    return dg.AssetMaterialization(
        lake_key(stream),
        partition=slice_key(of),
        metadata=event_metadata,
        tags={"dagster/code_version": LAKE_VERSION},
    )


def data_version(held: Stored, version: str) -> str:
    """Return the data version of a bronze slice: that of its lake slice and of the contract."""
    return f"{held.version}-{version}"


def bronze_event(
    stream: Stream,
    of: Slice,
    event_metadata: metadata.Metadata,
    held: Stored,
    held_back: str | None,
    version: str,
) -> dg.AssetMaterialization | dg.AssetObservation:
    """Return the event of a bronze slice: a materialization, which releases its day, or an
    observation if the day is held back."""
    key = bronze_key(stream)
    if held_back is not None:
        event_metadata = {**event_metadata, "held_back": held_back}
        return dg.AssetObservation(key, partition=slice_key(of), metadata=event_metadata)
    return dg.AssetMaterialization(
        key,
        partition=slice_key(of),
        metadata=event_metadata,
        tags={
            "dagster/code_version": version,
            "dagster/data_version": data_version(held, version),
        },
    )


def released_with(
    instance: dg.DagsterInstance,
    stream: Stream,
    touched: Collection[Slice],
    counts: "Mapping[Slice, SliceCount]",
    bad: "Mapping[date, str]",
) -> list[Slice]:
    """Return slices loaded earlier, whose day was held back then and is released now."""
    candidates = [
        of
        for of, count in counts.items()
        if of not in touched and of[0] not in bad and count.records and count.loaded
    ]
    if not candidates:
        return []
    materialized = instance.get_materialized_partitions(bronze_key(stream))
    return [of for of in candidates if slice_key(of) not in materialized]


def _bronze_events(
    platform: Platform, stream: Stream, slices: list[Slice], findings: Findings
) -> dict[Slice, tuple[metadata.Metadata, Stored]]:
    table = platform.catalog.load_table(stream.bronze_table)
    lags = _lags(findings.status)
    events = {}
    for of, held in metadata.stored(platform, stream, slices).items():
        count = findings.counts[of]
        event_metadata = metadata.bronze_event(
            stream,
            table,
            held,
            bronze=count.bronze,
            quarantined=count.quarantined,
            reasons=findings.reasons.get(of, Counter()),
            lag=lags.get(of[1]),
        )
        events[of] = (event_metadata, held)
    full = sorted(of for of in events if findings.counts[of].bronze)
    for of in full[-PREVIEWS:]:
        events[of][0]["preview"] = metadata.slice_preview(table, stream.contract, of)
    return events
