"""What a log lost before it was landed: found, noted once, and told in the order of the log."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_platform.kafka.topic_log import Topic, Watermarks
from ingestion_platform.lake.local import LocalStore
from ingestion_platform.lake.losses import (
    Loss,
    merged,
    present_losses,
    record_losses,
    recorded_losses,
)
from ingestion_platform.lake.names import Name
from ingestion_platform.lake.segments import Segment

TOPIC = Topic("events", "new", "cluster", (0, 1))


def tail(partition: int, end: int, topic_id: str = "new", ordinal: int = 1) -> Segment:
    """The last file of a log partition."""
    name = Name(ordinal, 0, date(2026, 11, 20), partition, "events")
    return Segment(name, topic_id, "cluster", end, end)


@pytest.mark.parametrize(
    ("start", "end", "tails", "losses"),
    [
        (0, 10, [], []),
        (90, 100, [], []),  # gone before the first look
        (0, 10, [tail(0, 10)], []),
        (10, 10, [tail(0, 10)], []),
        (11, 20, [tail(0, 10)], [Loss(0, 1, 10, 11)]),
        (20, 20, [tail(0, 10)], [Loss(0, 1, 10, 20)]),  # and nothing is left
        (0, 0, [tail(0, 10, "old", 0)], [Loss(0, 0, 10, None)]),
        (5, 9, [tail(0, 10, "old", 0)], [Loss(0, 0, 10, None), Loss(0, 1, 0, 5)]),
        (
            *(5, 9, [tail(0, 10, "old", 0), tail(1, 3, "new", 4)]),
            [Loss(0, 0, 10, None), Loss(0, 4, 0, 5)],
        ),
    ],
)
def test_losses_are_what_lies_between_a_segment_log_and_the_log(
    start: int, end: int, tails: list[Segment], losses: list[Loss]
) -> None:
    """Of the present topic id by number, of an earlier one without an end."""
    ends = {segment.name.partition: segment for segment in tails}
    assert present_losses(TOPIC, {0: Watermarks(start, end)}, ends) == losses


def test_losses_are_noted_once_and_read_by_one_listing(tmp_path: Path) -> None:
    """In the order of the log, with the time; the longest of those that began at one offset."""
    store = LocalStore(tmp_path)
    losses = [Loss(0, 1, 0, 5), Loss(0, 0, 10, None), Loss(3, 0, 7, 9)]
    record_losses(store, "events", losses)
    (first, *_) = sorted(tmp_path.rglob("*.json"))
    stamp = first.stat().st_mtime_ns
    record_losses(store, "events", [*losses, Loss(3, 0, 7, 12)])
    assert first.stat().st_mtime_ns == stamp
    found = recorded_losses(store, "events")
    assert [(x.ordinal, x.partition, x.start, x.end) for x in found] == [
        (0, 0, 10, None),
        (0, 3, 7, 12),
        (1, 0, 0, 5),
    ]
    assert all(x.recent and x.noticed is not None for x in found)
    assert recorded_losses(store, "others") == []


def test_a_loss_is_an_alarm_for_a_week() -> None:
    """Counted from when it was noticed; what nobody has noted yet is one."""
    now = datetime.now(UTC)
    assert Loss(0, 0, 1, 2).recent
    assert Loss(0, 0, 1, 2, now - timedelta(days=6, hours=23)).recent
    assert not Loss(0, 0, 1, 2, now - timedelta(days=7, minutes=1)).recent
    assert merged([Loss(0, 0, 1, 2, now), Loss(0, 0, 1, 2)])[0].noticed == now
