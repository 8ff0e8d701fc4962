"""The sensor of a file source: observes the drop zone, and requests a run of today's files.

A file counts once it has not changed since the last tick; the run itself compares it twice again.
"""

import random
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from ingestion_platform.errors import PlatformError
from ingestion_platform.lake.names import FILES, partition_label
from ingestion_platform.logs import masked
from ingestion_platform.orchestration import assets, sensors
from ingestion_platform.orchestration.cadence import cadence
from ingestion_platform.orchestration.sensors import Cursor
from ingestion_platform.platform import Platform
from ingestion_platform.progress.backlog import FilesBacklog, read_files_backlog
from ingestion_platform.streams import Stream

MOST_FILES = 200
"""Files that a cursor keeps, chosen at random, so that none hides others: one that is ready is
enough, since a run lands all."""


def file_sensor(stream: Stream, start: date) -> dg.SensorDefinition:
    """Return the sensor of a stream's file source."""

    @dg.sensor(
        name=f"{stream.name}_files",
        job_name=assets.job_name(stream),
        minimum_interval_seconds=cadence().files_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Observe the drop zone {stream.file_source.folder} and request "
        "a run of lake and bronze for new files.",
        tags={"domain": stream.domain},
    )
    def watch(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.SensorResult:
        try:
            backlog = read_files_backlog(platform, stream)
        except PlatformError as error:
            return dg.SensorResult(skip_reason=masked(str(error), platform.settings.secrets))
        cursor = Cursor.of(context.cursor)
        ready = _unchanged(backlog, cursor)
        days = [backlog.behind] if backlog.behind is not None else []
        days += [datetime.now(UTC).date()] if ready else []
        of = backlog.progress
        reached = [sensors.at(of.lake), sensors.at(of.tables)] if of is not None else None
        positions: list[Any] = [ready, reached]
        behind = {FILES: min(days)} if days else {}
        behind |= sensors.revealed([FILES], start, cursor)
        answer = sensors.request(context, stream, behind, positions, cursor, start)
        if not behind:
            waiting = len(backlog.waiting)
            answer = f"{waiting} files are being written" if waiting else "no files wait"
        return sensors.result(answer, _observations(stream, backlog, cursor), cursor)

    return watch


def _unchanged(backlog: FilesBacklog, cursor: Cursor) -> list[str]:
    """Return the paths of files unchanged since the last tick, and put all into the cursor."""
    looks = {
        arrival.entry.path: f"{arrival.entry.version} {arrival.entry.size}"
        for arrival in backlog.waiting
    }
    same = [path for path, look in looks.items() if cursor.seen.get(path) == look]
    remembered = random.sample(sorted(looks), min(MOST_FILES, len(looks)))
    cursor.seen = {path: looks[path] for path in remembered}
    return same


def _observations(
    stream: Stream, backlog: FilesBacklog, cursor: Cursor
) -> list[dg.AssetObservation]:
    """Return an observation of the drop zone if it changed since the last tick."""
    label = partition_label(FILES)
    of = backlog.progress
    topic_id = of.topic_id if of is not None else ""
    taken = of.log.end if of is not None else 0
    lake = of.lake.offset if of is not None and of.lake is not None else 0
    bronze = of.tables.offset if of is not None and of.tables is not None else 0
    copies = backlog.copies.count if backlog.copies is not None else 0
    seen = [topic_id, len(backlog.waiting), taken, lake, bronze, copies]
    if cursor.observed.get(label) == seen:
        return []
    cursor.observed[label] = seen
    return [
        dg.AssetObservation(
            assets.raw_key(stream),
            partition=label,
            metadata={
                "waiting_files": len(backlog.waiting),
                "records": taken,
                "lag": of.lag if of is not None else 0,
                "lake_position": lake,
                "bronze_position": bronze,
                "drop_zone": stream.file_source.folder,
                "copies": copies,
                **({"last_copy": str(backlog.copies)} if backlog.copies is not None else {}),
            },
            tags={"dagster/data_version": f"{topic_id}-{taken}"},
        )
    ]
