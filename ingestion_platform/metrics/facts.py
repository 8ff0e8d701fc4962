"""What was read of streams, tables and targets: plain data, made into metrics by `exposition`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ingestion_platform.warehouse.ledger import Ledger
from ingestion_platform.warehouse.totals import Totals


@dataclass(frozen=True, slots=True)
class TableFacts:
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
    ledgers: Mapping[int, Ledger] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogFacts:
    """A topic now: its generation, and start and next offset of each log partition."""

    generation: str = ""
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LakeFacts:
    """The lake of a stream: where its chains end (generation and offset), what it holds.

    `newest` is the newest record's broker time in seconds; `taken` is the generation and end of
    what was claimed of files.
    """

    ends: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    newest: float | None = None
    bytes: int = 0
    files: int = 0
    small_files: int = 0
    lost: int = 0
    recreated: int = 0
    waiting_files: int = 0
    taken: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """A stream; a part that could not be read is None, or as it was last read (lake, tables)."""

    name: str
    quarantine_ratio: float | None
    freshness_seconds: float | None
    log: LogFacts | None
    lake: LakeFacts | None
    bronze: TableFacts | None
    quarantine: TableFacts | None
    discarded: int
    oldest_wait: float | None
    up: Mapping[str, bool]

    def bronze_end(self, partition: int, generation: str) -> int:
        """The next offset of a generation to be loaded."""
        ledger = self.bronze.ledgers.get(partition, Ledger()) if self.bronze else Ledger()
        at = ledger.position
        return at[1] if at is not None and at[0] == generation else 0

    def ends(self) -> dict[int, tuple[int, int, int]]:
        """By log partition, in the present generation: the log's end, bronze's, and the lag."""
        if self.log is None or not self.up["tables"]:
            return {}
        found = {}
        logs = {p: (self.log.generation, *marks) for p, marks in self.log.offsets.items()}
        if self.lake is not None and self.lake.taken is not None:
            logs[-1] = (self.lake.taken[0], 0, self.lake.taken[1])
        for partition, (generation, start, end) in sorted(logs.items()):
            at = self.bronze_end(partition, generation)
            found[partition] = (end, at, max(0, end - max(start, at)))
        return found


@dataclass(frozen=True, slots=True)
class SinkFacts:
    """A target; `lag`, `ends` (by log partition) and `refused` are None when it did not answer."""

    sink: str
    target: str
    source: str
    up: bool
    lag: int | None = None
    refused: int | None = None
    ends: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was read, when (seconds since the epoch), and in how many seconds."""

    streams: tuple[StreamFacts, ...] = ()
    models: tuple[TableFacts, ...] = ()
    sinks: tuple[SinkFacts, ...] = ()
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    read_at: float = 0.0
    seconds: float = 0.0
