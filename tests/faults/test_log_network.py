"""The network between the platform and Kafka in trouble: runs go on, or fail as transient.

A proxy stands in the way that the broker tells its clients; the oracle reads past it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from services import Services
from tests.support.processes import Worker
from tests.support.proxy import CutReply, CutRequest, Proxy, Rule, Slow, Swallow
from tests.support.scene import Scene
from tests.support.testbed import separate_environment

pytestmark = [pytest.mark.services]

FETCHES = rb"(?s)^.{4}\x00\x01"  # behind its length, a request's first bytes tell its kind


@dataclass
class Detour:
    """A scene whose worker reaches Kafka through a proxy."""

    scene: Scene
    proxy: Proxy


@pytest.fixture
def detour(servers: Services, worker: Worker, tmp_path: Path) -> Iterator[Detour]:
    """A new stream, loaded once; nothing is broken yet."""
    env = separate_environment(servers)
    (ports,) = (status.ports for status in servers.status() if status.name == "kafka")
    # The broker tells one port to all: one test at a time stands in for it.
    with (
        FileLock(servers.directory.with_name("detour.lock")),
        Proxy(ports["detour"], at=ports["proxy"]) as proxy,
    ):
        scene = Scene.new(worker, env, tmp_path)
        scene.env = env | {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{ports['proxy']}"}
        scene.send(1_500)
        scene.measure("run")
        assert proxy.connections > 1
        yield Detour(scene, proxy)


@pytest.mark.fault("log", "its connections are reset, at any instant of a run")
def test_connections_to_kafka_are_reset(detour: Detour, rng: random.Random) -> None:
    """They are opened again; the run fails as transient, if at all."""
    scene = detour.scene
    for _ in range(4):
        scene.send(1_500)
        attempt = scene.start("run")
        scene.await_step(rng, attempt)
        detour.proxy.cut()
        scene.until_done(attempt)
    scene.holds()


@pytest.mark.fault("log", "requests and replies of fetches break off, or come slowly")
def test_fetches_break_off(detour: Detour, rng: random.Random) -> None:
    """No half batch is ever taken for a whole one: it is fetched again."""
    scene = detour.scene
    for fault in (CutReply(after=500), CutRequest(after=20), Slow(0.05, rate=1_000_000)):
        scene.send(1_500)
        rule = Rule(FETCHES, fault, times=3)
        detour.proxy.script(rule)
        scene.until_done()
        assert rule.hits > 0
    scene.holds()


@pytest.mark.fault("log", "swallows whatever is sent to it for a while: nothing comes back")
def test_a_black_hole(detour: Detour, rng: random.Random) -> None:
    """The run waits, and goes on when the network is back."""
    scene = detour.scene
    for match in (FETCHES, rb""):
        scene.send(1_500)
        rule = Rule(match, Swallow(), times=None)
        detour.proxy.script(rule)
        attempt = scene.start("run")
        attempt.ended(2.0)
        assert rule.hits > 0
        detour.proxy.calm()
        detour.proxy.cut()
        scene.until_done(attempt)
    scene.holds()
