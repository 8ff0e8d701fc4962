"""Raw records to typed rows and reasons, by a contract: the hot path, in columns and batches.

A record passes a strict gate in C, then one query types and judges all of them; only records
that the gate refuses are looked at in Python. One record can never spoil another.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract.decoder import Decoder, Examined
from ingestion_platform.contract.model import Contract, Kind
from ingestion_platform.contract.schemas import arrow_schema
from ingestion_platform.contract.sql import INPUT, REASONS, SEPARATOR, parse_query, text

VERSION = "1"
"""Part of every table's record of how it was made: raise it when the same contract would judge
records differently."""

_KEYS = f"""SELECT array_to_string(json_keys(_value), chr({ord(SEPARATOR)})) AS keys
FROM {INPUT} WHERE json_valid(_value)"""


@dataclass(frozen=True, slots=True)
class Parsed:
    """Records judged: `valid` masks them, in their order; `rows` has the typed rows of the valid
    ones, `reasons` a list of strings for each of the others."""

    valid: pa.BooleanArray
    rows: pa.Table
    reasons: pa.ListArray


class Parser:
    """A contract made ready to judge records. Each thread uses a DuckDB of its own."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.code_version = f"{contract.fingerprint}-{VERSION}"
        self.schema = arrow_schema(contract)
        self._decoder = Decoder(contract)
        self._query = parse_query(contract)
        # A double holds fifteen digits of a decimal for sure; beyond, text has to carry them.
        self._careful = any(
            f.kind is Kind.DECIMAL and (f.precision or 0) > 15 for f in contract.fields
        )
        self._local = threading.local()

    def parse(self, values: pa.Array) -> Parsed:
        """Judge records given as a binary array (null for a tombstone)."""
        batch = self._batch(values)
        judged = self._judge(batch)
        reasons = judged[REASONS].combine_chunks()
        valid = pc.equal(reasons, "")
        rows = judged.drop_columns([REASONS])
        if not pc.all(valid, min_count=0).as_py():
            rows = rows.filter(valid)
        refused = reasons.filter(pc.invert(valid))
        return Parsed(valid, rows.cast(self.schema), pc.split_pattern(refused, SEPARATOR))

    def _batch(self, values: pa.Array) -> pa.Table:
        """The query's input: what the gate refused is replaced by what can be kept of it."""
        listed = values.to_pylist()
        every = range(len(listed))
        suspects = set(every) if self._careful else set(self._decoder.refused(listed))
        texts, unreadable = _as_text(values, listed, suspects)
        suspects |= unreadable | self._doubled(texts)
        count = len(listed)
        empty = {"_broken": pa.nulls(count, pa.list_(pa.string()))}
        table = pa.table({"_value": texts, **empty, "_given": pa.nulls(count, pa.string())})
        if not suspects:
            return table
        return _with(table, {i: self._decoder.examine(listed[i]) for i in sorted(suspects)})

    def _doubled(self, texts: pa.Array) -> set[int]:
        """Records with a key that stands twice: decoders keep one of them without a word."""
        connection = self._connection()
        connection.register(INPUT, pa.table({"_value": texts}))
        try:
            lists = [k for (k,) in connection.execute(f"SELECT DISTINCT keys FROM ({_KEYS})").fetchall()]
            doubled = [k for k in lists if k and _repeats(k.split(SEPARATOR))]
            if not doubled:
                return set()
            found = connection.execute(
                f"SELECT position FROM (SELECT row_number() OVER () - 1 AS position, _value "
                f"FROM {INPUT}) WHERE CASE WHEN json_valid(_value) THEN "
                f"array_to_string(json_keys(_value), chr({ord(SEPARATOR)})) END "
                f"IN ({', '.join(text(keys) for keys in doubled)})"
            )
            return {int(position) for (position,) in found.fetchall()}
        finally:
            connection.unregister(INPUT)

    def _judge(self, batch: pa.Table) -> pa.Table:
        """Run the query; a record on which the engine itself fails is found by halving."""
        connection = self._connection()
        connection.register(INPUT, batch)
        try:
            return connection.execute(self._query).to_arrow_table()
        except duckdb.Error as error:
            if batch.num_rows == 1:
                return self._unjudged(str(error))
        finally:
            connection.unregister(INPUT)
        middle = batch.num_rows // 2
        halves = [self._judge(batch.slice(0, middle)), self._judge(batch.slice(middle))]
        return pa.concat_tables(halves).combine_chunks()

    def _unjudged(self, problem: str) -> pa.Table:
        """One row of nulls with the engine's own words as its reason."""
        reason = f"value: cannot be judged: {problem.splitlines()[0]}"
        nothing = pa.table(
            {"_value": [None], "_broken": [["*"]], "_given": [reason]},
            schema=pa.schema(
                [("_value", pa.string()), ("_broken", pa.list_(pa.string())), ("_given", pa.string())]
            ),
        )
        return self._judge(nothing)

    def _connection(self) -> duckdb.DuckDBPyConnection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = duckdb.connect(":memory:")
            # One thread keeps the order of the rows; batches run side by side instead.
            connection.execute("SET threads = 1; SET TimeZone = 'UTC'")
            connection.execute("SET autoinstall_known_extensions = false")
            self._local.connection = connection
        return connection


def _as_text(
    values: pa.Array, listed: list[bytes | None], suspects: set[int]
) -> tuple[pa.Array, set[int]]:
    """The values as strings, and which cannot be: strings are checked at the speed of memory."""
    try:
        return values.cast(pa.string()), set()
    except pa.ArrowInvalid:
        unreadable = {i for i, v in enumerate(listed) if v is not None and not _utf8(v)}
        mask = np.zeros(len(listed), bool)
        mask[sorted(unreadable | suspects)] = True
        return pc.if_else(pa.array(mask), None, values).cast(pa.string()), unreadable


def _utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def _with(table: pa.Table, examined: dict[int, Examined]) -> pa.Table:
    """The batch with examined records in the places of the originals."""
    mask = np.zeros(table.num_rows, bool)
    mask[list(examined)] = True
    chosen = pa.array(mask)
    found = examined.values()
    columns = {
        "_value": pa.array([e.clean for e in found], pa.binary()).cast(pa.string()),
        "_broken": pa.array([e.broken or None for e in found], pa.list_(pa.string())),
        "_given": pa.array([SEPARATOR.join(e.reasons) or None for e in found], pa.string()),
    }
    placed = [
        pc.replace_with_mask(table[name].combine_chunks(), chosen, column)
        if name != "_broken"
        else _placed(column, mask)
        for name, column in columns.items()
    ]
    return pa.table(placed, names=list(columns))


def _placed(column: pa.Array, mask: np.ndarray) -> pa.Array:
    """A list column with the values at the mask's places and nulls elsewhere."""
    places = np.full(len(mask), -1, np.int64)
    places[mask] = np.arange(int(mask.sum()))
    return column.take(pa.array(places, mask=~mask))
