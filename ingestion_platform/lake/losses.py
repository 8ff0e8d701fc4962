"""Records that retention or a recreation of the topic removed before they were landed.

Losses are recorded beside the lake so that alarms need one listing. The segment log has the gaps
themselves; landing and loading do not read the losses.

    topic=<topic>/_losses/<ordinal>-<partition>-<start offset>-<end offset>.json

`ordinal` is that of the topic id that had the records. The end is `recreated` where the topic was
deleted and created again: the number of lost records is unknown then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ingestion_platform.kafka.topic_log import Topic, Watermarks
from ingestion_platform.lake.names import topic_folder
from ingestion_platform.lake.segments import Segment
from ingestion_platform.lake.store import Store

ALARM = timedelta(days=7)
"""How long a loss raises an alarm; its record stays in the lake."""

_FOLDER = "_losses"
_NAME = re.compile(r"(?P<ordinal>\d{4})-(?P<partition>\d+)-(?P<start>\d+)-(?P<end>\d+|recreated)")


@dataclass(frozen=True, slots=True)
class Loss:
    """Offsets `start` to before `end` of a log partition that were removed before landing.

    `end` is None when the topic was recreated: whether it had records from `start` on is unknown.
    `noticed` is when the loss was recorded, None before.
    """

    partition: int
    ordinal: int
    start: int
    end: int | None
    noticed: datetime | None = None

    @property
    def count(self) -> int:
        """Return the number of lost offsets, 0 where it is unknown."""
        return 0 if self.end is None else self.end - self.start

    @property
    def recent(self) -> bool:
        """Return whether the loss still raises an alarm."""
        return self.noticed is None or datetime.now(UTC) - self.noticed < ALARM


def present_losses(
    topic: Topic, watermarks: Mapping[int, Watermarks], tails: Mapping[int, Segment]
) -> list[Loss]:
    """Return the losses between the ends of the segment logs and the current start of the log."""
    found = []
    for partition, mark in sorted(watermarks.items()):
        tail = tails.get(partition)
        if tail is None:  # never landed: records removed before the first run are no loss
            continue
        if tail.topic_id == topic.topic_id:
            if mark.start > tail.end:
                found.append(Loss(partition, tail.name.ordinal, tail.end, mark.start))
            continue
        found.append(Loss(partition, tail.name.ordinal, tail.end, None))
        if mark.start > 0:
            found.append(Loss(partition, ordinal_of(topic.topic_id, tails), 0, mark.start))
    return found


def ordinal_of(topic_id: str, tails: Mapping[int, Segment]) -> int:
    """Return the ordinal of the current topic id: that of its files, or the next one."""
    known = [tail.name.ordinal for tail in tails.values() if tail.topic_id == topic_id]
    return known[0] if known else 1 + max((t.name.ordinal for t in tails.values()), default=-1)


def record_losses(store: Store, topic: str, losses: Iterable[Loss]) -> None:
    """Record losses that are not recorded yet; called before landing, so that no crash hides one.

    Raises:
        StoreUnavailable, Permanent: the store does not answer, or refuses.
    """
    losses = list(losses)
    if not losses:
        return
    known = {_place(loss) for loss in recorded_losses(store, topic)}
    for loss in losses:
        if _place(loss) not in known:
            end = "recreated" if loss.end is None else loss.end
            name = f"{loss.ordinal:04d}-{loss.partition}-{loss.start}-{end}.json"
            document = {"topic": topic, "partition": loss.partition, "ordinal": loss.ordinal}
            document |= {"start": loss.start, "end": loss.end}
            store.write(f"{topic_folder(topic)}{_FOLDER}/{name}", json.dumps(document).encode())


def recorded_losses(store: Store, topic: str) -> list[Loss]:
    """Return all recorded losses of a topic in log order; takes one listing.

    Raises:
        StoreUnavailable, Permanent: the store does not answer, or refuses.
    """
    found = []
    for entry in store.files(f"{topic_folder(topic)}{_FOLDER}"):
        if name := _NAME.fullmatch(entry.path.rpartition("/")[2].removesuffix(".json")):
            end = None if name["end"] == "recreated" else int(name["end"])
            of = {part: int(name[part]) for part in ("partition", "ordinal", "start")}
            found.append(Loss(**of, end=end, noticed=entry.modified))
    return merged(found)


def merged(losses: Iterable[Loss]) -> list[Loss]:
    """Return losses in log order; of those that start at the same offset, the longest."""
    found: dict[tuple[int, int, int, bool], Loss] = {}
    for loss in losses:
        of = (loss.ordinal, loss.partition, loss.start, loss.end is None)
        other = found.get(of)
        if other is None or loss.count > other.count:
            found[of] = loss
    return [found[of] for of in sorted(found)]


def _place(loss: Loss) -> tuple[int, int, int, int | None]:
    return (loss.ordinal, loss.partition, loss.start, loss.end)
