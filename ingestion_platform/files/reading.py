"""What the readers of all file formats share: batches of records with their problems, and errors.

A record that a reader cannot take as it stands keeps its bytes and carries a problem; whoever
validates it makes a reason of that. How a format is read is elsewhere.
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
"""Bytes of a record that are kept: of a longer one, its beginning."""
COLUMNS = 10_000
"""Columns that a CSV or Parquet file may have."""


class UnreadableFile(Permanent):
    """A file cannot be parsed; nothing of it is landed."""

    def __init__(self, name: str, problem: str, *, line: int | None = None) -> None:
        where = name if line is None else f"{name}, line {line:,}"
        super().__init__(
            f"{where}: {problem}; nothing of it was landed",
            action="correct the file and hand it in again",
        )
        self.bare = problem
        self.problem = problem if line is None else f"line {line:,}: {problem}"


Encoding = Literal["json", "text", "text with decimal commas"]
"""What the values of records are: JSON, or objects of nothing but strings."""

Reasons = Mapping[int, Sequence[Reason]]
"""Why records cannot be taken as they stand, or a column that a contract may need, by their places
in a batch."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records in order: their values as a log would hold them, and the reasons against them."""

    values: pa.BinaryArray
    reasons: Reasons

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return int(self.values.nbytes)

    def after(self, count: int) -> Records:
        """The records behind the first `count`."""
        moved = {at - count: each for at, each in self.reasons.items() if at >= count}
        return Records(self.values.slice(count), moved)


def joined(batches: Sequence[Records]) -> Records:
    """Batches, at least one, as one."""
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
"""What a reader of JSON reads: a file, or the body of a request."""


def marked_encoding(path: Readable) -> str | None:
    """The encoding that a file's byte order mark tells; None without a mark."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def utf8_chunks(name: str, path: Readable, encoding: str | None = None) -> Iterator[bytes]:
    """A text file in pieces of UTF-8, without a byte order mark.

    Of UTF-8 itself the bytes are as they stand, valid or not; `encoding` is for files without a
    mark.

    Raises:
        UnreadableFile: it is not in its encoding.
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
    """The beginning of what a library says of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def repeated(names: Sequence[str]) -> list[str]:
    """The names that stand more than once, sorted."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def check_columns(
    name: str, columns: Sequence[str], contract: Contract, *, line: int | None = None
) -> None:
    """See that a contract's records can come from these columns.

    Raises:
        UnreadableFile: no column is one of its fields, or a required one is missing.
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
