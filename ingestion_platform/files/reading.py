"""Types and helpers that all file readers share: batches of records with reasons, and errors.

An invalid record keeps its raw bytes and gets a reason; validation then sends it to quarantine.
The format readers are modules beside this one.
"""

from __future__ import annotations

import codecs
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from ingestion_platform.contract.reasons import RECORD, Code, Reason
from ingestion_platform.errors import Permanent

if TYPE_CHECKING:
    import pyarrow as pa

    from ingestion_platform.contract.model import Contract

CHUNK = 4 * 1024 * 1024
BATCH = 20_000
LONGEST = 8 * 1024 * 1024
"""Largest record in bytes; of a longer record only the first LONGEST bytes are kept."""
COLUMNS = 10_000
"""Maximum number of columns of a CSV or Parquet file."""


class UnreadableFile(Permanent):
    """A file cannot be parsed; none of its records are landed."""

    def __init__(self, name: str, problem: str, *, line: int | None = None) -> None:
        where = name if line is None else f"{name}, line {line:,}"
        super().__init__(
            f"{where}: {problem}; nothing of it was landed",
            action="correct the file and hand it in again",
        )
        self.bare = problem
        self.problem = problem if line is None else f"line {line:,}: {problem}"


Encoding = Literal["json", "text", "text with decimal commas"]
"""The encoding of record values: typed JSON, or JSON objects whose values are all strings."""

Reasons = Mapping[int, Sequence[Reason]]
"""Reasons by index in a batch: against a whole record, or against a column that a contract may
need."""


@dataclass(frozen=True, slots=True)
class Records:
    """A batch of records in file order: values as in a Kafka topic, and reasons by index."""

    values: pa.BinaryArray
    reasons: Reasons

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size(self) -> int:
        """Approximate size in memory, in bytes."""
        return int(self.values.nbytes)

    def after(self, count: int) -> Records:
        """Return the batch without its first `count` records."""
        moved = {at - count: each for at, each in self.reasons.items() if at >= count}
        return Records(self.values.slice(count), moved)


def joined(batches: Sequence[Records]) -> Records:
    """Concatenate batches; at least one is required."""
    import pyarrow as pa

    reasons: dict[int, Sequence[Reason]] = {}
    start = 0
    for batch in batches:
        reasons |= {start + at: each for at, each in batch.reasons.items()}
        start += len(batch)
    return Records(pa.concat_arrays([batch.values for batch in batches]), reasons)


def at_line(code: Code, message: str, line: int) -> Reason:
    """Return the reason against a whole record that starts on a line."""
    return Reason(code, RECORD, message, f"at line {line:,}")


def too_long(length: int, line: int) -> Reason:
    """Return the reason against a record of which only the first LONGEST bytes are kept."""
    message = f"is longer than {LONGEST:,} bytes: only its beginning is kept here"
    return Reason(Code.SIZE, RECORD, message, f"{length:,} bytes long, at line {line:,}")


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class InMemory:
    """Content in memory that readers open as they open a file."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(
        self,
        mode: str = "r",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the content for reading; see `Path.open`."""
        raw = io.BytesIO(self._content)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding, errors, newline)


Readable = Path | InMemory
"""Input of the JSON readers: a file, or the body of a request."""


def marked_encoding(path: Readable) -> str | None:
    """Return the encoding given by a file's byte order mark; None without a mark."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def utf8_chunks(name: str, path: Readable, encoding: str | None = None) -> Iterator[bytes]:
    """Yield a text file as chunks of UTF-8 bytes, without the byte order mark.

    UTF-8 input is passed through without validation. `encoding` applies to files without a byte
    order mark; the default is UTF-8.

    Raises:
        UnreadableFile: the file is not valid in its encoding (other than UTF-8).
    """
    found = marked_encoding(path) or encoding or "utf-8"
    with path.open("rb") as file:
        if codecs.lookup(found).name in ("utf-8", "utf-8-sig"):
            if found == "utf-8-sig":
                file.seek(len(codecs.BOM_UTF8))
            while chunk := file.read(CHUNK):
                yield chunk
            return
        decoder, lines = codecs.getincrementaldecoder(found)(), 1
        while True:
            chunk = file.read(CHUNK)
            try:
                text = decoder.decode(chunk, final=not chunk).encode()
            except UnicodeError as error:
                problem = f"is not valid {found}: {error}"
                raise UnreadableFile(name, problem, line=lines) from None
            lines += text.count(b"\n")
            yield text
            if not chunk:
                return


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 300 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def check_columns(
    name: str, columns: Sequence[str], contract: Contract, *, line: int | None = None
) -> None:
    """Check that a file's columns fit a contract.

    Raises:
        UnreadableFile: no column is a field of the contract, or the column of a required field is
            missing.
    """
    present = set(columns)
    fields = [f for f in contract.fields if f.derived is None]
    named = {f.name: present.intersection((f.name, *f.previous_names)) for f in fields}
    if not any(named.values()):
        problem = f"none of the columns ({_listed(columns)}) is a field of the contract"
        raise UnreadableFile(name, f"{problem} ({_listed(list(named))})", line=line)
    lacking = [f.name for f in fields if f.required and not named[f.name]]
    if lacking:
        near = {c.strip().casefold(): c for c in columns}
        meant = [f"{near[n.casefold()]!r} is not {n!r}" for n in lacking if n.casefold() in near]
        hint = f" ({'; '.join(meant)})" if meant else ""
        problem = f"required columns are missing: {_listed(lacking)}{hint}"
        raise UnreadableFile(name, problem, line=line)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in names[:8])
    return shown if len(names) <= 8 else f"{shown}, …"
