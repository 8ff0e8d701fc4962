"""DuckDB over the Iceberg catalog: tables appear as namespace.table as soon as SQL names them.

Reading only; what a dbt model writes goes through `replace`.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion_platform.errors import Permanent
from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.catalog import answering, open_catalog
from ingestion_platform.warehouse.dataset import TableDataset

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

_NAME = r'"(?:[^"]|"")+"|[A-Za-z_]\w*'
_PAIR = re.compile(rf"(?<![\w\"])(?=({_NAME})\s*\.\s*({_NAME}))")
_LISTING = re.compile(r"\b(show|information_schema|duckdb_(tables|views|columns))\b", re.I)
# Cursors of one DuckDB share its views; replacing the same one at once is a conflict there.
_VIEWS_LOCK = threading.RLock()


class QueryError(Permanent):
    """A statement that cannot be run: not SQL, not a query, or names what is not there."""


class Views:
    """The tables of a catalog as views of one DuckDB connection, opened on demand.

    A table keeps the snapshot that it had when it was first opened, until it is opened again.
    """

    def __init__(self, connection: DuckDBPyConnection, catalog: Catalog) -> None:
        self._connection = connection
        self._catalog = catalog
        self._open: dict[tuple[str, str], TableDataset | None] = {}
        self._namespaces: set[str] | None = None

    def open_named_in(self, sql: str) -> None:
        """Open every table that a statement may name and that exists."""
        for namespace, name in _pairs(sql):
            if namespace in self._known_namespaces():
                self.open(namespace, name)

    def open_all(self) -> None:
        """Open every table of the catalog."""
        with answering():
            for namespace in sorted(self._known_namespaces()):
                for *_, name in self._catalog.list_tables(namespace):
                    self.open(namespace, name)

    def open(self, namespace: str, name: str, *, refresh: bool = False) -> TableDataset | None:
        """The table's dataset, now also a view; None when there is no such table."""
        key = (namespace, name)
        if refresh:
            self._open.pop(key, None)
            self._known_namespaces().add(namespace)
        if key not in self._open:
            self._open[key] = self._register(namespace, name)
        return self._open[key]

    def _register(self, namespace: str, name: str) -> TableDataset | None:
        from pyiceberg.exceptions import NoSuchTableError

        try:
            with answering():
                table = self._catalog.load_table((namespace, name))
        except NoSuchTableError:
            return None
        return register(self._connection, f"{namespace}.{name}", table)

    def _known_namespaces(self) -> set[str]:
        if self._namespaces is None:
            with answering():
                self._namespaces = {".".join(n) for n in self._catalog.list_namespaces()}
        return self._namespaces


def register(
    connection: DuckDBPyConnection, name: str, table: Table, snapshot_id: int | None = None
) -> TableDataset:
    """Make a table readable in DuckDB as `name`, either a plain one or schema.name."""
    dataset = TableDataset(table, snapshot_id)
    schema, _, view = name.rpartition(".")
    if not schema:
        connection.register(view, dataset)
        return dataset
    # A Python object has a name in one connection only, while the view is shared by all cursors.
    hidden = f"iceberg {name}"
    with _VIEWS_LOCK:
        connection.register(hidden, dataset)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
        target = f"{quoted(schema)}.{quoted(view)}"
        connection.execute(f"CREATE OR REPLACE VIEW {target} AS SELECT * FROM {quoted(hidden)}")
    return dataset


def connect(settings: Settings, sql: str | None = None) -> DuckDBPyConnection:
    """DuckDB in memory, in UTC, with the catalog's tables as namespace.table.

    Given `sql`, only the tables that it names are opened, which is quicker.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    import duckdb

    connection = duckdb.connect(config={"temp_directory": spill_folder()})
    connection.execute("SET TimeZone='UTC'")
    views = Views(connection, open_catalog(settings))
    if sql is None or _LISTING.search(sql):
        views.open_all()
    else:
        views.open_named_in(sql)
    return connection


def query(settings: Settings, sql: str) -> pa.Table:
    """The result of one query over the catalog's tables; files of the machine are out of reach.

    Raises:
        QueryError: `sql` is not one statement that only reads, or DuckDB refuses it.
        CatalogUnavailable: the catalog does not answer.
    """
    import duckdb

    _ensure_it_only_reads(sql)
    with connect(settings, sql) as connection:
        connection.execute("SET enable_external_access=false")
        try:
            return connection.execute(sql).to_arrow_table()
        except duckdb.Error as error:
            hint = "tables are named namespace.table; `show all tables` lists them"
            raise QueryError(str(error), action=hint) from error


def spill_folder() -> str:
    """Where DuckDB may put what exceeds its memory: not the working directory, nor shared.

    DuckDB makes the folder when it needs it and removes it in the end.
    """
    return str(Path(tempfile.gettempdir()) / f"duckdb-spill-{os.getpid()}")


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def _ensure_it_only_reads(sql: str) -> None:
    import duckdb

    try:
        with duckdb.connect() as connection:
            statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error), action="correct the SQL (DuckDB's dialect)") from error
    reading = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    if len(statements) != 1 or statements[0].type not in reading:
        raise QueryError(
            f"not one query but {', '.join(s.type.name for s in statements) or 'nothing'}",
            action="give one SELECT; tables are written by loads and dbt models only",
        )


def _pairs(sql: str) -> Iterator[tuple[str, str]]:
    """Everything in a statement that may be namespace.table; tables of a catalog are lower case."""
    for match in _PAIR.finditer(sql):
        first, second = (_bare(part) for part in match.groups())
        yield first, second


def _bare(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
