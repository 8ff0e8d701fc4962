"""The paths of the lake's files.

    topic=<topic>/date=<ingest date>/partition=<p>/<ordinal>-<start offset>.parquet
    topic=<topic>/date=<ingest date>/partition=<p>/<ordinal>-<start offset>-<end offset>.parquet

The second form is of merged files (lake/merge.py). `ordinal` counts the topic ids of a topic (0
unless it was recreated), so that names sort in log order. The name of the metadata JSON beside a
file starts with an underscore, because Spark, Hive and Trino skip such names. Records of dropped
files form the log partition FILES.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

FILES = -1
"""The log partition of dropped files. No topic has that number, and it is an integer like those
of topics, so engines infer the type of `partition=`."""

_LABEL = "files"
_NAME = re.compile(
    r"topic=(?P<topic>[^/]+)/date=(?P<ingest_date>\d{4}-\d{2}-\d{2})/partition=(?P<partition>-1|\d+)/"
    r"(?P<ordinal>\d{4})-(?P<start>\d{20})(?:-(?P<end>\d{20}))?\.parquet"
)


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of a lake file's path; `end` is 0 unless the file was merged."""

    ordinal: int
    start: int
    ingest_date: date
    partition: int
    topic: str
    end: int = 0

    @property
    def order(self) -> tuple[int, int, int]:
        """Return the sort key of log order; of equal starts the longest merged file is first."""
        return (self.ordinal, self.start, -self.end)

    @property
    def path(self) -> str:
        """Return the path relative to the lake's root."""
        folder = slice_folder(self.topic, self.ingest_date, self.partition)
        end = f"-{self.end:020d}" if self.end else ""
        return f"{folder}{self.ordinal:04d}-{self.start:020d}{end}.parquet"

    @property
    def sidecar(self) -> str:
        """Return the path of the metadata JSON beside the file."""
        folder, _, name = self.path.rpartition("/")
        return f"{folder}/_{name.removesuffix('.parquet')}.json"


def partition_label(partition: int) -> str:
    """Return a log partition's label, as people and Dagster see it."""
    return _LABEL if partition == FILES else str(partition)


def labelled_partition(label: str) -> int:
    """Return the log partition of a label."""
    return FILES if label == _LABEL else int(label)


def topic_folder(topic: str) -> str:
    """Return the folder of a topic, with a final slash."""
    return f"topic={topic}/"


def files_folder(topic: str) -> str:
    """Return the folder of the journal of a topic's dropped files, with a final slash."""
    return f"{topic_folder(topic)}_files/"


def slice_folder(topic: str, ingest_date: date, partition: int) -> str:
    """Return the folder of one slice of a topic, with a final slash."""
    return f"{ingest_date_folder(topic, ingest_date)}partition={partition}/"


def ingest_date_folder(topic: str, ingest_date: date) -> str:
    """Return the folder of one ingest date of a topic, with a final slash."""
    return f"{topic_folder(topic)}date={ingest_date.isoformat()}/"


def parse_name(path: str) -> Name | None:
    """Parse a path; return None unless it is one of the lake's data files."""
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
