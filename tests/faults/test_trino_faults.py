"""Tables that a real Trino optimizes, expires, merges and deletes from while runs go on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table
from trino.exceptions import TrinoQueryError

from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.progress.status import stream_status
from ingestion_platform.warehouse.maintenance.table import maintenance
from services import Services
from tests.support.processes import Worker
from tests.support.scene import Scene, no_calls, together
from tests.support.testbed import edited, separate_environment
from tests.support.trino_sql import Trino

pytestmark = [pytest.mark.services, pytest.mark.slow]

# What Trino says when the platform, or Trino itself, was quicker: nothing of the statement is in.
CONFLICTS = ("ICEBERG_COMMIT_ERROR", "TRANSACTION_CONFLICT")

PLACE = "_topic_id, _partition, _offset"
SAME = " AND ".join(f"t.{name} = s.{name}" for name in PLACE.split(", "))


@pytest.fixture
def scene(trino: Services, worker: Worker, tmp_path: Path) -> Scene:
    """A new stream, loaded once."""
    scene = Scene.new(worker, separate_environment(trino), tmp_path)
    scene.send(500)
    together([scene.start("run")])
    return scene


@pytest.fixture
def sql(trino: Services, scene: Scene) -> Iterator[Trino]:
    """Trino on the tables of the scene."""
    with Trino(trino, scene.settings) as sql:
        sql.run("SET SESSION " + sql.property("expire_snapshots_min_retention") + " = '0s'")
        yield sql


class Statements(threading.Thread):
    """Somebody with Trino, who runs statements in turn while runs go on."""

    def __init__(self, sql: Trino, statements: Sequence[str]) -> None:
        super().__init__(name="trino")
        self._sql, self._statements = sql, itertools.cycle(statements)
        self._enough = threading.Event()
        self.done = self.conflicts = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """One statement after the other, with a pause in which others get to commit."""
        try:
            while not self._enough.wait(0.3):
                try:
                    self._sql.run(next(self._statements))
                    self.done += 1
                except TrinoQueryError as error:
                    if error.error_name not in CONFLICTS:
                        raise
                    self.conflicts += 1
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Statements:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join(120)
        assert self.error is None, self.error
        assert self.done > 0


def bronze(scene: Scene) -> Table:
    """The bronze table as it is."""
    catalog = load_catalog("lakehouse", **scene.settings.catalog)
    return catalog.load_table(scene.stream.bronze_table)


def inserting(scene: Scene) -> str:
    """A statement that inserts a row."""
    return (
        f"INSERT INTO {scene.stream.bronze_table} (event_date, entity_id)"
        " VALUES (DATE '2026-01-01', 'CMP_SQL')"
    )


def rewriting(table: str) -> str:
    """A MERGE that writes a part of the rows again as they are: position deletes take the old."""
    return (
        f"MERGE INTO {table} t USING (SELECT {PLACE}, _contract AS c FROM {table}"
        f" WHERE _offset % 3 = 0) s ON {SAME} WHEN MATCHED THEN UPDATE SET _contract = s.c"
    )


@pytest.mark.fault(
    "tables", "optimized, expired, merged and added to by Trino while runs and maintenance go on"
)
def test_trino_changes_the_tables(scene: Scene, sql: Trino) -> None:
    """Rows of the log are exact, rows of others stay, and readers heed position deletes."""
    name, quarantine = scene.stream.bronze_table, scene.stream.quarantine_table
    statements = [
        inserting(scene),
        rewriting(name),
        f"ALTER TABLE {quarantine} EXECUTE optimize",
        f"ALTER TABLE {name} EXECUTE optimize",
        f"ALTER TABLE {name} EXECUTE optimize_manifests",
        *(
            f"ALTER TABLE {each} EXECUTE expire_snapshots(retention_threshold => '0s')"
            for each in (name, quarantine)
        ),
    ]
    other = edited(scene.stream, no_calls)
    with Statements(sql, statements) as trino:
        scene.send(200)
        scene.until_done(do="maintenance")
        at = sql.settings
        named = {"HOST": at.host, "PORT": str(at.port), "USER": at.user, "CATALOG": at.catalog}
        scene.env |= {f"TRINO_{name}": value for name, value in named.items()}
        together([scene.start("maintenance"), scene.start("run")])
        together([scene.start("replace", other)])
        together([scene.start("replace")])
        while trino.done < len(statements):
            scene.send(50)
            scene.until_done()
    inserted = stream_status(scene.platform, scene.stream).inserted_rows
    assert inserted > 0
    sql.run(rewriting(name))  # the last word is Trino's, with deletes in force
    assert any(task.delete_files for task in bronze(scene).scan().plan_files())
    scene.holds()
    assert verify_stream(scene.platform, scene.stream).inserted == inserted


@pytest.mark.fault("tables", "rows of the log deleted by SQL, and rows of others")
def test_what_sql_deletes_is_told(scene: Scene, sql: Trino) -> None:
    """A row of the log that is gone is missing to the reconciliation, also after maintenance; rows
    of others may go."""
    name = scene.stream.bronze_table
    sql.run(inserting(scene))
    sql.run(f"DELETE FROM {name} WHERE _offset IS NULL")
    scene.holds()
    ((offset,),) = sql.run(f"SELECT min(_offset) FROM {name} WHERE _partition = 1")
    sql.run(f"DELETE FROM {name} WHERE _partition = 1 AND _offset = {offset}")
    for _ in range(2):
        found = verify_stream(scene.platform, scene.stream)
        assert (found.missing, found.inserted, found.ok) == (1, 0, False)
        assert f"partition 1, offset {offset}" in found.differences[0]
        maintenance(scene.platform.catalog, name, orphan_wait=None)
