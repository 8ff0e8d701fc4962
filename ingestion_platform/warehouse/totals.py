"""Counters of all loads of a table, stored in the table itself; they only grow.

They are a table property that is set in the commit of the rows. So they are exact after any crash
and with several writers, and removing rows (replaced slices, compaction, expired snapshots, a
rollback) does not lower them.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract import columns

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

PROPERTY = "ingestion.totals"
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram buckets in seconds; the last bucket has none."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations: their count per bucket, and their sum in seconds."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0

    def plus(self, seconds: float) -> Histogram:
        """Return the histogram with one more duration."""
        counts = list(self.counts)
        counts[bisect_left(BOUNDS, seconds)] += 1
        return Histogram(tuple(counts), round(self.seconds + seconds, 3))

    def together(self, other: Histogram) -> Histogram:
        """Return the histogram of both."""
        counts = (a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(tuple(counts), round(self.seconds + other.seconds, 3))

    @classmethod
    def of(cls, values: Any) -> Histogram:
        """Return the histogram of parsed JSON; empty if its buckets are others."""
        counts, seconds = values
        return cls(tuple(counts), seconds) if len(counts) == len(cls().counts) else cls()


@dataclass(frozen=True, slots=True)
class Totals:
    """The counters of one table.

    `rows` counts records at their first load, `commits` the durations of commits, `flushes` the
    time from the validation of a commit's oldest row to the commit.
    """

    rows: int = 0
    commits: Histogram = Histogram()
    flushes: Histogram = Histogram()

    def to_json(self) -> str:
        """Return the text stored in the table."""
        flushes = [self.flushes.counts, self.flushes.seconds]
        commits = [self.commits.counts, self.commits.seconds]
        return json.dumps({"rows": self.rows, "commits": commits, "flushes": flushes})

    @classmethod
    def from_json(cls, text: str) -> Totals:
        """Return the counters that a stored text describes."""
        values = json.loads(text)
        return cls(values["rows"], Histogram.of(values["commits"]), Histogram.of(values["flushes"]))


def read_totals(table: Table) -> Totals:
    """Return the counters of a table."""
    text = table.properties.get(PROPERTY)
    return Totals() if text is None else Totals.from_json(text)


def after(table: Table, *, fresh: int, files: Iterable[DataFile], began: float) -> dict[str, str]:
    """Return the table property after a commit of some files.

    `fresh` is the number of rows loaded for the first time; `began` is the commit's start in
    seconds since the epoch.
    """
    now = time.time()
    before = read_totals(table)
    validated = _oldest(table, files)
    flushes = (
        before.flushes if validated is None else before.flushes.plus(max(0.0, now - validated))
    )
    commits = before.commits.plus(max(0.0, now - began))
    return {PROPERTY: Totals(before.rows + fresh, commits, flushes).to_json()}


def _oldest(table: Table, files: Iterable[DataFile]) -> float | None:
    """Return when the first row of some files was validated, by their statistics."""
    from ingestion_platform.warehouse.datafiles import column_bounds

    schema = table.schema()
    lowest = [column_bounds(schema, file, columns.INGESTED_AT)[0] for file in files]
    known = [low for low in lowest if low is not None]
    return min(known) / 1_000_000 if known else None
