"""What the tests of faults share: a stream on real servers, and a worker that runs pieces of the
pipeline on it in processes of their own."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka.admin import AdminClient

from ingestion_platform.errors import PlatformError
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from tests.support.oracle import Oracle, snapshots
from tests.support.processes import Attempt, Worker
from tests.support.testbed import new_stream

PATIENCE = 300.0
CATALOG_URI = "PYICEBERG_CATALOG__LAKEHOUSE__URI"
STORE_URL = "AWS_ENDPOINT_URL"


@dataclass
class Scene:
    """A stream on servers, and a worker to run pieces of the pipeline on it.

    `env` is what the worker's processes see; `settings` reach the servers without detours.
    """

    worker: Worker
    env: dict[str, str]
    settings: Settings
    stream: Stream
    seed: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    steps: dict[str, int] = field(default_factory=dict)
    pace: dict[str, float] = field(default_factory=dict)
    """Seconds that a step takes, of pieces of work that were measured."""
    oracle: Oracle = field(init=False)

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.settings, self.stream)

    @classmethod
    def new(cls, worker: Worker, env: dict[str, str], folder: Path, **topic: Any) -> Scene:
        """A new stream with an empty topic."""
        settings = Settings.load(env, root=folder)
        return cls(worker, dict(env), settings, new_stream(folder, settings, **topic))

    @property
    def platform(self) -> Platform:
        """The stores without detours, opened again."""
        return Platform(self.settings)

    def send(self, count: int, days: float = 0.5) -> None:
        """Produce more events, of the last half day, one in twenty of them bad."""
        self.seed += 1
        records = simulate("pgr_events", count, seed=self.seed, bad_ratio=0.05, days=days)
        assert not produce(self.settings, self.stream.topic, records).failed

    def start(self, do: str, stream: Stream | None = None, **how: Any) -> Attempt:
        """Begin a piece of work in a process of its own."""
        return self.worker.start(do, self.env, stream or self.stream, **how)

    def measure(self, do: str, stream: Stream | None = None, **how: Any) -> None:
        """See how many steps a piece of work has when nothing disturbs it."""
        attempt = self.start(do, stream, **how)
        began = time.monotonic()
        assert attempt.wait() == "ok", attempt.outcome()
        self.steps[do] = attempt.steps()
        self.pace[do] = (time.monotonic() - began) / attempt.steps()

    def await_step(self, rng: random.Random, attempt: Attempt) -> bool:
        """Wait until some instant in the course of a measured piece of work; False if it ended."""
        steps = rng.randrange(-1, self.steps[attempt.do])
        if steps < 0:  # at its start
            return not attempt.ended(rng.uniform(0, 0.2))
        while attempt.steps() < steps:
            if attempt.ended(0.001):
                return False
        return not attempt.ended(rng.uniform(0, max(0.05, self.pace.get(attempt.do, 0.0))))

    def kill(self, rng: random.Random, do: str, stream: Stream | None = None, **how: Any) -> bool:
        """Begin, and kill at some instant; whether it was still at work."""
        attempt = self.start(do, stream, **how)
        if not self.await_step(rng, attempt):
            assert attempt.wait() == "ok", attempt.outcome()
            return False
        attempt.send(signal.SIGKILL)
        assert attempt.wait() in ("", "ok"), attempt.outcome()
        self.phases[attempt.phase()] += 1
        return True

    def until_done(self, first: Attempt | None = None, do: str = "run") -> list[str]:
        """Run until a run ends well; what became of those before it, which may only be
        transient."""
        outcomes = []
        deadline = time.monotonic() + PATIENCE
        attempt = first or self.start(do)
        while (outcome := attempt.wait(PATIENCE)) != "ok":
            assert outcome.startswith("transient "), outcome
            assert time.monotonic() < deadline, outcomes
            outcomes.append(outcome)
            attempt = self.start(do)
        return outcomes

    def holds(self) -> None:
        """The oracle and the reconciliation hold, and another run changes nothing."""
        run_stream(self.platform, self.stream)
        self.oracle.read().assert_holds()
        found = verify_stream(self.platform, self.stream)
        assert found.ok, found
        before = snapshots(self.settings, self.stream)
        run_stream(self.platform, self.stream)
        assert snapshots(self.settings, self.stream) == before


def together(attempts: Sequence[Attempt]) -> None:
    """Let all of them end; none may fail."""
    for attempt in attempts:
        outcome = attempt.wait()
        assert outcome == "ok", outcome


def no_calls(document: dict[str, Any]) -> None:
    """A contract by which some good records are bad."""
    for item in document["schema"][0]["properties"]:
        if item["name"] == "channel":
            item["enum"] = [v for v in item["enum"] if v["value"] != "WEB"]
            item["examples"] = ["IVR"]


def port_of(env: dict[str, str], name: str) -> int:
    """The port in the address that a variable holds."""
    port = urlsplit(env[name]).port
    assert port is not None
    return port


def detoured(env: dict[str, str], name: str, port: int) -> dict[str, str]:
    """The variables with another port in the address that one of them holds, and in its copies."""
    address = env[name]
    moved = address.replace(f":{port_of(env, name)}", f":{port}", 1)
    return {each: moved if value == address else value for each, value in env.items()}


def admin(scene: Scene) -> AdminClient:
    """Whoever looks after the brokers; keep it, or its answers never come."""
    return AdminClient({"bootstrap.servers": scene.settings.bootstrap_servers})


def until(condition: Callable[[], bool], what: str) -> None:
    """Ask again and again, for a while."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.1)


def recreate(scene: Scene) -> None:
    """Delete the topic, and create it again as soon as the broker lets us."""
    client = admin(scene)
    client.delete_topics([scene.stream.topic])[scene.stream.topic].result()

    def created() -> bool:
        try:
            ensure_topic(scene.settings, scene.stream.topic, scene.stream.partitions)
            scene.send(300)
        except (PlatformError, AssertionError):
            return False
        return True

    until(created, "the topic is there again")
