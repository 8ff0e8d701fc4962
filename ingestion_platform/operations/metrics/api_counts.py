"""Counters of HTTP APIs, stored in files so that they survive restarts.

    PLATFORM_HOME/http_api/<number>.json      the counts of one API after another
    PLATFORM_HOME/http_api/<number>.lock      held by the running API with this number

An API takes the first free number, continues its counts, and writes them every few seconds. So
there are as many files as APIs ever ran at once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion_platform.warehouse.totals import Histogram

if TYPE_CHECKING:
    from filelock import FileLock

OUTCOMES = ("accepted", "rejected", "failed")
_FOLDER = "http_api"


@dataclass
class ApiCounts:
    """Records by stream and outcome, answers by route and status; not thread-safe."""

    streams: list[str] = field(default_factory=list)
    """All declared streams: a counter that starts at 0 makes the first rate correct."""
    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    requests: dict[tuple[str, str], Histogram] = field(default_factory=dict)

    def add(self, stream: str, *, accepted: int = 0, rejected: int = 0, failed: int = 0) -> None:
        """Count records of a stream by outcome."""
        for outcome, number in zip(OUTCOMES, (accepted, rejected, failed), strict=True):
            self.records[stream, outcome] += number

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        key = (route, str(status))
        self.requests[key] = self.requests.get(key, Histogram()).plus(seconds)

    def plus(self, other: ApiCounts) -> ApiCounts:
        """Return the sum of both."""
        requests = dict(self.requests)
        for key, histogram in other.requests.items():
            requests[key] = requests.get(key, Histogram()).together(histogram)
        streams = list(dict.fromkeys([*self.streams, *other.streams]))
        return ApiCounts(streams, self.records + other.records, requests)

    def by_outcome(self) -> dict[str, dict[str, int]]:
        """Return the records by outcome and stream."""
        return {
            outcome: {stream: self.records[stream, outcome] for stream in self.streams}
            for outcome in OUTCOMES
        }

    def to_json(self) -> str:
        """Return the text stored in the file."""
        records = [[*key, number] for key, number in self.records.items()]
        requests = [[*key, each.counts, each.seconds] for key, each in self.requests.items()]
        return json.dumps({"streams": self.streams, "records": records, "requests": requests})

    @classmethod
    def from_json(cls, text: str) -> ApiCounts:
        """Return the counts that a stored text describes."""
        values = json.loads(text)
        return cls(
            values["streams"],
            Counter({(stream, outcome): number for stream, outcome, number in values["records"]}),
            {(route, status): Histogram.of(each) for route, status, *each in values["requests"]},
        )


class CountsFile:
    """The counts of one API and their file; before `open` they are in memory only."""

    def __init__(self, streams: Iterable[str]) -> None:
        self.counts = ApiCounts(list(streams))
        """The counts of this process."""
        self._earlier = ApiCounts()
        self._file: Path | None = None
        self._lock: FileLock | None = None

    def total(self) -> ApiCounts:
        """Return the counts including earlier APIs of the same number."""
        return self.counts.plus(self._earlier)

    def open(self, home: Path) -> None:
        """Take a free number and read its counts.

        Raises:
            OSError: the folder cannot be written; the counts stay in memory.
        """
        from filelock import FileLock, Timeout

        folder = home / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for number in count():
            lock = FileLock(folder / f"{number}.lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            self._lock, self._file = lock, folder / f"{number}.json"
            self._earlier = _read(self._file)
            return

    def save(self) -> None:
        """Replace the file by the present counts.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file is None:
            return
        aside = self._file.with_suffix(".aside")
        aside.write_text(self.total().to_json())
        aside.replace(self._file)

    def close(self) -> None:
        """Release the number."""
        if self._lock is not None:
            self._lock.release()
            self._lock = self._file = None


def all_api_counts(home: Path) -> ApiCounts:
    """Return the sum of all APIs of a PLATFORM_HOME; running ones lag by a few seconds."""
    total = ApiCounts()
    for file in sorted((home / _FOLDER).glob("*.json")):
        total = total.plus(_read(file))
    return total


def _read(file: Path) -> ApiCounts:
    try:
        return ApiCounts.from_json(file.read_text())
    except FileNotFoundError:
        return ApiCounts()
