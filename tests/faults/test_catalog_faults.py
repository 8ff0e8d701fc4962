"""A catalog (Postgres) that breaks off, loses its replies, restarts or refuses; and tables that
others change meanwhile, by plain PyIceberg.

A proxy stands between the platform and Postgres; the oracle reads without it.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table

from services import Services
from tests.support.processes import Worker
from tests.support.proxy import CutReply, CutRequest, Proxy, Rule, Slow
from tests.support.scene import CATALOG_URI, Scene, detoured, no_calls, port_of, together
from tests.support.testbed import edited, separate_environment

pytestmark = [pytest.mark.services]

SWAP = rb"UPDATE [^;]*iceberg_tables"
PAUSE = 1.0  # between the changes of others: without any, nobody else gets to commit


@dataclass
class Detour:
    """A scene whose worker reaches the catalog through a proxy."""

    scene: Scene
    proxy: Proxy


@pytest.fixture
def scene(servers: Services, worker: Worker, tmp_path: Path) -> Scene:
    """A new stream, loaded once."""
    scene = Scene.new(worker, separate_environment(servers), tmp_path)
    scene.send(1_500)
    scene.measure("run")
    scene.send(1_500)
    return scene


@pytest.fixture
def detour(scene: Scene) -> Iterator[Detour]:
    """The same, reaching the catalog through a proxy; nothing is broken yet."""
    with Proxy(port_of(scene.env, CATALOG_URI)) as proxy:
        scene.env = detoured(scene.env, CATALOG_URI, proxy.port)
        yield Detour(scene, proxy)


@pytest.mark.fault("catalog", "loses the reply to the commit of either table")
def test_a_lost_reply_to_a_commit(detour: Detour) -> None:
    """The run fails as transient with the rows in; the next one reads the committed offsets, and
    does not load them again."""
    scene = detour.scene
    for skip in (0, 1):  # quarantine is committed first
        scene.send(500)
        rule = Rule(rb"COMMIT", CutReply(), behind=SWAP, skip=skip)
        detour.proxy.script(rule)
        outcome = scene.start("run").wait()
        assert outcome.startswith("transient CatalogUnavailable"), outcome
        assert rule.hits == 1
        detour.proxy.calm()
        assert scene.until_done() == []
    scene.holds()


@pytest.mark.fault("catalog", "breaks off while a commit is on its way to it")
def test_a_commit_that_does_not_arrive(detour: Detour) -> None:
    """The run fails as transient with nothing of it in; the next one does it again."""
    scene = detour.scene
    for match in (SWAP, rb"COMMIT"):
        scene.send(500)
        rule = Rule(match, CutRequest(), times=None)
        detour.proxy.script(rule)
        outcome = scene.start("run").wait()
        assert outcome.startswith("transient CatalogUnavailable"), outcome
        assert "PYICEBERG_CATALOG__LAKEHOUSE__URI" in outcome
        assert rule.hits > 0
    detour.proxy.calm()
    assert scene.until_done() == []
    scene.holds()


@pytest.mark.fault("catalog", "cut off, or slow, at random requests, again and again")
def test_random_cuts(
    detour: Detour,
    rng: random.Random,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Runs end well or as transient, and in the end every record is there once."""
    scene, hits = detour.scene, 0
    faults = [CutReply(), CutReply(after=7), CutReply(reset=False), CutRequest(5), Slow(0.1)]
    for _ in range(max(3, int(request.config.getoption("kills")) // 9)):
        scene.send(300)
        rules = [Rule(rb"", rng.choice(faults), skip=rng.randrange(40)) for _ in range(2)]
        detour.proxy.script(*rules)
        outcome = scene.start("run").wait()
        assert outcome == "ok" or outcome.startswith("transient "), outcome
        hits += sum(rule.hits for rule in rules)
    record_property("faults", hits)
    detour.proxy.calm()
    scene.until_done()
    scene.holds()


@pytest.mark.fault("catalog", "away: its port refuses connections in the middle of a run")
def test_rejected_connections(detour: Detour, rng: random.Random) -> None:
    """The run fails as transient, if at all; the next one goes on."""
    scene = detour.scene
    for _ in range(2):
        scene.send(500)
        attempt = scene.start("run")
        scene.await_step(rng, attempt)
        detour.proxy.refuse()
        attempt.ended(0.5)
        detour.proxy.accept()
        scene.until_done(attempt)
    scene.holds()


@pytest.mark.fault("catalog", "refuses the login")
def test_a_wrong_password(scene: Scene) -> None:
    """The run fails as permanent, names the setting, and does not tell the password."""
    good = scene.env
    before, _, after = good[CATALOG_URI].partition("@")
    scene.env = good | {CATALOG_URI: f"{before}x@{after}"}
    outcome = scene.start("run").wait()
    assert outcome.startswith("permanent "), outcome
    assert CATALOG_URI in outcome
    assert before.rpartition(":")[2] not in outcome
    scene.env = good
    assert scene.until_done() == []
    scene.holds()


class Foreign(threading.Thread):
    """Somebody with plain PyIceberg, who changes a table again and again while runs go on."""

    def __init__(
        self, scene: Scene, changes: Sequence[Callable[[Table], None]], most: int = 10**6
    ) -> None:
        super().__init__(name="foreign")
        self._most = most
        self._catalog = load_catalog("lakehouse", **scene.settings.catalog)
        self._names = (scene.stream.bronze_table, scene.stream.quarantine_table)
        self._changes = itertools.cycle(changes)
        self._enough = threading.Event()
        self.changes = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Change one table, then the other, until it is enough."""
        try:
            while not self._enough.wait(PAUSE) and self.changes < self._most:
                change = next(self._changes)
                for name in self._names:
                    self._once(name, change)
        except BaseException as error:
            self.error = error

    def _once(self, name: str, change: Callable[[Table], None]) -> None:
        try:
            change(self._catalog.load_table(name))
        except (CommitFailedException, ValidationException):
            return  # the platform was quicker
        self.changes += 1

    def __enter__(self) -> Foreign:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join(60)
        assert self.error is None, self.error
        assert self.changes > 0


def compact(table: Table) -> None:
    """All rows in new files, as an optimizing engine does it: in one snapshot."""
    from ingestion_platform.warehouse.datafiles import write_data_files

    tasks = list(table.scan().plan_files())
    rows = table.scan().to_arrow()
    files = write_data_files(table, rows)
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as update:
        for task in tasks:
            update.delete_data_file(task.file)
        for file in files:
            update.append_data_file(file)


def expire(table: Table) -> None:
    """An empty commit of somebody else's, then all history but that."""
    table.append(table.scan(limit=1).to_arrow().slice(0, 0))
    for snapshot in table.history()[:-1]:
        table.maintenance.expire_snapshots().by_id(snapshot.snapshot_id).commit()


def roll_back(table: Table) -> None:
    """The rows and positions of the snapshot before the present one."""
    history = table.history()
    if len(history) > 1:
        parent = table.current_snapshot().parent_snapshot_id  # type: ignore[union-attr]
        if parent is not None:
            table.manage_snapshots().rollback_to_snapshot(parent).commit()


def insert(table: Table) -> None:
    """A row that did not come from the log."""
    row = table.scan(limit=1).to_arrow()
    for name in [n for n in row.schema.names if n.startswith("_")]:
        at = row.schema.get_field_index(name)
        row = row.set_column(
            at, row.schema.field(at), pa.nulls(len(row), row.schema.field(at).type)
        )
    table.append(row)


def retitle(table: Table) -> None:
    """A commit of metadata only."""
    with table.transaction() as transaction:
        transaction.set_properties({"comment": str(table.metadata.last_updated_ms)})


@pytest.mark.fault("tables", "compacted, expired, added to and altered by others while runs go on")
def test_others_change_the_tables(scene: Scene) -> None:
    """Rows of the log are exact, and rows of others stay."""
    other = edited(scene.stream, no_calls)
    with Foreign(scene, [insert, compact, retitle, expire]):
        for _ in range(2):
            scene.send(500)
            together([scene.start("run"), scene.start("run")])
        together([scene.start("replace", other), scene.start("land")])
        together([scene.start("replace")])
    scene.holds()
    table = load_catalog("lakehouse", **scene.settings.catalog).load_table(
        scene.stream.bronze_table
    )
    rows = table.scan(selected_fields=("_offset",)).to_arrow()
    assert rows.filter(pc.field("_offset").is_null()).num_rows > 0


@pytest.mark.fault("tables", "rolled back by somebody while runs go on")
def test_others_roll_the_tables_back(scene: Scene) -> None:
    """Positions go back with the rows, so what was undone is loaded again."""
    # Who rolls back for ever undoes all that anybody does.
    with Foreign(scene, [roll_back], most=6):
        for _ in range(3):
            scene.send(500)
            together([scene.start("run"), scene.start("run")])
    scene.holds()
