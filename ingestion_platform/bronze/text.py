"""Records of strings made ready to be judged: what spells a number becomes one."""

from __future__ import annotations

import threading

import duckdb
import pyarrow as pa

from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.sql import INPUT
from ingestion_platform.contract.text import typed_query


class TextReader:
    """A contract's reading of text. Each thread uses a DuckDB of its own."""

    def __init__(self, contract: Contract) -> None:
        self._query = typed_query(contract)
        self._local = threading.local()

    def typed(self, values: pa.BinaryArray) -> pa.BinaryArray:
        """JSON objects of strings (binary, UTF-8) as typed JSON, in the same order."""
        connection = self._connection()
        connection.register(INPUT, pa.table({"_value": values.cast(pa.string())}))
        try:
            typed = connection.execute(self._query).to_arrow_table()["_value"]
        finally:
            connection.unregister(INPUT)
        return typed.cast(pa.binary()).combine_chunks()

    def _connection(self) -> duckdb.DuckDBPyConnection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = duckdb.connect(":memory:")
            # One thread keeps the order of the rows.
            connection.execute("SET threads = 1; SET autoinstall_known_extensions = false")
            self._local.connection = connection
        return connection
