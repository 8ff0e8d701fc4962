"""Processes killed at any instant, stopped, or at work all at once lose and double nothing.

`--kills N --seed S` kills more, and elsewhere.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from services import Services
from tests.support.oracle import content
from tests.support.processes import Worker
from tests.support.scene import Scene, no_calls, together
from tests.support.testbed import edited, separate_environment

pytestmark = [pytest.mark.services]


@pytest.fixture
def scene(servers: Services, worker: Worker, tmp_path: Path) -> Scene:
    """A new stream with an empty topic."""
    return Scene.new(worker, separate_environment(servers), tmp_path)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """A third of the kills asked for: three tests share them."""
    return max(1, int(request.config.getoption("kills")) // 3)


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Callable[[Scene], None]:
    """Says where the kills of a test hit."""

    def tell(scene: Scene) -> None:
        record_property("kills", dict(scene.phases))
        print(f"{sum(scene.phases.values())} kills hit: {dict(scene.phases)}")  # noqa: T201

    return tell


@pytest.mark.fault("processes", "kill -9 of a run, at any instant, again and again")
def test_kills_while_running(
    scene: Scene, rng: random.Random, kills: int, told: Callable[[Scene], None]
) -> None:
    """The next run goes on from the data: every record is there once."""
    scene.send(4_000)
    scene.measure("run")
    done = 0
    while done < kills:
        scene.send(800)
        done += scene.kill(rng, "run")
    told(scene)
    scene.holds()


@pytest.mark.fault("processes", "kill -9 of a landing or a loading process, at any instant")
def test_kills_while_landing_and_while_loading(
    scene: Scene, rng: random.Random, kills: int, told: Callable[[Scene], None]
) -> None:
    """Whichever is killed, the next of its kind goes on from the data."""
    scene.send(4_000)
    done = {"land": 0, "load": 0}
    for do in done:
        scene.measure(do)
    while min(done.values()) < kills / 2:
        scene.send(800)
        for do in done:
            done[do] += scene.kill(rng, do)
    told(scene)
    scene.holds()


@pytest.mark.fault("processes", "kill -9 while slices are replaced for another contract")
def test_kills_while_replacing(
    scene: Scene, rng: random.Random, kills: int, told: Callable[[Scene], None]
) -> None:
    """Rows enter and leave quarantine once; the content is that of the last contract."""
    scene.send(4_000)
    assert scene.start("run").wait() == "ok"
    before = content(scene.settings, scene.stream)
    contracts = [edited(scene.stream, no_calls), scene.stream]
    scene.measure("replace", contracts[0])
    done = turn = 0
    while done < kills:
        turn += 1
        done += scene.kill(rng, "replace", contracts[turn % 2])
    told(scene)
    assert scene.start("replace").wait() == "ok"
    scene.holds()
    assert content(scene.settings, scene.stream) == before


@pytest.mark.fault("processes", "two and four writers at once on the same slices")
@pytest.mark.parametrize("count", [2, 4])
def test_processes_at_work_on_the_same_slices(scene: Scene, count: int, kills: int) -> None:
    """None fails and nothing is there twice, from the first record on, over tables not yet made."""
    for _ in range(max(2, kills // 9)):
        scene.send(3_000)
        together([scene.start("run") for _ in range(count)])
    scene.send(1_000)
    assert scene.start("land").wait() == "ok"
    together([scene.start("load") for _ in range(count)])
    other = edited(scene.stream, no_calls)
    together([scene.start("replace", other) for _ in range(count)])
    together([scene.start("replace") for _ in range(count)])
    scene.holds()


@pytest.mark.fault("processes", "kill -9 of one of two writers at once")
def test_kills_among_processes_at_work_on_the_same_slices(
    scene: Scene, rng: random.Random, kills: int, told: Callable[[Scene], None]
) -> None:
    """The survivor goes on as if it were alone."""
    scene.send(4_000)
    scene.measure("run")
    for _ in range(max(3, kills // 6)):
        scene.send(2_000)
        pair = [scene.start("run") for _ in range(2)]
        scene.await_step(rng, pair[0])
        pair[0].send(signal.SIGKILL)
        together(pair[1:])
        pair[0].wait()
        scene.phases[pair[0].phase()] += 1
    told(scene)
    scene.holds()


@pytest.mark.fault("processes", "SIGSTOP of a writer that wakes after another went on")
@pytest.mark.parametrize("do", ["run", "replace"])
def test_a_stopped_writer_wakes_after_another_went_on(
    scene: Scene, rng: random.Random, do: str, kills: int, told: Callable[[Scene], None]
) -> None:
    """What it still holds in its hands is rejected, or is what is there already."""
    scene.send(4_000)
    assert scene.start("run").wait() == "ok"
    contracts = [edited(scene.stream, no_calls), scene.stream]
    scene.send(1_500)
    scene.measure(do, contracts[0] if do == "replace" else None)
    for turn in range(max(3, kills // 6)):
        contract = contracts[(turn + 1) % 2] if do == "replace" else scene.stream
        scene.send(1_500)
        sleeper = scene.start(do, contract)
        scene.await_step(rng, sleeper)
        sleeper.send(signal.SIGSTOP)
        scene.phases[sleeper.phase()] += 1
        scene.send(500)
        together([scene.start(do, contract)])
        sleeper.send(signal.SIGCONT)
        together([sleeper])
    told(scene)
    assert scene.start("replace").wait() == "ok"
    scene.holds()
