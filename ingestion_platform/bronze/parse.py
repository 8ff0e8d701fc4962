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

from ingestion_platform.contract.decoder import Decoder, Examined, object_keys
from ingestion_platform.contract.model import Contract, Kind
from ingestion_platform.contract.schemas import arrow_schema
from ingestion_platform.contract.sql import INPUT, REASONS, SEPARATOR, parse_query

VERSION = "1"
"""Part of every table's record of how it was made: raise it when the same contract would judge
records differently."""

FEW = 0.2
"""Up to this share of records without some field are completed one by one; more change the way
the rest is read."""

_INPUT_COLUMNS = ["_value", "_broken", "_given"]
_KEYS = f"SELECT coalesce(hash(TRY(json_keys(_value))), 0) AS keys FROM {INPUT}"


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
        self._strict = parse_query(contract, strict=True)
        self._lenient = parse_query(contract, strict=False)
        # A double holds fifteen digits of a decimal for sure; beyond, text has to carry them.
        self._careful = any(
            f.kind is Kind.DECIMAL and (f.precision or 0) > 15 for f in contract.fields
        )
        self._sent = {f.name for f in contract.fields if f.derived is None}
        self._regular = True  # whether the last records all had every field once
        self._local = threading.local()

    def parse(self, values: pa.Array) -> Parsed:
        """Judge records given as a binary array (null for a tombstone)."""
        listed = values.to_pylist()
        every = range(len(listed))
        suspects = set(every) if self._careful else set(self._decoder.refused(listed))
        texts, unreadable = _as_text(values, listed, suspects)
        suspects |= unreadable
        examined = {i: self._decoder.examine(listed[i]) for i in sorted(suspects)}
        judged = self._judge_quickly(texts, examined)
        if judged is None:
            judged = self._judge_carefully(texts, listed, examined)
        reasons = judged[REASONS].combine_chunks()
        rows = judged.drop_columns([REASONS])
        valid = pc.equal(reasons, "")
        if not pc.all(valid, min_count=0).as_py():
            rows = rows.filter(valid)
        refused = reasons.filter(pc.invert(valid))
        return Parsed(valid, rows.cast(self.schema), pc.split_pattern(refused, SEPARATOR))

    def _judge_quickly(self, texts: pa.Array, examined: dict[int, Examined]) -> pa.Table | None:
        """All records at once, None when one of them lacks a field or has one twice."""
        if not self._regular:
            return None
        try:
            return self._run(self._strict, _batch(texts, examined))
        except duckdb.Error:
            self._regular = False
            return None

    def _judge_carefully(
        self, texts: pa.Array, listed: list[bytes | None], examined: dict[int, Examined]
    ) -> pa.Table:
        """Find the records that lack a field or have one twice, and read on strictly if few do."""
        doubled, lacking = self._by_keys(_batch(texts, examined))
        self._regular = not doubled and not lacking
        few = len(lacking) <= len(listed) * FEW
        more = doubled | lacking if few else doubled
        examined = examined | {i: self._decoder.examine(listed[i]) for i in sorted(more)}
        batch = _batch(texts, dict(sorted(examined.items())))
        if few:
            try:
                return self._run(self._strict, batch)
            except duckdb.Error:
                pass  # a record that only the engine cannot read: it is found below
        return self._judge(batch)

    def _run(self, query: str, batch: pa.Table) -> pa.Table:
        connection = self._connection()
        connection.register(INPUT, batch)
        try:
            return connection.execute(query).to_arrow_table()
        finally:
            connection.unregister(INPUT)

    def _by_keys(self, batch: pa.Table) -> tuple[set[int], set[int]]:
        """The records with a key twice, and those that lack one: told once per list of keys."""
        hashes = self._run(_KEYS, batch)["keys"].to_numpy()
        doubled: set[int] = set()
        lacking: set[int] = set()
        for value, first in zip(*np.unique(hashes, return_index=True), strict=True):
            text = batch["_value"][int(first)].as_py()
            if text is None:
                continue
            keys = object_keys(text)
            if len(set(keys)) < len(keys):
                doubled.update(np.flatnonzero(hashes == value).tolist())
            elif not self._sent.issubset(keys):
                lacking.update(np.flatnonzero(hashes == value).tolist())
        return doubled, lacking

    def _judge(self, batch: pa.Table) -> pa.Table:
        """Run the query; a record on which the engine itself fails is found by halving."""
        try:
            return self._run(self._lenient, batch)
        except duckdb.Error as error:
            if batch.num_rows == 1:
                return self._unjudged(str(error))
        middle = batch.num_rows // 2
        halves = [self._judge(batch.slice(0, middle)), self._judge(batch.slice(middle))]
        return pa.concat_tables(halves).combine_chunks()

    def _unjudged(self, problem: str) -> pa.Table:
        """One row of nulls with the engine's own words as its reason."""
        reason = f"value: cannot be judged: {problem.splitlines()[0]}"
        nothing = pa.table(
            {"_value": [None], "_broken": [["*"]], "_given": [reason]},
            schema=pa.schema(
                [
                    ("_value", pa.string()),
                    ("_broken", pa.list_(pa.string())),
                    ("_given", pa.string()),
                ]
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


def _batch(texts: pa.Array, examined: dict[int, Examined]) -> pa.Table:
    """The query's input; what was examined (in order of place) is replaced by what is kept."""
    if not examined:
        nothing = [pa.nulls(len(texts), pa.list_(pa.string())), pa.nulls(len(texts), pa.string())]
        return pa.table([texts, *nothing], names=_INPUT_COLUMNS)
    mask = np.zeros(len(texts), bool)
    mask[list(examined)] = True
    found = examined.values()
    clean = pa.array([e.clean for e in found], pa.binary()).cast(pa.string())
    broken = pa.array([e.broken or None for e in found], pa.list_(pa.string()))
    given = pa.array([SEPARATOR.join(e.reasons) or None for e in found], pa.string())
    places = np.full(len(texts), -1, np.int64)
    places[mask] = np.arange(len(examined))
    sparse = pa.array(places, mask=~mask)
    values = pc.replace_with_mask(texts, pa.array(mask), clean)
    return pa.table([values, broken.take(sparse), given.take(sparse)], names=_INPUT_COLUMNS)
