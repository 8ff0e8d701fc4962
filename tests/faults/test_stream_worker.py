"""The worker (`ingest stream`) killed, stopped, doubled and cut off from its servers: what was sent
meanwhile is in the tables, once.

`--kills N --seed S` kills more, and elsewhere.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from ingestion_platform.errors import Transient
from ingestion_platform.progress.status import stream_status
from services import Services
from tests.support.processes import Attempt, Worker
from tests.support.scene import Scene, together
from tests.support.testbed import separate_environment

pytestmark = [pytest.mark.services]

PATIENCE = 120.0
SOON = {"FLUSH_INTERVAL_SEC": "0.1"}
STEPS = 36
"""Of passes over records of all four partitions there are so many, if not more."""


@pytest.fixture
def scene(servers: Services, worker: Worker, tmp_path: Path) -> Scene:
    """A new stream on the shared servers."""
    scene = Scene.new(worker, separate_environment(servers) | SOON, tmp_path)
    scene.steps["stream"] = STEPS
    return scene


def until_loaded(scene: Scene, *attempts: Attempt) -> None:
    """Wait until the tables have all of the log, by nobody's work but the workers'."""
    deadline = time.monotonic() + PATIENCE
    while behind(scene):
        assert time.monotonic() < deadline, "the workers have not loaded all"
        for attempt in attempts:
            assert not attempt.ended(0.2), attempt.outcome()


def behind(scene: Scene) -> bool:
    """Whether the log has more than the tables; a server that comes back may not know at once."""
    try:
        return bool(stream_status(scene.platform, scene.stream).lag)
    except Transient:
        return True


def end(*attempts: Attempt) -> None:
    """Tell workers to end; they end well."""
    for attempt in attempts:
        attempt.send(signal.SIGTERM)
    together(attempts)


@pytest.mark.fault("worker", "none: records come while it works")
def test_what_is_sent_meanwhile_is_loaded_once(scene: Scene) -> None:
    """In many passes, nothing of them by another run."""
    attempt = scene.start("stream")
    for _ in range(8):
        scene.send(400)
    until_loaded(scene, attempt)
    scene.oracle.read().assert_holds()
    scene.send(50)
    until_loaded(scene, attempt)
    end(attempt)
    scene.holds()


@pytest.mark.fault("worker", "kill -9 at any instant, again and again")
def test_kills(
    scene: Scene, rng: random.Random, request: pytest.FixtureRequest, record_property: object
) -> None:
    """At any instant of a pass, its first one or a later one; the next worker goes on."""
    kills = max(1, int(request.config.getoption("kills")) // 3)
    for number in range(kills):
        attempt = scene.start("stream")
        scene.send(500)
        if number % 2:
            until_loaded(scene, attempt)
            scene.steps["stream"] = attempt.steps() + STEPS
            scene.send(500)
        assert scene.await_step(rng, attempt), attempt.outcome()
        attempt.send(signal.SIGKILL)
        assert attempt.wait() == ""
        scene.phases[attempt.phase()] += 1
        scene.steps["stream"] = STEPS
    assert callable(record_property)
    record_property("kills", dict(scene.phases))
    print(f"{scene.phases.total()} kills hit: {dict(scene.phases)}")  # noqa: T201
    attempt = scene.start("stream")
    until_loaded(scene, attempt)
    end(attempt)
    scene.holds()


@pytest.mark.fault("worker", "two workers at once, and runs beside them")
def test_workers_and_runs_at_once(scene: Scene) -> None:
    """Two workers, and runs beside them, on the same slices from the first record on."""
    pair = [scene.start("stream") for _ in range(2)]
    for _ in range(4):
        scene.send(800)
        scene.until_done()
    until_loaded(scene, *pair)
    end(*pair)
    scene.holds()


@pytest.mark.fault("worker", "SIGTERM at any instant")
def test_told_to_end_in_the_middle(scene: Scene, rng: random.Random) -> None:
    """It ends well wherever it is, within its grace time, and the next one goes on."""
    for _ in range(6):
        attempt = scene.start("stream")
        scene.send(1_000)
        assert scene.await_step(rng, attempt), attempt.outcome()
        attempt.send(signal.SIGTERM)
        assert attempt.wait(40) == "ok", attempt.outcome()
    scene.holds()


@pytest.mark.fault("worker", "SIGSTOP of a worker that wakes after another went on")
def test_a_worker_that_sleeps_while_another_goes_on(scene: Scene, rng: random.Random) -> None:
    """What it holds in its hands when it wakes is rejected, or is what is there already."""
    for _ in range(3):
        sleeper = scene.start("stream")
        scene.send(800)
        assert scene.await_step(rng, sleeper), sleeper.outcome()
        sleeper.send(signal.SIGSTOP)
        scene.send(400)
        other = scene.start("stream")
        until_loaded(scene, other)
        sleeper.send(signal.SIGCONT)
        scene.send(400)
        until_loaded(scene, other, sleeper)
        end(sleeper, other)
    scene.holds()


@pytest.mark.fault("worker", "a server is killed, and comes back later")
@pytest.mark.parametrize("server", ["minio", "postgres", "kafka"])
def test_a_server_that_dies_and_comes_back(
    fragile: Services, worker: Worker, tmp_path: Path, rng: random.Random, server: str
) -> None:
    """The worker waits, however long, and goes on by itself."""
    scene = Scene.new(worker, separate_environment(fragile) | SOON, tmp_path)
    attempt = scene.start("stream")
    scene.send(1_000)
    for turn in range(2):
        until_loaded(scene, attempt)
        scene.send(1_000)
        assert not attempt.ended(rng.uniform(0, 0.5)), attempt.outcome()
        fragile.kill(server)
        if turn:
            if server != "kafka":
                scene.send(500)
            assert not attempt.ended(2.5), attempt.outcome()
        fragile.start(server)
    scene.send(500)
    until_loaded(scene, attempt)
    end(attempt)
    scene.holds()
