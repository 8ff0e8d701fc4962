"""Positions compared: what the log has and the lake or the tables have not."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import TODAY, Lab, days_ago

from ingestion_platform.orchestration.backlog import Progress, read_backlog, unlanded
from ingestion_platform.pipeline import land_stream, run_stream
from ingestion_platform.sources.kafka import Log, Topic, Watermarks

OFFSETS = st.integers(0, 50)


@given(start=OFFSETS, length=OFFSETS, lake=st.none() | OFFSETS)
def test_unlanded_is_the_first_offset_that_log_has_and_lake_has_not(
    start: int, length: int, lake: int | None
) -> None:
    """For any log and any lake of the same generation: a set difference's smallest element."""
    at = None if lake is None else ("g", lake)
    progress = Progress(0, Watermarks(start, start + length), at, None)
    missing = set(range(start, start + length)) - set(range(lake or 0))
    assert unlanded(progress, "g") == min(missing, default=None)


@given(end=st.integers(1, 50), lake=OFFSETS)
def test_a_recreated_topic_is_unlanded_from_its_start(end: int, lake: int) -> None:
    """Positions of an earlier generation say nothing of the present one."""
    progress = Progress(0, Watermarks(0, end), ("old", lake), None)
    assert unlanded(progress, "new") == 0


def test_level_after_a_run_of_the_worker(lab: Lab) -> None:
    """What another process landed and loaded is not behind."""
    lab.produce(100, days_ago(1))
    assert set(read_backlog(lab.platform, lab.stream).behind) == {0, 1, 2, 3}
    run_stream(lab.platform, lab.stream)
    backlog = read_backlog(lab.platform, lab.stream)
    assert backlog.behind == {}
    assert sum(backlog.lag(p) for p in backlog.progress) == 0


def test_lag_counts_what_bronze_lacks(lab: Lab) -> None:
    """Landed is not loaded."""
    lab.produce(100, TODAY)
    land_stream(lab.platform, lab.stream)
    backlog = read_backlog(lab.platform, lab.stream)
    assert sum(backlog.lag(p) for p in backlog.progress) == 100
    assert set(backlog.behind.values()) == {TODAY}


def test_what_an_old_generation_left_unloaded_is_behind(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic recreated after landing: the lake's last files still have to be loaded."""
    lab.produce(100, days_ago(2))
    land_stream(lab.platform, lab.stream)
    real = Log.topic

    def recreated(log: Log) -> Topic:
        now = real(log)
        return Topic(
            now.name, str(uuid.uuid5(uuid.NAMESPACE_DNS, "new")), now.cluster_id, now.partitions
        )

    monkeypatch.setattr(Log, "topic", recreated)
    backlog = read_backlog(lab.platform, lab.stream)
    assert min(backlog.behind.values()) == days_ago(2)
