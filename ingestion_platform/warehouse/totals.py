"""What loading has done to a table in all: counts that only grow, kept in the table itself.

They are a table property that the very commit with the rows sets. So they are exact under any
crash and any number of writers, and nothing that takes rows out of a table (replaced slices,
compaction, expired snapshots, a rollback) takes them back.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract import columns
from ingestion_platform.warehouse.retention import summary_of, tells_positions

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

PROPERTY = "ingestion.totals"
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: upper bounds of the buckets of a histogram; the last bucket has none."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often something took how long: a count for each bucket, and all seconds together."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0

    def plus(self, seconds: float) -> Histogram:
        """With one more observation."""
        counts = list(self.counts)
        counts[bisect_left(BOUNDS, seconds)] += 1
        return Histogram(tuple(counts), round(self.seconds + seconds, 3))

    def together(self, other: Histogram) -> Histogram:
        """The observations of both."""
        counts = (a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(tuple(counts), round(self.seconds + other.seconds, 3))

    @classmethod
    def of(cls, told: Any) -> Histogram:
        """From its JSON; one of other buckets counts as empty."""
        counts, seconds = told
        return cls(tuple(counts), seconds) if len(counts) == len(cls().counts) else cls()


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one table: records that came into it when they were first validated, commits by the
    seconds that they took, and by the seconds that their oldest validated row had waited for
    them."""

    rows: int = 0
    commits: Histogram = Histogram()
    flushes: Histogram = Histogram()

    def to_json(self) -> str:
        """The text that is kept in the table."""
        flushes = [self.flushes.counts, self.flushes.seconds]
        commits = [self.commits.counts, self.commits.seconds]
        return json.dumps({"rows": self.rows, "commits": commits, "flushes": flushes})

    @classmethod
    def from_json(cls, text: str) -> Totals:
        """From the text that is kept in the table."""
        told = json.loads(text)
        return cls(told["rows"], Histogram.of(told["commits"]), Histogram.of(told["flushes"]))


def read_totals(table: Table) -> Totals:
    """The totals of a table. One that was loaded before they were kept begins with its rows."""
    told = table.properties.get(PROPERTY)
    if told is not None:
        return Totals.from_json(told)
    snapshot = table.current_snapshot()
    if snapshot is None or not tells_positions(table.properties):
        return Totals()
    return Totals(rows=int(summary_of(snapshot).get("total-records", 0)))


def after(table: Table, *, fresh: int, files: Iterable[DataFile], began: float) -> dict[str, str]:
    """The property of a table after a commit that began at that time (as time.time() tells): of
    `fresh` rows that no commit had before, in all in these files."""
    now = time.time()
    before = read_totals(table)
    validated = _oldest(table, files)
    flushes = (
        before.flushes if validated is None else before.flushes.plus(max(0.0, now - validated))
    )
    commits = before.commits.plus(max(0.0, now - began))
    return {PROPERTY: Totals(before.rows + fresh, commits, flushes).to_json()}


def _oldest(table: Table, files: Iterable[DataFile]) -> float | None:
    """When the first row of some files was validated, as far as their statistics tell."""
    from ingestion_platform.warehouse.datafiles import column_bounds

    schema = table.schema()
    lowest = [column_bounds(schema, file, columns.INGESTED_AT)[0] for file in files]
    known = [low for low in lowest if low is not None]
    return min(known) / 1_000_000 if known else None
