"""Sensors: one per topic, which observes it and requests a run of the slices behind.

They only compare positions; a request too many changes nothing.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from ingestion_platform.errors import PlatformError
from ingestion_platform.logs import masked
from ingestion_platform.orchestration import assets
from ingestion_platform.orchestration.cadence import cadence
from ingestion_platform.orchestration.partitions import slice_key
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Position
from ingestion_platform.progress.backlog import Backlog, read_backlog
from ingestion_platform.streams import Stream

BACKOFF = (0, 0, 10, 30, 60, 120, 300)
"""Seconds until the next request, by the runs in a row that changed no position."""

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

# Dagster tags a run so for each pool of its steps.
_POOL_TAG = ".dagster/pool/"


@dataclass
class Cursor:
    """The cursor of a sensor: what it observed last, and its last requests."""

    observed: dict[str, list[Any]] = field(default_factory=dict)
    """By log partition: topic id, log start, log end, position of bronze."""
    positions: list[Any] = field(default_factory=list)
    """Positions of lake and bronze, and files, when the last run was requested."""
    start: str | None = None
    """The first partition when the last run was requested."""
    asked_at: float = 0.0
    attempts: int = 0
    """Requests in a row at these positions."""
    seen: dict[str, str] = field(default_factory=dict)
    """Version and size of files in the drop zone at the last tick, by path."""

    @classmethod
    def of(cls, text: str | None) -> "Cursor":
        """Return the cursor of Dagster's text; a new one without text."""
        return cls(**json.loads(text)) if text else cls()

    def to_text(self) -> str:
        """Return the text that Dagster stores."""
        return json.dumps(asdict(self))


def stream_sensor(stream: Stream, start: date) -> dg.SensorDefinition:
    """Return the sensor of a stream's topic."""

    @dg.sensor(
        name=f"{stream.name}_log",
        job_name=assets.job_name(stream),
        minimum_interval_seconds=cadence().topics_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Observes topic {stream.topic}, and requests a run of lake and bronze for the "
        "slices that are behind it. Switch it off to stop the stream.",
        tags={"domain": stream.domain},
    )
    def watch(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.SensorResult:
        try:
            backlog = read_backlog(platform, stream)
        except PlatformError as error:
            return dg.SensorResult(skip_reason=masked(str(error), platform.settings.secrets))
        if backlog.topic is None:
            return dg.SensorResult(skip_reason=f"no topic {stream.topic} yet")
        cursor = Cursor.of(context.cursor)
        events = _observations(stream, backlog, cursor)
        positions = [[p.partition, at(p.lake), at(p.tables)] for p in backlog.progress]
        behind = {**backlog.behind, **revealed(range(stream.partitions), start, cursor)}
        answer = request(context, stream, behind, positions, cursor, start)
        if not behind:
            answer = f"lake and bronze have all of {stream.topic}{_left_out(stream, backlog)}"
        return result(answer, events, cursor)

    return watch


def at(position: Position | None) -> list[Any] | None:
    """Return a position as a cursor keeps it."""
    return None if position is None else [position.topic_id, position.offset]


def result(
    answer: dg.RunRequest | str, events: Sequence[dg.AssetObservation], cursor: Cursor
) -> dg.SensorResult:
    """Return the result of a tick: a run, or why there is none."""
    return dg.SensorResult(
        run_requests=[answer] if isinstance(answer, dg.RunRequest) else None,
        skip_reason=answer if isinstance(answer, str) else None,
        asset_events=events,
        cursor=cursor.to_text(),
    )


def request(
    context: dg.SensorEvaluationContext,
    stream: Stream,
    behind: Mapping[int, date],
    positions: list[Any],
    cursor: Cursor,
    start: date,
) -> dg.RunRequest | str:
    """Request one run for all slices behind (the first date by log partition), or say why not.

    While runs do not change `positions`, further ones are requested less and less often.
    """
    positions = json.loads(json.dumps(positions))
    if not behind:
        cursor.attempts, cursor.start = 0, start.isoformat()
        return "nothing is behind"
    if run := _unfinished(context.instance, stream):
        return f"run {run.run_id[:8]} of this stream is not finished"
    if positions != cursor.positions:
        cursor.attempts = 0
    pause = BACKOFF[min(cursor.attempts, len(BACKOFF) - 1)]
    if (left := cursor.asked_at + pause - time.time()) > 0:
        return (
            f"{cursor.attempts} runs in a row changed no position: read why in the last one; "
            f"the next is requested in {left:.0f} s"
        )
    cursor.positions, cursor.asked_at = positions, time.time()
    cursor.attempts += 1
    cursor.start = start.isoformat()
    return run_request(stream, behind, start)


def revealed(log_partitions: Iterable[int], start: date, cursor: Cursor) -> dict[int, date]:
    """Return `start` for each log partition, if it had no partition key until definitions were
    loaded again: its slices were loaded before, but not released to silver and gold."""
    if cursor.start is None or start.isoformat() >= cursor.start:
        return {}
    return dict.fromkeys(log_partitions, start)


def _unfinished(instance: dg.DagsterInstance, stream: Stream) -> dg.DagsterRun | None:
    """Return a queued or running run of the stream; report dead ones as failed, since they would
    keep the stream's pool."""
    dead = cadence().dead_run_seconds
    of_stream = {f"{_POOL_TAG}{assets.pool(stream)}": "true"}
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags=of_stream)):
        if run.status == dg.DagsterRunStatus.QUEUED or _silence(instance, run) < dead:
            return run
        message = f"no event for {dead} s: the run's process counts as dead"
        instance.report_run_failed(run, message)
    return None


def _silence(instance: dg.DagsterInstance, run: dg.DagsterRun) -> float:
    """Return the seconds since a run's last event."""
    records = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    return time.time() - records[0].timestamp if records else 0.0


def run_request(stream: Stream, behind: Mapping[int, date], start: date) -> dg.RunRequest:
    """Request the rectangle from the first ingest date behind to today, of the partitions
    behind; older slices than `start` are loaded with it."""
    today = datetime.now(UTC).date()
    first = max(min(behind.values()), start)
    return dg.RunRequest(
        asset_selection=[assets.lake_key(stream), assets.bronze_key(stream)],
        tags={
            "dagster/asset_partition_range_start": slice_key((first, min(behind))),
            "dagster/asset_partition_range_end": slice_key((today, max(behind))),
        },
    )


def _left_out(stream: Stream, backlog: Backlog) -> str:
    beyond = [p.partition for p in backlog.progress if p.partition >= stream.partitions]
    if not beyond:
        return ""
    return f", but for log partitions {beyond}: declare `partitions: {max(beyond) + 1}`"


def _observations(stream: Stream, backlog: Backlog, cursor: Cursor) -> list[dg.AssetObservation]:
    """Return an observation of each log partition that changed since the last tick."""
    events = []
    for p in backlog.progress:
        if p.partition >= stream.partitions:
            continue
        bronze = p.tables.offset if p.tables is not None else None
        seen = [p.topic_id, p.log.start, p.log.end, bronze]
        if cursor.observed.get(str(p.partition)) == seen:
            continue
        cursor.observed[str(p.partition)] = seen
        events.append(
            dg.AssetObservation(
                assets.raw_key(stream),
                partition=str(p.partition),
                metadata={
                    "high_watermark": p.log.end,
                    "log_start": p.log.start,
                    "records": p.log.end - p.log.start,
                    "lag": p.lag,
                    "lake_position": p.lake.offset if p.lake is not None else 0,
                    "bronze_position": bronze or 0,
                    "topic_id": p.topic_id,
                    "cluster_id": backlog.topic.cluster_id if backlog.topic is not None else "",
                },
                tags={"dagster/data_version": f"{p.topic_id}-{p.log.end}"},
            )
        )
    return events
