"""Servers that die and come back during a run: it fails as transient, if at all, and the next one
goes on from the data."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.processes import Attempt, Worker
from faults.test_kills import Scene
from testbed import new_stream, separate_environment

from ingestion_platform.settings import Settings
from services import Services

pytestmark = [pytest.mark.services, pytest.mark.xdist_group("faults")]

PATIENCE = 120.0


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Servers of this module's own, because it kills them."""
    services = Services(tmp_path_factory.mktemp("fragile") / "servers")
    try:
        services.up(["kafka", "minio", "postgres"])
        yield services
    finally:
        services.down(purge=True)


@pytest.fixture
def scene(fragile: Services, worker: Worker, tmp_path: Path) -> Scene:
    """A new stream on them, loaded once."""
    env = separate_environment(fragile)
    settings = Settings.load(env, root=tmp_path)
    scene = Scene(worker, env, settings, new_stream(tmp_path, settings))
    scene.send(2_000)
    scene.measure("run")
    return scene


def until_done(scene: Scene, first: Attempt) -> list[str]:
    """Run until a run ends well; what became of those before it, which may only be transient."""
    outcomes = []
    deadline = time.monotonic() + PATIENCE
    attempt = first
    while (outcome := attempt.wait(PATIENCE)) != "ok":
        assert outcome.startswith("transient "), outcome
        assert time.monotonic() < deadline, outcomes
        outcomes.append(outcome)
        attempt = scene.start("run")
    return outcomes


@pytest.mark.parametrize("server", ["minio", "postgres", "kafka"])
def test_a_server_that_dies_during_runs(
    fragile: Services, scene: Scene, rng: random.Random, server: str
) -> None:
    """Killed at some instant and started again, thrice; the third time it is away for longer."""
    for turn in range(3):
        scene.send(3_000)
        attempt = scene.start("run")
        scene.await_step(rng, attempt)
        fragile.kill(server)
        if turn == 2:
            attempt.ended(1.0)
        fragile.start(server)
        until_done(scene, attempt)
    scene.holds()


def test_a_run_while_a_server_is_away_says_so(fragile: Services, scene: Scene) -> None:
    """Each of them, in words that name a setting."""
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
    assert until_done(scene, scene.start("run")) == []
    scene.holds()
