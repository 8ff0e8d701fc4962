"""Where a file of the lake lies, and what its name says. Reading and writing are elsewhere.

    topic=<topic>/date=<window>/partition=<p>/<ordinal>-<start offset>.parquet

`ordinal` counts the generations of a topic (0 unless it was recreated), so that names sort in
the order of the log. The metadata JSON beside a file starts with an underscore, which Spark,
Hive and Trino skip. What came through the file door is a log partition like the others, FILES.
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
    r"topic=(?P<topic>[^/]+)/date=(?P<window>\d{4}-\d{2}-\d{2})/partition=(?P<partition>-1|\d+)/"
    r"(?P<ordinal>\d{4})-(?P<start>\d{20})\.parquet"
)


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """What the path of a lake file says."""

    ordinal: int
    start: int
    window: date
    partition: int
    topic: str

    @property
    def path(self) -> str:
        """The path, relative to the lake's root."""
        folder = f"{window_folder(self.topic, self.window)}partition={self.partition}/"
        return f"{folder}{self.ordinal:04d}-{self.start:020d}.parquet"

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


def window_folder(topic: str, window: date) -> str:
    """The folder of one window of a topic, with a slash at its end."""
    return f"{topic_folder(topic)}date={window.isoformat()}/"


def parse_name(path: str) -> Name | None:
    """What a path says, None when it is not a data file of the lake (a sidecar, a stranger)."""
    found = _NAME.fullmatch(path)
    if found is None:
        return None
    return Name(
        ordinal=int(found["ordinal"]),
        start=int(found["start"]),
        window=date.fromisoformat(found["window"]),
        partition=int(found["partition"]),
        topic=found["topic"],
    )
