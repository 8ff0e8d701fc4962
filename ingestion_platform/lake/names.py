"""Where a file of the lake lies, and what its name says. Reading and writing are elsewhere.

    topic=<topic>/date=<ingest date>/partition=<p>/<ordinal>-<start offset>.parquet
    topic=<topic>/date=<ingest date>/partition=<p>/<ordinal>-<start offset>-<end offset>.parquet

The second kind was merged of several of the first (lake/merge.py); what such a name stands for
never changes. `ordinal` counts the topic ids of a topic (0 unless it was recreated), so that
names sort in the order of the log. The metadata JSON beside a file starts with an underscore, which
Spark, Hive and Trino skip. What came through the file source is a log partition like the others,
FILES.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

FILES = -1
"""The log partition of the records that came in files: no topic has one of that number, and
readers that infer the type of `partition=` still see integers."""

_LABEL = "files"
_NAME = re.compile(
    r"topic=(?P<topic>[^/]+)/date=(?P<ingest_date>\d{4}-\d{2}-\d{2})/partition=(?P<partition>-1|\d+)/"
    r"(?P<ordinal>\d{4})-(?P<start>\d{20})(?:-(?P<end>\d{20}))?\.parquet"
)


@dataclass(frozen=True, slots=True)
class Name:
    """What the path of a lake file says; `end` is 0 unless the file was merged of others."""

    ordinal: int
    start: int
    ingest_date: date
    partition: int
    topic: str
    end: int = 0

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts names as their records follow each other; of equal starts, what was merged into
        more is first, so that what is left of its parts adds nothing."""
        return (self.ordinal, self.start, -self.end)

    @property
    def path(self) -> str:
        """The path, relative to the lake's root."""
        folder = slice_folder(self.topic, self.ingest_date, self.partition)
        end = f"-{self.end:020d}" if self.end else ""
        return f"{folder}{self.ordinal:04d}-{self.start:020d}{end}.parquet"

    @property
    def sidecar(self) -> str:
        """The path of the metadata JSON beside the file."""
        folder, _, name = self.path.rpartition("/")
        return f"{folder}/_{name.removesuffix('.parquet')}.json"


def partition_label(partition: int) -> str:
    """A log partition as people and Dagster see it."""
    return _LABEL if partition == FILES else str(partition)


def labelled_partition(label: str) -> int:
    """The log partition of a label."""
    return FILES if label == _LABEL else int(label)


def topic_folder(topic: str) -> str:
    """The folder of a topic, with a slash at its end."""
    return f"topic={topic}/"


def files_folder(topic: str) -> str:
    """The folder of what is known of a topic's files, with a slash at its end."""
    return f"{topic_folder(topic)}_files/"


def slice_folder(topic: str, ingest_date: date, partition: int) -> str:
    """The folder of one slice of a topic, with a slash at its end."""
    return f"{ingest_date_folder(topic, ingest_date)}partition={partition}/"


def ingest_date_folder(topic: str, ingest_date: date) -> str:
    """The folder of one ingest date of a topic, with a slash at its end."""
    return f"{topic_folder(topic)}date={ingest_date.isoformat()}/"


def parse_name(path: str) -> Name | None:
    """What a path says, None when it is not a data file of the lake (a sidecar, a stranger)."""
    found = _NAME.fullmatch(path)
    if found is None:
        return None
    end = int(found["end"] or 0)
    if found["end"] and end <= int(found["start"]):
        return None
    return Name(
        ordinal=int(found["ordinal"]),
        start=int(found["start"]),
        ingest_date=date.fromisoformat(found["ingest_date"]),
        partition=int(found["partition"]),
        topic=found["topic"],
        end=end,
    )
