"""Converts records of strings (CSV) for validation: a text that spells a number becomes one."""

from __future__ import annotations

import pyarrow as pa

from ingestion_platform.bronze.engine import Engine
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.sql import INPUT
from ingestion_platform.contract.text import typed_query

_SCHEMA = pa.schema([("_value", pa.string())])


class TextReader:
    """Types the strings of records by a contract. Thread-safe."""

    def __init__(self, contract: Contract, *, decimal: str = ".") -> None:
        self._query = typed_query(contract, decimal)
        self._engine = Engine(INPUT, _SCHEMA)

    def typed(self, values: pa.BinaryArray) -> pa.BinaryArray:
        """Return JSON objects of strings (binary, UTF-8) as typed JSON, in the same order."""
        batch = pa.table([values.cast(pa.string())], schema=_SCHEMA)
        typed = self._engine.run(self._query, batch)["_value"]
        return typed.cast(pa.binary()).combine_chunks()
