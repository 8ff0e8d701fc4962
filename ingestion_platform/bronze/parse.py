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

    def parse(self, values: pa.Array | pa.ChunkedArray) -> Parsed:
        """Judge records given as binary values (null for a tombstone)."""
        if isinstance(values, pa.Array):
            values = pa.chunked_array([values])
        listed = values.to_pylist()
        odd = np.full(len(listed), self._careful)
        if not self._careful:
            odd[self._decoder.refused(listed)] = True
        texts = _others(values, listed, odd)
        judged = self._judge_quickly(texts)
        if judged is None:
            judged = self._judge_carefully(texts, odd)
        return self._parsed(judged, listed, odd)

    def _parsed(self, judged: pa.Table, listed: list[bytes | None], odd: np.ndarray) -> Parsed:
        """The verdicts on all records; those at the places `odd` are examined for it."""
        valid, rows, others, reasons = self._told_apart(judged, ~odd)
        if odd.any():
            places = np.flatnonzero(odd)
            examined = self._judge(_examined([self._decoder.examine(listed[i]) for i in places]))
            more = self._told_apart(examined, np.ones(len(places), bool))
            valid = np.concatenate([valid, places[more[0]]])
            rows = pa.concat_tables([rows, more[1]])
            others = np.concatenate([others, places[more[2]]])
            reasons = pa.chunked_array([*reasons.chunks, *more[3].chunks], reasons.type)
        split = pc.split_pattern(reasons.combine_chunks(), SEPARATOR)
        return Parsed(pa.array(valid), rows.cast(self.schema), pa.array(others), split)

    @staticmethod
    def _told_apart(
        judged: pa.Table, chosen: np.ndarray
    ) -> tuple[np.ndarray, pa.Table, np.ndarray, pa.ChunkedArray]:
        """Places and rows of the valid ones of the chosen, places and reasons of the others."""
        reasons = judged[REASONS]
        rows = judged.drop_columns([REASONS])
        fine = pc.equal(reasons, "").to_numpy().astype(bool)
        valid, refused = fine & chosen, ~fine & chosen
        if not valid.all():
            rows = rows.filter(pa.array(valid))
        return (
            np.flatnonzero(valid),
            rows,
            np.flatnonzero(refused),
            reasons.filter(pa.array(refused)),
        )

    def _judge_quickly(self, texts: pa.ChunkedArray) -> pa.Table | None:
        """All records at once, None when one of them lacks a field or has one twice."""
        if not self._regular:
            return None
        try:
            return self._run(self._strict, _plain(texts))
        except duckdb.Error:
            self._regular = False
            return None

    def _judge_carefully(self, texts: pa.ChunkedArray, odd: np.ndarray) -> pa.Table:
        """Judge all but the odd records, and mark further ones as odd.

        Those are the ones with a field twice, and those that lack one, when they are few.
        """
        doubled, lacking = self._by_keys(texts)
        self._regular = not doubled.any() and not lacking.any()
        odd |= doubled
        if lacking.sum() <= len(texts) * FEW:
            odd |= lacking
            try:
                return self._run(self._strict, _plain(_hidden(texts, odd)))
            except duckdb.Error:
                pass  # a record that only the engine cannot read: it is found below
        if self._decoder.nested:
            for place in np.flatnonzero(~odd):
                odd[place] = self._decoder.doubled_inside(texts[int(place)].as_py())
        return self._judge(_plain(_hidden(texts, odd)))

    def _run(self, query: str, batch: pa.Table) -> pa.Table:
        connection = self._connection()
        connection.register(INPUT, batch)
        try:
            return connection.execute(query).to_arrow_table()
        except UnicodeDecodeError as error:
            # DuckDB quotes the record in its message, and may cut it within a character.
            raise duckdb.InvalidInputException("the engine cannot read the record") from error
        finally:
            connection.unregister(INPUT)

    def _by_keys(self, texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the records with a key twice, and of those that lack one.

        Records with the same list of keys are told apart from others once for all.
        """
        hashes = self._run(_KEYS, _plain(texts))["keys"].to_numpy()
        doubled, lacking = np.zeros(len(texts), bool), np.zeros(len(texts), bool)
        for value, first in zip(*np.unique(hashes, return_index=True), strict=True):
            text = texts[int(first)].as_py()
            if text is None:
                continue
            keys = [k for k in object_keys(text) if k in self._sent]
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
    values: pa.ChunkedArray, listed: list[bytes | None], odd: np.ndarray
) -> pa.ChunkedArray:
    """The values as strings, null at the places that are odd.

    Strings are checked at the speed of memory; what is no UTF-8 in parts that the gate skips
    becomes odd too.
    """
    try:
        return _hidden(values, odd).cast(pa.string())
    except pa.ArrowInvalid:
        for place in np.flatnonzero(~odd):
            odd[place] = not _utf8(listed[place])
        return _hidden(values, odd).cast(pa.string())


def _hidden(values: pa.ChunkedArray, odd: np.ndarray) -> pa.ChunkedArray:
    """The values with nulls at the places that are odd; only their bitmaps are made anew."""
    if not odd.any():
        return values
    chunks, start = [], 0
    for chunk in values.chunks:
        _, offsets, data = chunk.buffers()
        shown = ~odd[start : start + len(chunk)]
        if chunk.null_count:
            shown &= chunk.is_valid().to_numpy(zero_copy_only=False)
        bits = np.concatenate([np.zeros(chunk.offset, bool), shown])
        bitmap = pa.py_buffer(np.packbits(bits, bitorder="little").tobytes())
        chunks.append(
            pa.Array.from_buffers(
                values.type, len(chunk), [bitmap, offsets, data], offset=chunk.offset
            )
        )
        start += len(chunk)
    return pa.chunked_array(chunks, values.type)


def _utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain(texts: pa.Array | pa.ChunkedArray) -> pa.Table:
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
