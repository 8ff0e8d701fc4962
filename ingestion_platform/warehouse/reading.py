"""Query the Iceberg catalog with DuckDB: tables that SQL names become views namespace.table.

Read-only; dbt models write through `replace`.
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
# Cursors of one DuckDB share views; replacing the same view twice at once fails.
_VIEWS_LOCK = threading.RLock()


class QueryError(Permanent):
    """A statement that cannot be run: not SQL, not a query, or it names a missing table."""


class Views:
    """The tables of a catalog as views of one DuckDB connection, opened on demand.

    A view keeps the snapshot of its first use until it is refreshed.
    """

    def __init__(self, connection: DuckDBPyConnection, catalog: Catalog) -> None:
        self._connection = connection
        self._catalog = catalog
        self._open: dict[tuple[str, str], TableDataset | None] = {}
        self._namespaces: set[str] | None = None

    def open_named_in(self, sql: str) -> None:
        """Open the existing tables that a statement may name."""
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
        """Make a table a view and return its dataset; None if it does not exist."""
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
    """Make a table readable in DuckDB as `name` or `schema.name`."""
    dataset = TableDataset(table, snapshot_id)
    schema, _, view = name.rpartition(".")
    if not schema:
        connection.register(view, dataset)
        return dataset
    # A registered Python object belongs to one connection; all cursors share the view.
    hidden = f"iceberg {name}"
    with _VIEWS_LOCK:
        connection.register(hidden, dataset)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
        target = f"{quoted(schema)}.{quoted(view)}"
        connection.execute(f"CREATE OR REPLACE VIEW {target} AS SELECT * FROM {quoted(hidden)}")
    return dataset


def connect(settings: Settings, sql: str | None = None) -> DuckDBPyConnection:
    """Return an in-memory DuckDB in UTC with the catalog's tables as namespace.table.

    With `sql`, only the tables that it names are opened, which is faster.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    import duckdb

    connection = duckdb.connect(config={"temp_directory": spill_folder()})
    open_tables(connection, settings, sql)
    return connection


def open_tables(connection: DuckDBPyConnection, settings: Settings, sql: str | None = None) -> None:
    """Make the catalog's tables readable in a connection, or only those that `sql` names.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    connection.execute("SET TimeZone='UTC'")
    views = Views(connection, open_catalog(settings))
    if sql is None or _LISTING.search(sql):
        views.open_all()
    else:
        views.open_named_in(sql)


def query(settings: Settings, sql: str) -> pa.Table:
    """Return the result of one query over the catalog's tables; it cannot access local files.

    Raises:
        QueryError: `sql` is not a single SELECT or EXPLAIN, or DuckDB rejects it.
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
    """Return a temporary folder of this process for what exceeds DuckDB's memory.

    DuckDB creates and removes the folder.
    """
    return str(Path(tempfile.gettempdir()) / f"duckdb-spill-{os.getpid()}")


def quoted(name: str) -> str:
    """Return a name quoted for SQL."""
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
    """Yield everything in a statement that may be namespace.table, unquoted in lower case."""
    for match in _PAIR.finditer(sql):
        first, second = (_bare(part) for part in match.groups())
        yield first, second


def _bare(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
