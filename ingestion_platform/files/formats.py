"""Read files as sequences of records: CSV, JSONL, a JSON array or Parquet, plain or compressed.

Each format has its own reader module in this package. Fetching files and landing their records are
not handled here.
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
"""Decompressed bytes above which `FileLimits.max_ratio` applies; small files may repeat one line
and compress well."""
VALUE_BYTES = 8
"""Bytes of record values allowed per byte of `FileLimits.max_size`: each record repeats the column
names."""

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
    """A file exceeds the limit of a setting; none of its records are landed."""

    def __init__(self, name: str, problem: str, *settings: str) -> None:
        super().__init__(name, problem)
        self.action = f"split the file, or raise {' or '.join(settings)}"


@dataclass(frozen=True, slots=True)
class Format:
    """A file's format.

    `kind` is one of the values of SUFFIXES; `compression` is None, "gzip" or "zstd"; `dialect`
    applies to CSV only.
    """

    kind: str
    compression: str | None = None
    dialect: Dialect = PLAIN

    @property
    def encoding(self) -> Encoding:
        """The encoding of the record values."""
        if self.kind != "csv":
            return "json"
        return "text with decimal commas" if self.dialect.decimal == "," else "text"

    @property
    def media_type(self) -> str:
        """The content type of this kind of file."""
        return _MEDIA_TYPES.get(self.kind, "application/json")


def plain_name(name: str) -> str:
    """Return a file name without its compression suffix."""
    suffix = Path(name).suffix.lower()
    return name[: -len(suffix)] if suffix in COMPRESSIONS else name


def format_of(name: str, declared: str | None = None, dialect: Dialect = PLAIN) -> Format:
    """Return the declared format, or the one of the file's suffix.

    The compression always comes from the file's suffix.

    Raises:
        UnreadableFile: nothing is declared and the suffix is unknown, or a Parquet file has a
            compression suffix.
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
    """A private copy of a file in a spool.

    `name` is the file's original name; `size` is in bytes.
    """

    name: str
    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Content(Copied):
    """A copied file that can be read as records.

    `plain` is the path of the decompressed content. Without `limits` the number of records is
    unlimited.
    """

    format: Format
    plain: Path
    limits: FileLimits | None = None

    def records(self, contract: Contract | None = None) -> Iterator[Records]:
        """Yield the records in file order, in batches.

        With a contract, the columns of CSV and Parquet files are checked against it.

        Raises:
            UnreadableFile: the file cannot be parsed, its columns do not match the contract, or it
                has more records than the limits allow.
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
                raise  # an I/O error of the disk; the file may be fine
            # A bug in a reader must not block the next files.
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
        """Raise BeyondLimit when `rows` records of `size` bytes exceed the limits."""
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
        """Read the whole file and return its number of records.

        `on_progress` is called after each batch with the number of records read so far.

        Raises:
            UnreadableFile: see `records`.
        """
        count = 0
        for batch in self.records(contract):
            count += len(batch)
            on_progress(count)
        return count


def copy_in(
    name: str, chunks: Iterable[bytes], spool: Spool, limits: FileLimits | None = None
) -> Copied:
    """Copy a file, given as chunks of bytes, into a spool.

    Raises:
        BeyondLimit: the file is larger than the limits allow.
        NoRoom: the spool's disk has no room for the copy.
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
    """Raise BeyondLimit when a file of `size` bytes exceeds the limits."""
    if limits is not None and size > limits.max_size:
        problem = f"has more than {in_units(limits.max_size)}, the most that is taken"
        raise BeyondLimit(name, problem, *_MAX_SIZE)


def copy_file(file: Path, spool: Spool, limits: FileLimits | None = None) -> Copied:
    """Copy a local file into a spool.

    Raises:
        UnreadableFile: the file does not exist, permission is denied, or it is larger than the
            limits allow.
        NoRoom: the spool's disk has no room for the copy.
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
    """Open a copy as records of a format; decompress it into the spool if necessary.

    Raises:
        UnreadableFile: the file cannot be decompressed, or is larger than the limits allow.
        NoRoom: the spool's disk has no room for the decompressed content.
    """
    plain = copied.path
    if format_.compression is None and format_.kind != "parquet":
        # Magic bytes are reliable; suffixes are not.
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
        if error.errno is not None:  # an I/O error of the disk; the file may be fine
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
    """Check the limits against the footer of a Parquet file, before any data is decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(content.plain) as file:
            about = file.metadata
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            size = sum(group.total_byte_size for group in groups)
            rows, columns = about.num_rows, about.num_columns
    except (pa.ArrowException, OSError, ValueError):
        return  # the reader reports the error
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
