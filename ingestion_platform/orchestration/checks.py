"""Asset checks of a bronze table, and the quality gate that blocks days from being published.

Checks are functions of plain data. `assets` reads the data, in the run that materializes or in a
run of checks only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ingestion_platform.lake.losses import ALARM
from ingestion_platform.lake.names import partition_label
from ingestion_platform.orchestration.metadata import reasons_table
from ingestion_platform.orchestration.partitions import Slice, slice_key
from ingestion_platform.streams import Stream

if TYPE_CHECKING:
    from ingestion_platform.bronze.inserted import Inserted
    from ingestion_platform.operations.slice_counts import SliceCount
    from ingestion_platform.progress.status import StreamStatus

QUARANTINE_LIMIT, RECONCILIATION, LAG = "quarantine_limit", "reconciliation", "lag"
FRESHNESS, LOSSES, INSERTED = "freshness", "losses", "inserted"
BLOCKING = {QUARANTINE_LIMIT}
"""Blocking checks: if one fails, the run fails and its downstream assets are skipped."""

LAG_LIMIT = 250_000
"""Maximum lag of a log partition in records: a full lake file. With more, runs do not keep up."""

FEW = 4
"""Up to this many rejected records never block a day (unless none are allowed).

In a slice of few records, as at the start of a day, a share is not significant.
"""

_SHOWN = 20


@dataclass(frozen=True)
class Findings:
    """The input of a stream's checks.

    `status` and `waits` are None when the log does not answer. `waits` has the age in seconds of
    the oldest record not in bronze, for each log partition with such records. `inserted` is None
    when inserted rows were not validated.
    """

    counts: Mapping[Slice, SliceCount]
    reasons: Mapping[Slice, Counter[str]] = field(default_factory=dict)
    status: StreamStatus | None = None
    waits: Mapping[int, float] | None = None
    inserted: Inserted | None = None


def specs(stream: Stream, asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the check specs of a bronze table; freshness only if the contract has a limit."""
    share = f"{stream.contract.quarantine_share:.2%}"
    said = {
        QUARANTINE_LIMIT: f"At most {share} of a slice's records (or {FEW} of a small one's) are "
        "in quarantine and not discarded. If more are, their day is blocked: it is not published "
        "to silver and gold, and the run fails; valid rows stay in bronze, other days are "
        f"published. Then: `ingest quarantine list {stream.name}`, correct the producer or the "
        "contract or discard the records, and materialize the day's slices again.",
        RECONCILIATION: "Every record of the lake is in bronze or in quarantine, or is a gap.",
        LAG: f"No log partition has more than {LAG_LIMIT:,} records waiting, and none is left out.",
        LOSSES: f"Nothing was gone from the log before it was landed, in the last {ALARM.days} "
        "days; a recreated topic is a warning.",
        INSERTED: "Rows that others inserted, by SQL, keep the contract, which nobody could ask "
        f"before; more than {share} of them that do not are an error, fewer a warning.",
    }
    if stream.contract.freshness_seconds is not None:
        promise = timedelta(seconds=stream.contract.freshness_seconds)
        said[FRESHNESS] = f"No record of the log waits longer than {promise} to be in bronze."
    return [
        dg.AssetCheckSpec(name, asset=asset, description=text, blocking=name in BLOCKING)
        for name, text in said.items()
    ]


def held_back(stream: Stream, counts: Mapping[Slice, SliceCount]) -> dict[date, str]:
    """Return the blocked days with their problems; a bad slice blocks its own day only."""
    found: dict[date, list[str]] = {}
    for of, count in sorted(counts.items()):
        if problem := _problem(stream, count):
            found.setdefault(of[0], []).append(f"{slice_key(of)}: {problem}")
    return {ingest_date: "; ".join(problems) for ingest_date, problems in found.items()}


def _problem(stream: Stream, count: SliceCount) -> str:
    if count.loaded and not count.ok:
        present = count.bronze + count.quarantined
        return f"the lake has {count.records:,} records, bronze and quarantine {present:,}"
    if _too_many(stream, count):
        allowed = f"{stream.contract.quarantine_share:.2%} allowed"
        return f"{_share(count):.2%} of {count.records:,} records open in quarantine, {allowed}"
    return ""


def _too_many(stream: Stream, count: SliceCount) -> bool:
    allowed = stream.contract.quarantine_share
    return _share(count) > allowed and (_open(count) > FEW or allowed == 0)


def _share(count: SliceCount) -> float:
    total = count.bronze + count.quarantined
    return _open(count) / total if total else 0.0


def _open(count: SliceCount) -> int:
    """Return the number of quarantined records that are not discarded."""
    return count.quarantined - count.decided


def evaluate(name: str, stream: Stream, asset: dg.AssetKey, of: Findings) -> dg.AssetCheckResult:
    """Evaluate one check and return its result."""
    validator = {
        QUARANTINE_LIMIT: _quarantine_limit,
        RECONCILIATION: _reconciliation,
        LAG: _lag,
        FRESHNESS: _freshness,
        LOSSES: _losses,
        INSERTED: _inserted,
    }[name]
    result = validator(stream, of)
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset,
        passed=not result.problems,
        severity=result.severity,
        description="\n".join([*result.problems[:_SHOWN], *result.advice]) or result.good,
        metadata=result.metadata,
    )


@dataclass(frozen=True)
class _CheckResult:
    problems: list[str]
    good: str
    action: str
    metadata: dict[str, Any]
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR

    @property
    def advice(self) -> list[str]:
        return [f"-> {self.action}"] if self.problems else []


def _quarantine_limit(stream: Stream, of: Findings) -> _CheckResult:
    allowed = stream.contract.quarantine_share
    shares = {key: _share(count) for key, count in of.counts.items()}
    bad = {key: shares[key] for key, count in sorted(of.counts.items()) if _too_many(stream, count)}
    rejected = sum(count.quarantined for count in of.counts.values())
    discarded = sum(count.decided for count in of.counts.values())
    total = sum(count.bronze for count in of.counts.values()) + rejected
    return _CheckResult(
        problems=[
            f"{slice_key(key)}: {share:.2%} open in quarantine, {allowed:.2%} allowed; "
            f"{key[0]} is held back from silver and gold"
            for key, share in bad.items()
        ],
        good=f"{rejected:,} of {total:,} records in quarantine, {discarded:,} of them discarded",
        action="have the producer or the contract corrected, or discard records that need nothing "
        f"more (`ingest quarantine list {stream.name}`), then materialize the slices again",
        metadata={
            "allowed_share": allowed,
            "worst_share": max(shares.values(), default=0.0),
            "records": total,
            "quarantined": rejected,
            "discarded": discarded,
            "reasons": reasons_table(sum(of.reasons.values(), Counter())),
            "slices": [slice_key(key) for key in sorted(of.counts)],
        },
    )


def _reconciliation(stream: Stream, of: Findings) -> _CheckResult:
    loaded = {key: count for key, count in sorted(of.counts.items()) if count.loaded}
    sums = {
        "records": sum(count.records for count in loaded.values()),
        "bronze": sum(count.bronze for count in loaded.values()),
        "quarantined": sum(count.quarantined for count in loaded.values()),
        "gaps": sum(count.gaps for count in loaded.values()),
    }
    return _CheckResult(
        problems=[
            f"{slice_key(key)}: {count.records:,} records in the lake, "
            f"{count.bronze:,} in bronze and {count.quarantined:,} in quarantine"
            for key, count in loaded.items()
            if not count.ok
        ],
        good=f"{sums['records']:,} records, each in bronze or in quarantine",
        action=f"see which with `ingest verify {stream.name}`; docs/runbook.md, `rows and lake "
        "disagree`",
        metadata={
            **sums,
            "waiting": [slice_key(key) for key, count in of.counts.items() if not count.loaded],
            "validated_by_another_contract": [
                slice_key(key) for key, count in sorted(of.counts.items()) if count.stale
            ],
        },
    )


def _lag(stream: Stream, of: Findings) -> _CheckResult:
    if of.status is None:
        return _silent(stream)
    partitions = of.status.partitions
    problems = [
        f"log partition {partition_label(p.partition)}: {p.lag:,} records wait, {LAG_LIMIT:,} may"
        for p in partitions
        if p.lag > LAG_LIMIT
    ]
    action = "see why runs of this stream fail or do not start"
    if undeclared := [p.partition for p in partitions if p.partition >= stream.partitions]:
        problems.append(f"log partitions {undeclared} have no assets: nothing lands them")
        action = f"declare `partitions: {max(undeclared) + 1}` in the stream's defs.yaml"
    rows = [
        f"| {partition_label(p.partition)} | {p.log_start:,} | {p.log_end:,} |"
        f" {p.lake_position or 0:,} | {p.bronze_position or 0:,} | {p.lag:,} |"
        for p in partitions
    ]
    head = ["| partition | log start | log end | lake | bronze | lag |", "|--:" * 6 + "|"]
    return _CheckResult(
        problems=problems,
        good=f"{of.status.lag:,} records of the log are not in bronze yet",
        action=action,
        metadata={"lag": of.status.lag, "partitions": dg.MetadataValue.md("\n".join(head + rows))},
    )


def _losses(stream: Stream, of: Findings) -> _CheckResult:
    if of.status is None:
        return _silent(stream)
    recent = [loss for loss in of.status.losses if loss.recent]
    lost = sum(loss.count for loss in recent)
    return _CheckResult(
        problems=[
            f"log partition {loss.partition}: "
            + (
                f"topic {stream.topic} was recreated; what the old one had at offset "
                f"{loss.start:,} and after, if anything, was not landed"
                if loss.end is None
                else f"{loss.count:,} records lost, offsets {loss.start:,} to before {loss.end:,}"
            )
            for loss in recent
        ],
        good="nothing was gone from the log before it was landed",
        action="docs/runbook.md: `records were lost`, `a topic was recreated`",
        metadata={"lost": lost, "lost_ever": of.status.lost, "recreated": of.status.recreated},
        severity=dg.AssetCheckSeverity.ERROR if lost else dg.AssetCheckSeverity.WARN,
    )


def _inserted(stream: Stream, of: Findings) -> _CheckResult:
    from ingestion_platform.bronze.inserted import Inserted

    found, allowed = of.inserted or Inserted(), stream.contract.quarantine_share
    share = found.broken / found.validated if found.validated else 0.0
    problem = f"{found.broken:,} of {found.validated:,} inserted rows break the contract"
    return _CheckResult(
        problems=[f"{problem}; they are in {stream.bronze_table} all the same"]
        if found.broken
        else [],
        good=f"{found.rows:,} rows were inserted by others, none of those validated breaks the "
        "contract",
        action="correct or delete them by the engine that inserted them (their _offset is null)",
        metadata={
            "inserted": found.rows,
            "validated": found.validated,
            "broken": found.broken,
            "allowed_share": allowed,
            "reasons": reasons_table(found.reasons),
        },
        severity=dg.AssetCheckSeverity.ERROR if share > allowed else dg.AssetCheckSeverity.WARN,
    )


def _freshness(stream: Stream, of: Findings) -> _CheckResult:
    if of.waits is None:
        return _silent(stream)
    promise = stream.contract.freshness_seconds or 0.0
    worst = max(of.waits.values(), default=0.0)
    return _CheckResult(
        problems=[
            f"log partition {partition}: a record has waited {timedelta(seconds=round(wait))}, "
            f"{timedelta(seconds=promise)} promised"
            for partition, wait in sorted(of.waits.items())
            if wait > promise
        ],
        good=f"no record has waited longer than {timedelta(seconds=round(worst))}",
        action=f"materialize the slices that are behind, or see `ingest status {stream.name}`",
        metadata={"promised_seconds": promise, "longest_wait_seconds": round(worst, 1)},
    )


def _silent(stream: Stream) -> _CheckResult:
    return _CheckResult(
        problems=[f"topic {stream.topic} does not answer, so this is unknown"],
        good="",
        action="see `ingest doctor`",
        metadata={},
        severity=dg.AssetCheckSeverity.WARN,
    )
