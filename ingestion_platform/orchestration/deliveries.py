"""Define deliveries as assets.

Each delivery is one asset (the target), partitioned like its source, with a check that both are
equal. Delivering is implemented in `ingestion_platform.sinks`.
"""

import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from ingestion_platform.errors import PlatformError, SettingError, Transient
from ingestion_platform.failures import counting_failures
from ingestion_platform.logs import mask_error
from ingestion_platform.orchestration import metadata, partitions
from ingestion_platform.orchestration.automation import when_inputs_changed
from ingestion_platform.orchestration.failing import failure
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.compare import compare
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.sinks.deliver import Delivered, TargetStatus, deliver, target_status

EQUAL = "equal"
ATTEMPTS = 3
MANY = 1_000_000
"""Rows of a target above which automatic runs do not compare all rows."""
_AUTOMATIC = "dagster/from_automation_condition"
_KINDS = {"postgres": "postgres", "elasticsearch": "elasticsearch", "files": "file"}


def delivery_key(delivery: Delivery) -> dg.AssetKey:
    """Return the asset key of the target: the sink, then the name in the sink."""
    return dg.AssetKey([delivery.sink, *re.split(r"[./]", delivery.label)])


def delivery_asset(delivery: Delivery, start: date) -> dg.AssetsDefinition:
    """Return the asset that keeps a target equal to its source.

    Materializing any slice delivers all new changes. Without the sink's settings the asset is
    shown, its description names what is missing, and it is not materialized automatically.
    """
    key, source = delivery_key(delivery), dg.AssetKey(delivery.table.split("."))
    stream = delivery.stream
    configured = _configured(delivery)
    advice = (
        f"If they differ: `ingest deliver {delivery.source} --again`."
        if configured
        else f"Nothing is delivered until the settings of {delivery.sink} are there "
        "(docs/sinks.md)."
    )

    @dg.asset(
        key=key,
        deps=[source],
        description=f"{delivery.label} in {delivery.sink}, equal to {delivery.table} by "
        f"{', '.join(delivery.key) or 'place in the log'}.\n\n{advice}",
        partitions_def=(
            partitions.slices(stream, start) if stream else partitions.ingest_dates(start)
        ),
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=when_inputs_changed([]) if configured else None,
        kinds={"sink", _KINDS.get(delivery.sink, delivery.sink)},
        metadata={"source": delivery.table, "key": list(delivery.key), "target": delivery.label},
        pool=re.sub(r"\W+", "_", f"deliver_{delivery.name}"),
        group_name=delivery.domain,
        owners=metadata.owners(stream.contract.owner) if stream else [],
        tags={"domain": delivery.domain, metadata.LAYER: "sink"},
        check_specs=[
            dg.AssetCheckSpec(
                EQUAL,
                asset=key,
                description="The target has the keys of its source, each from the same record; "
                "rows that it rejected are left out.",
            )
        ],
    )
    def target(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[Any]:
        try:
            with counting_failures(platform.settings.home, delivery.source):
                done = deliver(platform, delivery, on_change=_logged(context))
            at = target_status(platform, delivery)
            checked = _check(platform, delivery, at, automatic=_AUTOMATIC in context.run.tags)
        except Transient as error:
            mask_error(error, platform.settings)
            raise dg.RetryRequested(ATTEMPTS - 1, error.retry_after) from error
        except PlatformError as error:
            mask_error(error, platform.settings)
            raise failure(error) from error
        yield dg.MaterializeResult(
            metadata={
                "dagster/row_count": at.rows,
                "rows": at.rows,
                "upserted": done.upserted,
                "deleted": done.deleted,
                "rejected": done.rejected,
                "in_quarantine": at.rejected,
                "reasons": metadata.reasons_table(done.reasons),
                "changes": done.changes,
                "seconds": round(done.seconds, 3),
                "position": done.position,
                "lag": at.lag if at.lag is not None else int(not at.current),
            },
            check_results=[checked],
        )

    return target


def _logged(context: dg.AssetExecutionContext) -> Any:
    def log(done: Delivered) -> None:
        context.log.debug(f"{done.upserted:,} upserted, {done.deleted:,} deleted so far")

    return log


def _check(
    platform: Platform, delivery: Delivery, at: TargetStatus, *, automatic: bool
) -> dg.AssetCheckResult:
    if automatic and at.rows > MANY:
        return dg.AssetCheckResult(
            check_name=EQUAL,
            passed=True,
            description=f"only the position was compared: there are more than {MANY:,} rows; "
            "materialize any slice by hand to compare all",
            metadata={"target_rows": at.rows, "rejected": at.rejected},
        )
    found = compare(platform, delivery)
    if found.behind:
        said = "the source has moved on meanwhile; the next delivery tells"
    elif found.ok:
        said = f"{found.target_rows:,} rows, as the source has them"
    else:
        said = (
            f"the source has {found.source_rows:,} keys, the target {found.target_rows:,}"
            f"\n-> run `ingest deliver {delivery.source} --again`"
        )
    return dg.AssetCheckResult(
        check_name=EQUAL,
        passed=found.ok,
        description=said,
        metadata={
            "source_rows": found.source_rows,
            "target_rows": found.target_rows,
            "rejected": found.rejected,
        },
    )


def _configured(delivery: Delivery) -> bool:
    try:
        return delivery.configured(Settings.load())
    except SettingError:  # of any setting; commands and runs report it
        return False
