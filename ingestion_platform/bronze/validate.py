"""Raw records to typed rows and reasons, by a contract: the hot path, in columns and batches.

A record passes a strict gate in C, then one query types and validates all of them; only records
that the gate refuses are looked at in Python. One record can never spoil another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.engine import Engine
from ingestion_platform.contract.decoder import Decoder, Examined
from ingestion_platform.contract.exact import Column
from ingestion_platform.contract.json_text import object_keys
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.reasons import RECORD, Code, Reason
from ingestion_platform.contract.schemas import arrow_schema, reasons_type
from ingestion_platform.contract.sql import (
    EXACT,
    INPUT,
    ODD,
    REASONS,
    REJECTED,
    input_schema,
    parse_query,
    reasons_query,
)
from ingestion_platform.contract.wire import envelope_of, may_be_envelope

VERSION = "4"
"""Part of every table's record of how it was made: raise it when the same contract would validate
records differently."""

FEW = 0.2
"""Up to this share of records without some field are completed one by one; more change the way
the rest is read."""

BATCH = 32_768
"""Records validated at once: many enough to make a query's fixed cost small, few enough that the
next batch finds the memory of this one still warm."""

_ENGINE = "cannot be validated by the query engine"
_KEYS = f"SELECT coalesce(hash(TRY(json_keys(_value))), 0) AS keys FROM {INPUT}"


@dataclass(frozen=True, slots=True)
class Validated:
    """Records validated, by their places among those given.

    `rows` has the typed rows of the records at the places `valid`, `reasons` a list of structs
    (`schemas.reasons_type`) for each of those at the places `rejected`; every place is in one of
    them.
    """

    valid: pa.Int64Array
    rows: pa.Table
    rejected: pa.Int64Array
    reasons: pa.ListArray


@dataclass(frozen=True, slots=True)
class _Results:
    """Rows and reasons, each with the places of the records they belong to."""

    valid: np.ndarray
    rows: pa.Table
    rejected: np.ndarray
    reasons: pa.ListArray


class Validator:
    """A contract made ready to validate records. Thread-safe; each thread has an engine of its
    own."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.code_version = f"{contract.fingerprint}-{VERSION}"
        self.schema = arrow_schema(contract)
        self._decoder = Decoder(contract)
        self._strict = parse_query(contract, strict=True)
        self._lenient = parse_query(contract, strict=False)
        self._explain = reasons_query(contract)
        self._sent = self._decoder.names
        self._ambiguous = may_be_envelope(self._sent)
        self._input = input_schema(contract)
        self._engine = Engine(INPUT, self._input)
        self._exact = [
            name.removeprefix(EXACT) for name in self._input.names if name.startswith(EXACT)
        ]
        # What the last records were like: nearly all had every field, none had one twice.
        self._whole = self._single = True

    def parse(self, values: pa.Array | pa.ChunkedArray) -> Validated:
        """Validate records given as binary values (null for a tombstone)."""
        if isinstance(values, pa.Array):
            values = pa.chunked_array([values])
        found: list[_Results] = []
        places: list[int] = []
        odd_ones: list[bytes | None] = []
        for start in range(0, max(1, len(values)), BATCH):
            results, odd = self._batch(values.slice(start, BATCH), start)
            found.append(results)
            places += odd.keys()
            odd_ones += odd.values()
        if odd_ones:
            found.append(self._examine(np.array(places), odd_ones))
        return self._parsed(found)

    def _batch(
        self, values: pa.ChunkedArray, start: int
    ) -> tuple[_Results, dict[int, bytes | None]]:
        """Validate a batch whose first record has the place `start`; gives the odd ones
        unjudged."""
        listed = values.to_pylist()
        odd, exact = self._gate(listed)
        texts = _others(values, listed, odd)
        batch = self._input_of(texts, exact, odd)
        validated = self._validate_quickly(batch)
        if validated is None:
            validated = self._validate_carefully(batch, odd)
        odd |= validated[ODD].to_numpy()
        results = self._split(batch, validated, ~odd, start)
        return results, {start + int(i): listed[i] for i in np.flatnonzero(odd)}

    def _gate(self, listed: list[bytes | None]) -> tuple[np.ndarray, dict[str, Column]]:
        """A mask of the records that have to be examined one by one, and exact texts of others."""
        if self._decoder.never:
            nothing: Column = [None] * len(listed)
            return np.ones(len(listed), bool), dict.fromkeys(self._exact, nothing)
        screened = self._decoder.screen(listed, whole=self._whole)
        odd = np.zeros(len(listed), bool)
        odd[screened.odd] = True
        if self._whole and len(screened.odd) > len(listed) * FEW:
            again = self._decoder.screen([listed[i] for i in screened.odd])
            if len(screened.odd) - len(again.odd) > len(listed) * FEW:
                self._whole = False
                return self._gate(listed)
        return odd, screened.texts

    def _input_of(
        self, texts: pa.ChunkedArray, exact: Mapping[str, Column], odd: np.ndarray
    ) -> pa.Table:
        """The query's input for records that have no reason against them yet."""
        none_broken = pa.nulls(len(texts), pa.list_(pa.string()))
        columns = [self._column(name, exact[name], odd) for name in self._exact]
        return pa.table([texts, none_broken, *columns], schema=self._input)

    def _column(self, name: str, values: Column, odd: np.ndarray | None = None) -> pa.Array:
        """Exact values as a column of the query's input, null where the record is odd."""
        kind = self._input.field(EXACT + name).type
        column = pa.array(values, pa.binary() if pa.types.is_string(kind) else kind)
        if odd is not None and odd.any():
            column = pc.if_else(pa.array(~odd), column, None)
        return column.cast(kind)

    def _examine(self, places: np.ndarray, listed: list[bytes | None]) -> _Results:
        """The results on records that passed no gate: the decoder's reasons, then the query's."""
        examined = [self._decoder.examine(value) for value in listed]
        batch = self._examined(examined)
        validated = self._validate(batch)
        rejected = validated[REJECTED].to_numpy() | [bool(e.reasons) for e in examined]
        queried = self._reasons(batch.filter(pa.array(rejected))).to_pylist()
        wrong = [examined[place] for place in np.flatnonzero(rejected)]
        reasons = [
            [*(r.as_dict() for r in e.reasons), *more]
            for e, more in zip(wrong, queried, strict=True)
        ]
        rows = validated.drop_columns([ODD, REJECTED]).filter(pa.array(~rejected))
        return _Results(places[~rejected], rows, places[rejected], _with_reasons(reasons))

    def _examined(self, examined: list[Examined]) -> pa.Table:
        """The query's input for records that were examined: what is kept of them, and what not."""
        texts = [[e.texts.get(name) for e in examined] for name in self._exact]
        return pa.table(
            [
                pa.array([e.clean for e in examined], pa.binary()).cast(pa.string()),
                pa.array([e.broken or None for e in examined], pa.list_(pa.string())),
                *map(self._column, self._exact, texts),
            ],
            schema=self._input,
        )

    def _parsed(self, found: list[_Results]) -> Validated:
        rows = pa.concat_tables([v.rows for v in found])
        return Validated(
            pa.array(np.concatenate([v.valid for v in found]), pa.int64()),
            rows.cast(self.schema),
            pa.array(np.concatenate([v.rejected for v in found]), pa.int64()),
            pa.concat_arrays([v.reasons for v in found]),
        )

    def _split(
        self, batch: pa.Table, validated: pa.Table, chosen: np.ndarray, start: int
    ) -> _Results:
        """Of the chosen records, the valid ones with rows and the others with reasons."""
        wrong = validated[REJECTED].to_numpy()
        rows = validated.drop_columns([ODD, REJECTED])
        valid, rejected = chosen & ~wrong, chosen & wrong
        if not valid.all():
            rows = rows.filter(pa.array(valid))
        reasons = self._reasons(batch.filter(pa.array(rejected)))
        return _Results(
            start + np.flatnonzero(valid), rows, start + np.flatnonzero(rejected), reasons
        )

    def _reasons(self, batch: pa.Table) -> pa.ListArray:
        """The reasons that the query gives against the records of a batch.

        A record on which the engine itself fails is found by halving, and gets its words.
        """
        if not batch.num_rows:
            return _with_reasons([])
        try:
            found = self._engine.run(self._explain, batch)[REASONS]
            return found.cast(reasons_type()).combine_chunks()
        except duckdb.Error as error:
            if batch.num_rows == 1:
                first = str(error).splitlines()[0]
                return _with_reasons([[Reason(Code.ENGINE, RECORD, _ENGINE, first).as_dict()]])
        middle = batch.num_rows // 2
        halves = [self._reasons(batch.slice(0, middle)), self._reasons(batch.slice(middle))]
        return pa.concat_arrays(halves)

    def _validate_quickly(self, batch: pa.Table) -> pa.Table | None:
        """All records at once, None when one of them may lack a field or has one twice."""
        if self._ambiguous or not (self._whole and self._single):
            return None
        try:
            return self._engine.run(self._strict, batch)
        except duckdb.Error:
            return None

    def _validate_carefully(self, batch: pa.Table, odd: np.ndarray) -> pa.Table:
        """Validate all but the odd records, and mark further ones as odd.

        Those are the ones with a field twice, and those that lack one, when they are few.
        """
        doubled, lacking, foreign = self._by_keys(batch)
        odd |= doubled | foreign
        self._single = not doubled.any()
        self._whole = lacking.sum() <= batch.num_rows * FEW
        if self._whole:
            odd |= lacking
            try:
                return self._engine.run(self._strict, _without(batch, odd))
            except duckdb.Error:
                pass  # a record that only the engine cannot read: it is found below
        if self._decoder.nested:
            texts = batch["_value"]
            for place in np.flatnonzero(~odd):
                odd[place] = self._decoder.doubled_inside(texts[int(place)].as_py())
        return self._validate(_without(batch, odd))

    def _by_keys(self, batch: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks of the records with a key twice, that lack one, and that are none of the contract.

        Records with the same list of keys are told apart from others once for all.
        """
        texts = batch["_value"]
        hashes = self._engine.run(_KEYS, batch)["keys"].to_numpy()
        doubled, lacking, foreign = (np.zeros(len(texts), bool) for _ in range(3))
        for value, first in zip(*np.unique(hashes, return_index=True), strict=True):
            text = texts[int(first)].as_py()
            if text is None:
                continue
            every = object_keys(text)
            keys = [k for k in every if k in self._sent]
            if not keys or envelope_of(set(every), self._sent):
                foreign |= hashes == value
            elif len(set(keys)) < len(keys):
                doubled |= hashes == value
            elif not self._sent.issubset(keys):
                lacking |= hashes == value
        return doubled, lacking, foreign

    def _validate(self, batch: pa.Table) -> pa.Table:
        """Run the query; a record on which the engine itself fails is found by halving."""
        try:
            return self._engine.run(self._lenient, batch)
        except duckdb.Error:
            if batch.num_rows == 1:
                return self._failed(batch)
        middle = batch.num_rows // 2
        halves = [self._validate(batch.slice(0, middle)), self._validate(batch.slice(middle))]
        return pa.concat_tables(halves).combine_chunks()

    def _failed(self, batch: pa.Table) -> pa.Table:
        """The rejected row of nulls of a record on which the engine fails."""
        shape = self._engine.run(self._lenient, batch.slice(0, 0)).schema
        nothing = [pa.nulls(1, column.type) for column in shape]
        nothing[shape.get_field_index(ODD)] = pa.array([False])
        nothing[shape.get_field_index(REJECTED)] = pa.array([True])
        return pa.table(nothing, schema=shape)


def _with_reasons(reasons: list[list[dict[str, Any]]]) -> pa.ListArray:
    return pa.array(reasons, reasons_type())


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
    """The values with nulls at the places that are odd; only their bitmaps are made again."""
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


def _without(batch: pa.Table, odd: np.ndarray) -> pa.Table:
    """The batch with nulls in place of the odd records."""
    if not odd.any():
        return batch
    shown = pa.array(~odd)
    columns = [pc.if_else(shown, column, None) for column in batch.columns]
    return pa.table(columns, schema=batch.schema)


def count_reasons(reasons: pa.ListArray | pa.ChunkedArray) -> Counter[str]:
    """Return how often each label occurs in a column of reasons (`schemas.reasons_type`)."""
    array = reasons.combine_chunks() if isinstance(reasons, pa.ChunkedArray) else reasons
    members = dict(zip(("code", "field", "message"), array.flatten().flatten(), strict=False))
    groups = pa.table(members).group_by(list(members)).aggregate([([], "count_all")])
    labels: Counter[str] = Counter()
    for row in groups.to_pylist():
        labels[Reason(row["code"], row["field"], row["message"]).label] += row["count_all"]
    return labels
