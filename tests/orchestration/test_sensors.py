"""The sensor of a stream: what it observes, and the runs that it asks for."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType

from ingestion_platform.errors import SourceUnavailable
from ingestion_platform.kafka.topic_log import Log
from ingestion_platform.orchestration import assets, sensors
from ingestion_platform.orchestration.cadence import cadence
from tests.support.dagster_lab import TODAY, Lab, days_ago

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def _tick(lab: Lab, cursor: str | None = None) -> Any:
    """One evaluation of the sensor."""
    context = dg.build_sensor_context(
        instance=lab.instance,
        cursor=cursor,
        definitions=lab.definitions(),
        resources={"platform": lab.platform},
    )
    return sensors.stream_sensor(lab.stream, lab.stream.first_date).evaluate_tick(context)


def _requested(tick: Any) -> list[tuple[str, str]]:
    return [(request.tags[START], request.tags[END]) for request in tick.run_requests]


def test_an_empty_topic_asks_for_nothing(lab: Lab) -> None:
    """Nothing in the log, nothing to do; the topic is observed all the same."""
    tick = _tick(lab)
    assert tick.run_requests == []
    assert "have all of" in tick.skip_message
    assert {event.partition for event in tick.asset_events} == {"0", "1", "2", "3"}


def test_one_run_is_asked_for_all_that_is_behind(lab: Lab) -> None:
    """From the ingest date of the first record to today, lake and bronze together."""
    lab.produce(200, days_ago(3))
    lab.produce(200, TODAY)
    tick = _tick(lab)
    assert _requested(tick) == [(f"{days_ago(3)}|0", f"{TODAY}|3")]
    assert set(tick.run_requests[0].asset_selection) == {lab.lake, lab.bronze}
    assert tick.run_requests[0].run_key is None


def test_after_the_run_that_it_asked_for_it_asks_no_more(lab: Lab) -> None:
    """A run of exactly the requested slices brings lake and bronze level with the log."""
    lab.produce(200, days_ago(2))
    lab.produce(50, TODAY)
    first = _tick(lab)
    request = first.run_requests[0]
    lab.run(asset_selection=request.asset_selection, tags=request.tags)
    second = _tick(lab, first.cursor)
    assert second.run_requests == []
    assert "have all of" in second.skip_message
    assert lab.rows() == 250


def test_a_later_record_asks_for_its_ingest_dates_alone(lab: Lab) -> None:
    """Ingest dates between the lake's end and the first new record are left out of the request."""
    lab.produce(200, days_ago(5))
    lab.materialize((days_ago(5), 0), (days_ago(5), 3))
    lab.produce(200, days_ago(1))
    assert _requested(_tick(lab)) == [(f"{days_ago(1)}|0", f"{TODAY}|3")]


def test_only_the_partitions_behind_are_asked_for(lab: Lab) -> None:
    """A partition that is level is left out at the edges of the rectangle."""
    lab.produce(200, TODAY)
    lab.materialize((TODAY, 0), (TODAY, 1))
    assert _requested(_tick(lab)) == [(f"{TODAY}|2", f"{TODAY}|3")]


def test_a_lake_that_bronze_lags_behind_is_asked_for(lab: Lab) -> None:
    """What was landed and not loaded is behind too, from its own ingest date on."""
    lab.produce(200, days_ago(4))
    lab.materialize((TODAY, 0), (TODAY, 3), only=[lab.lake])
    assert _requested(_tick(lab)) == [(f"{days_ago(4)}|0", f"{TODAY}|3")]


def test_records_before_the_start_date_are_asked_for_with_the_first_ingest_dates(lab: Lab) -> None:
    """There is no key for their ingest date; a run of the first ones there are takes them along."""
    lab.produce(50, days_ago(800))
    (start, end), *others = _requested(_tick(lab))
    assert not others
    assert start.startswith(lab.stream.first_date.isoformat())
    assert end.startswith(TODAY.isoformat())


def test_no_second_run_while_one_is_unfinished(lab: Lab) -> None:
    """A run of the stream, whoever started it, holds the next request back until it ends."""
    lab.produce(100, TODAY)
    run = _start_run(lab)
    tick = _tick(lab)
    assert tick.run_requests == []
    assert run.run_id[:8] in tick.skip_message
    lab.instance.report_run_failed(run)
    assert len(_tick(lab).run_requests) == 1


def test_a_run_whose_process_was_killed_holds_nothing_back_for_long(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some minutes without a sign of life a run is reported failed, and work goes on."""
    lab.produce(100, TODAY)
    run = _start_run(lab)
    now = time.time()
    monkeypatch.setattr(sensors.time, "time", lambda: now + cadence().dead_run_seconds - 5)
    assert _tick(lab).run_requests == []
    monkeypatch.setattr(sensors.time, "time", lambda: now + cadence().dead_run_seconds + 5)
    assert len(_tick(lab).run_requests) == 1
    assert lab.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def _start_run(lab: Lab) -> dg.DagsterRun:
    """A run of bronze that has started and does nothing."""
    job = lab.definitions().resolve_implicit_global_asset_job_def()
    run = lab.instance.create_run_for_job(job, asset_selection=frozenset([lab.bronze]))
    started = DagsterEvent(DagsterEventType.RUN_START.value, job.name)
    lab.instance.report_dagster_event(started, run.run_id)
    return lab.instance.get_run_by_id(run.run_id)


def test_runs_that_move_nothing_are_asked_for_ever_less_often(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream whose runs fail is not asked for without pause, and is never given up."""
    lab.produce(20, TODAY)
    lab.materialize((TODAY, 0), (TODAY, 3))
    lab.produce(20, TODAY)
    cursor, asked = None, 0
    now = time.time()
    for second in [0, 5, 10, 20, 25, 60, 65, 130, 135, 260, 290, 450, 570]:
        monkeypatch.setattr(sensors.time, "time", lambda second=second: now + second)
        tick = _tick(lab, cursor)
        cursor = tick.cursor
        asked += len(tick.run_requests)
        assert tick.run_requests or "changed no position" in tick.skip_message
    assert asked == 7  # at 0, 5, 20, 60, 130, 260 and 570


def test_progress_ends_the_pause(lab: Lab) -> None:
    """Once positions move, the next request is made at once."""
    lab.produce(40, TODAY)
    tick = _tick(lab)
    tick = _tick(lab, tick.cursor)
    tick = _tick(lab, tick.cursor)
    assert "changed no position" in tick.skip_message
    lab.materialize((TODAY, 0), only=[lab.lake])
    assert len(_tick(lab, tick.cursor).run_requests) == 1


def test_a_silent_broker_is_skipped_with_the_next_action(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick neither fails nor asks for a run, and says what to look at."""

    def silent(_: Log) -> None:
        raise SourceUnavailable("nobody answers", action="start the broker")

    monkeypatch.setattr(Log, "topic", silent)
    tick = _tick(lab)
    assert tick.run_requests == []
    assert "nobody answers" in tick.skip_message
    assert "start the broker" in tick.skip_message


def test_only_changes_are_observed(lab: Lab) -> None:
    """A partition is observed again when its log, or bronze, has moved."""
    lab.produce(200, TODAY)
    first = _tick(lab)
    assert len(first.asset_events) == 4
    second = _tick(lab, first.cursor)
    assert second.asset_events == []
    lab.materialize((TODAY, 1))
    (event,) = _tick(lab, second.cursor).asset_events
    assert event.asset_key == assets.raw_key(lab.stream)
    assert event.partition == "1"
    told = {name: value.value for name, value in event.metadata.items()}
    assert told["lag"] == 0
    assert told["high_watermark"] == told["records"] > 0
    assert told["log_start"] == 0
    assert "1" in json.loads(first.cursor)["observed"]


def test_undeclared_log_partitions_are_told_of(lab: Lab) -> None:
    """A topic with more partitions than the stream declares is neither ignored nor asked for."""
    narrow = replace(lab, stream=replace(lab.stream, partitions=2))
    lab.produce(200, TODAY)
    assert _requested(_tick(narrow)) == [(f"{TODAY}|0", f"{TODAY}|1")]
    narrow.materialize((TODAY, 0), (TODAY, 1))
    assert "partitions: 4" in _tick(narrow).skip_message
    assert not narrow.check().checks["lag"].passed
