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
    """Records judged, by their places among those given.

    `rows` has the typed rows of the records at the places `valid`, `reasons` a list of strings
    for each of those at the places `refused`; every place is in one of them.
    """

    valid: pa.Int64Array
    rows: pa.Table
    refused: pa.Int64Array
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
        texts, places = _others(values, listed, suspects)
        judged = self._judge_quickly(texts)
        if judged is None:
            judged, odd = self._judge_carefully(texts)
            suspects.update(places[odd].tolist())
            places = np.delete(places, odd)
        if suspects:
            odd_places = np.array(sorted(suspects), np.int64)
            examined = [self._decoder.examine(listed[i]) for i in odd_places]
            judged = pa.concat_tables([judged, self._judge(_examined(examined))])
            places = np.concatenate([places, odd_places])
        return self._parsed(judged, places)

    def _parsed(self, judged: pa.Table, places: np.ndarray) -> Parsed:
        reasons = judged[REASONS].combine_chunks()
        rows = judged.drop_columns([REASONS])
        fine = pc.equal(reasons, "")
        if not pc.all(fine, min_count=0).as_py():
            rows = rows.filter(fine)
        mask = fine.to_numpy(zero_copy_only=False).astype(bool)
        refused = pc.split_pattern(reasons.filter(pc.invert(fine)), SEPARATOR)
        valid, others = pa.array(places[mask]), pa.array(places[~mask])
        return Parsed(valid, rows.cast(self.schema), others, refused)

    def _judge_quickly(self, texts: pa.Array) -> pa.Table | None:
        """All records at once, None when one of them lacks a field or has one twice."""
        if not self._regular:
            return None
        try:
            return self._run(self._strict, _plain(texts))
        except duckdb.Error:
            self._regular = False
            return None

    def _judge_carefully(self, texts: pa.Array) -> tuple[pa.Table, np.ndarray]:
        """Judge all but the odd records, whose places are given too.

        Those are the ones with a field twice, and those that lack one, when they are few.
        """
        doubled, lacking = self._by_keys(texts)
        self._regular = not doubled.any() and not lacking.any()
        few = lacking.sum() <= len(texts) * FEW
        odd = doubled | lacking if few else doubled
        if few:
            try:
                return self._run(self._strict, _without(texts, odd)), np.flatnonzero(odd)
            except duckdb.Error:
                pass  # a record that only the engine cannot read: it is found below
        if self._decoder.nested:
            odd |= np.array([self._decoder.doubled_inside(text.as_py()) for text in texts], bool)
        return self._judge(_without(texts, odd)), np.flatnonzero(odd)

    def _run(self, query: str, batch: pa.Table) -> pa.Table:
        connection = self._connection()
        connection.register(INPUT, batch)
        try:
            return connection.execute(query).to_arrow_table()
        finally:
            connection.unregister(INPUT)

    def _by_keys(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the records with a key twice, and of those that lack one.

        Records with the same list of keys are told apart from others once for all.
        """
        hashes = self._run(_KEYS, _plain(texts))["keys"].to_numpy()
        doubled, lacking = np.zeros(len(texts), bool), np.zeros(len(texts), bool)
        for value, first in zip(*np.unique(hashes, return_index=True), strict=True):
            keys = [k for k in object_keys(texts[int(first)].as_py()) if k in self._sent]
            if len(set(keys)) < len(keys):
                doubled |= hashes == value
            elif not self._sent.issubset(keys):
                lacking |= hashes == value
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
        shape = self._run(self._lenient, _plain(pa.array([], pa.string()))).schema
        nothing = [pa.nulls(1, column.type) for column in shape]
        nothing[shape.get_field_index(REASONS)] = pa.array([reason])
        return pa.table(nothing, schema=shape)

    def _connection(self) -> duckdb.DuckDBPyConnection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = duckdb.connect(":memory:")
            # One thread keeps the order of the rows; batches run side by side instead.
            connection.execute("SET threads = 1; SET TimeZone = 'UTC'")
            connection.execute("SET autoinstall_known_extensions = false")
            self._local.connection = connection
        return connection


def _others(
    values: pa.Array, listed: list[bytes | None], suspects: set[int]
) -> tuple[pa.Array, np.ndarray]:
    """The values that are not suspect, as strings, and their places.

    Strings are checked at the speed of memory; what is no UTF-8 in parts that the gate skips
    becomes suspect too.
    """
    mask = np.ones(len(listed), bool)
    mask[list(suspects)] = False
    try:
        texts = (values.filter(pa.array(mask)) if suspects else values).cast(pa.string())
    except pa.ArrowInvalid:
        suspects |= {i for i in np.flatnonzero(mask).tolist() if not _utf8(listed[i])}
        return _others(values, listed, suspects)
    return texts, np.flatnonzero(mask)


def _utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _without(texts: pa.Array, odd: np.ndarray) -> pa.Table:
    """The query's input for all records but the odd ones."""
    return _plain(texts.filter(pa.array(~odd)) if odd.any() else texts)


def _plain(texts: pa.Array) -> pa.Table:
    """The query's input for records that have no reason against them yet."""
    count = len(texts)
    return pa.table(
        [texts, pa.nulls(count, pa.list_(pa.string())), pa.nulls(count, pa.string())],
        names=_INPUT_COLUMNS,
    )


def _examined(examined: list[Examined]) -> pa.Table:
    """The query's input for records that were examined: what is kept of them, and what is not."""
    return pa.table(
        [
            pa.array([e.clean for e in examined], pa.binary()).cast(pa.string()),
            pa.array([e.broken or None for e in examined], pa.list_(pa.string())),
            pa.array([SEPARATOR.join(e.reasons) or None for e in examined], pa.string()),
        ],
        names=_INPUT_COLUMNS,
    )
