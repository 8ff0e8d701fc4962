"""Rejected records: counted, found with their bytes, validated again, discarded and taken back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from ingestion_platform.errors import Permanent
from ingestion_platform.operations.quarantine import (
    Choice,
    NotInQuarantine,
    discard,
    find,
    overview,
    replay,
    undo,
)
from ingestion_platform.operations.slice_counts import slice_counts
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.progress.status import stream_status
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.decisions import TABLE
from tests.support.grievances import GOOD
from tests.support.lake_files import DAY, put, segment_of
from tests.support.testbed import edited

NEXT = DAY + timedelta(days=1)
POISON = b'\x00\xff{"a":1}'
WRONG = GOOD.replace(b'"WEB"', b'"PIGEON"')
ME = {"because": "tests", "by": "me"}


@pytest.fixture
def rejected(platform: Platform, stream: Stream) -> Stream:
    """Two slices of partition 0 and one of partition 1, with records of three kinds."""
    assert WRONG != GOOD
    t = stream.topic
    put(platform.store, segment_of(t, 0, 6), [GOOD, POISON, WRONG, WRONG, GOOD, None])
    put(platform.store, segment_of(t, 6, 8, ingest_date=NEXT, previous=("A", 6)), [WRONG, GOOD])
    put(platform.store, segment_of(t, 0, 2, partition=1), [b"[]", GOOD])
    load_stream(platform, stream, partitions=[0, 1])
    return stream


def lenient(document: dict[str, Any]) -> None:
    """Pigeons may bring records too."""
    for field in document["schema"][0]["properties"]:
        if field["name"] == "channel":
            field["enum"].append({"value": "PIGEON"})


def places(platform: Platform, stream: Stream, **choice: Any) -> list[tuple[int, int]]:
    """Log partition and offset of the rejected records that are meant."""
    found = find(platform, stream, Choice(**choice))
    return [(each.partition, each.offset) for each in found]


def test_an_overview_counts_by_reason_and_by_slice(platform: Platform, rejected: Stream) -> None:
    """Values are cut off the reasons; a decision shows wherever its records are counted."""
    discard(platform, rejected, Choice(reason="channel", ingest_dates=(DAY,)), **ME)
    found = overview(platform, rejected)
    assert (found.records, found.decided, found.open) == (6, 2, 4)
    reasons = {g.name: g for g in found.by_reason}
    (channel,) = (g for name, g in reasons.items() if name.startswith("channel: "))
    assert "PIGEON" not in channel.name
    assert (channel.records, channel.decided) == (3, 2)
    assert (channel.first_ingest_date, channel.last_ingest_date) == (DAY, NEXT)
    assert found.by_reason[0] is channel
    assert channel.first_seen is not None
    assert channel.last_seen is not None
    assert channel.last_seen - channel.first_seen == timedelta(seconds=4)
    assert [(g.name, g.records, g.open) for g in found.by_slice] == [
        (f"{DAY}|0", 4, 2), (f"{DAY}|1", 1, 1), (f"{NEXT}|0", 1, 1),
    ]  # fmt: skip
    assert reasons.keys() - {channel.name} == {
        "value: is not valid UTF-8",
        "value: is null (a tombstone)",
        "value: must be a JSON object",
    }


def test_nothing_rejected_is_nothing(platform: Platform, stream: Stream) -> None:
    """Also before the tables are made."""
    assert overview(platform, stream).records == 0
    assert find(platform, stream, Choice()) == []
    assert replay(platform, stream).slices == 0
    with pytest.raises(NotInQuarantine):
        discard(platform, stream, Choice(reason="x"), **ME)


def test_a_record_is_found_whole(platform: Platform, rejected: Stream) -> None:
    """Bytes, headers, origin and time as they were, with every reason."""
    (found,) = find(platform, rejected, Choice(places=((0, 1),)))
    assert found.value == POISON
    assert (found.key, found.headers) == (b"key", ((b"n", b"1"),))
    assert found.place == ("A", 0, 1)
    assert found.ingest_date == DAY
    assert found.timestamp is not None
    assert found.timestamp.second == 1
    assert found.origin == segment_of(rejected.topic, 0, 6).name.path
    assert len(found.reasons) == 1
    assert found.decision is None
    (tombstone,) = find(platform, rejected, Choice(places=((0, 5),)))
    assert tombstone.value is None


def test_records_are_chosen_by_any_of_their_marks(platform: Platform, rejected: Stream) -> None:
    """In the order of ingest dates, log partitions and offsets; a limit takes the first."""
    every = [(0, 1), (0, 2), (0, 3), (0, 5), (1, 0), (0, 6)]
    assert places(platform, rejected) == every
    assert places(platform, rejected, reason="CHANNEL") == [(0, 2), (0, 3), (0, 6)]
    assert places(platform, rejected, reason="'; drop") == []
    assert places(platform, rejected, ingest_dates=(NEXT,)) == [(0, 6)]
    assert places(platform, rejected, topic_id="B") == []
    assert places(platform, rejected, places=((0, 3), (1, 0), (1, 3))) == [(0, 3), (1, 0)]
    limited = find(platform, rejected, Choice(), limit=2)
    assert [(each.partition, each.offset) for each in limited] == every[:2]


def test_a_repaired_contract_brings_records_back(platform: Platform, rejected: Stream) -> None:
    """Told are the slices, what came back, and why the others did not; then all is as verified."""
    repaired = edited(rejected, lenient)
    done = replay(platform, repaired)
    assert (done.slices, done.unchanged, done.before) == (3, 0, 6)
    assert (done.came_back, done.newly_rejected, done.after) == (3, 0, 3)
    assert sum(done.reasons.values()) == 3
    assert places(platform, repaired) == [(0, 1), (0, 5), (1, 0)]
    found = verify_stream(platform, repaired)
    assert (found.ok, found.stale, found.bronze) == (True, 0, 7)


def test_replay_by_unchanged_contract_changes_nothing(platform: Platform, rejected: Stream) -> None:
    """Nothing is loaded, nor committed."""
    table = platform.catalog.load_table(rejected.quarantine_table)
    done = replay(platform, rejected)
    assert (done.slices, done.unchanged, done.came_back) == (3, 3, 0)
    assert table.refresh().metadata_location == table.metadata_location


def test_replay_of_one_date_leaves_others(platform: Platform, rejected: Stream) -> None:
    """And a slice without rejected records is not validated again at all."""
    put(platform.store, segment_of(rejected.topic, 2, 3, partition=1, ingest_date=NEXT,
                                previous=("A", 2)), [GOOD])  # fmt: skip
    load_stream(platform, rejected, partitions=[1])
    repaired = edited(rejected, lenient)
    done = replay(platform, repaired, ingest_dates=[NEXT])
    assert (done.slices, done.came_back) == (1, 1)
    assert verify_stream(platform, repaired).stale == 6 + 2 + 1


def test_a_stricter_contract_may_reject_more(platform: Platform, rejected: Stream) -> None:
    """Records that were good are told apart from those that stay."""

    def strict(document: dict[str, Any]) -> None:
        lenient(document)
        document["schema"][0]["properties"].append(
            {"name": "new", "logicalType": "string", "required": True}
        )

    done = replay(platform, edited(rejected, strict))
    assert (done.before, done.came_back, done.newly_rejected, done.after) == (6, 0, 4, 10)


def test_a_discarded_record_stays_and_is_decided(platform: Platform, rejected: Stream) -> None:
    """Who, when and why are kept; counts of slices tell it apart, and nothing is missing."""
    decision, records = discard(
        platform, rejected, Choice(places=((0, 1), (0, 2))), because=" a load test ", by="ann"
    )
    assert records == 2
    (found,) = find(platform, rejected, Choice(places=((0, 1),)))
    assert found.value == POISON
    assert found.decision == decision
    assert (decision.because, decision.by) == ("a load test", "ann")
    assert places(platform, rejected, decided=True) == [(0, 1), (0, 2)]
    assert places(platform, rejected, decided=False) == [(0, 3), (0, 5), (1, 0), (0, 6)]
    counts = slice_counts(platform, rejected, [(DAY, 0), (DAY, 1), (NEXT, 0)])
    assert [(c.quarantined, c.decided) for c in counts.values()] == [(4, 2), (1, 0), (1, 0)]
    assert all(count.ok for count in counts.values())
    assert verify_stream(platform, rejected).ok


def test_the_last_decision_counts(platform: Platform, rejected: Stream) -> None:
    """Taken back, and made again: all of it stays in the table of decisions."""
    choice = Choice(places=((0, 1),))
    discard(platform, rejected, choice, **ME)
    with pytest.raises(NotInQuarantine, match="no open record"):
        discard(platform, rejected, choice, **ME)
    undo(platform, rejected, choice, because="needed after all", by="me")
    assert places(platform, rejected, decided=True) == []
    with pytest.raises(NotInQuarantine, match="no discarded record"):
        undo(platform, rejected, choice, **ME)
    discard(platform, rejected, choice, **ME)
    assert places(platform, rejected, decided=True) == [(0, 1)]
    assert platform.catalog.load_table(TABLE).scan().count() == 3


def test_decisions_outlive_replays_and_rebuilt_tables(platform: Platform, rejected: Stream) -> None:
    """They name records of the log, not rows: a record that came back is no longer counted."""
    discard(platform, rejected, Choice(places=((0, 1), (0, 2))), **ME)
    repaired = edited(rejected, lenient)
    replay(platform, repaired)
    assert overview(platform, repaired).decided == 1
    replay(platform, rejected)
    for name in (rejected.bronze_table, rejected.quarantine_table):
        platform.catalog.drop_table(name)
    load_stream(platform, rejected, partitions=[0, 1])
    assert places(platform, rejected, decided=True) == [(0, 1), (0, 2)]


def test_a_recreated_topics_records_are_others(platform: Platform, rejected: Stream) -> None:
    """The same offset of a new topic id is open, and has to be told apart when it is named."""
    discard(platform, rejected, Choice(places=((0, 1),)), **ME)
    segment = segment_of(
        rejected.topic, 0, 2, topic_id="B", ordinal=1, ingest_date=NEXT, previous=("A", 8)
    )
    put(platform.store, segment, [WRONG, WRONG])
    load_stream(platform, rejected, partitions=[0])
    found = find(platform, rejected, Choice(places=((0, 1),)))
    assert [(each.topic_id, each.decision is None) for each in found] == [
        ("A", False),
        ("B", True),
    ]
    with pytest.raises(Permanent, match="2 topic ids"):
        discard(platform, rejected, Choice(places=((0, 1),)), **ME)
    _, records = discard(platform, rejected, Choice(places=((0, 1),), topic_id="B"), **ME)
    assert records == 1


@pytest.mark.parametrize(
    ("choice", "because", "problem"),
    [
        (Choice(places=((0, 1),)), "  ", "needs a reason"),
        (Choice(), "all", "no records are chosen"),
        (Choice(decided=False), "all", "no records are chosen"),
        (Choice(places=((0, 1), (0, 4))), "one is good", "no record at offset 4"),
        (Choice(reason="nobody says so"), "none", "no open record"),
    ],
)
def test_a_decision_needs_records_and_a_reason(
    platform: Platform, rejected: Stream, choice: Choice, because: str, problem: str
) -> None:
    """And decides nothing when one of the records named is not there."""
    with pytest.raises(Permanent, match=problem):
        discard(platform, rejected, choice, because=because, by="me")
    assert places(platform, rejected, decided=True) == []


def test_decisions_made_at_once_all_count(platform: Platform, rejected: Stream) -> None:
    """Also the first ones, which make the table."""

    def decide(place: tuple[int, int]) -> int:
        own = Platform(platform.settings)
        return discard(own, rejected, Choice(places=(place,)), **ME)[1]

    chosen = [(0, 1), (0, 2), (0, 3), (1, 0)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decide, chosen)) == [1, 1, 1, 1]
    assert sorted(places(platform, rejected, decided=True)) == chosen


def test_streams_do_not_see_each_others_decisions(
    platform: Platform, rejected: Stream, make_stream: Callable[..., Stream]
) -> None:
    """The same place in another stream's log is another record."""
    other = make_stream()
    put(platform.store, segment_of(other.topic, 0, 2), [POISON, POISON])
    load_stream(platform, other, partitions=[0])
    discard(platform, rejected, Choice(places=((0, 1),)), **ME)
    assert places(platform, other, decided=True) == []


def test_the_status_tells_what_is_decided(
    embedded_settings: Any, make_stream: Callable[..., Stream]
) -> None:
    """Beside the number of rows in quarantine."""
    platform = Platform(embedded_settings)
    stream = make_stream(embedded_settings)
    put(platform.store, segment_of(stream.topic, 0, 4), [POISON, WRONG, GOOD, GOOD])
    load_stream(platform, stream, partitions=[0])
    discard(platform, stream, Choice(reason="channel"), **ME)
    found = stream_status(platform, stream)
    assert (found.quarantine_rows, found.decided_rows) == (2, 1)
