"""The sensor of alarms: what it finds in a Dagster instance, and what a webhook is told of it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._utils.error import SerializableErrorInfo

from ingestion_platform.alarms import AlarmStore
from ingestion_platform.orchestration import alarms, failing
from ingestion_platform.orchestration.partitions import slice_key
from ingestion_platform.settings import AlarmSettings
from tests.support.dagster_lab import TODAY, Lab, days_ago
from tests.support.webhook import Receiver, receiving


@dataclass
class Post:
    """A lab with a sensor of alarms, and the receiver that it tells."""

    lab: Lab
    receiver: Receiver
    cursor: str

    def look(self) -> Any:
        """One evaluation of the sensor, which remembers the one before."""
        context = dg.build_sensor_context(
            instance=self.lab.instance,
            cursor=self.cursor,
            definitions=self.lab.definitions(),
            resources={"platform": self.lab.platform},
        )
        sensor = alarms.alarm_sensor({self.lab.stream.name: self.lab.stream})
        tick = sensor.evaluate_tick(context)
        self.cursor = tick.cursor
        return tick

    def told(self) -> list[tuple[str, str]]:
        """State and key of what was told since the last call."""
        found = self.receiver.told()
        self.receiver.requests.clear()
        return found

    def check(self, name: str) -> str:
        """The key of a check's alarm."""
        return f"check/{self.lab.bronze.to_user_string()}/{name}"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, which the tests share: one in memory keeps no ticks."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


@pytest.fixture
def instance(history: dg.DagsterInstance) -> dg.DagsterInstance:
    """That one, in place of the one in memory."""
    return history


@pytest.fixture
def post(lab: Lab) -> Iterator[Post]:
    """A stream, its sensor of alarms, and a receiver."""
    with receiving() as receiver:
        told = AlarmSettings(
            webhook_url=receiver.url, webserver_url="http://dagster:3000", after_seconds=0.0
        )
        settings = lab.settings.replace(alarms=told)
        now = time.time()  # what other tests ran is not this one's
        cursor = alarms.Memory(now, now, now).to_text()
        yield Post(replace(lab, settings=settings), receiver, cursor)
        # The broker's folder is shared by tests; the book is this one's.
        AlarmStore(settings).path.unlink(missing_ok=True)


def _renamed(document: dict[str, Any]) -> None:
    """A contract that the table cannot follow: a column's name in capitals."""
    column = document["schema"][0]["properties"][-1]
    column["name"] = column["name"].upper()


def test_a_failed_run_is_told_until_one_succeeds(post: Post) -> None:
    """With the error in the platform's words, a link, and the slice; once each."""
    lab, of = post.lab, (TODAY, 0)
    lab.produce(40, TODAY)
    lab.materialize(of, (TODAY, 3))
    post.look()
    assert post.told() == []
    lab.under(_renamed).run(
        asset_selection=[lab.bronze], partition_key=slice_key(of), raise_on_error=False
    )
    for _ in range(2):
        post.look()
    (request,) = post.receiver.requests
    body = request.body
    assert body["state"] == "opened"
    assert body["stream"] in (lab.stream.name, None)
    assert "most engines treat as the same name\n  -> write" in body["detail"]
    assert body["slice"] == slice_key(of)
    assert body["url"].startswith("http://dagster:3000/runs/")
    assert body["action"] == failing.ACTIONS[failing.PERMANENT]
    assert body["runbook"] == "docs/runbook.md#a-run-failed"
    post.receiver.requests.clear()
    lab.run(asset_selection=[lab.bronze], partition_key=slice_key(of))
    post.look()
    assert post.told() == [("resolved", body["key"])]


def test_a_failed_check_is_told_until_it_passes(post: Post) -> None:
    """The share in quarantine: an alarm with the runbook's section, not repeated by later looks."""
    lab = post.lab
    lab.produce(100, TODAY, bad=0.9)
    lab.materialize((TODAY, 0), (TODAY, 3))
    for _ in range(2):
        post.look()
    (request,) = post.receiver.requests
    body = request.body
    assert (body["key"], body["severity"]) == (post.check("quarantine_limit"), "error")
    assert (body["stream"], body["asset"]) == (lab.stream.name, lab.bronze.to_user_string())
    assert body["runbook"].endswith("#too-much-in-quarantine")
    assert "held back" in body["what"]
    post.receiver.requests.clear()
    passed = dg.AssetCheckEvaluation(
        asset_key=lab.bronze, check_name="quarantine_limit", passed=True, metadata={}
    )
    lab.instance.report_runless_asset_event(passed)
    post.look()
    assert post.told() == [("resolved", post.check("quarantine_limit"))]


def test_a_stream_that_nobody_runs_is_validated_all_the_same(post: Post) -> None:
    """Records that wait too long fail the check, in Dagster too, though no run evaluates it."""
    post.lab.produce(20, days_ago(1))
    first = post.look()
    told = {(event.check_name, event.passed) for event in first.asset_events}
    assert told == {("freshness", False)}
    assert post.told() == [("opened", post.check("freshness"))]
    for event in first.asset_events:  # as the daemon does
        post.lab.instance.report_runless_asset_event(event)
    assert post.look().asset_events == []
    post.lab.materialize((days_ago(1), 0), (days_ago(1), 3))
    assert post.look().asset_events == []
    assert post.told() == [("resolved", post.check("freshness"))]


def test_warnings_are_alarms_where_somebody_wants_them(post: Post) -> None:
    """A check that fails as a warning is told by setting only."""
    evaluation = dg.AssetCheckEvaluation(
        asset_key=post.lab.bronze,
        check_name="reconciliation",
        passed=False,
        metadata={},
        severity=dg.AssetCheckSeverity.WARN,
        description="odd\n-> look at it",
    )
    post.lab.instance.report_runless_asset_event(evaluation)
    post.look()
    assert post.told() == []
    wanted = post.lab.settings.alarms.replace(warnings=True)
    post.lab = replace(post.lab, settings=post.lab.settings.replace(alarms=wanted))
    post.look()
    (request,) = post.receiver.requests
    assert (request.body["severity"], request.body["action"]) == ("warning", "look at it")


def test_a_broker_that_is_away_is_one_alarm(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all streams together; what cannot be seen is not taken for mended."""
    monkeypatch.setattr(alarms, "_BROKER_TIMEOUT", 0.5)
    post.lab.produce(20, days_ago(1))
    post.look()
    assert post.told() == [("opened", post.check("freshness"))]
    there = post.lab
    away = there.settings.replace(bootstrap_servers="127.0.0.1:1")
    post.lab = replace(there, settings=away)
    post.look()
    assert post.told() == [("opened", "server/log")]
    post.lab = there
    post.look()
    assert post.told() == [("resolved", "server/log")]


def _state(post: Post, name: str, ticked: float) -> InstigatorState:
    """A sensor that is on, as the daemon keeps it."""
    location = RegisteredCodeLocationOrigin("here")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "repository"), name)
    data = SensorInstigatorData(min_interval=2, last_tick_start_timestamp=ticked)
    return post.lab.instance.add_instigator_state(
        InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
    )


def _tick(post: Post, state: InstigatorState, status: TickStatus) -> None:
    error = SerializableErrorInfo("cannot: hunter", [], "ValueError")
    post.lab.instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id,
            instigator_name=state.name,
            instigator_type=InstigatorType.SENSOR,
            status=status,
            timestamp=time.time(),
            selector_id=state.selector_id,
            error=error if status is TickStatus.FAILURE else None,
        )
    )


def test_a_sensor_that_fails_again_and_again_is_stuck(post: Post) -> None:
    """Three times in a row; one good tick ends it."""
    name = f"{post.lab.stream.name}_log"
    state = _state(post, name, time.time())
    for number in range(alarms.FAILURES):
        post.look()
        assert post.told() == [], number
        _tick(post, state, TickStatus.FAILURE)
    post.look()
    (request,) = post.receiver.requests
    assert request.body["key"] == f"sensor/{name}"
    assert request.body["stream"] == post.lab.stream.name
    assert request.body["detail"] == "cannot: hunter"
    _tick(post, state, TickStatus.SKIPPED)
    post.look()
    assert [state for state, _ in post.told()] == ["opened", "resolved"]


def test_a_sensor_that_does_not_tick_is_stuck_while_others_do(post: Post) -> None:
    """Measured from when this one looks steadily: after a pause of all, each gets its time."""
    name = f"{post.lab.stream.name}_log"
    _state(post, name, time.time() - 3600)
    _state(post, f"gone_{uuid.uuid4().hex}", time.time() - 3600)  # of no definition any more
    post.look()
    assert post.told() == []
    steadily(post)
    post.look()
    assert post.told() == [("opened", f"sensor/{name}")]


def test_many_sensors_that_do_not_tick_are_one_alarm(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's, with all of their names."""
    monkeypatch.setattr(alarms, "MANY", 0)
    name = f"{post.lab.stream.name}_log"
    _state(post, name, time.time() - 3600)
    steadily(post)
    post.look()
    (request,) = post.receiver.requests
    assert request.body["key"] == "sensor/*"
    assert name in request.body["detail"]


def steadily(post: Post) -> None:
    """As if the sensor of alarms had looked for ten minutes without a pause."""
    memory = json.loads(post.cursor)
    post.cursor = json.dumps({**memory, "steady": memory["steady"] - 600})
