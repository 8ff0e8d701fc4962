"""What was read of streams, tables and targets: plain data, made into metrics by `exposition`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ingestion_platform.positions import Position, waiting
from ingestion_platform.warehouse.committed import CommittedRanges
from ingestion_platform.warehouse.totals import Totals


@dataclass(frozen=True, slots=True)
class TableSamples:
    """A table as its metadata tell it; `small_files` is None until its manifests were read."""

    name: str
    layer: str
    domain: str
    stream: str
    rows: int
    bytes: int
    files: int
    delete_files: int
    snapshots: int
    committed_at: float | None
    """Seconds since the epoch of the newest snapshot; None without any."""
    small_files: int | None = None
    totals: Totals = field(default_factory=Totals)
    committed_by_partition: Mapping[int, CommittedRanges] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogSamples:
    """A topic now: its topic id, and start and next offset of each log partition."""

    topic_id: str = ""
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LakeSamples:
    """The lake of a stream: where its chains end, what it holds.

    `newest` is the newest record's broker time in seconds; `taken` is the end of what was claimed
    of files.
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


@dataclass(frozen=True, slots=True)
class StreamSamples:
    """A stream; a part that could not be read is None, or as it was last read (lake, tables)."""

    name: str
    quarantine_ratio: float | None
    freshness_seconds: float | None
    log: LogSamples | None
    lake: LakeSamples | None
    bronze: TableSamples | None
    quarantine: TableSamples | None
    discarded: int
    oldest_wait: float | None
    up: Mapping[str, bool]

    def ends(self) -> dict[int, tuple[int, int, int]]:
        """By log partition, in the present topic id: the log's end, bronze's, and the lag."""
        if self.log is None or not self.up["tables"]:
            return {}
        found = {}
        logs = {p: (self.log.topic_id, *marks) for p, marks in self.log.offsets.items()}
        if self.lake is not None and self.lake.taken is not None:
            logs[-1] = (self.lake.taken.topic_id, 0, self.lake.taken.offset)
        for partition, (topic_id, start, end) in sorted(logs.items()):
            bronze, quarantine = (_at(table, partition) for table in (self.bronze, self.quarantine))
            at = bronze.offset if bronze and bronze.topic_id == topic_id else 0
            found[partition] = (end, at, len(waiting(start, end, topic_id, bronze, quarantine)))
        return found


def _at(table: TableSamples | None, partition: int) -> Position | None:
    return (
        None
        if table is None
        else table.committed_by_partition.get(partition, CommittedRanges()).position
    )


@dataclass(frozen=True, slots=True)
class SinkSamples:
    """A target; `lag`, `ends` (by log partition) and `rejected` are None when it did not answer."""

    sink: str
    target: str
    source: str
    up: bool
    lag: int | None = None
    rejected: int | None = None
    ends: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Samples:
    """All that was read, when (seconds since the epoch), and in how many seconds."""

    streams: tuple[StreamSamples, ...] = ()
    models: tuple[TableSamples, ...] = ()
    sinks: tuple[SinkSamples, ...] = ()
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    read_at: float = 0.0
    seconds: float = 0.0
