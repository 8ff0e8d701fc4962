"""The sensor alone repairs a table that was rolled back, on real Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dagster as dg
import pytest
from confluent_kafka.admin import AdminClient

from ingestion_platform.errors import PlatformError
from ingestion_platform.kafka.client import client_config, ensure_topic
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.orchestration import sensors
from ingestion_platform.pipeline import run_stream
from ingestion_platform.positions import Position
from ingestion_platform.progress.backlog import read_backlog
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from tests.support.dagster_lab import TODAY, Lab


@pytest.fixture
def real_lab(
    real_settings: Settings, make_stream: Callable[..., Stream], instance: dg.DagsterInstance
) -> Lab:
    """A stream of one log partition on real Kafka."""
    return Lab(make_stream(real_settings, partitions=1), real_settings, instance)


def send_and_run(lab: Lab, count: int) -> None:
    """Produce records, a third of them invalid, and load them."""
    lab.produce(count, TODAY, bad=0.3)
    run_stream(lab.platform, lab.stream)


def recreate(lab: Lab) -> None:
    """Delete the topic and create it again, under another topic id."""
    with lab.platform.log(lab.stream) as log:
        before = log.topic().topic_id
    client = AdminClient(client_config(lab.settings))
    client.delete_topics([lab.stream.topic])[lab.stream.topic].result()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(PlatformError):  # the broker still forgets the old one
            ensure_topic(lab.settings, lab.stream.topic, 1)
            with lab.platform.log(lab.stream) as log:
                if log.topic().topic_id != before:
                    return
    raise AssertionError("the topic was not recreated")


def tick(lab: Lab, cursor: str | None = None) -> Any:
    """Evaluate the stream's sensor once."""
    context = dg.build_sensor_context(
        instance=lab.instance,
        cursor=cursor,
        definitions=lab.definitions(),
        resources={"platform": lab.platform},
    )
    return sensors.stream_sensor(lab.stream, lab.stream.first_date).evaluate_tick(context)


def repair(lab: Lab) -> None:
    """Run what the sensor asks for; it must then ask for nothing."""
    first = tick(lab)
    (request,) = first.run_requests
    lab.run(asset_selection=request.asset_selection, tags=request.tags)
    second = tick(lab, first.cursor)
    assert second.run_requests == []
    assert "have all of" in second.skip_message


def contents(lab: Lab) -> list[set[tuple[str, int]]]:
    """Topic id and offset of the rows of both tables."""
    found = []
    for name in (lab.stream.bronze_table, lab.stream.quarantine_table):
        rows = lab.platform.catalog.load_table(name).scan().to_arrow()
        ids, offsets = rows["_topic_id"].to_pylist(), rows["_offset"].to_pylist()
        assert len(set(zip(ids, offsets, strict=True))) == len(ids)
        found.append(set(zip(ids, offsets, strict=True)))
    return found


@pytest.mark.parametrize("which", ["bronze_table", "quarantine_table"])
def test_sensor_repairs_rollback_across_topic_ids(real_lab: Lab, which: str) -> None:
    """One table at the old topic's offset 10, the other at the new one's 8: the old is lower."""
    lab = real_lab
    send_and_run(lab, 10)
    name = getattr(lab.stream, which)
    snapshot = lab.platform.catalog.load_table(name).current_snapshot().snapshot_id
    send_and_run(lab, 2)
    old = read_backlog(lab.platform, lab.stream).topic.topic_id
    recreate(lab)
    send_and_run(lab, 8)
    whole = contents(lab)
    assert sum(map(len, whole)) == 20
    table = lab.platform.catalog.load_table(name)
    table.manage_snapshots().rollback_to_snapshot(snapshot).commit()
    (at,) = read_backlog(lab.platform, lab.stream).progress
    assert at.tables == Position(old, 10)
    assert at.lag == 8
    repair(lab)
    assert contents(lab) == whole
    assert verify_stream(lab.platform, lab.stream).ok


@pytest.mark.parametrize("which", ["bronze_table", "quarantine_table"])
def test_sensor_repairs_rollback_of_a_replacement(real_lab: Lab, which: str) -> None:
    """Both tables are at one offset, and one has it by the contract from before."""
    send_and_run(real_lab, 20)
    name = getattr(real_lab.stream, which)
    snapshot = real_lab.platform.catalog.load_table(name).current_snapshot().snapshot_id
    lab = real_lab.under(_without_web)
    lab.materialize((TODAY, 0))
    whole = contents(lab)
    table = lab.platform.catalog.load_table(name)
    table.manage_snapshots().rollback_to_snapshot(snapshot).commit()
    assert contents(lab) != whole
    repair(lab)
    assert contents(lab) == whole
    assert verify_stream(lab.platform, lab.stream).ok


def _without_web(document: dict[str, Any]) -> None:
    """Forbid a channel: records that were valid become invalid."""
    for field in document["schema"][0]["properties"]:
        if field["name"] == "channel":
            field["enum"] = [v for v in field["enum"] if v["value"] != "WEB"]
            field["examples"] = ["IVR"]
