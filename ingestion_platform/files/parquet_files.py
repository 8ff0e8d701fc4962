"""Read Parquet rows as JSON objects, without loss of precision.

A value that JSON cannot represent gets a reason against its column; its row is rejected only if the
contract has that column.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract.reasons import Code, Reason
from ingestion_platform.files.reading import (
    BATCH,
    Records,
    UnreadableFile,
    check_columns,
    first_line,
    repeated,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ingestion_platform.contract.model import Contract

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_FIRST = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
_LAST = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()

Cells = tuple[list[Any], dict[int, str]]
"""A column's values in a form that JSON can represent, and problems by row index."""


def read_parquet(name: str, path: Path, contract: Contract | None = None) -> Iterator[Records]:
    """Yield the rows of a file as JSON objects, in batches.

    Raises:
        UnreadableFile: the file is not a valid Parquet file, or its columns do not match the
            contract.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        return
    _check_ends(name, path)
    try:
        with pq.ParquetFile(
            path, page_checksum_verification=True, coerce_int96_timestamp_unit="us"
        ) as file:
            _check_names(name, file.schema_arrow.names, contract)
            yield from _rows(file, path)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an I/O error of the disk; the file may be fine
        raise UnreadableFile(name, f"is not a valid Parquet file: {first_line(error)}") from error


def _check_ends(name: str, path: Path) -> None:
    """Check the magic bytes at both ends of a file.

    Raises:
        UnreadableFile: they are not those of a Parquet file; the message says what it may be.
    """
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-min(4, path.stat().st_size), 2)
        tail = file.read(4)
    if _ENCRYPTED in (head, tail):
        raise UnreadableFile(name, "is an encrypted Parquet file: write it without encryption")
    if head != _MAGIC:
        raise UnreadableFile(name, "is not a valid Parquet file: it does not start with PAR1")
    if tail != _MAGIC:
        problem = "it does not end with PAR1, so it is cut off, or was not written to its end"
        raise UnreadableFile(name, f"is not a valid Parquet file: {problem}")


def _check_names(name: str, columns: list[str], contract: Contract | None) -> None:
    if twice := repeated(columns):
        raise UnreadableFile(name, f"has two columns named {', '.join(twice)}")
    if contract is not None:
        check_columns(name, columns, contract)


def _rows(file: pq.ParquetFile, path: Path) -> Iterator[Records]:
    import msgspec
    import pyarrow as pa

    encode = msgspec.json.Encoder(enc_hook=str, decimal_format="number").encode
    names = file.schema_arrow.names
    intervals = _columns_of(file, lambda column: column.converted_type == "INTERVAL")
    nanos = _Nanoseconds(file, path)
    row = 1
    for batch in file.iter_batches(BATCH // 4, use_threads=False):
        columns: list[list[Any]] = []
        reasons: dict[int, list[Reason]] = {}
        digits = nanos.next(batch)
        for name, column in zip(names, batch.columns, strict=True):
            if name in intervals:
                values, bad = _intervals(column)
            else:
                values, bad = digits.get(name) or _cells(column)
            columns.append(values)
            for at, text in bad.items():
                reason = Reason(Code.TYPE, name, text, f"at row {row + at:,}")
                reasons.setdefault(at, []).append(reason)
        rows = [dict(zip(names, each, strict=True)) for each in zip(*columns, strict=True)]
        if not names:
            rows = [{}] * batch.num_rows
        yield Records(pa.array([encode(each) for each in rows], pa.binary()), reasons)
        row += batch.num_rows


def _columns_of(file: pq.ParquetFile, chosen: Callable[[Any], bool]) -> set[str]:
    """Return the names of the top-level columns that satisfy `chosen`."""
    found = (file.schema.column(i) for i in range(len(file.schema)))
    return {column.path for column in found if column.path == column.name and chosen(column)}


class _Nanoseconds:
    """Reads INT96 timestamps at full precision and over the full range of years.

    Arrow reads them in nanoseconds, which overflow after 2262, or in microseconds, which lose
    digits. Both readings together give the exact value.
    """

    def __init__(self, file: pq.ParquetFile, path: Path) -> None:
        import pyarrow.parquet as pq

        self._names = sorted(_columns_of(file, lambda column: column.physical_type == "INT96"))
        self._other: Iterator[pa.RecordBatch] = iter(())
        if self._names:
            self._other = pq.ParquetFile(path).iter_batches(
                BATCH // 4, columns=self._names, use_threads=False
            )

    def next(self, batch: pa.RecordBatch) -> dict[str, Cells]:
        """Return the cells of the INT96 columns of the next batch, by column name."""
        if not self._names:
            return {}
        fine = next(self._other)
        return {name: self._cells(batch.column(name), fine.column(name)) for name in self._names}

    def _cells(self, micros: pa.Array, nanos: pa.Array) -> Cells:
        import numpy as np

        coarse, wrapped = (_integers(each) for each in (micros, nanos))
        more = wrapped - coarse * 1000  # both wrap at 64 bits, so the difference is exact
        values, bad = _cells(micros)
        for at in np.flatnonzero(more):
            if values[at] is not None and at not in bad:
                exact = int(coarse[at]) * 1000 + int(more[at])
                text, problem = _instant(exact, "ns", zoned=False)
                values[at] = text
                if problem or not 0 <= more[at] < 1000:
                    bad[int(at)] = problem or "is a time that cannot be read exactly"
        return values, bad


def _cells(column: pa.Array) -> Cells:
    """Convert a column at once if all its values are simple, else value by value."""
    import pyarrow as pa

    try:
        return _plain(column), {}
    except (ValueError, OverflowError, KeyError, TypeError, pa.ArrowException):
        return _one_by_one(column)


def _plain(column: pa.Array) -> list[Any]:
    """Convert a whole column; raises an error when a value may need special treatment."""
    import pyarrow as pa
    import pyarrow.types as t

    kind = column.type
    if isinstance(kind, pa.UuidType):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(column.storage)
    if t.is_temporal(kind):
        return _times(column)
    if _is_binary(kind):
        column = column.cast(pa.string())
    if _holds_time(kind):
        raise TypeError
    values = column.to_pylist(maps_as_pydicts="strict")
    if t.is_floating(kind):
        return [v if v is None or v - v == 0 else str(v) for v in values]
    return [_mended(v) for v in values] if t.is_nested(kind) or t.is_dictionary(kind) else values


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow.types as t

    tests = (t.is_binary, t.is_large_binary, t.is_fixed_size_binary, t.is_binary_view)
    return any(test(kind) for test in tests)


def _holds_time(kind: pa.DataType) -> bool:
    """Whether a type contains dates, times or extension types at any depth."""
    import pyarrow as pa
    import pyarrow.types as t

    inner = [kind.field(i).type for i in range(kind.num_fields)]
    if t.is_dictionary(kind):
        inner.append(kind.value_type)
    slow = (t.is_temporal, lambda each: isinstance(each, pa.BaseExtensionType))
    return any(any(test(each) for test in slow) or _holds_time(each) for each in inner)


def _mended(value: Any) -> Any:
    """Convert a nested value for JSON: NaN and infinities become text.

    Validation rejects such text for a number.
    """
    match value:
        case float():
            return value if value - value == 0 else str(value)
        case bytes():
            return value.decode()
        case dict():
            return {str(key): _mended(item) for key, item in value.items()}
        case list() | tuple():
            return [_mended(item) for item in value]
    return value


def _integers(column: pa.Array) -> np.ndarray:
    """Return a temporal column as int64 ticks, 0 for null."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    width = pa.int64() if column.type.bit_width == 64 else pa.int32()
    numbers = pc.fill_null(column.view(width), 0).to_numpy(zero_copy_only=False)
    found: np.ndarray = numbers.astype(np.int64)
    return found


def _times(column: pa.Array) -> list[str | None]:
    """Return timestamps, dates or times as ISO 8601 text.

    Raises:
        OverflowError: a value is out of range.
        TypeError: the type has no text form.
    """
    import pyarrow.types as t

    kind, ticks = column.type, _integers(column)
    if t.is_timestamp(kind):
        texts = _instants(ticks, kind.unit)
        end = "Z" if kind.tz is not None else ""
        texts = [text + end for text in texts]
    elif t.is_date32(kind):
        texts = [text[:10] for text in _instants(ticks * _DAY, "s")]
    elif t.is_date64(kind):
        texts = [text[:10] for text in _instants(ticks, "ms")]
    elif t.is_time(kind):
        if len(ticks) and (ticks.min() < 0 or ticks.max() >= _DAY * _PER_SECOND[kind.unit]):
            raise OverflowError
        texts = [text.partition("T")[2] for text in _instants(ticks, kind.unit)]
    else:
        raise TypeError
    valid = column.is_valid().to_pylist()
    return [text if here else None for text, here in zip(texts, valid, strict=True)]


def _instants(ticks: np.ndarray, unit: str) -> list[str]:
    """Return ticks since 1970 as ISO 8601 text."""
    import numpy as np

    seconds, fraction = np.divmod(ticks, _PER_SECOND[unit])
    if len(seconds) and (seconds.min() < _FIRST or seconds.max() > _LAST):
        raise OverflowError
    texts: list[str] = np.datetime_as_string(seconds.astype("M8[s]"), unit="s").tolist()
    if fraction.any():
        pairs = zip(texts, fraction.tolist(), strict=True)
        texts = [text + _digits(part, unit) for text, part in pairs]
    return texts


def _digits(fraction: int, unit: str) -> str:
    """Format a fraction of a second with nine digits, or six if the last three are zero."""
    if not fraction:
        return ""
    nanos = fraction * (_PER_SECOND["ns"] // _PER_SECOND[unit])
    return f".{nanos:09d}" if nanos % 1000 else f".{nanos // 1000:06d}"


def _instant(value: int, unit: str, *, zoned: bool) -> tuple[str, str | None]:
    """Return a timestamp as ISO 8601 text, and its problem or None."""
    seconds, fraction = divmod(value, _PER_SECOND[unit])
    if not _FIRST <= seconds <= _LAST:
        return f"{value} {unit} since 1970-01-01", "is a time beyond the years 1 to 9999"
    at = datetime(1970, 1, 1) + timedelta(seconds=seconds)
    return at.isoformat() + _digits(fraction, unit) + ("Z" if zoned else ""), None


def _intervals(column: pa.Array) -> Cells:
    """Return intervals (twelve bytes in Parquet) in base64, each with a problem."""
    values = column.to_pylist()
    texts = [None if v is None else base64.b64encode(v).decode() for v in values]
    why = "is an interval, which has no JSON form"
    return texts, {at: why for at, v in enumerate(values) if v is not None}


def _one_by_one(column: pa.Array) -> Cells:
    values, bad = [], {}
    for at, scalar in enumerate(column):
        problems: list[str] = []
        values.append(_value(scalar, problems))
        if problems:
            bad[at] = problems[0]
    return values, bad


def _value(scalar: pa.Scalar, problems: list[str]) -> Any:
    """Convert one value for JSON; append to `problems` if the value is changed by it."""
    import pyarrow as pa

    if not scalar.is_valid:
        return None
    kind = scalar.type
    for test, convert in _conversions():
        if test(kind):
            return convert(scalar, problems)
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(scalar, problems)
    try:
        value = scalar.as_py()
    except UnicodeDecodeError:
        return _text(scalar.cast(pa.binary()), problems)
    if isinstance(value, (bool, int, str, Decimal)):
        return value
    problems.append(f"has the type {kind}, which has no JSON form")
    return str(value)


def _conversions() -> list[tuple[Callable[[Any], bool], Callable[[Any, list[str]], Any]]]:
    import pyarrow.types as t

    return [
        (t.is_floating, lambda scalar, _: _mended(scalar.as_py())),
        (_is_binary, _text),
        (t.is_timestamp, _timestamp),
        (t.is_date, _date),
        (t.is_time, _time),
        (t.is_struct, _struct),
        (t.is_map, _map),
        (t.is_nested, lambda scalar, problems: [_value(v, problems) for v in scalar.values]),
        (t.is_dictionary, lambda scalar, problems: _value(scalar.value, problems)),
    ]


def _text(scalar: pa.Scalar, problems: list[str]) -> str:
    value = bytes(scalar.as_py())
    try:
        return value.decode()
    except UnicodeDecodeError:
        problems.append("is binary, and not text in UTF-8")
        return base64.b64encode(value).decode()


def _timestamp(scalar: pa.Scalar, problems: list[str]) -> str:
    text, problem = _instant(scalar.value, scalar.type.unit, zoned=scalar.type.tz is not None)
    problems.extend([problem] if problem else [])
    return text


def _date(scalar: pa.Scalar, problems: list[str]) -> str:
    days = scalar.value if scalar.type.bit_width == 32 else scalar.value // (_DAY * 1000)
    if date.min.toordinal() <= days + _EPOCH <= date.max.toordinal():
        return date.fromordinal(days + _EPOCH).isoformat()
    problems.append("is a date beyond the years 1 to 9999")
    return f"{days} days since 1970-01-01"


def _time(scalar: pa.Scalar, problems: list[str]) -> str:
    unit = scalar.type.unit
    if not 0 <= scalar.value < _DAY * _PER_SECOND[unit]:
        problems.append("is no time of a day")
        return f"{scalar.value} {unit} since midnight"
    return _instant(scalar.value, unit, zoned=False)[0].partition("T")[2]


def _struct(scalar: pa.Scalar, problems: list[str]) -> dict[str, Any]:
    names = [scalar.type.field(i).name for i in range(scalar.type.num_fields)]
    if len(set(names)) < len(names):
        problems.append("has two members of one name")
    return {name: _value(scalar[i], problems) for i, name in enumerate(names)}


def _map(scalar: pa.Scalar, problems: list[str]) -> dict[str, Any]:
    pairs = [(str(_value(each[0], problems)), each[1]) for each in scalar.values]
    if len(dict(pairs)) < len(pairs):
        problems.append("has a key twice in a map")
    return {key: _value(value, problems) for key, value in pairs}


def _extension(scalar: pa.Scalar, problems: list[str]) -> Any:
    import pyarrow as pa

    if isinstance(scalar.type, pa.UuidType):
        return str(scalar.as_py())
    return _value(scalar.value, problems)
