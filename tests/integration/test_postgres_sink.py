"""Deliveries to PostgreSQL: tables as the contract describes them, rows that the database rejects,
and changes by other users.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ingestion_platform.errors import Permanent
from ingestion_platform.settings import SinkSettings
from ingestion_platform.sinks.compare import compare
from ingestion_platform.sinks.postgres.target import PostgresTarget
from services import Services
from tests.support.delivered import UNUSUAL_JSON, PostgresHarness, item, with_json
from tests.support.sink_scene import Scene

LONG = "much too long a note " * 2

pytestmark = [pytest.mark.services]


class Database:
    """The database of the target, by plain SQL."""

    def __init__(self, scene: Scene, connection: psycopg.Connection[Any]) -> None:
        self.scene = scene
        where = scene.delivery.options
        self.table = sql.Identifier(where.schema, where.table)
        self.schema = where.schema
        self._connection = connection

    def run(self, query: str) -> list[tuple[Any, ...]]:
        """Run a statement in which {} is the table."""
        cursor = self._connection.execute(sql.SQL(query).format(self.table))
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def scene(servers: Services, tmp_path: Path) -> Scene:
    """Deliver forty rows."""
    made = Scene(PostgresHarness(servers, tmp_path), tmp_path / "scene")
    made.log.append(item(k, k) for k in range(40))
    made.log.load()
    made.deliver()
    return made


@pytest.fixture
def database(scene: Scene) -> Iterator[Database]:
    """Connect to the database of the scene."""
    url = scene.harness.environment()["SINK_POSTGRES_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield Database(scene, connection)


def test_table_follows_the_contract(database: Database) -> None:
    """It has the types, the primary key, and descriptions as comments."""
    columns = database.run(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum) "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '{database.schema}' "
        "AND c.relname = 'Items' AND a.attnum > 0"
    )
    types = {name: kind for name, kind, _ in columns}
    assert (
        types.items()
        >= {
            "id": "bigint",
            "n": "integer",
            "amount": "numeric(12,2)",
            "ratio": "double precision",
            "at": "timestamp with time zone",
            "tags": "text[]",
            "extra": "jsonb",
            "size": "jsonb",
            "_offset": "bigint",
        }.items()
    )
    assert {name: said for name, _, said in columns}["note"] == "Free text."
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.run(f'INSERT INTO {{}} SELECT * FROM "{database.schema}"."Items"')


def test_rows_that_break_constraints_are_rejected(database: Database) -> None:
    """A check and a shortened column, both added by a user; other rows pass."""
    database.run("ALTER TABLE {} ADD CONSTRAINT few CHECK (n < 1000)")
    database.run("ALTER TABLE {} ALTER COLUMN note TYPE varchar(30)")
    scene = database.scene
    scene.log.append(
        [
            *(item(k, k, note="short") for k in range(100, 400)),
            item(10, 5000, note="short"),
            item(11, 5, note=LONG),
            item(401, 1000, note="short"),
        ]
    )
    scene.log.load()
    done = scene.deliver()
    assert (done.upserted, done.rejected) == (300, 3)
    assert {reason.partition(":")[0] for reason in done.reasons} == {
        "check_violation",
        "string_data_right_truncation",
    }
    scene.assert_equal(without=lambda row: row["n"] >= 1000 or row["note"] == LONG)
    database.run("ALTER TABLE {} DROP CONSTRAINT few")
    assert scene.deliver().changes == 0
    assert scene.deliver(again=True).rejected == 1
    scene.assert_equal(without=lambda row: row["note"] == LONG)
    rows = database.run(f"SELECT code, message FROM {database.schema}.ingestion_rejected")
    assert [code for code, _ in rows] == ["string_data_right_truncation"]


def test_changes_by_other_users_are_repaired(database: Database) -> None:
    """Deleted and changed rows come back when everything is compared; a view stays."""
    database.run(f"CREATE VIEW {database.schema}.some AS SELECT id FROM {{}}")
    database.run("DELETE FROM {} WHERE id < 7")
    database.run("UPDATE {} SET note = 'forged' WHERE id > 30")
    scene = database.scene
    assert scene.deliver().changes == 0
    found = compare(scene.platform, scene.delivery)
    assert (found.source_rows, found.target_rows, found.ok) == (40, 33, False)
    scene.deliver(again=True)
    assert compare(scene.platform, scene.delivery).ok
    scene.assert_equal()
    database.run("ALTER TABLE {} ADD COLUMN mine text DEFAULT 'x'")
    scene.log.append([item(50, 1)])
    scene.log.load()
    scene.deliver()
    assert database.run("SELECT mine FROM {} WHERE id = 50") == [("x",)]


def test_comparison_excludes_rejected_and_pending_rows(scene: Scene) -> None:
    """Neither is a difference."""
    scene.log.append([item(3, 900), item(3, 901, note="\u0000"), item(77, 1, note="\u0000")])
    scene.log.load()
    before = compare(scene.platform, scene.delivery)
    assert (before.behind, before.ok, before.agree) == (True, True, False)
    scene.deliver()
    found = compare(scene.platform, scene.delivery)
    assert (found.source_rows, found.target_rows, found.rejected) == (40, 40, 2)
    assert found.agree
    assert not found.behind


def test_unusual_json_rejects_only_its_row(database: Database) -> None:
    """Of a repeated key jsonb has the last value."""
    scene = database.scene
    unusual = dict(enumerate(UNUSUAL_JSON.values(), start=100))
    scene.log.append([*(with_json(k, v) for k, v in unusual.items()), item(200, 200)])
    scene.log.load()
    scene.deliver()
    rows = dict(database.run("SELECT id, extra::text FROM {} WHERE id >= 100"))
    assert rows.keys() == {100, 101, 103, 105, 200}
    assert rows[100] == '{"a": 2}'
    assert rows[101] == f'{{"b": 1{"0" * 999}}}'
    assert rows[103] == f'{{"d": {"9" * 400}}}'
    assert rows[105] == '{"f": "😀/é"}'
    found = compare(scene.platform, scene.delivery)
    assert (found.rejected, found.agree) == (2, True)


def test_dropped_table_is_created_again(database: Database) -> None:
    """All rows are delivered: the position does not count without the table."""
    database.run("DROP TABLE {}")
    assert database.scene.deliver().upserted == 40
    database.scene.assert_equal()


def test_table_of_another_user_is_rejected(database: Database) -> None:
    """Nothing is written to it."""
    scene = database.scene
    database.run("DROP TABLE {}")
    database.run(f"DELETE FROM {database.schema}.ingestion_positions")
    database.run("CREATE TABLE {} (id bigint)")
    with pytest.raises(Permanent, match="no delivery has made it"):
        scene.deliver()
    assert database.run("SELECT * FROM {}") == []


def test_wrong_password_is_permanent_and_hidden(scene: Scene) -> None:
    """No error contains the password."""
    url = scene.settings.sinks.postgres_url.get_secret_value()
    wrong = url.replace("@", "x@")
    target = PostgresTarget(wrong, scene.delivery.options)
    with pytest.raises(Permanent, match="rejects the login") as found, target:
        pass
    password = wrong.partition("@")[0].rpartition(":")[2]
    assert password not in str(found.value)
    assert password not in repr(SinkSettings(postgres_url=wrong))
