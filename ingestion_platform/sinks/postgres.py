"""PostgreSQL: a table per delivery; rows, position and quarantine in one transaction.

Rows are copied into a temporary table and merged from there by the key. The position's row is
locked while that happens, so that two deliveries cannot mix.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ingestion_platform.contract import columns as c
from ingestion_platform.errors import (
    Permanent,
    PlatformError,
    SettingError,
    SinkUnavailable,
    WriteConflict,
)
from ingestion_platform.sinks.interface import (
    DELIVERY,
    ORDER,
    ORIGIN,
    Applied,
    Change,
    Column,
    Part,
    Rejected,
    Rejection,
    Shape,
)
from ingestion_platform.sinks.text import csv_bytes, flat, json_row

if TYPE_CHECKING:
    import psycopg

    from ingestion_platform.settings import Settings

POSITIONS, REJECTED = "ingestion_positions", "ingestion_rejected"
"""The tables, in the schema of what is delivered, of positions and of rejected rows."""

_EXAMPLE = "postgresql://user:password@host:5432/database"
_LONGEST_NAME = 63  # bytes; PostgreSQL cuts off the rest
_TURN = 60  # seconds to wait for another delivery, before trying beside it
_LOCKED = 300  # seconds to wait for somebody else's lock on the table, before trying later
_FETCH = 50_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
# Of SQLSTATEs: bad data, a broken constraint, beyond a limit of the program. A row is to blame.
_ROW_TO_BLAME = ("22", "23", "54")
_REJECTED_LOGIN = re.compile(
    r'authentication failed|no pg_hba.conf entry|(role|database) "[^"]*" does not exist'
    r"|no password supplied"
)
_NUL_IN_JSON = r"(^|[^\\])(\\\\)*\\u0000"
_ORIGIN_TYPES = {
    c.INGEST_DATE: "date",
    c.PARTITION: "integer",
    "_ordinal": "integer",
    c.OFFSET: "bigint",
    c.TOPIC_ID: "text",
    DELIVERY: "text",
}
_ORIGIN_COMMENTS = {
    c.INGEST_DATE: "UTC day of the record in its log",
    c.PARTITION: "partition of the log; 0 for a row of a model",
    "_ordinal": "which topic id of the log",
    c.OFFSET: "offset in the partition; of a model, the number of the snapshot",
    c.TOPIC_ID: "topic id of the log; of a model, the id of its table",
    DELIVERY: "the delivery that wrote the row",
}
_WIDER = {("integer", "bigint"), ("real", "double precision")}


@dataclass(frozen=True)
class Options:
    """Where in the database, as the YAML says."""

    schema: str
    table: str


def options(given: Mapping[str, Any], default_schema: str, default_table: str) -> Options:
    """The options of a delivery; `table` may be `name` or `schema.name`.

    Raises:
        ValueError: says which option is wrong, and how.
    """
    if unknown := sorted(set(given) - {"table"}):
        raise ValueError(f"{unknown[0]}: is not an option; write `table: schema.name`")
    name = given.get("table", default_table)
    if not isinstance(name, str):
        raise ValueError("table: is no name; write `table: schema.name`")
    schema, _, table = name.rpartition(".")
    schema = schema or default_schema
    for part in (schema, table):
        if not _NAME.fullmatch(part) or len(part) > _LONGEST_NAME - 1:
            raise ValueError(f"table: {part!r} cannot be a name; use letters, digits and _")
    if table in (POSITIONS, REJECTED):
        raise ValueError(f"table: {table} is the sink's own; choose another name")
    return Options(schema, table)


def label(where: Options) -> str:
    """What the delivery is called, behind the name of the sink."""
    return f"{where.schema}.{where.table}"


def configured(settings: Settings) -> bool:
    """Whether the settings name a database."""
    return settings.sinks.postgres_url is not None


def open_target(settings: Settings, where: Options) -> PostgresTarget:
    """The table, not yet connected.

    Raises:
        SettingError: SINK_POSTGRES_URL is not set.
    """
    if settings.sinks.postgres_url is None:
        raise SettingError(
            "SINK_POSTGRES_URL", "is not set: nothing can be delivered", example=_EXAMPLE
        )
    return PostgresTarget(settings.sinks.postgres_url.get_secret_value(), where)


class PostgresTarget:
    """See Target."""

    atomic = True

    def __init__(self, url: str, where: Options) -> None:
        self._url = url
        self._where = where
        self._name = label(where)
        self._connection: psycopg.Connection[Any] | None = None
        self._shape: Shape | None = None
        self._types: dict[str, str] = {}

    def __enter__(self) -> PostgresTarget:
        """See Target."""
        import psycopg

        with _answering(self._name):
            self._connection = psycopg.connect(
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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See Target."""
        if self._connection is not None:
            self._connection.close()

    def ensure(self, shape: Shape) -> None:
        """See Target."""
        with _answering(self._name):
            self._wait_for_turn()
            known = self._known_shape()
            types = {column.name: postgres_type(column) for column in shape.columns}
            wanted = _described(shape, types)
            if known is None or not _covers(known, wanted):
                wanted = self._follow(shape, wanted)
                known = wanted
            self._shape = shape
            self._types = {name: kind for _, name, kind, _ in known["columns"]} | _ORIGIN_TYPES
            self._create_staging()

    def position(self) -> str:
        """See Target."""
        with _answering(self._name):
            if not (self._exists(POSITIONS) and self._exists(self._where.table)):
                return ""
            query = f"SELECT position FROM {self._table(POSITIONS)} WHERE target = %s"
            found = self._run(query, [self._where.table]).fetchone()
            return "" if found is None else str(found[0])

    def apply(self, change: Change) -> Applied:
        """See Target."""
        with _answering(self._name):
            staged = flat(change.upserts)
            rejected = _unspeakable(staged, self._opened)
            try:
                with self._sql.transaction():
                    self._lock(change)
                    deleted = self._delete(change.deletes)
                    upserted = self._upsert(staged, change.forced, rejected)
                    if rejected:
                        raise _Refusing
                    self._keep(change)
                    self._run(
                        f"UPDATE {self._table(POSITIONS)} SET position = %s, updated_at = now() "
                        "WHERE target = %s",
                        [change.position, self._where.table],
                    )
            except _Refusing:
                return Applied(rejected=rejected)
            return Applied(upserted, deleted)

    def held(self, part: Part | None = None, *, without: str = "") -> Iterator[pa.Table]:
        """See Target."""
        shape = self._opened
        schema = shape.schema()
        names = list(dict.fromkeys((*shape.key, *ORIGIN)))
        conditions, values = _in_part(part)
        if without:
            conditions.append(f"{_quoted(DELIVERY)} <> %s")
            values.append(without)
        query = f"SELECT {', '.join(map(_quoted, names))} FROM {self._table()}"
        if conditions:
            query += f" WHERE {' AND '.join(conditions)}"
        wanted = pa.schema([schema.field(name) for name in names])
        # Held beyond a transaction: changes may be made while it is read.
        cursor = self._sql.cursor(f"held_{uuid.uuid4().hex}", withhold=True)
        with _answering(self._name), cursor:
            cursor.execute(query.encode(), values)
            while rows := cursor.fetchmany(_FETCH):
                columns = list(zip(*rows, strict=True))
                arrays = [
                    pa.array(of, field.type) for of, field in zip(columns, wanted, strict=True)
                ]
                yield pa.table(arrays, schema=wanted)

    def rows(self) -> int:
        """See Target."""
        with _answering(self._name):
            if not self._exists(self._where.table):
                return 0
            found = self._run(f"SELECT count(*) FROM {self._table()}").fetchone()
            return int(found[0]) if found else 0

    def rejections(self, limit: int) -> list[Rejected]:
        """See Target."""
        with _answering(self._name):
            if not self._exists(REJECTED):
                return []
            query = (
                "SELECT _topic_id, _partition, _offset, reason, row, refused_at::text "
                f"FROM {self._table(REJECTED)} WHERE target = %s "
                "ORDER BY refused_at DESC, _partition, _offset LIMIT %s"
            )
            return [Rejected(*row) for row in self._run(query, [self._where.table, limit])]

    # The table and its shape.

    def _wait_for_turn(self) -> None:
        """Let another delivery to the table end first, within reason; it would only be undone."""
        import psycopg

        try:
            self._run(f"SET lock_timeout = '{_TURN}s'")
            self._run("SELECT pg_advisory_lock(%s)", [_number(self._name)])
        except psycopg.errors.LockNotAvailable:
            pass  # positions keep the two apart in any case
        finally:
            self._run(f"SET lock_timeout = '{_LOCKED}s'")

    def _known_shape(self) -> dict[str, Any] | None:
        """What a delivery has made of the table; None when there is nothing yet."""
        if not (self._exists(POSITIONS) and self._exists(self._where.table)):
            return None
        query = f"SELECT shape FROM {self._table(POSITIONS)} WHERE target = %s"
        found = self._run(query, [self._where.table]).fetchone()
        return None if found is None else dict(json.loads(found[0]))

    def _follow(self, shape: Shape, wanted: dict[str, Any]) -> dict[str, Any]:
        """Make the table, or make it follow; gives its shape afterwards."""
        with self._sql.transaction():
            # Of the schema: two deliveries may make the same schema and tables of the sink.
            self._run("SELECT pg_advisory_xact_lock(%s)", [_number(self._where.schema)])
            self._create_own()
            known = self._known_shape()
            if known is None:
                if self._exists(self._where.table):
                    raise Permanent(
                        f"{self._name}: the table is there, and no delivery has made it",
                        action="deliver to a table of another name, or drop this one",
                    )
                self._create(shape, wanted)
                after = wanted
            else:
                after = self._evolve(known, wanted)
            self._run(
                f"INSERT INTO {self._table(POSITIONS)} (target, source, position, shape) "
                "VALUES (%s, %s, '', %s) ON CONFLICT (target) DO UPDATE SET source = "
                "excluded.source, shape = excluded.shape"
                + (", position = ''" if known is None else ""),
                [self._where.table, shape.source, json.dumps(after)],
            )
            self._comment(shape)
        return after

    def _create_own(self) -> None:
        if self._exists(POSITIONS) and self._exists(REJECTED):
            return
        self._run(f"CREATE SCHEMA IF NOT EXISTS {_quoted(self._where.schema)}")
        self._run(
            f"CREATE TABLE IF NOT EXISTS {self._table(POSITIONS)} ("
            "target text PRIMARY KEY, source text NOT NULL, position text NOT NULL, "
            "shape text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())"
        )
        self._run(
            f"CREATE TABLE IF NOT EXISTS {self._table(REJECTED)} ("
            "target text NOT NULL, _topic_id text NOT NULL, _partition integer NOT NULL, "
            "_offset bigint NOT NULL, digest text NOT NULL, reason text NOT NULL, "
            "row text NOT NULL, _delivery text NOT NULL, "
            "refused_at timestamptz NOT NULL DEFAULT now(), "
            "PRIMARY KEY (target, _partition, _offset, _topic_id, digest))"
        )

    def _create(self, shape: Shape, wanted: dict[str, Any]) -> None:
        columns = {name: kind for _, name, kind, _ in wanted["columns"]} | _ORIGIN_TYPES
        for name in columns:
            _check_name(self._name, name)
        lines = [
            # A row of unknown origin could never be told from a newer one.
            f"{_quoted(name)} {kind}{' NOT NULL' if name in ORIGIN else ''}"
            for name, kind in columns.items()
        ]
        lines.append(f"PRIMARY KEY ({', '.join(map(_quoted, shape.key))})")
        self._run(f"CREATE TABLE {self._table()} ({', '.join(lines)})")

    def _evolve(self, known: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
        """Rename, widen and add columns; gives the shape of the table afterwards."""
        pairs = _paired(known, wanted)
        renamed = {have[1]: want[1] for have, want in pairs if have and have[1] != want[1]}
        if [renamed.get(name, name) for name in known["key"]] != wanted["key"]:
            raise Permanent(
                f"{self._name}: is kept by {', '.join(known['key'])}, not by "
                f"{', '.join(wanted['key'])}",
                action="deliver to a table of another name, or drop this one: it is made again",
            )
        alter = f"ALTER TABLE {self._table()}"
        for old in renamed:  # by way of names that nothing has, since two may be exchanged
            self._run(f"{alter} RENAME COLUMN {_quoted(old)} TO {_quoted(_aside(old))}")
        for old, new in renamed.items():
            _check_name(self._name, new)
            self._run(f"{alter} RENAME COLUMN {_quoted(_aside(old))} TO {_quoted(new)}")
        after = []
        for have, want in pairs:
            number, name, kind, description = want
            if have is None:
                _check_name(self._name, name)
                self._run(f"{alter} ADD COLUMN {_quoted(name)} {kind}")
            elif widens(have[2], kind):
                self._run(f"{alter} ALTER COLUMN {_quoted(name)} TYPE {kind}")
            elif have[2] != kind and not widens(kind, have[2]):
                raise Permanent(
                    f"{self._name}: column {name} is {have[2]}, and the source now has {kind}",
                    action="deliver to a table of another name, or drop this one: it is made again",
                )
            else:
                kind = have[2]
            after.append([number, name, kind, description])
        gone = [have for have in known["columns"] if have not in [pair[0] for pair in pairs]]
        return {**wanted, "columns": [*after, *gone]}

    def _comment(self, shape: Shape) -> None:
        said = shape.description or f"Delivered from {shape.source}."
        self._run(f"COMMENT ON TABLE {self._table()} IS {_literal(said)}")
        comments = {column.name: column.description for column in shape.columns}
        for name, text in (comments | _ORIGIN_COMMENTS).items():
            place = f"{self._table()}.{_quoted(name)}"
            self._run(f"COMMENT ON COLUMN {place} IS {_literal(text) if text else 'NULL'}")

    def _create_staging(self) -> None:
        """Two temporary tables: rows to merge, and keys to delete; empty after each transaction."""
        shape = self._opened
        names = [*(column.name for column in shape.columns), *ORIGIN]
        for table, chosen in (("staged", names), ("gone", list(shape.key))):
            lines = [f"{_quoted(name)} {self._staged_type(name)}" for name in chosen]
            self._run(f"DROP TABLE IF EXISTS pg_temp.{table}")
            self._run(f"CREATE TEMP TABLE {table} ({', '.join(lines)}) ON COMMIT DELETE ROWS")

    def _staged_type(self, name: str) -> str:
        kind = self._types[name]
        return "text" if kind.endswith("[]") else kind

    # A change.

    def _lock(self, change: Change) -> None:
        query = f"SELECT position FROM {self._table(POSITIONS)} WHERE target = %s FOR UPDATE"
        found = self._run(query, [self._where.table]).fetchone()
        if found is None or found[0] != change.base:
            raise WriteConflict(
                f"{self._name}: another delivery was quicker",
                action="read the position again and go on",
            )

    def _delete(self, keys: pa.Table) -> int:
        if keys.num_rows == 0:
            return 0
        self._copy("gone", keys)
        same = " AND ".join(f"t.{_quoted(k)} = gone.{_quoted(k)}" for k in self._opened.key)
        return self._run(f"DELETE FROM {self._table()} AS t USING gone WHERE {same}").rowcount

    def _upsert(self, staged: pa.Table, forced: bool, rejected: dict[int, str]) -> int:
        """Merge all rows that can be; `rejected` gets the numbers of those that cannot."""
        if not rejected:
            return self._upsert_range(staged, range(staged.num_rows), forced, rejected)
        good = [number for number in range(staged.num_rows) if number not in rejected]
        rows = staged.take(pa.array(good, pa.int64()))
        return self._upsert_range(rows, good, forced, rejected)

    def _upsert_range(
        self, rows: pa.Table, numbers: Sequence[int], forced: bool, rejected: dict[int, str]
    ) -> int:
        """Merge rows; when the database blames one of them, the two halves by themselves.

        `numbers` says where the rows were in the change.
        """
        import psycopg

        if rows.num_rows == 0:
            return 0
        try:
            with self._sql.transaction():  # within another one: a savepoint
                self._run("TRUNCATE staged")
                self._copy("staged", rows)
                return self._run(self._merge(forced)).rowcount
        except psycopg.Error as error:
            if (error.sqlstate or "")[:2] not in _ROW_TO_BLAME:
                raise
            if rows.num_rows == 1:
                rejected[numbers[0]] = _reason(error)
                return 0
        half = rows.num_rows // 2
        return self._upsert_range(
            rows.slice(0, half), numbers[:half], forced, rejected
        ) + self._upsert_range(rows.slice(half), numbers[half:], forced, rejected)

    def _merge(self, forced: bool) -> str:
        shape = self._opened
        names = [*(column.name for column in shape.columns), *ORIGIN]
        sources = [self._source(name) for name in names]
        others = [name for name in names if name not in shape.key]
        sets = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in others)
        held = ", ".join(f"t.{_quoted(name)}" for name in ORDER)
        new = ", ".join(f"excluded.{_quoted(name)}" for name in ORDER)
        return (
            f"INSERT INTO {self._table()} AS t ({', '.join(map(_quoted, names))}) "
            f"SELECT {', '.join(sources)} FROM staged "
            f"ON CONFLICT ({', '.join(map(_quoted, shape.key))}) DO UPDATE SET {sets}"
            + ("" if forced else f" WHERE ({held}) <= ({new})")
        )

    def _source(self, name: str) -> str:
        kind = self._types[name]
        if not kind.endswith("[]"):
            return _quoted(name)
        items = f"SELECT jsonb_array_elements_text({_quoted(name)}::jsonb)"
        return f"CASE WHEN {_quoted(name)} IS NOT NULL THEN ARRAY({items})::{kind} END"

    def _copy(self, table: str, rows: pa.Table) -> None:
        names = ", ".join(map(_quoted, rows.column_names))
        statement = f"COPY {table} ({names}) FROM STDIN (FORMAT csv)"
        with self._sql.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for start in range(0, rows.num_rows, _FETCH):
                copy.write(csv_bytes(rows.slice(start, _FETCH)))

    def _keep(self, change: Change) -> None:
        """The quarantine after the change."""
        for part in change.settled:
            conditions, values = _in_part(part)
            where = " AND ".join(["target = %s", "_delivery <> %s", *conditions])
            values = [self._where.table, change.delivery, *values]
            self._run(f"DELETE FROM {self._table(REJECTED)} WHERE {where}", values)
        if not change.rejected:
            return
        query = (
            f"INSERT INTO {self._table(REJECTED)} (target, _topic_id, _partition, _offset, "
            "digest, reason, row, _delivery) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (target, _partition, _offset, _topic_id, digest) DO UPDATE SET "
            "reason = excluded.reason, row = excluded.row, _delivery = excluded._delivery, "
            "refused_at = now()"
        )
        with self._sql.cursor() as cursor:
            cursor.executemany(query.encode(), [self._entry(each) for each in change.rejected])

    def _entry(self, rejection: Rejection) -> list[Any]:
        row = rejection.row
        key = json_row({name: row[name] for name in self._opened.key})
        return [
            *(self._where.table, row[c.TOPIC_ID], row[c.PARTITION], row[c.OFFSET]),
            *(hashlib.md5(key.encode()).hexdigest(), _speakable(rejection.reason)),
            *(_speakable(json_row(row)), row[DELIVERY]),
        ]

    # Small things.

    @property
    def _sql(self) -> psycopg.Connection[Any]:
        assert self._connection is not None, "enter the target first"
        return self._connection

    @property
    def _opened(self) -> Shape:
        assert self._shape is not None, "call ensure() first"
        return self._shape

    def _run(self, query: str, values: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        return self._sql.execute(query.encode(), values or None)

    def _table(self, name: str | None = None) -> str:
        return f"{_quoted(self._where.schema)}.{_quoted(name or self._where.table)}"

    def _exists(self, name: str) -> bool:
        found = self._run("SELECT to_regclass(%s)", [self._table(name)]).fetchone()
        return found is not None and found[0] is not None


class _Refusing(Exception):
    """Undoes a transaction in which rows were rejected."""


def postgres_type(column: Column) -> str:
    """The PostgreSQL type of a column; what has no type of its own there becomes jsonb."""
    if column.json:
        return "jsonb"
    if pat.is_list(column.type) or pat.is_large_list(column.type):
        item = _scalar_type(column.type.value_type)
        return f"{item}[]" if item not in (None, "bytea") else "jsonb"
    return _scalar_type(column.type) or "jsonb"


def widens(narrow: str, wide: str) -> bool:
    """Whether a column becomes another type without a loss: as it does in Iceberg."""
    if narrow.endswith("[]") and wide.endswith("[]"):
        return widens(narrow[:-2], wide[:-2])
    first, second = (re.fullmatch(r"numeric\((\d+),(\d+)\)", kind) for kind in (narrow, wide))
    if first and second:
        return first[2] == second[2] and int(first[1]) < int(second[1])
    return (narrow, wide) in _WIDER


def _scalar_type(kind: pa.DataType) -> str | None:
    if pat.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    if pat.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    names = {
        "bool": "boolean",
        "int32": "integer",
        "int64": "bigint",
        "float": "real",
        "double": "double precision",
        "date32[day]": "date",
        "time64[us]": "time",
        "string": "text",
        "large_string": "text",
        "binary": "bytea",
        "large_binary": "bytea",
    }
    return names.get(str(kind))


def _described(shape: Shape, types: Mapping[str, str]) -> dict[str, Any]:
    """A shape as the table of positions keeps it."""
    return {
        "identity": shape.identity,
        "key": list(shape.key),
        "description": shape.description,
        "columns": [[o.number, o.name, types[o.name], o.description] for o in shape.columns],
    }


def _covers(known: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether nothing has to be changed."""
    same = all(known[name] == wanted[name] for name in ("identity", "key", "description"))
    return same and all(column in known["columns"] for column in wanted["columns"])


def _paired(
    known: dict[str, Any], wanted: dict[str, Any]
) -> list[tuple[list[Any] | None, list[Any]]]:
    """Each wanted column with the one that the table has for it: of the same number, as long as
    the source is the same table; else of the same name."""
    by_number = {have[0]: have for have in known["columns"]}
    by_name = {have[1]: have for have in known["columns"]}
    same = known["identity"] == wanted["identity"]
    pairs: list[tuple[list[Any] | None, list[Any]]] = []
    for want in wanted["columns"]:
        have = by_number.get(want[0]) if same else None
        pairs.append((have or by_name.get(want[1]), want))
    return pairs


def _unspeakable(staged: pa.Table, shape: Shape) -> dict[int, str]:
    """The rows with the character NUL, which PostgreSQL has in no text: found at one go, since
    halving looks for one row at a time."""
    rejected: dict[int, str] = {}
    json_columns = {column.name for column in shape.columns if postgres_type(column) == "jsonb"}
    json_columns |= {column.name for column in shape.columns if pat.is_nested(column.type)}
    for field in staged.schema:
        if not (pat.is_string(field.type) or pat.is_large_string(field.type)):
            continue
        values = staged[field.name]
        found = pc.match_substring(values, "\x00")
        if field.name in json_columns:
            found = pc.or_(found, pc.match_substring_regex(values, _NUL_IN_JSON))
        for number in pc.indices_nonzero(pc.fill_null(found, False)).to_pylist():
            rejected.setdefault(number, f"{field.name}: text with the character NUL")
    return rejected


def _in_part(part: Part | None) -> tuple[list[str], list[Any]]:
    """Conditions on the columns of ORIGIN, and their values."""
    if part is None or part.span is None:
        return [], []
    conditions = ["_partition = %s", "_topic_id = %s", "_offset >= %s", "_offset < %s"]
    span = part.span
    return conditions, [part.partition, span.topic_id, span.start, span.end]


def _reason(error: psycopg.Error) -> str:
    """Why a row was rejected, with the column where the database says it."""
    said = error.diag.message_primary or str(error).partition("\n")[0]
    column = re.search(r"column (\S+?)[:,]", error.diag.context or "")
    where = error.diag.column_name or (column[1] if column else "")
    return f"{where}: {said}" if where else said


def _speakable(text: str) -> str:
    return text.replace("\x00", "\\u0000")


def _check_name(target: str, name: str) -> None:
    if len(name.encode()) > _LONGEST_NAME:
        raise Permanent(
            f"{target}: PostgreSQL has no name as long as {name} ({_LONGEST_NAME} bytes at most)",
            action="give the column a shorter name, in the contract or the model",
        )


def _aside(name: str) -> str:
    return f"_renamed_{hashlib.md5(name.encode()).hexdigest()}"


def _number(name: str) -> int:
    """A number for PostgreSQL's advisory locks."""
    digest = hashlib.sha256(f"ingestion {name}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    text = _speakable(text).replace("\\", "\\\\").replace("'", "''")
    return f" E'{text}'"


@contextmanager
def _answering(name: str) -> Iterator[None]:
    """Turn what the driver raises into errors that say who can mend it; never with the address."""
    import psycopg

    try:
        yield
    except PlatformError:
        raise
    except psycopg.errors.UndefinedTable as error:
        raise WriteConflict(
            f"{name}: a table of the delivery is gone", action="start again; it is made again"
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        if _REJECTED_LOGIN.search(str(error)):
            raise Permanent(
                f"{name}: PostgreSQL refuses the login",
                action="correct user, password and database in SINK_POSTGRES_URL",
            ) from None  # the driver's own text may repeat them
        raise SinkUnavailable(
            f"{name}: PostgreSQL does not answer: {type(error).__name__}",
            action="check SINK_POSTGRES_URL and that its server is up",
        ) from error
    except psycopg.Error as error:
        said = error.diag.message_primary or type(error).__name__
        if (error.sqlstate or "")[:2] in ("40", "53", "57"):
            raise SinkUnavailable(f"{name}: {said}", action="try again") from error
        raise Permanent(
            f"{name}: PostgreSQL refuses: {said}",
            action="check the rights of the user in SINK_POSTGRES_URL, and what uses the table",
        ) from error
