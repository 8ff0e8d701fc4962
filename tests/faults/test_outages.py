"""Servers that die and come back during a run: it fails as transient, if at all, and the next one
goes on from the data."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from ingestion_platform.pipeline import run_stream
from services import Services
from tests.support.processes import Attempt, Worker
from tests.support.scene import Scene, recreate
from tests.support.testbed import separate_environment

pytestmark = [pytest.mark.services]


@pytest.fixture
def scene(fragile: Services, worker: Worker, tmp_path: Path) -> Scene:
    """A new stream on them, loaded once."""
    scene = Scene.new(worker, separate_environment(fragile), tmp_path)
    scene.send(2_000)
    scene.measure("run")
    return scene


def stays_away(services: Services, server: str, attempt: Attempt) -> None:
    """Killed without warning, and away for a while."""
    services.kill(server)
    attempt.ended(1.0)
    services.start(server)


def restarts(services: Services, server: str, attempt: Attempt) -> None:
    """Stopped in an orderly way, and started again."""
    services.restart(server)


def hangs(services: Services, server: str, attempt: Attempt) -> None:
    """Its processes stand still for a while; connections stay open, and nothing answers."""
    (pid,) = (s.pid for s in services.status() if s.name == server and s.pid)
    processes = halt(pid)
    try:
        attempt.ended(2.0)
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def halt(pid: int) -> list[int]:
    """Stop a process and those that it started; return them.

    The parent stops first: then it starts no other, and none that ends disappears.
    """
    os.kill(pid, signal.SIGSTOP)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in halt(int(child)))]


@pytest.mark.fault("servers", "one is killed, restarted, away, or stands still during a run")
@pytest.mark.parametrize("server", ["minio", "postgres", "kafka"])
def test_a_server_in_trouble_during_runs(
    fragile: Services, scene: Scene, rng: random.Random, server: str
) -> None:
    """The run fails as transient, if at all, and the next one goes on."""
    for trouble in (restarts, hangs, stays_away):
        scene.send(2_000)
        attempt = scene.start("run")
        scene.await_step(rng, attempt)
        trouble(fragile, server, attempt)
        scene.until_done(attempt)
    scene.holds()


@pytest.mark.fault("servers", "one is away when a run begins")
def test_a_run_while_a_server_is_away_says_so(fragile: Services, scene: Scene) -> None:
    """It fails as transient, in words that name the server's setting."""
    settings = {
        "minio": "AWS_ENDPOINT_URL",
        "postgres": "PYICEBERG_CATALOG__LAKEHOUSE__URI",
        "kafka": "KAFKA_BOOTSTRAP_SERVERS",
    }
    for server, setting in settings.items():
        fragile.kill(server)
        outcome = scene.start("run").wait()
        fragile.start(server)
        assert outcome.startswith("transient "), outcome
        assert setting in outcome
    assert scene.until_done() == []
    scene.holds()


@pytest.mark.fault("servers", "each is killed while a process that goes on afterwards holds links")
def test_a_process_outlives_its_servers(fragile: Services, scene: Scene) -> None:
    """Nothing that it keeps open has to be opened again by hand: its next run succeeds."""
    platform = scene.platform
    run_stream(platform, scene.stream)
    for server in ("minio", "postgres", "kafka"):
        fragile.kill(server)
        fragile.start(server)
        scene.send(200)
        run_stream(platform, scene.stream)
    scene.holds()


@pytest.mark.fault("servers", "the broker lost records that were landed (its disk was replaced)")
def test_a_broker_that_lost_records(fragile: Services, scene: Scene) -> None:
    """A run fails as permanent and says so, rather than wait for the offsets to come again; once
    the topic is created again, runs go on."""
    scene.oracle.read()
    fragile.stop("kafka")
    for folder in (fragile.directory / "kafka" / "data").glob(f"{scene.stream.topic}-*"):
        shutil.rmtree(folder)
    fragile.start("kafka")
    scene.send(100)
    outcome = scene.start("run").wait()
    assert outcome.startswith("permanent "), outcome
    assert "the broker lost records" in outcome
    recreate(scene)
    assert scene.until_done() == []
    scene.holds()
