"""Positions compared: what the log has and the lake or the tables have not."""

from __future__ import annotations

import uuid

import pytest

from ingestion_platform.kafka.topic_log import Log, Topic
from ingestion_platform.pipeline import land_stream, run_stream
from ingestion_platform.progress.backlog import read_backlog
from tests.support.dagster_lab import TODAY, Lab, days_ago


def test_level_after_a_run_of_the_worker(lab: Lab) -> None:
    """What another process landed and loaded is not behind."""
    lab.produce(100, days_ago(1))
    assert set(read_backlog(lab.platform, lab.stream).behind) == {0, 1, 2, 3}
    run_stream(lab.platform, lab.stream)
    backlog = read_backlog(lab.platform, lab.stream)
    assert backlog.behind == {}
    assert sum(p.lag for p in backlog.progress) == 0


def test_lag_counts_what_bronze_lacks(lab: Lab) -> None:
    """Landed is not loaded."""
    lab.produce(100, TODAY)
    land_stream(lab.platform, lab.stream)
    backlog = read_backlog(lab.platform, lab.stream)
    assert sum(p.lag for p in backlog.progress) == 100
    assert set(backlog.behind.values()) == {TODAY}


def test_what_an_old_topic_id_left_unloaded_is_behind(
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
