"""A table of PostgreSQL.

Rows are copied into a temporary table and merged from there by key. The row of the position is
locked meanwhile, so that two deliveries cannot mix.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat
from psycopg import sql

from ingestion_platform.errors import Permanent
from ingestion_platform.sinks.base import (
    DELIVERY,
    ORDER,
    ORIGIN,
    ORIGIN_COLUMNS,
    REJECTED_COLUMNS,
    Applied,
    Change,
    Column,
    Part,
    Reason,
    Rejected,
    Shape,
    Target,
)
from ingestion_platform.sinks.evolution import Evolution
from ingestion_platform.sinks.postgres import LONGEST_NAME, POSITIONS, REJECTED, Options
from ingestion_platform.sinks.postgres.errors import row_to_blame, translated
from ingestion_platform.sinks.postgres.types import postgres_type
from ingestion_platform.sinks.text import csv_bytes, flat

_TURN = 60  # seconds to wait for another delivery, before trying beside it
_LOCKED = 300  # seconds to wait for a lock that another user has on the table
_FETCH = 50_000
_NUL_IN_JSON = r"(^|[^\\])(\\\\)*\\u0000"


@dataclass(frozen=True, slots=True)
class _State:
    shape: Shape
    position: str


class PostgresTarget(Target[_State]):
    """Methods are documented in Target."""

    kind = "table"
    _sql: psycopg.Connection[Any]
    _types: Mapping[str, sql.SQL]

    def __init__(self, url: str, options: Options) -> None:
        super().__init__(options.label)
        self._url = url
        self._schema, self._table = options.schema, options.table

    def errors(self) -> AbstractContextManager[None]:
        return translated(self.name)

    def connect(self) -> None:
        self._sql = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=10,
            application_name="ingestion-platform",
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=60_000,
            options="-c TimeZone=UTC -c DateStyle=ISO -c client_min_messages=warning",
        )

    def close(self, *, failed: bool) -> None:
        self._sql.close()

    # The table and its shape.

    @contextmanager
    def shape_lock(self) -> Iterator[None]:
        """See Target; waits a while for another delivery to end, whose work would be undone."""
        try:
            self._run("SET lock_timeout = {}", sql.Literal(f"{_TURN}s"))
            self._run("SELECT pg_advisory_lock({})", _lock_id(self.name))
        except psycopg.errors.LockNotAvailable:
            pass  # positions keep the two apart in any case
        finally:
            self._run("SET lock_timeout = {}", sql.Literal(f"{_LOCKED}s"))
        with self._sql.transaction():
            self._run("SELECT pg_advisory_xact_lock({})", _lock_id(f"shape of {self.name}"))
            yield

    def stored_column(self, column: Column) -> Column:
        if len(column.name.encode()) > LONGEST_NAME:
            raise Permanent(
                f"{self.name}: the column name {column.name} is longer than the {LONGEST_NAME} "
                "bytes that PostgreSQL allows",
                action="give the column a shorter name, in the contract or the model",
            )
        is_json = postgres_type(column) == "jsonb"  # whatever becomes jsonb is alike
        return replace(column, type=pa.string(), json=True) if is_json else column

    def read_state(self) -> _State | None:
        if not (self._exists(POSITIONS) and self._exists(self._table)):
            return None
        query = "SELECT shape, position FROM {positions} WHERE target = {target}"
        found = self._run(query).fetchone()
        return None if found is None else _State(Shape.from_json(found[0]), found[1])

    def create(self, shape: Shape) -> _State:
        self._create_own_tables()
        if self._exists(self._table):
            raise self.foreign()
        columns = [
            # A row of unknown origin could not be compared with a newer one.
            sql.SQL("{} {} NOT NULL" if name in ORIGIN else "{} {}").format(_name(name), kind)
            for name, kind in _types(shape).items()
        ]
        query = "CREATE TABLE {table} ({}, PRIMARY KEY ({}))"
        self._run(query, _list(columns), _names(shape.key))
        self._run("DELETE FROM {positions} WHERE target = {target}")
        return self._store(_State(shape, ""))

    def evolve(self, state: _State, evolution: Evolution) -> _State:
        alter = "ALTER TABLE {table} "
        for old in evolution.renamed:  # two names may be exchanged
            self._run(alter + "RENAME COLUMN {} TO {}", _name(old), _name(_temporary(old)))
        for old, new in evolution.renamed.items():
            self._run(alter + "RENAME COLUMN {} TO {}", _name(_temporary(old)), _name(new))
        types = _types(evolution.after)
        for name in (column.name for column in evolution.widened):
            self._run(alter + "ALTER COLUMN {} TYPE {}", _name(name), types[name])
        for name in (column.name for column in evolution.added):
            self._run(alter + "ADD COLUMN {} {}", _name(name), types[name])
        return self._store(_State(evolution.after, state.position))

    def prepare(self, state: _State) -> None:
        """Create temporary tables: rows to merge, and keys to delete; see Target."""
        self._types = _types(state.shape)
        for table, chosen in (("staged", self.shape.schema().names), ("gone", self.shape.key)):
            text = sql.SQL("text")
            columns = [
                sql.SQL("{} {}").format(
                    _name(name), text if self._is_array(name) else self._types[name]
                )
                for name in chosen
            ]
            self._run("DROP TABLE IF EXISTS pg_temp.{}", _name(table))
            query = "CREATE TEMP TABLE {} ({}) ON COMMIT DELETE ROWS"
            self._run(query, _name(table), _list(columns))

    def _create_own_tables(self) -> None:
        if self._exists(POSITIONS) and self._exists(REJECTED):
            return
        # Two deliveries may create the same schema.
        self._run("SELECT pg_advisory_xact_lock({})", _lock_id(self._schema))
        self._run("CREATE SCHEMA IF NOT EXISTS {}", _name(self._schema))
        self._run(
            "CREATE TABLE IF NOT EXISTS {positions} ("
            "target text PRIMARY KEY, source text NOT NULL, position text NOT NULL, "
            "shape text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())"
        )
        self._run(
            "CREATE TABLE IF NOT EXISTS {rejected} ("
            "target text NOT NULL, _topic_id text NOT NULL, _partition integer NOT NULL, "
            "_offset bigint NOT NULL, digest text NOT NULL, code text NOT NULL, "
            "message text NOT NULL, row text NOT NULL, _delivery text NOT NULL, "
            "rejected_at timestamptz NOT NULL, "
            "PRIMARY KEY (target, _partition, _offset, _topic_id, digest))"
        )

    def _store(self, state: _State) -> _State:
        """Store a state with another shape, and describe the columns.

        A position that is there stays: another delivery may have moved it meanwhile.
        """
        shape = state.shape
        values = (shape.source, state.position, shape.to_json())
        self._run(
            "INSERT INTO {positions} (target, source, position, shape) VALUES ({target}, {}) "
            "ON CONFLICT (target) DO UPDATE SET source = excluded.source, shape = excluded.shape",
            _list(map(sql.Literal, values)),
        )
        about = shape.description or f"Delivered from {shape.source}."
        self._run("COMMENT ON TABLE {table} IS {}", sql.Literal(_without_nul(about)))
        for column in (*shape.columns, *ORIGIN_COLUMNS):
            comment = sql.Literal(_without_nul(column.description) or None)
            self._run("COMMENT ON COLUMN {table}.{} IS {}", _name(column.name), comment)
        return state

    def _is_array(self, name: str) -> bool:
        return self._types[name].as_string(None).endswith("[]")

    # Rows.

    def write(self, change: Change) -> Applied:
        staged = flat(change.upserts)
        rejected = _rows_with_nul(staged, self.shape)
        with self._sql.transaction() as transaction:
            query = "SELECT position FROM {positions} WHERE target = {target} FOR UPDATE"
            if self._run(query).fetchone() != (change.base,):
                raise self.conflict()
            deleted = self._delete(change.deletes)
            good = [number for number in range(staged.num_rows) if number not in rejected]
            rows = staged.take(pa.array(good, pa.int64())) if rejected else staged
            upserted = self._upsert(rows, good, change.forced, rejected)
            if rejected:
                raise psycopg.Rollback(transaction)
            self._update_quarantine(change)
            self._run(
                "UPDATE {positions} SET position = {}, updated_at = now() WHERE target = {target}",
                sql.Literal(change.position),
            )
        return Applied(rejected=rejected) if rejected else Applied(upserted, deleted)

    def scan(self, part: Part, without: str) -> Iterator[pa.Table]:
        schema = self.shape.place_schema()
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            _names(schema.names), self._identifier(self._table), _within(part, without)
        )
        # Changes may be made while the rows are read: the cursor outlives a transaction.
        with self._sql.cursor(f"held_{uuid.uuid4().hex}", withhold=True) as cursor:
            cursor.execute(query)
            while rows := cursor.fetchmany(_FETCH):
                columns = zip(zip(*rows, strict=True), schema.types, strict=True)
                yield pa.table([pa.array(of, kind) for of, kind in columns], schema=schema)

    def count(self, state: _State) -> int:
        found = self._run("SELECT count(*) FROM {table}").fetchone()
        return int(found[0]) if found else 0

    def read_rejected(self, state: _State, limit: int) -> list[Rejected]:
        names = [_name(name) for name in REJECTED_COLUMNS[:-1]]
        query = (
            "SELECT {}, rejected_at::text FROM {rejected} WHERE target = {target} "
            "ORDER BY rejected_at DESC, _partition, _offset LIMIT {}"
        )
        return [Rejected(*row) for row in self._run(query, _list(names), sql.Literal(limit))]

    def _delete(self, keys: pa.Table) -> int:
        if keys.num_rows == 0:
            return 0
        self._copy("gone", keys)
        equal = [sql.SQL("t.{0} = gone.{0}").format(_name(name)) for name in self.shape.key]
        same = sql.SQL(" AND ").join(equal)
        return self._run("DELETE FROM {table} AS t USING gone WHERE {}", same).rowcount

    def _upsert(
        self, rows: pa.Table, numbers: Sequence[int], forced: bool, rejected: dict[int, Reason]
    ) -> int:
        """Merge rows; if the database rejects one of them, each half separately.

        `numbers` are the numbers of the rows in the change; `rejected` gets those that fail.
        """
        if rows.num_rows == 0:
            return 0
        try:
            with self._sql.transaction():  # a savepoint
                self._run("TRUNCATE staged")
                self._copy("staged", rows)
                return self._merge(forced)
        except psycopg.Error as error:
            reason = row_to_blame(error)
            if reason is None:
                raise
            if rows.num_rows == 1:
                rejected[numbers[0]] = reason
                return 0
        half = rows.num_rows // 2
        return self._upsert(rows.slice(0, half), numbers[:half], forced, rejected) + self._upsert(
            rows.slice(half), numbers[half:], forced, rejected
        )

    def _merge(self, forced: bool) -> int:
        names = self.shape.schema().names
        others = [name for name in names if name not in self.shape.key]
        sets = [sql.SQL("{0} = excluded.{0}").format(_name(name)) for name in others]
        newer = sql.SQL(" WHERE ({}) <= ({})").format(_names(ORDER, "t"), _names(ORDER, "excluded"))
        return self._run(
            "INSERT INTO {table} AS t ({}) SELECT {} FROM staged "
            "ON CONFLICT ({}) DO UPDATE SET {}{}",
            _names(names),
            _list(map(self._staged_value, names)),
            _names(self.shape.key),
            _list(sets),
            sql.SQL("") if forced else newer,
        ).rowcount

    def _staged_value(self, name: str) -> sql.Composable:
        if not self._is_array(name):
            return _name(name)
        return sql.SQL(
            "CASE WHEN {0} IS NOT NULL THEN "
            "ARRAY(SELECT jsonb_array_elements_text({0}::jsonb))::{1} END"
        ).format(_name(name), self._types[name])

    def _copy(self, table: str, rows: pa.Table) -> None:
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)")
        statement = query.format(_name(table), _names(rows.column_names))
        with self._sql.cursor() as cursor, cursor.copy(statement) as copy:
            for start in range(0, rows.num_rows, _FETCH):
                copy.write(csv_bytes(rows.slice(start, _FETCH)))

    def _update_quarantine(self, change: Change) -> None:
        for part in change.settled:
            condition = _within(part, change.delivery)
            self._run("DELETE FROM {rejected} WHERE target = {target} AND {}", condition)
        if not change.rejected:
            return
        names = ("target", *REJECTED_COLUMNS)
        sets = [sql.SQL("{0} = excluded.{0}").format(_name(name)) for name in names[5:]]
        query = sql.SQL(
            "INSERT INTO {} ({}) VALUES ({}) "
            "ON CONFLICT (target, _partition, _offset, _topic_id, digest) DO UPDATE SET {}"
        ).format(
            self._identifier(REJECTED),
            _names(names),
            _list([sql.Placeholder()] * len(names)),
            _list(sets),
        )
        entries = [
            (self._table, *place, _without_nul(message), _without_nul(row), delivery, at)
            for *place, message, row, delivery, at in map(
                astuple, change.quarantined(self.shape.key)
            )
        ]
        with self._sql.cursor() as cursor:
            cursor.executemany(query, entries)

    # SQL.

    def _run(self, query: str, *parts: sql.Composable) -> psycopg.Cursor[Any]:
        """Run a statement; {table}, {positions}, {rejected} and {target} have fixed meanings."""
        composed = sql.SQL(query).format(
            *parts,
            table=self._identifier(self._table),
            positions=self._identifier(POSITIONS),
            rejected=self._identifier(REJECTED),
            target=sql.Literal(self._table),
        )
        return self._sql.execute(composed)

    def _identifier(self, table: str) -> sql.Identifier:
        return sql.Identifier(self._schema, table)

    def _exists(self, table: str) -> bool:
        name = self._identifier(table).as_string(None)
        found = self._run("SELECT to_regclass({})", sql.Literal(name)).fetchone()
        return found is not None and found[0] is not None


def _types(shape: Shape) -> dict[str, sql.SQL]:
    return {o.name: sql.SQL(postgres_type(o)) for o in (*shape.columns, *ORIGIN_COLUMNS)}


def _rows_with_nul(staged: pa.Table, shape: Shape) -> dict[int, Reason]:
    """Find the rows that contain the character NUL, which PostgreSQL cannot store, by number.

    All at once, because halving finds one row at a time.
    """
    rejected: dict[int, Reason] = {}
    nested = {o.name for o in shape.columns if postgres_type(o).endswith(("jsonb", "[]"))}
    for field in staged.schema:
        if not pat.is_string(field.type):
            continue
        values = staged[field.name]
        found = pc.match_substring(values, "\x00")
        if field.name in nested:
            found = pc.or_(found, pc.match_substring_regex(values, _NUL_IN_JSON))
        for number in pc.indices_nonzero(pc.fill_null(found, False)).to_pylist():
            message = f"{field.name}: contains the character NUL"
            rejected.setdefault(number, Reason("untranslatable_character", message))
    return rejected


def _within(part: Part, without: str) -> sql.Composed:
    """Return the condition on the rows of a part that a delivery has not written."""
    condition = sql.SQL("{} <> {}").format(_name(DELIVERY), sql.Literal(without))
    if part.span is None:
        return condition
    span = part.span
    return sql.SQL(
        "{} AND _partition = {} AND _topic_id = {} AND _offset >= {} AND _offset < {}"
    ).format(condition, *map(sql.Literal, (part.partition, span.topic_id, span.start, span.end)))


def _without_nul(text: str) -> str:
    return text.replace("\x00", "\\u0000")


def _temporary(name: str) -> str:
    return f"_renamed_{hashlib.md5(name.encode()).hexdigest()}"


def _lock_id(name: str) -> sql.Literal:
    """Return a number for an advisory lock."""
    digest = hashlib.sha256(f"ingestion {name}".encode()).digest()
    return sql.Literal(int.from_bytes(digest[:8], signed=True))


def _name(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def _names(names: Iterable[str], table: str = "") -> sql.Composed:
    return _list(sql.Identifier(*filter(None, (table, name))) for name in names)


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
