"""Servers that die and come back during a run: it fails as transient, if at all, and the next one
goes on from the data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.processes import Worker
from faults.scene import Scene
from testbed import separate_environment

from services import Services

pytestmark = [pytest.mark.services, pytest.mark.xdist_group("faults")]


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
    scene = Scene.new(worker, separate_environment(fragile), tmp_path)
    scene.send(2_000)
    scene.measure("run")
    return scene


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
        scene.until_done(attempt)
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
    assert scene.until_done() == []
    scene.holds()
