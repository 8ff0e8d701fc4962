"""Reading files as sequences of records: CSV, JSONL, a JSON array or Parquet, plain or compressed.

A reader streams batches of values as a log would hold them, and refuses a file that it cannot
parse, with line and reason. Where files come from, and what becomes of records, is elsewhere.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ingestion_platform.errors import Permanent, PlatformError
from ingestion_platform.settings import FileLimits, in_units
from ingestion_platform.sources.spool import Spool

if TYPE_CHECKING:
    import pyarrow as pa

LOG = logging.getLogger(__name__)

CHUNK = 4 * 1024 * 1024
BATCH = 20_000
LONGEST = 8 * 1024 * 1024
"""Bytes that a line, or an item of a JSON array, may have."""
COLUMNS = 10_000
"""Columns that a CSV or Parquet file may have."""
RATIO_FROM = 64 * 1024 * 1024
"""Decompressed bytes from which on `FileLimits.max_ratio` holds: small files may be of one line."""
VALUE_BYTES = 8
"""Bytes that all records together may have for each byte of `FileLimits.max_size`: a record
repeats the names of its columns."""
_ESCAPE = 16  # characters of the longest token that the end of a piece may cut, but for strings

SUFFIXES = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
COMPRESSIONS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_MEDIA_TYPES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


class UnreadableFile(Permanent):
    """A file cannot be parsed; nothing of it is landed."""

    def __init__(self, name: str, problem: str, *, line: int | None = None) -> None:
        where = name if line is None else f"{name}, line {line:,}"
        super().__init__(
            f"{where}: {problem}; nothing of it was landed",
            action="correct the file and hand it in again",
        )
        self.problem = problem if line is None else f"line {line:,}: {problem}"


class BeyondLimit(UnreadableFile):
    """A file is larger than a setting allows; nothing of it is landed."""

    def __init__(self, name: str, problem: str, *settings: str) -> None:
        super().__init__(name, problem)
        self.action = f"split the file, or raise {' or '.join(settings)}"


@dataclass(frozen=True, slots=True)
class Format:
    """How a file is written: `kind` of SUFFIXES' values, `compression` None, gzip or zstd."""

    kind: str
    compression: str | None = None

    @property
    def encoding(self) -> str:
        """What a record's values are: `text` (all of them strings), or typed `json`."""
        return "text" if self.kind == "csv" else "json"

    @property
    def media_type(self) -> str:
        """The content type that a record of it had."""
        return _MEDIA_TYPES.get(self.kind, "application/json")


def plain_name(name: str) -> str:
    """A file name without the suffix of its compression."""
    suffix = Path(name).suffix.lower()
    return name[: -len(suffix)] if suffix in COMPRESSIONS else name


def format_of(name: str, declared: str | None = None) -> Format:
    """The format that a file's name tells, or the declared one; compression is the name's.

    Raises:
        UnreadableFile: the name tells none.
    """
    compression = COMPRESSIONS.get(Path(name).suffix.lower())
    kind = declared or SUFFIXES.get(Path(plain_name(name)).suffix.lower())
    if kind is None:
        known = ", ".join(SUFFIXES)
        raise UnreadableFile(name, f"its format is unknown: the name ends in none of {known}")
    if kind == "parquet" and compression is not None:
        raise UnreadableFile(name, "a Parquet file is compressed inside, not as a whole")
    return Format(kind, compression)


@dataclass(frozen=True, slots=True)
class Copied:
    """A file's bytes in a spool, where nobody changes them; `name` as it was handed in."""

    name: str
    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Content(Copied):
    """A copied file as records; `plain` is where it lies decompressed.

    Without `limits` it may have any number of records.
    """

    format: Format
    plain: Path
    limits: FileLimits | None = None

    def values(self) -> Iterator[pa.BinaryArray]:
        """Its records in order, in batches, as a log would hold them.

        Raises:
            UnreadableFile: it cannot be parsed, or has more records than the limits allow.
        """
        rows = size = 0
        try:
            for batch in _READERS[self.format.kind](self.name, self.plain):
                rows, size = rows + len(batch), size + batch.nbytes
                self._check(rows, size)
                yield batch
        except PlatformError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's, not the file's
            # No fault of a reader may hold up the files behind this one.
            LOG.exception("%s: the %s reader failed", self.name, self.format.kind)
            said = f"{type(error).__name__}: {_first_line(error)}"
            problem = f"the {self.format.kind} reader failed with {said}; please report it"
            raise UnreadableFile(self.name, problem) from error

    def _check(self, rows: int, size: int) -> None:
        """Raise BeyondLimit when so many records, of so many bytes, are more than is allowed."""
        limits = self.limits
        if limits is None:
            return
        if rows > limits.max_records:
            raise _too_many(self.name, limits)
        if size > VALUE_BYTES * limits.max_size:
            most = in_units(VALUE_BYTES * limits.max_size)
            raise BeyondLimit(self.name, f"its records have more than {most}", *_MAX_SIZE)

    def count(self, on_progress: Callable[[int], None] = lambda _: None) -> int:
        """How many records it has, after reading all of it; `on_progress` is told on the way.

        Raises:
            UnreadableFile: it cannot be parsed.
        """
        count = 0
        for batch in self.values():
            count += len(batch)
            on_progress(count)
        return count


def copy_in(
    name: str, chunks: Iterable[bytes], spool: Spool, limits: FileLimits | None = None
) -> Copied:
    """Copy a file into a spool.

    Raises:
        BeyondLimit: it is larger than the limits allow.
        NoRoom: the spool's disk has no room for it.
    """
    path = spool.new()
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        for chunk in chunks:
            size += len(chunk)
            check_size(name, size, limits)
            spool.need(len(chunk))
            digest.update(chunk)
            out.write(chunk)
    return Copied(name, path, digest.hexdigest(), size)


def check_size(name: str, size: int, limits: FileLimits | None) -> None:
    """Raise BeyondLimit when a file of so many bytes is more than is allowed."""
    if limits is not None and size > limits.max_size:
        problem = f"has more than {in_units(limits.max_size)}, the most that is taken"
        raise BeyondLimit(name, problem, *_MAX_SIZE)


def copy_file(file: Path, spool: Spool, limits: FileLimits | None = None) -> Copied:
    """Copy a local file into a spool.

    Raises:
        UnreadableFile: there is no such file, it may not be read, or it is larger than the limits
            allow.
        NoRoom: the spool's disk has no room for it.
    """
    try:
        with file.open("rb") as source:
            return copy_in(file.name, iter(lambda: source.read(CHUNK), b""), spool, limits)
    except FileNotFoundError:
        raise UnreadableFile(str(file), "there is no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UnreadableFile(str(file), f"cannot be read: {error.strerror}") from None


def open_copy(
    copied: Copied, format_: Format, spool: Spool, limits: FileLimits | None = None
) -> Content:
    """A copy as records of a format, decompressed if need be.

    Raises:
        UnreadableFile: it cannot be decompressed, or is larger than the limits allow.
        NoRoom: the spool's disk has no room for it.
    """
    plain = copied.path
    if format_.compression is not None and copied.size:
        plain = spool.new()
        _decompress(copied, plain, format_.compression, spool, limits)
    content = Content(copied.name, copied.path, copied.sha256, copied.size, format_, plain, limits)
    if format_.kind == "parquet" and limits is not None:
        _check_parquet(content, limits)
    return content


def _decompress(
    copied: Copied, plain: Path, compression: str, spool: Spool, limits: FileLimits | None
) -> None:
    import pyarrow as pa

    size = 0
    try:
        source = pa.CompressedInputStream(pa.OSFile(str(copied.path)), compression)
        with source, plain.open("wb") as out:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                _check_decompressed(copied, size, limits)
                spool.need(len(chunk))
                out.write(chunk)
    except OSError as error:
        if error.errno is not None:  # the disk's, not the file's
            raise
        raise UnreadableFile(copied.name, f"is no sound {compression}: {error}") from error


def _check_decompressed(copied: Copied, size: int, limits: FileLimits | None) -> None:
    if limits is None:
        return
    if size > limits.max_size:
        most = in_units(limits.max_size)
        problem = f"has more than {most} when decompressed, the most that is taken"
        raise BeyondLimit(copied.name, problem, *_MAX_SIZE)
    if size > RATIO_FROM and size > limits.max_ratio * copied.size:
        problem = (
            f"its {copied.size:,} bytes decompress to more than {limits.max_ratio:,} times as "
            f"many (stopped at {in_units(size)}): it may be a decompression bomb"
        )
        raise BeyondLimit(copied.name, problem, "FILES_MAX_RATIO")


def _check_parquet(content: Content, limits: FileLimits) -> None:
    """Refuse what the footer of a Parquet file says is too much, before any of it is decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(content.plain) as file:
            about = file.metadata
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            size = sum(group.total_byte_size for group in groups)
            rows, columns = about.num_rows, about.num_columns
    except (pa.ArrowException, OSError, ValueError):
        return  # the reader says what is wrong with it
    if columns > COLUMNS:
        raise UnreadableFile(content.name, f"has {columns:,} columns, more than {COLUMNS:,}")
    if rows > limits.max_records:
        raise _too_many(content.name, limits)
    if size > limits.max_size:
        most = in_units(limits.max_size)
        problem = f"has {in_units(size)} when decompressed, more than the {most} that are taken"
        raise BeyondLimit(content.name, problem, *_MAX_SIZE)


def _too_many(name: str, limits: FileLimits) -> BeyondLimit:
    problem = f"has more than {limits.max_records:,} records, the most that are taken"
    return BeyondLimit(name, problem, "FILES_MAX_RECORDS")


_MAX_SIZE = ("FILES_MAX_SIZE", "`max_size` below the stream's `files:`")


def _csv(name: str, path: Path) -> Iterator[pa.BinaryArray]:
    """Each row as a JSON object of strings, by the names of the header."""
    import duckdb
    import pyarrow as pa

    header = _header(name, path)
    if header is None:
        return
    connection = duckdb.connect(":memory:")
    # One thread keeps the order of the rows.
    connection.execute("SET threads = 1; SET autoinstall_known_extensions = false")
    try:
        found = connection.execute(_csv_query(header), [str(path)])
        for batch in found.to_arrow_reader(BATCH):
            yield batch.column(0).cast(pa.binary())
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _csv_error(name, str(error)) from error
    finally:
        connection.close()


def _csv_query(header: Sequence[str]) -> str:
    columns = [f"c{i}" for i in range(len(header))]
    types = ", ".join(f"{column}: 'VARCHAR'" for column in columns)
    literals = ["'" + title.replace("'", "''") + "'" for title in header]
    pairs = ", ".join(f"{title}, {column}" for title, column in zip(literals, columns, strict=True))
    return f"""SELECT CAST(json_object({pairs}) AS VARCHAR) FROM read_csv(?, auto_detect = false,
        columns = {{{types}}}, header = true, delim = ',', quote = '"', escape = '"',
        nullstr = ['', 'NULL'], allow_quoted_nulls = false, strict_mode = true,
        max_line_size = {LONGEST}, buffer_size = {LONGEST})"""


def _header(name: str, path: Path) -> list[str] | None:
    """The names of a CSV file's columns; None when there is nothing in it."""
    # What is not UTF-8 further down is the reader's to tell.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = iter(lambda: file.readline(LONGEST), "")
        try:
            found = next((row for row in csv.reader(lines, strict=True) if row), None)
        except csv.Error as error:
            raise UnreadableFile(name, f"has no header that can be read: {error}", line=1) from None
    if found is None:
        return None
    if re.search("[\0\ud800-\udfff]", "".join(found)):
        raise UnreadableFile(name, "the header is no text, or not in UTF-8", line=1)
    if "" in found:
        raise UnreadableFile(name, "a column of the header has no name", line=1)
    if len(found) > COLUMNS:
        problem = f"the header has {len(found):,} columns, more than {COLUMNS:,}"
        raise UnreadableFile(name, problem, line=1)
    if twice := _repeated(found):
        raise UnreadableFile(name, f"the header names {', '.join(twice)} twice", line=1)
    return found


def _repeated(names: Sequence[str]) -> list[str]:
    """The names that stand more than once, sorted."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def _csv_error(name: str, said: str) -> UnreadableFile:
    """A reader's long message as a line and a reason."""
    line = re.search(r"Line: (\d+)", said)
    columns = re.search(r"Number of Columns: (\d+) Found: (\d+)", said)
    if columns:
        problem = f"has {columns[2]} values, the header {columns[1]}"
    elif "state machine" in said:
        problem = "lines end in different ways (LF and CR LF), or a quote stands where none may"
    elif "unicode" in said:
        problem = "is not valid UTF-8"
    elif "unterminated quote" in said:
        problem = "a quoted value does not end, or something follows its end"
    elif "Maximum line size" in said:
        problem = f"is longer than {LONGEST:,} bytes"
    else:
        problem = said.splitlines()[0].partition("Error: ")[2] or said.splitlines()[0]
    return UnreadableFile(name, problem, line=int(line[1]) if line else None)


def _jsonl(name: str, path: Path) -> Iterator[pa.BinaryArray]:
    """Each line as it is; empty ones are passed over."""
    import msgspec
    import pyarrow as pa

    check = msgspec.json.Decoder(msgspec.Raw).decode
    number = 0
    with path.open("rb") as file:
        for lines in _lines(name, file):
            kept = []
            for line in lines:
                number += 1
                if line.isspace() or not line:
                    continue
                try:
                    check(line)
                except (msgspec.MsgspecError, RecursionError) as error:
                    raise _not_json(name, number, error) from None
                kept.append(line.rstrip(b"\r"))
            values = pa.array(kept, pa.binary())
            try:
                values.cast(pa.string())
            except pa.ArrowInvalid:
                raise _not_utf8(name, number - len(lines), lines) from None
            if kept:
                yield values


def _not_json(name: str, line: int, error: Exception) -> UnreadableFile:
    said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    said = said.removeprefix("JSON is malformed: ").replace("Input data was truncated", "cut off")
    return UnreadableFile(name, f"is no JSON: {said}", line=line)


def _not_utf8(name: str, before: int, lines: Sequence[bytes]) -> UnreadableFile:
    for number, line in enumerate(lines, before + 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return UnreadableFile(name, "is not valid UTF-8", line=number)
    return UnreadableFile(name, "is not valid UTF-8")


def _lines(name: str, file: IO[bytes]) -> Iterator[list[bytes]]:
    """The lines of a file, some thousand at a time, without their ends."""
    number, rest = 0, file.read(3)
    rest = b"" if rest == b"\xef\xbb\xbf" else rest
    while chunk := file.read(CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST:
            raise UnreadableFile(name, f"is longer than {LONGEST:,} bytes", line=number + 1)
        number += len(lines)
        for start in range(0, len(lines), BATCH):
            yield lines[start : start + BATCH]
    if rest:
        yield rest.split(b"\n")


def _json_array(name: str, path: Path) -> Iterator[pa.BinaryArray]:
    """Each item of the array as it is written."""
    import pyarrow as pa

    with path.open(encoding="utf-8-sig", newline="") as file:
        items = _Items(name, file)
        try:
            while found := items.take(BATCH):
                yield pa.array([item.encode() for item in found], pa.binary())
        except UnicodeError as error:
            raise UnreadableFile(name, f"is not valid UTF-8: {error}") from None


class _Items:
    """Cuts the items out of a JSON array that is read piece by piece."""

    def __init__(self, name: str, file: IO[str]) -> None:
        self._name = name
        self._file = file
        self._text = ""
        self._at = 0
        self._line = 1
        self._more = True
        self._started = False
        self._ended = False
        # Only where an item ends is of interest: numbers are not made.
        self._decode = json.JSONDecoder(
            parse_int=str, parse_float=str, parse_constant=self._no_constant
        ).raw_decode

    def take(self, count: int) -> list[str]:
        """The next items, at most `count`; none at the end of the array."""
        found: list[str] = []
        if not self._started:
            self._start()
        while len(found) < count and not self._ended:
            found.append(self._item())
            self._after_item()
        return found

    def _start(self) -> None:
        self._started = True
        first = self._peek()
        if first == "":
            self._ended = True
            return
        if first != "[":
            raise self._error("starts with no [: a .json file holds one array of records")
        self._at += 1
        if self._peek() == "]":
            self._end()

    def _after_item(self) -> None:
        match self._peek():
            case ",":
                self._at += 1
            case "]":
                self._end()
            case "":
                raise self._error("ends before its array does")
            case other:
                raise self._error(f"{other!r} stands where a comma or ] must be")

    def _end(self) -> None:
        self._at += 1
        self._ended = True
        if (rest := self._peek()) != "":
            raise self._error(f"{rest!r} follows the end of the array")

    def _item(self) -> str:
        self._peek()
        while True:
            try:
                _, end = self._decode(self._text, self._at)
                # A number at the end of the piece may go on in the next one.
                if end < len(self._text) or not self._read():
                    item = self._text[self._at : end]
                    self._at = end
                    return item
            except RecursionError:
                raise self._error("is nested too deeply") from None
            except json.JSONDecodeError as error:
                place = error.pos - self._at
                if self._is_wrong(error) or not self._read():
                    raise self._unreadable(error, self._at + place) from None
                if len(self._text) > LONGEST:
                    raise self._error(f"an item is longer than {LONGEST:,} bytes") from None

    def _is_wrong(self, error: json.JSONDecodeError) -> bool:
        """Whether reading on cannot help: what is wrong is not that the piece ends."""
        unfinished = error.msg.startswith("Unterminated string")
        return not unfinished and error.pos < len(self._text) - _ESCAPE

    def _unreadable(self, error: json.JSONDecodeError, place: int) -> UnreadableFile:
        if error.msg.startswith("Unterminated") or place >= len(self._text.rstrip()):
            return self._error("ends before its array does")
        self._at = place
        return self._error(f"is no JSON: {error.msg[:1].lower()}{error.msg[1:]}")

    def _peek(self) -> str:
        """The next character that is no blank, empty at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _read(self) -> bool:
        """Read on, and drop what is behind; False at the end of the file."""
        if not self._more:
            return False
        piece = self._file.read(CHUNK)
        self._more = bool(piece)
        self._line += self._text.count("\n", 0, self._at)
        self._text = self._text[self._at :] + piece
        self._at = 0
        return self._more

    def _error(self, problem: str) -> UnreadableFile:
        line = self._line + self._text.count("\n", 0, self._at)
        return UnreadableFile(self._name, problem, line=line)

    def _no_constant(self, name: str) -> Any:
        raise self._error(f"{name} is no JSON")


def _parquet(name: str, path: Path) -> Iterator[pa.BinaryArray]:
    """Each row as a JSON object, values exactly as they are."""
    import msgspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        return
    encode = msgspec.json.Encoder(enc_hook=_json_value, decimal_format="number").encode
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := _repeated(names):
                raise UnreadableFile(name, f"has two columns named {', '.join(twice)}")
            unusual = _Unusual(file.schema_arrow)
            for batch in file.iter_batches(BATCH // 4, use_threads=False):
                rows = batch.to_pylist(maps_as_pydicts="strict")
                values = [encode(unusual.mend(each)) for each in rows]
                yield pa.array(values, pa.binary())
                row += len(rows)
    except (TypeError, ValueError, KeyError, UnicodeDecodeError) as error:
        if isinstance(error, pa.ArrowInvalid):
            raise UnreadableFile(name, f"is no sound Parquet: {_first_line(error)}") from error
        raise UnreadableFile(name, f"behind row {row:,}: {_first_line(error)}") from error
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(name, f"is no sound Parquet: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


class _Unusual:
    """Values that JSON has no word for: NaN and the infinities, and bytes that are text."""

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [field.name for field in schema if _may_be_unusual(field.type)]

    def mend(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with such values as text: a contract's number refuses `NaN`, as it must."""
        for column in self._columns:
            row[column] = _mended(row[column])
        return row


def _may_be_unusual(kind: pa.DataType) -> bool:
    import pyarrow.types as t

    if t.is_floating(kind) or t.is_nested(kind) or t.is_dictionary(kind):
        return True
    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind))


def _mended(value: Any) -> Any:
    match value:
        case float():
            return value if value - value == 0 else str(value)
        case bytes():
            return value.decode()
        case dict():
            return {str(key): _mended(item) for key, item in value.items()}
        case list():
            return [_mended(item) for item in value]
    return value


def _json_value(value: Any) -> Any:
    # Timestamps in nanoseconds come as pandas' own, which write out all their digits.
    if hasattr(value, "isoformat") and hasattr(value, "nanosecond"):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} has no JSON")


_READERS: dict[str, Callable[[str, Path], Iterator[pa.BinaryArray]]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "json": _json_array,
    "parquet": _parquet,
}
