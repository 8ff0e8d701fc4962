"""A declared stream whose topic does not exist yet, on real Kafka: all wait, and pick it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_platform import failures
from ingestion_platform.alarms import AlarmStore
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.orchestration import sensors
from ingestion_platform.orchestration.alarms import Memory, Tick, failed_checks
from ingestion_platform.orchestration.component import stream_definitions
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.worker.loop import Outcome, serve
from tests.support.dagster_lab import TODAY, Lab

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore:Starting in dagster")


@pytest.fixture
def unborn(
    real_settings: Settings, make_stream: Callable[..., Stream], instance: dg.DagsterInstance
) -> Lab:
    """A stream on real Kafka without its topic."""
    return Lab(make_stream(partitions=1), real_settings, instance)


def tick(lab: Lab) -> Any:
    """Evaluate the stream's sensor once."""
    context = dg.build_sensor_context(
        instance=lab.instance,
        definitions=lab.definitions(),
        resources={"platform": lab.platform},
    )
    return sensors.stream_sensor(lab.stream, lab.stream.first_date).evaluate_tick(context)


def alarms(lab: Lab, *streams: Stream) -> set[str]:
    """The keys of the alarms that are on after the alarm sensor has looked."""
    definitions = dg.Definitions.merge(
        *(stream_definitions(each, each.first_date) for each in streams),
        dg.Definitions(resources={"platform": lab.platform}),
    )
    book = AlarmStore(lab.settings)
    now = time.time()
    repository = definitions.get_repository_def()
    named = {each.name: each for each in streams}
    look = Tick(lab.instance, repository, lab.platform, named, book, Memory(now, now, now))
    failed_checks(look)
    return set(book.noted())


def test_sensor_waits_for_the_topic(unborn: Lab) -> None:
    """It skips with a word, raises no alarm, and asks for a run once there are records."""
    found = tick(unborn)
    assert (found.run_requests, found.skip_message) == ([], f"no topic {unborn.stream.topic} yet")
    assert alarms(unborn, unborn.stream) == set()
    ensure_topic(unborn.settings, unborn.stream.topic, 1)
    unborn.produce(10, TODAY)
    assert len(tick(unborn).run_requests) == 1


def test_run_lands_nothing_and_says_so(unborn: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Lake and bronze are materialized empty, and all checks pass."""
    job = unborn.definitions().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=unborn.instance,
        asset_selection=[unborn.lake, unborn.bronze],
        partition_key=f"{TODAY}|0",
    )
    assert result.success
    assert all(check.passed for check in result.get_asset_check_evaluations())
    logs = unborn.instance.all_logs(result.run_id)
    assert any(f"no topic {unborn.stream.topic} yet" in entry.user_message for entry in logs)
    assert unborn.rows() == 0


class Seen:
    """An observer that counts rows."""

    def __init__(self) -> None:
        self.rows = 0

    def landed(self, stream: Stream, landed: Any) -> None:
        """Do nothing."""

    def loaded(self, stream: Stream, loaded: Any) -> None:
        """Count what came into the tables."""
        self.rows += loaded.bronze_rows + loaded.quarantine_rows

    def lag(self, stream: Stream, waiting: Mapping[int, int]) -> None:
        """Do nothing."""


@pytest.fixture
def worker(unborn: Lab) -> Iterator[tuple[Seen, list[Outcome]]]:
    """A worker that serves the stream until the test ends."""
    seen, stop, outcomes = Seen(), threading.Event(), []

    def work() -> None:
        outcomes.append(serve(unborn.settings, [unborn.stream], [seen], stop))

    thread = threading.Thread(target=work)
    thread.start()
    yield seen, outcomes
    stop.set()
    thread.join()


def test_worker_waits_for_the_topic(
    unborn: Lab, worker: tuple[Seen, list[Outcome]], caplog: pytest.LogCaptureFixture
) -> None:
    """It counts no failure meanwhile, and loads what comes once the topic is there."""
    seen, outcomes = worker
    deadline = time.monotonic() + 60
    caplog.set_level("INFO", "ingestion_platform.worker")
    while "waiting for it" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ensure_topic(unborn.settings, unborn.stream.topic, 1)
    unborn.produce(10, TODAY)
    while seen.rows < 10:
        assert not outcomes
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert failures.counts(unborn.settings.home) == {}


def test_broken_contract_hides_no_other_stream(
    unborn: Lab, make_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    """Its first assets and its sensor have the error; an alarm names it, and only it."""
    broken = make_stream()
    broken.contract_file.write_text("kind: DataContract\n")
    definitions = dg.Definitions.merge(
        stream_definitions(broken, broken.first_date), unborn.definitions()
    )
    graph = definitions.get_repository_def().asset_graph
    lake = graph.get(dg.AssetKey(["lake", broken.name]))
    assert broken.contract_file.name in (lake.description or "")
    assert unborn.bronze in graph.get_all_asset_keys()
    sensor = definitions.get_sensor_def(f"{broken.name}_log")
    with dg.build_sensor_context(instance=unborn.instance) as context:
        assert broken.contract_file.name in sensor.evaluate_tick(context).skip_message
    assert alarms(unborn, broken, unborn.stream) == {f"stream/{broken.name}"}
