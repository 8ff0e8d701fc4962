"""Files as sequences of records: CSV, JSONL, a JSON array or Parquet, plain or compressed.

The readers of the formats are modules beside this one. Where files come from, and what becomes of
records, is elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion_platform.dialect import PLAIN, Dialect
from ingestion_platform.errors import PlatformError
from ingestion_platform.files import staged
from ingestion_platform.files.csv_files import read_csv
from ingestion_platform.files.json_files import read_array, read_lines
from ingestion_platform.files.parquet_files import read_parquet
from ingestion_platform.files.reading import (
    CHUNK,
    COLUMNS,
    Encoding,
    Records,
    UnreadableFile,
    first_line,
)
from ingestion_platform.files.spool import Spool
from ingestion_platform.settings import FileLimits
from ingestion_platform.sizes import in_units
from ingestion_platform.streams import STAGING_SUFFIX

if TYPE_CHECKING:
    from ingestion_platform.contract.model import Contract

LOG = logging.getLogger(__name__)

RATIO_FROM = 64 * 1024 * 1024
"""Decompressed bytes from which on `FileLimits.max_ratio` holds: small files may be of one line."""
VALUE_BYTES = 8
"""Bytes that all records together may have for each byte of `FileLimits.max_size`: a record
repeats the names of its columns."""

SUFFIXES = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
COMPRESSIONS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_MAGIC = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MEDIA_TYPES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


class BeyondLimit(UnreadableFile):
    """A file is larger than a setting allows; nothing of it is landed."""

    def __init__(self, name: str, problem: str, *settings: str) -> None:
        super().__init__(name, problem)
        self.action = f"split the file, or raise {' or '.join(settings)}"


@dataclass(frozen=True, slots=True)
class Format:
    """How a file is written: `kind` of SUFFIXES' values, `compression` None, gzip or zstd; the
    `dialect` is that of CSV."""

    kind: str
    compression: str | None = None
    dialect: Dialect = PLAIN

    @property
    def encoding(self) -> Encoding:
        """What a record's values are."""
        if self.kind != "csv":
            return "json"
        return "text with decimal commas" if self.dialect.decimal == "," else "text"

    @property
    def media_type(self) -> str:
        """The content type that a record of it had."""
        return _MEDIA_TYPES.get(self.kind, "application/json")


def plain_name(name: str) -> str:
    """A file name without the suffix of its compression."""
    suffix = Path(name).suffix.lower()
    return name[: -len(suffix)] if suffix in COMPRESSIONS else name


def format_of(name: str, declared: str | None = None, dialect: Dialect = PLAIN) -> Format:
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
    return Format(kind, compression, dialect)


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

    def records(self, contract: Contract | None = None) -> Iterator[Records]:
        """Its records in order, in batches; with a contract, its columns are checked against it.

        Raises:
            UnreadableFile: it cannot be parsed, or has more records than the limits allow.
        """
        rows = size = 0
        try:
            for batch in self._read(contract):
                rows, size = rows + len(batch), size + batch.size
                self._check(rows, size)
                yield batch
        except PlatformError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's, not the file's
            # No fault of a reader may hold up the files behind this one.
            LOG.exception("%s: the %s reader failed", self.name, self.format.kind)
            said = f"{type(error).__name__}: {first_line(error)}"
            problem = f"the {self.format.kind} reader failed with {said}; please report it"
            raise UnreadableFile(self.name, problem) from error

    def _read(self, contract: Contract | None) -> Iterator[Records]:
        match self.format.kind:
            case "csv" if self.name.lower().endswith(STAGING_SUFFIX):
                return map(staged.with_texts, read_csv(self.name, self.plain))
            case "csv":
                return read_csv(self.name, self.plain, self.format.dialect, contract)
            case "jsonl":
                return read_lines(self.name, self.plain)
            case "json":
                return read_array(self.name, self.plain)
        return read_parquet(self.name, self.plain, contract)

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

    def count(
        self, contract: Contract | None = None, on_progress: Callable[[int], None] = lambda _: None
    ) -> int:
        """How many records it has, after reading all of it; `on_progress` is told on the way.

        Raises:
            UnreadableFile: as `records`.
        """
        count = 0
        for batch in self.records(contract):
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
    if format_.compression is None and format_.kind != "parquet":
        # What a file begins with is no guess, whatever its name.
        format_ = replace(format_, compression=_compression(copied.path))
    if format_.compression is not None and copied.size:
        plain = spool.new()
        _decompress(copied, plain, format_.compression, spool, limits)
    content = Content(copied.name, copied.path, copied.sha256, copied.size, format_, plain, limits)
    if format_.kind == "parquet" and limits is not None:
        _check_parquet(content, limits)
    return content


def _compression(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


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
        raise UnreadableFile(copied.name, f"is not valid {compression}: {error}") from error


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
