"""Parquet files. As in `csv_cases`, of the contract `file_contract.yaml`."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.formats.case import FormatCase, Outcome

PARQUET = "Parquet"


def parquet(table: pa.Table, **how: Any) -> bytes:
    """A table as a Parquet file."""
    out = io.BytesIO()
    pq.write_table(table, out, **how)
    return out.getvalue()


def case(
    title: str, outcome: Outcome, result: str, shown: str, **columns: pa.Array | list[Any]
) -> FormatCase:
    """A file of these columns, with an `id` that counts from 1 unless it is given."""
    if "id" not in columns:
        columns = {"id": list(range(1, len(next(iter(columns.values()))) + 1)), **columns}
    return FormatCase(PARQUET, title, parquet(pa.table(columns)), outcome, result, "", shown)


def of_bits(values: list[int], kind: pa.DataType) -> pa.Array:
    """Values of a type by their integers."""
    width = pa.int32() if kind.bit_width == 32 else pa.int64()
    return pa.array(values, width).view(kind)


_NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
_NEVER = 2**31 - 1
_SOUND = parquet(pa.table({"id": [1]}))
_HUGE = of_bits([2**63 - 1], pa.timestamp("us"))

CASES: tuple[FormatCase, ...] = (
    case("integers of any width, also unsigned", "read", "id: 7", "uint64", id=pa.array([7], "u8")),
    case(
        "decimals, exactly",
        "read",
        "id: 1, price: 12.345",
        "decimal256(76,3)",
        price=pa.array([Decimal("12.345")], pa.decimal256(76, 3)),
    ),
    case(
        "floating point of any width",
        "read",
        "id: 1, price: 0.500",
        "float16",
        price=pa.array([0.5], pa.float16()),
    ),
    case("dates", "read", "id: 1, day: 2026-11-20", "date32", day=[dt.date(2026, 11, 20)]),
    case(
        "timestamps with a zone, as instants",
        "read",
        "id: 1, at: 2026-11-20T11:00:00+00:00",
        "timestamp[us, tz=+01:00]",
        at=pa.array([_NOON - dt.timedelta(hours=1)], pa.timestamp("us", "+01:00")),
    ),
    case(
        "timestamps without a zone, as a contract reads text without one",
        "read",
        "id: 1, at: 2026-11-20T12:00:00+00:00",
        "timestamp[ms]",
        at=pa.array([_NOON.replace(tzinfo=None)], pa.timestamp("ms")),
    ),
    FormatCase(
        PARQUET,
        "INT96 timestamps, exactly, also beyond 2262",
        parquet(
            pa.table({"id": [1], "at": [dt.datetime(3000, 1, 1)]}),
            use_deprecated_int96_timestamps=True,
        ),
        "read",
        "id: 1, at: 3000-01-01T00:00:00+00:00",
        "",
        "int96",
    ),
    case("text kept as bytes in UTF-8", "read", "id: 1, note: é", "binary", note=["é".encode()]),
    case(
        "dictionaries",
        "read",
        "id: 1, note: x",
        "dictionary of string",
        note=pa.array(["x"]).dictionary_encode(),
    ),
    case(
        "columns that no contract names, of any type and with any value",
        "read",
        "id: 1",
        "binary FF, date infinity, void, duration, map with a key twice",
        a=[b"\xff"],
        b=of_bits([_NEVER], pa.date32()),
        c=pa.nulls(1),
        d=pa.array([1], pa.duration("us")),
        e=_HUGE,
        f=pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())),
    ),
    case("no rows", "read", "", "a schema", id=pa.array([], pa.int64())),
    case(
        "a date beyond the years 1 to 9999, as DATE 'infinity'",
        "rejected",
        "day: is a date beyond the years 1 to 9999 (is at row 2)",
        "date32 2147483647",
        day=of_bits([20_000, _NEVER], pa.date32()),
    ),
    case(
        "a timestamp beyond the years 1 to 9999",
        "rejected",
        "at: is a time beyond the years 1 to 9999 (is at row 1)",
        "timestamp[us] 2^63-1",
        at=_HUGE,
    ),
    case(
        "bytes that are not UTF-8",
        "rejected",
        "note: is binary, and not text in UTF-8 (is at row 2)",
        "binary FF",
        note=[b"x", b"\xff"],
    ),
    case(
        "a duration, or an interval",
        "rejected",
        "note: has the type duration[us], which has no JSON form (is at row 1)",
        "duration[us]",
        note=pa.array([5], pa.duration("us")),
    ),
    case(
        "a decimal of more digits than the contract's",
        "rejected",
        "price: does not fit decimal(12,3)",
        "decimal128(20,5)",
        price=[Decimal("1.23456")],
    ),
    case(
        "NaN and the infinities",
        "rejected",
        "price: expected number, got string",
        "double NaN",
        price=[float("nan")],
    ),
    case(
        "an integer beyond 64 bits with a sign",
        "rejected",
        "id: expected integer",
        "uint64 2^64-1",
        id=pa.array([2**64 - 1], pa.uint64()),
    ),
    FormatCase(
        PARQUET,
        "a file that is cut off",
        _SOUND[:-30],
        "refused",
        "is not a valid Parquet file: it does not end with PAR1, so it is cut off, or was "
        "not written to its end",
        "",
        "PAR1…",
    ),
    FormatCase(
        PARQUET,
        "an encrypted file",
        _SOUND[:-4] + b"PARE",
        "refused",
        "is an encrypted Parquet file: write it without encryption",
        "",
        "…PARE",
    ),
    FormatCase(
        PARQUET,
        "another format under its name",
        b"id,note\n1,x\n",
        "refused",
        "is not a valid Parquet file: it does not start with PAR1",
        "",
        "id,note…",
    ),
    FormatCase(
        PARQUET,
        "two columns of one name",
        parquet(pa.table([[1], [2]], names=["id"] * 2)),
        "refused",
        "has two columns named id",
        "",
        "id, id",
    ),
    FormatCase(
        PARQUET,
        "no column of the contract",
        parquet(pa.table({"a": [1]})),
        "refused",
        "none of the columns (a) is a field of the contract (id, note, price, day, at)",
        "",
        "a",
    ),
    FormatCase(
        PARQUET,
        "a required column that is missing",
        parquet(pa.table({"note": ["x"]})),
        "refused",
        "required columns are missing: id",
        "",
        "note",
    ),
)
