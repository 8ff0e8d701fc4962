"""Maintenance is killed, stopped, doubled and met by writers; rows and positions stay exact.

`--kills N --seed S` kills more, and elsewhere.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from pyiceberg.table import Table

from ingestion_platform.operations.maintenance import maintain_stream, tables_of
from ingestion_platform.warehouse.maintenance.table import condition
from ingestion_platform.warehouse.retention import AGE_PROPERTY, KEEP_PROPERTY
from services import Services
from tests.support.oracle import content
from tests.support.processes import Worker
from tests.support.scene import Scene, no_calls, together
from tests.support.testbed import edited, separate_environment

pytestmark = [pytest.mark.services]


class Worn(Scene):
    """A stream whose tables keep three snapshots, and get a few small files with each arrival."""

    def prepare(self) -> None:
        """Make the tables."""
        self.arrive(1)
        for table in self.tables():
            with table.transaction() as transaction:
                transaction.set_properties({KEEP_PROPERTY: "3", AGE_PROPERTY: "0"})

    def arrive(self, times: int) -> None:
        """Records come, and are loaded, so many times."""
        for _ in range(times):
            self.send(200)
            together([self.start("run")])

    def tables(self) -> list[Table]:
        """Bronze and quarantine, as they are now."""
        return [self.platform.catalog.load_table(name) for name in tables_of(self.stream)]

    def in_good_order(self) -> None:
        """One more maintenance leaves nothing to do."""
        maintain_stream(self.platform, self.stream, thorough=False)
        for name in tables_of(self.stream):
            found = condition(self.platform.catalog, name)
            assert found is not None
            assert found.fine, found


@pytest.fixture
def scene(servers: Services, worker: Worker, tmp_path: Path) -> Worn:
    """A new stream with tables that need maintenance."""
    made = Worn.new(worker, separate_environment(servers), tmp_path)
    assert isinstance(made, Worn)
    made.prepare()
    return made


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """Return a fifth of the kills asked for: ahead of each, loads make work for maintenance."""
    return max(2, int(request.config.getoption("kills")) // 5)


@pytest.mark.fault("maintenance", "kill -9 of maintenance, at any instant, again and again")
def test_kills_of_maintenance(scene: Worn, rng: random.Random, kills: int) -> None:
    """The next one goes on from the table; every record is there once."""
    scene.arrive(6)
    scene.measure("maintenance")
    done = 0
    while done < kills:
        scene.arrive(3)
        done += scene.kill(rng, "maintenance")
    scene.in_good_order()
    scene.holds()


@pytest.mark.fault(
    "maintenance", "two maintenance runs beside two writers, and beside replacing loads"
)
def test_maintenance_beside_writers(scene: Worn) -> None:
    """None fails; what was replaced meanwhile is left alone, what was appended does not matter."""
    before = None
    for turn in range(2):
        scene.arrive(4)
        scene.send(1_000)
        together([scene.start(do) for do in ("run", "maintenance", "run", "maintenance")])
        other = edited(scene.stream, no_calls)
        replacing = scene.start("replace", other if turn % 2 == 0 else scene.stream)
        together([replacing, *(scene.start("maintenance") for _ in range(2)), scene.start("land")])
    together([scene.start("replace"), scene.start("maintenance")])
    scene.holds()
    before = content(scene.settings, scene.stream)
    scene.in_good_order()
    assert content(scene.settings, scene.stream) == before


@pytest.mark.fault("maintenance", "maintenance is stopped, and wakes up after others went on")
def test_a_stopped_maintenance_wakes(scene: Worn, rng: random.Random, kills: int) -> None:
    """What it holds in its hands is rejected, or is still right."""
    scene.arrive(6)
    scene.measure("maintenance")
    contracts = [edited(scene.stream, no_calls), scene.stream]
    for turn in range(kills):
        scene.arrive(3)
        sleeper = scene.start("maintenance")
        scene.await_step(rng, sleeper)
        sleeper.send(signal.SIGSTOP)
        scene.arrive(1)
        together([scene.start("maintenance"), scene.start("replace", contracts[turn % 2])])
        sleeper.send(signal.SIGCONT)
        together([sleeper])
    together([scene.start("replace")])
    scene.holds()


@pytest.mark.fault("maintenance", "kill -9 of the removal of orphans, at any instant")
def test_kills_of_the_removal_of_orphans(scene: Worn, rng: random.Random, kills: int) -> None:
    """Nothing that a snapshot needs is ever touched, and in the end nothing else is left."""
    scene.arrive(6)
    together([scene.start("maintenance")])
    scene.measure("orphans")
    done = 0
    while done < kills:
        scene.arrive(3)
        together([scene.start("maintenance")])
        done += scene.kill(rng, "orphans")
    together([scene.start("orphans"), scene.start("orphans")])
    scene.holds()
    together([scene.start("orphans")])
    together([scene.start("orphans")])
    scene.holds()
