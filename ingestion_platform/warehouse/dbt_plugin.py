"""dbt's `embedded` target: DuckDB computes, PyIceberg reads and writes the catalog's tables.

dbt-duckdb loads this plugin (profiles.yml). A relation becomes a view when a statement first names
it, so parsing needs no catalog. The `iceberg` materialization stores through `Plugin`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.adapters.duckdb.environments import local
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig
from dbt_common.exceptions import DbtRuntimeError

from ingestion_platform.errors import TRANSIENT_CODE, PlatformError, Transient
from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.datafiles import ROW_GROUP
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.reading import Views, quoted, spill_folder
from ingestion_platform.warehouse.replace import Outcome, Replacement, Shape

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import FileScanTask

_FILE = "file number"


class Plugin(BasePlugin):
    """Opens the catalog's tables for dbt-duckdb's cursors, and stores models' results."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Make dbt open cursors that know the catalog."""
        self._settings: Settings | None = None
        self._catalog: Catalog | None = None
        self._lock = threading.Lock()
        # dbt-duckdb has no hook before a statement; its environment wraps cursors in this class.
        vars(local)["DuckDBCursorWrapper"] = partial(_Cursor, plugin=self)

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:
        """Spill to a temporary folder instead of the working directory."""
        config.setdefault("temp_directory", spill_folder())

    @property
    def catalog(self) -> Catalog:
        """The catalog of the present settings, opened at the first use."""
        # dbt runs in its project's folder, below the root of the defaults.
        here = Path.cwd()
        settings = Settings.load(root=here.parent if (here / "dbt_project.yml").exists() else here)
        with self._lock:
            if self._catalog is None or self._settings != settings:
                self._settings, self._catalog = settings, open_catalog(settings)
            return self._catalog

    def store(self, target_config: TargetConfig) -> None:
        """Run a model's query and replace the touched rows by its result in one commit.

        The materialization passes `target_config.config`: sql, partition_by, comment, descriptions,
        touched (None for all rows, {column, values} or {keys, sql}), and outcome, a dict that
        receives message, code and rows_affected.
        """
        config = target_config.config
        relation = target_config.relation
        name = (str(relation.schema), str(relation.identifier))
        with _node_cursor() as cursor, _as_dbt_errors():
            model = _Model(self.catalog, cursor, name, config)
            outcome = model.run()
            cursor.views.open(*name, refresh=True)
        config["outcome"].update(model.report(outcome))


class _Cursor(local.DuckDBCursorWrapper):
    """A DuckDB cursor that opens the tables of a statement before it runs.

    dbt opens one cursor per node, so a node reads one snapshot of each table.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, plugin: Plugin) -> None:
        super().__init__(cursor)  # type: ignore[no-untyped-call]
        self.connection = cursor
        self._plugin = plugin
        _THREAD.cursor = self

    def close(self) -> None:
        """Close the cursor; the next node of this thread opens another one."""
        if getattr(_THREAD, "cursor", None) is self:
            _THREAD.cursor = None
        self.connection.close()

    @cached_property
    def views(self) -> Views:
        """The views of this cursor."""
        return Views(self.connection, self._plugin.catalog)

    def execute(self, sql: str, bindings: Any = None) -> Any:
        """Open the tables that a statement names, and run it."""
        with _as_dbt_errors():
            if _RELATION.search(sql):
                self.views.open_named_in(sql)
        return super().execute(sql, bindings)  # type: ignore[no-untyped-call]


_THREAD = threading.local()


@contextmanager
def _node_cursor() -> Iterator[_Cursor]:
    """Give the cursor of this thread's node; a temporary one before its first statement."""
    cursor = getattr(_THREAD, "cursor", None)
    if cursor is not None:
        yield cursor
        return
    handle = DuckDBConnectionManager.env().handle()  # type: ignore[no-untyped-call]
    try:
        yield handle.cursor()
    finally:
        handle.close()


# dbt quotes every part of a relation; other statements need no catalog.
_RELATION = re.compile(r'"\s*\.\s*"')


class _Model:
    """One run of one model."""

    def __init__(
        self,
        catalog: Catalog,
        cursor: _Cursor,
        identifier: tuple[str, str],
        config: Mapping[str, Any],
    ) -> None:
        self._catalog, self._cursor, self._identifier = catalog, cursor, identifier
        self._connection = cursor.connection
        # The snapshot that the compiled SQL has read, if it names this table.
        self._base: TableDataset | None = cursor.views.open(*identifier)
        self._sql: str = config["sql"]
        self._touched: Mapping[str, Any] | None = config["touched"]
        self._order: Sequence[str] = [*_columns(config["partition_by"]), *config["sort_by"]]
        self._shape = Shape(config["partition_by"], config["comment"], config["descriptions"])
        cursor.views.open_named_in(self._sql)

    def run(self) -> Outcome:
        """Compute and commit the rows."""
        if self._touched is None:
            return self._full()
        if "keys" in self._touched:
            return self._upsert(self._touched["keys"], self._touched["sql"])
        return self._replace(self._touched["column"], self._touched["values"])

    def report(self, outcome: Outcome) -> dict[str, Any]:
        """Return the outcome for dbt's run results."""
        snapshot = f", snapshot {outcome.snapshot_id}" if outcome.snapshot_id else ", no change"
        return {
            "message": f"+{outcome.written} -{outcome.removed} rows{snapshot}",
            "code": self._strategy,
            "rows_affected": outcome.written,
        }

    @property
    def _strategy(self) -> str:
        if self._touched is None:
            return "full"
        return "upsert" if "keys" in self._touched else "replace"

    def _full(self) -> Outcome:
        return self._commit(self._sql, self._base.tasks() if self._base is not None else [])

    def _replace(self, column: str, values: Sequence[str]) -> Outcome:
        from pyiceberg.expressions import In

        if not values:
            # Nothing was touched; a missing table is still created.
            return Outcome(0, 0, None) if self._base is not None else self._commit(self._sql, [])
        name, chosen = quoted(column), In(column, list(values))
        dates = ", ".join(f"DATE '{value}'" for value in values)
        whole, partly = _matching(self._base, chosen)
        # A row outside the replaced values would be duplicated.
        stray = f"error('the result has a row with {column} ' || coalesce({name}::VARCHAR, 'null')"
        stray += " || ', which this run does not replace')"
        sql = f"SELECT * REPLACE (if({name} IN ({dates}), {name}, {stray}) AS {name})"
        sql += f" FROM ({self._sql}\n)"
        if self._base is not None and partly:
            self._connection.register("dbt_rewritten", self._base.subset(partly))
            sql += f" UNION ALL BY NAME SELECT * FROM dbt_rewritten WHERE ({name} IN ({dates}))"
            sql += " IS NOT TRUE"
        return self._commit(sql, [*whole, *partly], conflicts=chosen)

    def _upsert(self, keys: Sequence[str], touched_sql: str) -> Outcome:
        names = ", ".join(quoted(key) for key in keys)
        run = self._connection.execute
        self._cursor.views.open_named_in(touched_sql)
        run(f"CREATE OR REPLACE TEMP TABLE dbt_result AS {self._sql}")
        self._ensure_keys_are_unique(keys)
        run(
            f"CREATE OR REPLACE TEMP TABLE dbt_touched AS SELECT {names} FROM ({touched_sql}) "
            f"UNION SELECT {names} FROM dbt_result"
        )
        files = self._files_with(keys)
        sql = "SELECT * FROM dbt_result"
        if self._base is not None and files:
            self._connection.register("dbt_rewritten", self._base.subset(files))
            sql += (
                f" UNION ALL BY NAME SELECT * FROM dbt_rewritten ANTI JOIN dbt_touched"
                f" USING ({names})"
            )
        outcome = self._commit(sql, files)
        run("DROP TABLE dbt_result; DROP TABLE dbt_touched")
        return outcome

    def _ensure_keys_are_unique(self, keys: Sequence[str]) -> None:
        names = ", ".join(quoted(key) for key in keys)
        nulls = " OR ".join(f"{quoted(key)} IS NULL" for key in keys)
        found = self._connection.execute(
            f"SELECT {names}, count(*) FROM dbt_result GROUP BY {names} "
            f"HAVING count(*) > 1 OR {nulls} LIMIT 1"
        ).fetchone()
        if found is not None:
            *key, count = found
            raise DbtRuntimeError(
                f"{'.'.join(self._identifier)}: key ({', '.join(keys)}) = {tuple(key)} occurs"
                f" {count} times in the result; it must be unique and not null"
            )

    def _files_with(self, keys: Sequence[str]) -> list[FileScanTask]:
        """Return the files with a row of a touched key."""
        if self._base is None:
            return []
        tasks = self._base.tasks()
        rows = _numbered(self._base, tasks, keys)
        self._connection.register("dbt_keys", rows)
        names = ", ".join(quoted(key) for key in keys)
        found = self._connection.execute(
            f"SELECT DISTINCT {quoted(_FILE)} FROM dbt_keys SEMI JOIN dbt_touched USING ({names})"
        ).fetchall()
        self._connection.unregister("dbt_keys")
        return [tasks[number] for (number,) in found]

    def _commit(
        self,
        sql: str,
        replaced: Sequence[FileScanTask],
        conflicts: BooleanExpression | None = None,
    ) -> Outcome:
        """Replace files by the query's rows."""
        if self._order:
            # Sorted by partition, so that one file at a time is written.
            sql = f"SELECT * FROM ({sql}\n) ORDER BY {', '.join(quoted(c) for c in self._order)}"
        rows = self._connection.execute(sql).to_arrow_reader(ROW_GROUP)
        base = self._base.table if self._base is not None else None
        shape, identifier = self._shape, self._identifier
        with Replacement(self._catalog, identifier, base, rows.schema, shape) as replacement:
            replacement.write(rows)
            replacement.remove(task.file for task in replaced)
            return replacement.commit(conflicts)


def _columns(partition_by: Sequence[str]) -> list[str]:
    return [re.sub(r"^\w+\((\w+)\)$", r"\1", text) for text in partition_by]


def _numbered(
    dataset: TableDataset, tasks: Sequence[FileScanTask], columns: Sequence[str]
) -> pa.RecordBatchReader:
    """Return columns of a table, with the index of each row's file."""
    fields = [dataset.schema.field(name) for name in columns]

    def batches() -> Iterator[pa.RecordBatch]:
        for number, task in enumerate(tasks):
            for batch in dataset.subset([task]).scanner(columns=list(columns)).to_batches():
                numbers = pa.repeat(pa.scalar(number, pa.int32()), batch.num_rows)
                yield pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=schema)

    schema = pa.schema([*fields, pa.field(_FILE, pa.int32())])
    return pa.RecordBatchReader.from_batches(schema, batches())


def _matching(
    dataset: TableDataset | None, chosen: BooleanExpression
) -> tuple[list[FileScanTask], list[FileScanTask]]:
    """Return the files of which all rows match, by statistics, and those of which some may."""
    from ingestion_platform.warehouse.pyiceberg_private import all_rows_match

    if dataset is None:
        return [], []
    schema = dataset.table.schema()
    whole: list[FileScanTask] = []
    partly: list[FileScanTask] = []
    for task in dataset.table.scan(row_filter=chosen).plan_files():
        (whole if all_rows_match(schema, chosen, task.file) else partly).append(task)
    return whole, partly


@contextmanager
def _as_dbt_errors() -> Iterator[None]:
    """Translate errors into dbt's, which shows only their message."""
    try:
        yield
    except Transient as error:
        raise DbtRuntimeError(f"{TRANSIENT_CODE} {error}") from error
    except (PlatformError, duckdb.Error, pa.ArrowException) as error:
        raise DbtRuntimeError(str(error)) from error
