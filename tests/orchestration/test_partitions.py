"""Partitions begin where data begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingestion_platform.errors import StoreUnavailable
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.orchestration import partitions, sensors
from ingestion_platform.orchestration.sensors import Cursor
from tests.support.dagster_lab import TODAY, Lab, days_ago


def test_a_declared_start_date_is_the_first_partition(lab: Lab) -> None:
    """The lake is not asked."""
    declared = replace(lab.stream, start_date="2025-03-01")
    first = partitions.first_dates(lab.platform, [declared])[declared.domain]
    assert first.isoformat() == "2025-03-01"
    assert partitions.slices(declared, first).get_first_partition_key() == "2025-03-01|0"


def test_an_empty_domain_begins_a_week_ago(lab: Lab) -> None:
    """A topic with Kafka's default retention holds no older records."""
    assert partitions.first_dates(lab.platform, [lab.stream]) == {lab.stream.domain: days_ago(7)}


def test_a_domain_begins_with_its_first_landed_date(lab: Lab) -> None:
    """A stream that has landed nothing changes nothing: the domain's models join all by day."""
    lab.produce(20, days_ago(3))
    lab.materialize((TODAY, 0), (TODAY, 3), only=[lab.lake])
    empty = replace(lab.stream, name="empty", topic="empty")
    firsts = partitions.first_dates(lab.platform, [empty, lab.stream])
    assert firsts == {lab.stream.domain: days_ago(3)}


def test_an_unavailable_lake_hides_no_partition(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Definitions load without the store, with all dates that a record can have."""

    def unavailable(_: SegmentLog) -> None:
        raise StoreUnavailable("no answer", action="start it")

    monkeypatch.setattr(SegmentLog, "ingest_dates", unavailable)
    firsts = partitions.first_dates(lab.platform, [lab.stream])
    assert firsts == {lab.stream.domain: lab.stream.first_date}


def test_dates_revealed_by_a_reload_are_requested_once() -> None:
    """Slices loaded before they had a partition key are materialized, so that models follow."""
    cursor = Cursor(start=TODAY.isoformat())
    assert sensors.revealed(range(2), TODAY, cursor) == {}
    assert sensors.revealed(range(2), days_ago(3), cursor) == {0: days_ago(3), 1: days_ago(3)}
    assert sensors.revealed(range(2), days_ago(3), Cursor()) == {}


def test_slices_before_the_first_partition_are_released_after_a_reload(lab: Lab) -> None:
    """Their rows are loaded at once; the next load of definitions has their partition keys."""
    lab.produce(20, days_ago(3))
    late = replace(lab, start=TODAY)
    told = late.materialize((TODAY, 0), (TODAY, 3))
    assert lab.rows() == 20
    assert {ingest_date for ingest_date, _ in told.of(lab.bronze)} == {days_ago(3), TODAY}
    first = partitions.first_dates(lab.platform, [lab.stream])[lab.stream.domain]
    assert first == days_ago(3)
    again = replace(lab, start=first).materialize((first, 0), (TODAY, 3))
    assert sum(event["rows"] for event in again.of(lab.bronze).values()) == 20
    assert days_ago(3) in lab.released()
