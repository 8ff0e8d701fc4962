"""Read what a stream has in the lake for the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from ingestion_platform.kafka.times import SKEW
from ingestion_platform.lake.names import FILES, ingest_date_folder, parse_name
from ingestion_platform.lake.records import decode
from ingestion_platform.lake.segments import read_footer
from ingestion_platform.lake.store import Store
from ingestion_platform.positions import Position

RECOUNT = 3600.0
"""Seconds after which a closed ingest date is listed again, because maintenance may merge it."""
SMALL = 1024 * 1024
"""Size in bytes below which a file can be merged,"""
FEW = 2
"""if its log partition has at least this many of an ingest date."""


@dataclass(frozen=True, slots=True)
class LakeSamples:
    """A stream's lake.

    `ends` are the ends of the segment logs by log partition, `newest` is the newest broker
    timestamp in seconds since the epoch, `taken` the end of the records claimed from files.
    """

    ends: Mapping[int, Position] = field(default_factory=dict)
    newest: float | None = None
    bytes: int = 0
    files: int = 0
    small_files: int = 0
    lost: int = 0
    recreated: int = 0
    waiting_files: int = 0
    taken: Position | None = None


@dataclass
class IngestDateSize:
    """Bytes and data files of an ingest date, and how many of these can be merged."""

    read_at: float
    bytes: int
    files: int
    small: int


def newest_timestamp(store: Store, path: str, now: float) -> float | None:
    """Return the latest plausible broker timestamp of a lake file in seconds since the epoch.

    It is in the footer's statistics, unless a record is dated in the future.
    """
    try:
        found = _latest(read_footer(store, path)[1])
        if found is not None and found > now + SKEW:
            times = decode(store.read(path), columns=["offset", "timestamp"])["timestamp"]
            millis = times.cast("int64").drop_null().to_numpy()
            found = max(millis[millis <= (now + SKEW) * 1000] / 1000, default=None)
    except FileNotFoundError:  # merged meanwhile
        return None
    return found


def _latest(metadata: Any) -> float | None:
    """Return the latest timestamp in a footer's statistics; None if no record has one."""
    column = metadata.schema.to_arrow_schema().get_field_index("timestamp")
    stamps = [
        found.max
        for group in range(metadata.num_row_groups)
        if (found := metadata.row_group(group).column(_leaf(metadata, column)).statistics)
        is not None
        and found.has_min_max
    ]
    return max((stamp.timestamp() for stamp in stamps), default=None)


def _leaf(metadata: Any, column: int) -> int:
    """Return the index of a Parquet leaf column; nested columns before it have several."""
    names = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
    return names.index("timestamp") if "timestamp" in names else column


def count_ingest_dates(
    store: Store,
    topic: str,
    ingest_dates: Sequence[date],
    known: dict[date, IngestDateSize],
    now: float,
) -> None:
    """Update `known`: list the last two ingest dates, and those not listed for RECOUNT seconds."""
    for removed in known.keys() - set(ingest_dates):
        del known[removed]
    for ingest_date in ingest_dates:
        last = known.get(ingest_date)
        if last is None or ingest_date in ingest_dates[-2:] or now - last.read_at > RECOUNT:
            closed = ingest_date != ingest_dates[-1]
            known[ingest_date] = _sizes(store, ingest_date_folder(topic, ingest_date), closed, now)


def _sizes(store: Store, folder: str, closed: bool, now: float) -> IngestDateSize:
    size = files = 0
    small_by_partition: dict[int, int] = {}
    for entry in store.files(folder):
        name = parse_name(entry.path)
        if name is None:
            continue
        size, files = size + entry.size, files + 1
        if closed and entry.size < SMALL and name.partition != FILES:
            count = small_by_partition.get(name.partition, 0)
            small_by_partition[name.partition] = count + 1
    small = sum(count for count in small_by_partition.values() if count >= FEW)
    return IngestDateSize(now, size, files, small)
