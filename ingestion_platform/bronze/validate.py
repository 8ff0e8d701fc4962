"""Raw records to typed rows and reasons, by a contract: the hot path, in columns and batches.

A decoder in C checks each record, then one query types and validates the batch. Only records that
the decoder does not accept take the slow path in Python. No record affects the result of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.engine import Engine
from ingestion_platform.bronze.renames import Renames
from ingestion_platform.bronze.text import TextReader
from ingestion_platform.contract.decoder import Decoder, Examined
from ingestion_platform.contract.exact import Column
from ingestion_platform.contract.json_text import object_keys
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.reasons import RECORD, Code, Reason
from ingestion_platform.contract.schemas import arrow_schema, reasons_type
from ingestion_platform.contract.sql import (
    EXACT,
    INPUT,
    REASONS,
    REJECTED,
    SLOW,
    input_schema,
    parse_query,
    reasons_query,
)
from ingestion_platform.contract.wire import envelope_of, may_be_envelope
from ingestion_platform.files.reading import Encoding, Reasons

VERSION = "4"
"""Part of the version that a table's committed ranges hold: raise it when the same contract would
validate records differently."""

FEW = 0.2
"""Share of records without some field up to which they take the slow path; above it, decoder and
query allow missing fields."""

BATCH = 32_768
"""Records validated at once: enough for a query's fixed cost, few enough for caches."""

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


def code_version(contract: Contract) -> str:
    """Return the version of results: validating again by the same version changes nothing."""
    return f"{contract.fingerprint}-{VERSION}"


class Validator:
    """Validates records by a contract, for bronze and the HTTP API alike.

    Thread-safe; each thread has its own engine.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._renames = Renames(contract)
        self._text = {
            "text": TextReader(contract),
            "text with decimal commas": TextReader(contract, decimal=","),
        }
        sent = [f for f in contract.fields if f.derived is None]
        self._columns = {name for f in sent for name in (f.name, *f.previous_names)}
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
        # Whether the last batch had nearly all fields, and no duplicate key.
        self._whole = self._single = True

    def parse(
        self,
        values: pa.Array | pa.ChunkedArray,
        encoding: Encoding = "json",
        reader_reasons: Reasons | None = None,
    ) -> Validated:
        """Validate records given as binary values (null for a tombstone) in an encoding.

        `reader_reasons` are a reader's, by the record's place. A record with one against itself or
        a column of the contract is rejected for it, and not validated further.
        """
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        known = {at: of for at, each in (reader_reasons or {}).items() if (of := self._own(each))}
        if not known:
            return self._parse(values, encoding)
        unknown = np.ones(len(values), bool)
        unknown[list(known)] = False
        places = np.flatnonzero(unknown)
        parsed = self._parse(values.filter(pa.array(unknown)), encoding)
        return Validated(
            pa.array(places[parsed.valid.to_numpy()], pa.int64()),
            parsed.rows,
            pa.array([*places[parsed.rejected.to_numpy()].tolist(), *known], pa.int64()),
            pa.concat_arrays([parsed.reasons, _with_reasons(list(known.values()))]),
        )

    def _own(self, reasons: Sequence[Reason]) -> list[dict[str, Any]]:
        """Return the reasons against the record itself or a column of the contract."""
        return [r.as_dict() for r in reasons if r.field == RECORD or r.field in self._columns]

    def _parse(self, values: pa.BinaryArray, encoding: Encoding) -> Validated:
        values = self._renames.applied(values)
        if encoding != "json":
            values = self._text[encoding].typed(values)
        return self._parse_json(pa.chunked_array([values]))

    def _parse_json(self, values: pa.ChunkedArray) -> Validated:
        """Validate JSON values in batches."""
        found: list[_Results] = []
        places: list[int] = []
        slow_values: list[bytes | None] = []
        for start in range(0, max(1, len(values)), BATCH):
            results, slow = self._batch(values.slice(start, BATCH), start)
            found.append(results)
            places += slow.keys()
            slow_values += slow.values()
        if slow_values:
            found.append(self._examine(np.array(places), slow_values))
        return self._parsed(found)

    def _batch(
        self, values: pa.ChunkedArray, start: int
    ) -> tuple[_Results, dict[int, bytes | None]]:
        """Validate a batch whose first record has the place `start`.

        Returns the results, and the records by place that need the slow path.
        """
        listed = values.to_pylist()
        slow, exact = self._fast_path(listed)
        texts = _as_strings(values, listed, slow)
        batch = self._input_of(texts, exact, slow)
        validated = self._validate_strictly(batch)
        if validated is None:
            validated = self._validate_leniently(batch, slow)
        slow |= validated[SLOW].to_numpy()
        results = self._split(batch, validated, ~slow, start)
        return results, {start + int(i): listed[i] for i in np.flatnonzero(slow)}

    def _fast_path(self, listed: list[bytes | None]) -> tuple[np.ndarray, dict[str, Column]]:
        """Return a mask of the records that need the slow path, and exact texts of the others."""
        if self._decoder.always_slow:
            nothing: Column = [None] * len(listed)
            return np.ones(len(listed), bool), dict.fromkeys(self._exact, nothing)
        screened = self._decoder.screen(listed, whole=self._whole)
        slow = np.zeros(len(listed), bool)
        slow[screened.slow] = True
        if self._whole and len(screened.slow) > len(listed) * FEW:
            again = self._decoder.screen([listed[i] for i in screened.slow])
            if len(screened.slow) - len(again.slow) > len(listed) * FEW:
                self._whole = False
                return self._fast_path(listed)
        return slow, screened.texts

    def _input_of(
        self, texts: pa.ChunkedArray, exact: Mapping[str, Column], slow: np.ndarray
    ) -> pa.Table:
        """Return the query's input for records that the decoder accepted."""
        none_broken = pa.nulls(len(texts), pa.list_(pa.string()))
        columns = [self._column(name, exact[name], slow) for name in self._exact]
        return pa.table([texts, none_broken, *columns], schema=self._input)

    def _column(self, name: str, values: Column, slow: np.ndarray | None = None) -> pa.Array:
        """Return exact values as a column of the query's input, null where a record is masked."""
        kind = self._input.field(EXACT + name).type
        column = pa.array(values, pa.binary() if pa.types.is_string(kind) else kind)
        if slow is not None and slow.any():
            column = pc.if_else(pa.array(~slow), column, None)
        return column.cast(kind)

    def _examine(self, places: np.ndarray, listed: list[bytes | None]) -> _Results:
        """Validate records by the slow path: the decoder's reasons come first, then the query's."""
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
        rows = validated.drop_columns([SLOW, REJECTED]).filter(pa.array(~rejected))
        return _Results(places[~rejected], rows, places[rejected], _with_reasons(reasons))

    def _examined(self, examined: list[Examined]) -> pa.Table:
        """Return the query's input for records that were examined: their valid fields."""
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
        """Return the chosen records: the valid ones with rows, the others with reasons."""
        wrong = validated[REJECTED].to_numpy()
        rows = validated.drop_columns([SLOW, REJECTED])
        valid, rejected = chosen & ~wrong, chosen & wrong
        if not valid.all():
            rows = rows.filter(pa.array(valid))
        reasons = self._reasons(batch.filter(pa.array(rejected)))
        return _Results(
            start + np.flatnonzero(valid), rows, start + np.flatnonzero(rejected), reasons
        )

    def _reasons(self, batch: pa.Table) -> pa.ListArray:
        """Return the query's reasons against each record of a batch.

        A record on which the engine fails is found by halving; its reason is the engine's message.
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

    def _validate_strictly(self, batch: pa.Table) -> pa.Table | None:
        """Validate all records at once; None when one may lack a field or have a duplicate key."""
        if self._ambiguous or not (self._whole and self._single):
            return None
        try:
            return self._engine.run(self._strict, batch)
        except duckdb.Error:
            return None

    def _validate_leniently(self, batch: pa.Table, slow: np.ndarray) -> pa.Table:
        """Validate all but the slow records, and mark more records as slow.

        Those have a duplicate key, or lack a field when few records do.
        """
        duplicate, incomplete, foreign = self._key_masks(batch)
        slow |= duplicate | foreign
        self._single = not duplicate.any()
        self._whole = incomplete.sum() <= batch.num_rows * FEW
        if self._whole:
            slow |= incomplete
            try:
                return self._engine.run(self._strict, _masked(batch, slow))
            except duckdb.Error:
                pass  # the engine fails on a record: it is found below
        if self._decoder.nested:
            texts = batch["_value"]
            for place in np.flatnonzero(~slow):
                slow[place] = self._decoder.has_duplicate_inside(texts[int(place)].as_py())
        return self._validate(_masked(batch, slow))

    def _key_masks(self, batch: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return masks of records with a duplicate key, with a missing one, and of other objects.

        Each distinct list of keys is examined once.
        """
        texts = batch["_value"]
        hashes = self._engine.run(_KEYS, batch)["keys"].to_numpy()
        duplicate, incomplete, foreign = (np.zeros(len(texts), bool) for _ in range(3))
        for value, first in zip(*np.unique(hashes, return_index=True), strict=True):
            text = texts[int(first)].as_py()
            if text is None:
                continue
            every = object_keys(text)
            keys = [k for k in every if k in self._sent]
            if not keys or envelope_of(set(every), self._sent):
                foreign |= hashes == value
            elif len(set(keys)) < len(keys):
                duplicate |= hashes == value
            elif not self._sent.issubset(keys):
                incomplete |= hashes == value
        return duplicate, incomplete, foreign

    def _validate(self, batch: pa.Table) -> pa.Table:
        """Run the query; a record on which the engine fails is found by halving."""
        try:
            return self._engine.run(self._lenient, batch)
        except duckdb.Error:
            if batch.num_rows == 1:
                return self._failed(batch)
        middle = batch.num_rows // 2
        halves = [self._validate(batch.slice(0, middle)), self._validate(batch.slice(middle))]
        return pa.concat_tables(halves).combine_chunks()

    def _failed(self, batch: pa.Table) -> pa.Table:
        """Return a rejected row of nulls, for a record on which the engine fails."""
        shape = self._engine.run(self._lenient, batch.slice(0, 0)).schema
        nothing = [pa.nulls(1, column.type) for column in shape]
        nothing[shape.get_field_index(SLOW)] = pa.array([False])
        nothing[shape.get_field_index(REJECTED)] = pa.array([True])
        return pa.table(nothing, schema=shape)


def _with_reasons(reasons: list[list[dict[str, Any]]]) -> pa.ListArray:
    return pa.array(reasons, reasons_type())


def _as_strings(
    values: pa.ChunkedArray, listed: list[bytes | None], slow: np.ndarray
) -> pa.ChunkedArray:
    """Return the values as strings, null where a record needs the slow path.

    A value that is not UTF-8 in a part that the decoder skips becomes slow too.
    """
    try:
        return _with_nulls(values, slow).cast(pa.string())
    except pa.ArrowInvalid:
        for place in np.flatnonzero(~slow):
            slow[place] = not _utf8(listed[place])
        return _with_nulls(values, slow).cast(pa.string())


def _with_nulls(values: pa.ChunkedArray, slow: np.ndarray) -> pa.ChunkedArray:
    """Return the values with nulls where a record needs the slow path; no value is copied."""
    if not slow.any():
        return values
    chunks, start = [], 0
    for chunk in values.chunks:
        _, offsets, data = chunk.buffers()
        shown = ~slow[start : start + len(chunk)]
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


def _masked(batch: pa.Table, slow: np.ndarray) -> pa.Table:
    """Return the batch with nulls in place of the masked records."""
    if not slow.any():
        return batch
    shown = pa.array(~slow)
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
