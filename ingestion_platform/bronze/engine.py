"""DuckDB over Arrow batches: each thread plans a query once and runs it over many batches.

The queries are made elsewhere.
"""

from __future__ import annotations

import threading
from typing import Any

import duckdb
import pyarrow as pa


class Engine:
    """Runs queries over a relation of a fixed name and schema. Thread-safe."""

    def __init__(self, relation: str, schema: pa.Schema) -> None:
        self._relation = relation
        self._schema = schema
        self._local = threading.local()

    def run(self, query: str, batch: pa.Table) -> pa.Table:
        """Return the result of a query over a batch, rows in the order of the batch.

        Raises:
            duckdb.Error: the query fails on the batch.
        """
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session(self._relation, self._schema)
        return session.run(query, batch)


class _Session:
    """The connection and the prepared queries of one thread."""

    def __init__(self, relation: str, schema: pa.Schema) -> None:
        self._input = _Input(schema)
        self._planned: dict[str, str] = {}
        self._connection = duckdb.connect(":memory:")
        # One thread keeps the order of the rows; batches run side by side instead.
        self._connection.execute("SET threads = 1; SET TimeZone = 'UTC'")
        self._connection.execute("SET autoinstall_known_extensions = false")
        self._connection.register(relation, self._input)

    def run(self, query: str, batch: pa.Table) -> pa.Table:
        self._input.batch = batch
        try:
            return self._connection.execute(f"EXECUTE {self._plan(query)}").to_arrow_table()
        except UnicodeDecodeError as error:
            # DuckDB quotes the record in its message, and may cut it within a character.
            raise duckdb.InvalidInputException("the engine cannot read the record") from error
        finally:
            self._input.clear()

    def _plan(self, query: str) -> str:
        if query not in self._planned:
            name = f"query_{len(self._planned)}"
            self._connection.execute(f"PREPARE {name} AS {query}")
            self._planned[query] = name
        return self._planned[query]


class _Input:
    """The current batch as a relation that DuckDB reads at each run (Arrow's C interface)."""

    def __init__(self, schema: pa.Schema) -> None:
        self._nothing = schema.empty_table()
        self.batch = self._nothing

    def clear(self) -> None:
        """Release the batch."""
        self.batch = self._nothing

    def __arrow_c_schema__(self) -> Any:
        return self.batch.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.batch.__arrow_c_stream__(requested_schema)
