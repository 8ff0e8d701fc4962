"""Read CSV rows as JSON objects of strings, keyed by the header's column names.

Nothing is guessed. A row that does not fit the header gets a reason; the other rows are read. A
file whose structure is ambiguous is rejected as a whole: the error names the line, the likely cause
and the setting to use. Blocks with regular quoting are read in columns by pyarrow (fast path), all
others row by row (slow path), with equal results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract.reasons import Code
from ingestion_platform.dialect import PLAIN, Dialect
from ingestion_platform.files.reading import (
    BATCH,
    COLUMNS,
    LONGEST,
    Records,
    UnreadableFile,
    at_line,
    check_columns,
    repeated,
    too_long,
    utf8_chunks,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ingestion_platform.contract.model import Contract

_BLANKS = b" \t"
_LF, _CR = 10, 13
_AT_ONCE = 32 * 1024 * 1024
"""Maximum bytes of column names in a batch: each record repeats them."""
_Problem = tuple[Code, str]
_NAMELESS = (Code.COLUMNS, "has a value in a column without a name")
_QUOTE_INSIDE = (Code.QUOTING, "has a quote inside a value that is not quoted")
_OTHERS = {
    b"PK\x03\x04": "is a ZIP archive or an Excel workbook: save it as CSV",
    b"\xd0\xcf\x11\xe0": "is an old Excel or Word file: save it as CSV",
    b"PAR1": "is a Parquet file: name it .parquet",
    b"%PDF": "is a PDF file",
    b"BZh": "is compressed by bzip2: unpack it, or use gzip or zstd",
    b"\xfd7zXZ": "is compressed by xz: unpack it, or use gzip or zstd",
}
_BEGINNING = 64
_SEPARATOR = re.compile(rb'"?sep=([^\r\n\0])"?(\r\n|\n|\r)', re.IGNORECASE)


def read_csv(
    name: str, path: Path, dialect: Dialect = PLAIN, contract: Contract | None = None
) -> Iterator[Records]:
    """Yield the rows of a file as JSON objects of strings, in batches.

    Raises:
        UnreadableFile: the file's structure is ambiguous, or its columns do not match the contract.
    """
    file = _File(name, utf8_chunks(name, path, dialect.encoding))
    file.begin()
    for magic, problem in _OTHERS.items():
        if file.data.startswith(magic):
            raise UnreadableFile(name, problem)
    for _ in range(dialect.skip_lines):
        file.skip_line()
    file.begin()
    delimiter = dialect.delimiter or ","
    if found := _SEPARATOR.match(file.data):
        delimiter = found[1].decode("latin-1")
        file.drop(found.end())
    syntax = _Syntax(delimiter, dialect.quote, dialect.trim)
    columns = _columns(file, syntax, dialect, contract)
    if columns is not None:
        yield from _Reader(file, syntax, columns, dialect.null_values).records()


class _File:
    """The unparsed rest of a file: `data` are its bytes in memory, `line` is their first line."""

    def __init__(self, name: str, chunks: Iterator[bytes]) -> None:
        self.name = name
        self.data = b""
        self.line = 1
        self.ended = False
        self._chunks = chunks

    def more(self) -> None:
        """Append the next chunk to `data`, or set `ended`."""
        chunk = next(self._chunks, None)
        if chunk is None:
            self.ended = True
        else:
            self.data += chunk

    def begin(self) -> None:
        """Read until `data` has at least _BEGINNING bytes, or the file ends."""
        while len(self.data) < _BEGINNING and not self.ended:
            self.more()

    def drop(self, count: int, lines: int | None = None) -> None:
        """Drop the first `count` bytes, which end with a line; `lines` is their number of lines."""
        self.line += _lines_in(self.data[:count]) if lines is None else lines
        self.data = self.data[count:]

    def skip_line(self) -> int:
        """Skip to the next line, reading as far as necessary; return the skipped line's length."""
        passed = 0
        while True:
            found = _LINE_END.search(self.data)
            # A CR at the end may be the first half of CR LF.
            if found and (found.end() < len(self.data) or found[0] != b"\r" or self.ended):
                passed += found.start()
                self.drop(found.end())
                return passed
            if self.ended:
                passed += len(self.data)
                self.drop(len(self.data))
                return passed
            if not found:
                passed += len(self.data)
                self.data = b""
            self.more()

    def error(self, problem: str, at: int = 0) -> UnreadableFile:
        """Return an error that names the line of the index `at` in `data`."""
        line = self.line + _lines_in(self.data[:at])
        return UnreadableFile(self.name, problem, line=line)


def _lines_in(data: bytes) -> int:
    """Count the line ends in `data` (LF, CR LF or CR)."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a block.

    The row spans `start` to `stop` in the block, and up to `end` with its line end. Each value
    comes with a flag: whether it was quoted.
    """

    start: int
    stop: int
    end: int
    values: list[tuple[bytes, bool]]
    problem: _Problem | None


class _Broken(Exception):
    """The ends of values are ambiguous from the index `at` on."""

    def __init__(self, at: int, problem: str) -> None:
        super().__init__(problem)
        self.at = at
        self.problem = problem


class _Syntax:
    """The delimiter, quote and trimming of a file; parses single rows."""

    def __init__(self, delimiter: str, quote: str, trim: bool) -> None:
        self.delimiter, self.quote, self.trim = delimiter.encode("latin-1"), quote.encode(), trim
        self.blanks = _BLANKS.replace(self.delimiter, b"")
        d, q = re.escape(self.delimiter), re.escape(self.quote)
        self._plain = re.compile(rb"[^" + d + rb"\r\n]*")
        inside = rb"((?:[^" + q + rb"]+|" + q + q + rb")*+)"
        self._quoted = re.compile(q + inside + q) if q else None
        self._blank = re.compile(rb"[" + re.escape(self.blanks) + rb"]*")

    def row(self, data: bytes, start: int, *, ended: bool) -> _Row | None:
        """Parse the row at `start`; return None when `data` ends before the row does.

        Raises:
            _Broken: the ends of its values are ambiguous.
        """
        values: list[tuple[bytes, bool]] = []
        problem, at = None, start
        while True:
            value = self._quoted_value(data, at, ended=ended)
            if value is not None:
                text, at = value
                if at < 0:
                    return None
                values.append((text, True))
            else:
                text, at = self._plain_value(data, at)
                if self.quote and self.quote in text:
                    problem = _QUOTE_INSIDE
                values.append((text, False))
            if data[at : at + 1] != self.delimiter:
                end = _line_end(data, at, ended=ended)
                return None if end is None else _Row(start, at, end, values, problem)
            at += 1

    def _quoted_value(self, data: bytes, at: int, *, ended: bool) -> tuple[bytes, int] | None:
        """Parse a quoted value: (value, end), end -1 if `data` ends first; None if not quoted."""
        begin = self._behind_blanks(data, at)
        if self._quoted is None or data[begin : begin + 1] != self.quote:
            return None
        found = self._quoted.match(data, begin)
        if found is None or (found.end() == len(data) and not ended):
            if ended:
                raise _Broken(at, "a quoted value does not end")
            return b"", -1
        end = self._behind_blanks(data, found.end())
        if data[end : end + 1] not in (b"", b"\r", b"\n", self.delimiter):
            problem = "text follows the quote that ends a value: a quote inside a value must be"
            raise _Broken(at, f"{problem} written twice")
        return found[1].replace(self.quote * 2, self.quote), end

    def _plain_value(self, data: bytes, at: int) -> tuple[bytes, int]:
        found = self._plain.match(data, at)
        assert found is not None
        text = found[0]
        if self.quote and text.lstrip(_BLANKS).startswith(self.quote):
            raise _Broken(at, "blanks stand ahead of a quote: declare `trim: true` under `files:`")
        return text.strip(self.blanks) if self.trim else text, found.end()

    def _behind_blanks(self, data: bytes, at: int) -> int:
        if not self.trim:
            return at
        found = self._blank.match(data, at)
        return at if found is None else found.end()


def _line_end(data: bytes, at: int, *, ended: bool) -> int | None:
    """Return the index after the line end at `at`; None when more data are needed to decide."""
    sign = data[at : at + 2]
    if sign == b"\r\n":
        return at + 2
    if len(sign) == 2 or ended or sign == b"\n":
        return at + min(1, len(sign))
    return None


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of a file: `names`, followed by `nameless` columns without a name."""

    names: list[str]
    nameless: int

    def __len__(self) -> int:
        return len(self.names) + self.nameless


def _columns(
    file: _File, syntax: _Syntax, dialect: Dialect, contract: Contract | None
) -> _Columns | None:
    """Return the columns of the header or of the declaration; None if no row has text."""
    if dialect.header:
        return _checked(file, list(dialect.header), syntax, dialect, contract)
    while True:
        if (row := _first_row(file, syntax)) is None:
            return None
        texts = [text for text, _ in row.values]
        if any(text.strip(_BLANKS) for text in texts):
            break
        file.drop(row.end)
    raw = file.data[row.start : row.stop]
    if b"\0" in raw:
        hint = "if it is UTF-16, declare `encoding: utf-16-le` under `files:`"
        raise file.error(f"the header has NUL bytes: {hint}")
    _check_utf8(file, row.stop)
    if row.problem:
        raise file.error(f"the header {row.problem[1]}")
    found = _checked(file, [text.decode().strip() for text in texts], syntax, dialect, contract)
    file.drop(row.end)
    return found


def _first_row(file: _File, syntax: _Syntax) -> _Row | None:
    while True:
        if not file.data and file.ended:
            return None
        try:
            row = syntax.row(file.data, 0, ended=file.ended)
        except _Broken as broken:
            raise file.error(broken.problem, broken.at) from None
        if row is not None:
            return row
        if len(file.data) > LONGEST:
            raise file.error(f"the header is longer than {LONGEST:,} bytes, or a quote is open")
        file.more()


def _checked(
    file: _File, names: list[str], syntax: _Syntax, dialect: Dialect, contract: Contract | None
) -> _Columns:
    """Validate column names and return them as columns.

    Raises:
        UnreadableFile: there are too many columns, a name is missing or occurs twice, or the
            columns do not match the contract.
    """
    named = len(names)
    while named and not names[named - 1]:
        named -= 1
    if len(names) > COLUMNS:
        raise file.error(f"the header has {len(names):,} columns, more than {COLUMNS:,}")
    if "" in names[:named]:
        raise file.error(f"column {names.index('') + 1} of the header has no name")
    if twice := repeated(names[:named]):
        raise file.error(f"the header names {', '.join(twice)} twice")
    found = _Columns(names[:named], len(names) - named)
    _check_fields(file, found, syntax, dialect, contract)
    return found


def _check_fields(
    file: _File, columns: _Columns, syntax: _Syntax, dialect: Dialect, contract: Contract | None
) -> None:
    names = columns.names
    fields = set() if contract is None else _field_names(contract)
    if dialect.delimiter is None and len(names) == 1 and names[0] not in fields:
        for other in ";\t|":
            if other in names[0] and other.encode() != syntax.delimiter:
                shown = json.dumps(other) if other == "\t" else f"'{other}'"
                problem = f"no comma separates the columns, but {shown} may: declare"
                raise file.error(f"{problem} `delimiter: {shown}` under `files:`")
    if contract is None:
        return
    try:
        check_columns(file.name, names, contract, line=file.line)
    except UnreadableFile as error:
        if fields.intersection(names) or dialect.header or len(columns) != len(contract.fields):
            raise
        said = error.bare
        hint = "if the file has no header, declare `header: [names]` under `files:`"
        raise file.error(f"{said}; {hint}") from None


def _field_names(contract: Contract) -> set[str]:
    return {name for f in contract.fields for name in (f.name, *f.previous_names)}


def _check_utf8(file: _File, end: int) -> None:
    """Check that the first `end` bytes are valid UTF-8.

    Raises:
        UnreadableFile: they are not; the message names the line and the setting.
    """
    import pyarrow as pa

    part = pa.py_buffer(file.data).slice(0, end)
    ends = pa.py_buffer(b"\0\0\0\0" + end.to_bytes(4, "little"))
    try:
        pa.Array.from_buffers(pa.binary(), 1, [None, ends, part]).cast(pa.string())
    except pa.ArrowInvalid:
        try:
            file.data[:end].decode()
        except UnicodeDecodeError as error:
            byte = file.data[error.start]
            hint = "if it is in another encoding, declare it under `files:`, for example"
            problem = f"is not valid UTF-8 (byte 0x{byte:02X}): {hint} `encoding: latin-1`"
            raise file.error(problem, error.start) from None


@dataclass(frozen=True)
class _Scan:
    """The complete rows of a block.

    `starts`, `stops` and `ends` have one index into `data` per row; `ends` includes the line end.
    `lines` is the number of lines of all rows. `rows` is set only when they were parsed one by one.
    """

    data: bytes
    starts: np.ndarray
    stops: np.ndarray
    ends: np.ndarray
    lines: int
    syntax: _Syntax
    rows: list[_Row] | None = None

    @property
    def end(self) -> int:
        """The end of the last complete row, 0 without any."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @cached_property
    def counts(self) -> np.ndarray:
        """The number of values of each row."""
        import numpy as np

        if self.rows is not None:
            return np.array([len(row.values) for row in self.rows], np.int64)
        signs = np.frombuffer(self.data, np.uint8)
        marks = signs == self.syntax.delimiter[0]
        if self.syntax.quote and self.syntax.quote in self.data:
            marks &= ~np.logical_xor.accumulate(signs == self.syntax.quote[0])
        return np.diff(np.searchsorted(np.flatnonzero(marks), self.ends), prepend=0) + 1

    def line(self, row: int) -> int:
        """Return the number of lines of the block before a row."""
        import numpy as np

        return int(np.searchsorted(self._line_ends, self.starts[row]))

    @cached_property
    def _line_ends(self) -> np.ndarray:
        import numpy as np

        return np.array([found.start() for found in _LINE_END.finditer(self.data)], np.int64)


class _Reader:
    """Reads the rows after the header."""

    def __init__(
        self, file: _File, syntax: _Syntax, columns: _Columns, nulls: Sequence[str]
    ) -> None:
        self._file = file
        self._syntax = syntax
        self._columns = columns
        self._nulls = list(nulls)
        self._null_bytes = {each.encode() for each in nulls}
        self._keys = [json.dumps(name, ensure_ascii=False) for name in columns.names]
        keys = sum(len(name.encode()) + 6 for name in columns.names)
        self._rows_at_once = max(1, min(BATCH, _AT_ONCE // keys))

    def records(self) -> Iterator[Records]:
        """Yield the records of all rows in file order, in batches."""
        file = self._file
        while file.data or not file.ended:
            scan = self._scan()
            if scan.end:
                _check_utf8(file, scan.end)
                for start in range(0, len(scan.starts), self._rows_at_once):
                    found = self._some(scan, start, start + self._rows_at_once)
                    if len(found):
                        yield found
                file.drop(scan.end, scan.lines)
            elif len(file.data) > LONGEST:
                yield self._too_long()
            if not file.ended:
                file.more()

    def _scan(self) -> _Scan:
        data, ended = self._file.data, self._file.ended
        scan = _scan(data, self._syntax, ended=ended)
        if scan is None or (not scan.end and self._syntax.quote and self._syntax.quote in data):
            try:
                return _scan_carefully(data, self._syntax, ended=ended)
            except _Broken as broken:
                raise self._file.error(broken.problem, broken.at) from None
        return scan

    def _too_long(self) -> Records:
        """Return the current row, longer than LONGEST, as a truncated record with a reason.

        Raises:
            UnreadableFile: the row contains quotes, so its end is ambiguous.
        """
        import pyarrow as pa

        file = self._file
        head, line = file.data[:LONGEST], file.line
        if self._syntax.quote and self._syntax.quote in file.data:
            raise file.error(f"a quoted value does not end, or is longer than {LONGEST:,} bytes")
        _check_utf8(file, head.rfind(self._syntax.delimiter) + 1)
        length = file.skip_line()
        return Records(pa.array([head], pa.binary()), {0: [too_long(length, line)]})

    def _some(self, scan: _Scan, start: int, stop: int) -> Records:
        """Return the records of the rows `start` to `stop` (exclusive)."""
        import numpy as np
        import pyarrow as pa

        if (table := self._quickly(scan, start, stop)) is not None:
            return Records(_objects(self._keys, table), {})
        lengths = (scan.stops - scan.starts)[start:stop]
        counts = scan.counts[start:stop]
        # Skip rows that are empty or consist of delimiters only.
        kept = lengths >= counts
        fits = kept & (counts == len(self._columns))
        if scan.rows is not None:
            fits &= False
        singly = np.flatnonzero(kept & ~fits) + start
        whole = np.flatnonzero(fits) + start
        places: list[Any] = []
        values: list[pa.Array] = []
        told: list[tuple[int, _Problem]] = []
        if len(whole):
            table, empty = self._table(scan, whole)
            told += [(int(whole[at]), _NAMELESS) for at in empty[1]]
            mask = np.ones(len(whole), bool)
            mask[[*empty[0], *empty[1]]] = False
            if not mask.all():
                table, whole = table.filter(pa.array(mask)), whole[mask]
            places.append(whole)
            values.append(_objects(self._keys, table))
        if len(singly):
            found, bad = self._one_by_one(scan, singly.tolist())
            told += bad
            if found:
                places.append(np.array([at for at, _ in found]))
                values.append(_objects(self._keys, self._of_cells([cells for _, cells in found])))
        if told:
            places.append(np.array([at for at, _ in told]))
            raw = [scan.data[scan.starts[at] : scan.stops[at]] for at, _ in told]
            values.append(pa.array(raw, pa.binary()))
        return self._in_order(scan, places, values, told)

    def _quickly(self, scan: _Scan, start: int, stop: int) -> pa.Table | None:
        """Read rows on the fast path, as columns of strings; None if a row needs the slow path."""
        import numpy as np
        import pyarrow as pa

        if scan.rows is not None or self._syntax.trim or self._columns.nameless:
            return None
        try:
            rows = np.arange(start, min(stop, len(scan.starts)))
            table, _ = self._table(scan, rows)
        except pa.ArrowInvalid:  # a row has too many or too few values
            return None
        return table if table.num_rows == len(rows) and not _any_empty(table) else None

    def _in_order(
        self,
        scan: _Scan,
        places: list[Any],
        values: list[pa.Array],
        told: list[tuple[int, _Problem]],
    ) -> Records:
        import numpy as np
        import pyarrow as pa

        if not places:
            return Records(pa.array([], pa.binary()), {})
        rows = np.concatenate(places)
        if len(places) == 1 and not told:
            return Records(values[0], {})
        joined = pa.concat_arrays(values)
        order = np.argsort(rows, kind="stable")
        at = {int(row): place for place, row in enumerate(rows[order])}
        problems = {
            at[row]: [at_line(*problem, self._file.line + scan.line(row))] for row, problem in told
        }
        return Records(joined.take(pa.array(order)), problems)

    def _table(self, scan: _Scan, rows: np.ndarray) -> tuple[pa.Table, tuple[list[int], list[int]]]:
        """Parse rows that have the right number of values into columns of strings.

        Also return two lists of indexes into `rows`: rows that are empty after trimming, and rows
        with a value in a nameless column.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.csv as arrow_csv

        syntax = self._syntax
        names = [str(n) for n in range(len(self._columns))]
        data = _joined(scan, rows)
        quoted = bool(syntax.quote) and syntax.quote in scan.data
        table = arrow_csv.read_csv(
            pa.py_buffer(data),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, column_names=names, block_size=len(data) + 16
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=syntax.delimiter.decode("latin-1"),
                quote_char=syntax.quote.decode() if quoted else False,
                newlines_in_values=quoted,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=self._nulls,
                strings_can_be_null=not syntax.trim,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        empty: list[int] = []
        if syntax.trim:
            blanks = syntax.blanks.decode()
            columns = [pc.utf8_trim(column, blanks) for column in table.columns]
            empty = _where([pc.equal(column, "") for column in columns], pc.and_)
            nulls = pa.array(self._nulls, pa.string())
            columns = [pc.if_else(pc.is_in(each, nulls), None, each) for each in columns]
            table = pa.table(columns, names=names)
        more = table.columns[len(self._columns.names) :]
        full = _where([pc.not_equal(pc.fill_null(each, ""), "") for each in more], pc.or_)
        return table.select(names[: len(self._columns.names)]), (empty, full)

    def _one_by_one(
        self, scan: _Scan, rows: Sequence[int]
    ) -> tuple[list[tuple[int, list[bytes | None]]], list[tuple[int, _Problem]]]:
        """Parse rows one by one; return the cells of valid rows and the problems of the others."""
        fine: list[tuple[int, list[bytes | None]]] = []
        told: list[tuple[int, _Problem]] = []
        for at in rows:
            row = self._row(scan, at)
            raw = scan.data[scan.starts[at] : scan.stops[at]]
            if len(row.values) != len(self._columns) and not raw.strip(_BLANKS):
                continue
            if self._syntax.trim and not raw.strip(_BLANKS + self._syntax.delimiter):
                continue
            if problem := row.problem or self._misfit(row):
                told.append((at, problem))
                continue
            cells = row.values[: len(self._columns.names)]
            fine.append((at, [self._cell(text, quoted=quoted) for text, quoted in cells]))
        return fine, told

    def _row(self, scan: _Scan, at: int) -> _Row:
        if scan.rows is not None:
            return scan.rows[at]
        row = self._syntax.row(scan.data[scan.starts[at] : scan.ends[at]], 0, ended=True)
        assert row is not None
        return row

    def _misfit(self, row: _Row) -> _Problem | None:
        """Return a problem if the number of values is wrong or a nameless column has a value."""
        count, named = len(row.values), len(self._columns.names)
        if count not in (named, len(self._columns)):
            return Code.COLUMNS, f"has {count} values, the header {len(self._columns)}"
        if any(text for text, _ in row.values[named:]):
            return _NAMELESS
        return None

    def _cell(self, text: bytes, *, quoted: bool) -> bytes | None:
        return None if not quoted and text in self._null_bytes else text

    def _of_cells(self, rows: list[list[bytes | None]]) -> pa.Table:
        import pyarrow as pa

        cells = zip(*rows, strict=True)
        columns = [pa.array(each, pa.binary()).cast(pa.string()) for each in cells]
        return pa.table(columns, names=[str(n) for n in range(len(columns))])


def _any_empty(table: pa.Table) -> bool:
    """Whether any row consists of nulls and empty texts only."""
    import pyarrow.compute as pc

    empty = None
    for column in table.columns:
        here = pc.fill_null(pc.equal(column, ""), fill_value=True)
        empty = here if empty is None else pc.and_(empty, here)
        if not pc.any(empty).as_py():
            return False
    return True


def _where(masks: Sequence[Any], combine: Any) -> list[int]:
    """Return the indexes at which the combined masks are true."""
    import numpy as np

    if not masks:
        return []
    found = masks[0]
    for mask in masks[1:]:
        found = combine(found, mask)
    places: list[int] = np.flatnonzero(found.to_numpy()).tolist()
    return places


def _joined(scan: _Scan, rows: np.ndarray) -> memoryview:
    """Return the bytes of rows, including their line ends."""
    import numpy as np

    breaks = np.flatnonzero(np.diff(rows) != 1)
    first = rows[np.concatenate([[0], breaks + 1])]
    last = rows[np.concatenate([breaks, [len(rows) - 1]])]
    pairs = zip(scan.starts[first].tolist(), scan.ends[last].tolist(), strict=True)
    parts = [memoryview(scan.data)[start:end] for start, end in pairs]
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _scan(data: bytes, syntax: _Syntax, *, ended: bool) -> _Scan | None:
    """Find the rows of a block; None when its quoting is too irregular for the fast path."""
    import numpy as np

    signs = np.frombuffer(data, np.uint8)
    every = ends = _line_ends(data, signs, ended=ended)
    if syntax.quote and syntax.quote in data:
        marks = signs == syntax.quote[0]
        ends = ends[~np.logical_xor.accumulate(marks)[ends]]
        quotes = np.flatnonzero(marks)
        whole = len(data) if ended else int(ends[-1]) if len(ends) else 0
        if syntax.trim or not _regular(signs, quotes[: np.searchsorted(quotes, whole)], syntax):
            return None
    if ended and len(data) and (not len(ends) or ends[-1] != len(data) - 1):
        ends = np.append(ends, len(data))  # the last line has no line end
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64) if len(ends) else ends
    inner = np.minimum(np.maximum(ends - 1, 0), len(data) - 1)
    outer = np.minimum(ends, len(data) - 1)
    crlf = (ends > starts) & (signs[inner] == _CR) & (signs[outer] == _LF) & (ends < len(data))
    lines = int(np.searchsorted(every, ends[-1], "right")) if len(ends) else 0
    return _Scan(data, starts, ends - crlf, np.minimum(ends + 1, len(data)), lines, syntax)


def _line_ends(data: bytes, signs: np.ndarray, *, ended: bool) -> np.ndarray:
    """Return the indexes of line ends: each LF, and each CR that is not followed by LF."""
    import numpy as np

    ends = np.flatnonzero(signs == _LF)
    count = data.count(b"\r")
    if not count or (count == len(ends) and ends[0] and (signs[ends - 1] == _CR).all()):
        return ends
    cr = np.flatnonzero(signs == _CR)
    lone = cr[signs[np.minimum(cr + 1, len(data) - 1)] != _LF]
    if not ended and len(lone) and lone[-1] == len(data) - 1:
        lone = lone[:-1]  # may be the first half of CR LF
    return np.sort(np.concatenate([ends, lone])) if len(lone) else ends


def _regular(signs: np.ndarray, quotes: np.ndarray, syntax: _Syntax) -> bool:
    """Whether quotes occur only around values, or doubled inside them."""
    import numpy as np

    if len(quotes) % 2:
        return False
    before = quotes[0::2] - 1
    around = [signs[before[before >= 0]], signs[np.minimum(quotes[1::2] + 1, len(signs) - 1)]]
    allowed = (_LF, _CR, syntax.delimiter[0], syntax.quote[0])
    return all(np.logical_or.reduce([each == sign for sign in allowed]).all() for each in around)


def _scan_carefully(data: bytes, syntax: _Syntax, *, ended: bool) -> _Scan:
    """Find the rows of a block by parsing them one by one.

    Raises:
        _Broken: the end of a value is ambiguous.
    """
    import numpy as np

    rows: list[_Row] = []
    at = 0
    while at < len(data):
        row = syntax.row(data, at, ended=ended)
        if row is None:
            break
        rows.append(row)
        at = row.end
    figures = [(row.start, row.stop, row.end) for row in rows]
    starts, stops, ends = np.array(figures, np.int64).reshape(-1, 3).T
    return _Scan(data, starts, stops, ends, _lines_in(data[:at]), syntax, rows)


def _objects(keys: Sequence[str], table: pa.Table) -> pa.BinaryArray:
    """Encode rows of strings as JSON objects; `keys` are JSON strings, nulls become null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pieces: list[str | pa.StringArray] = []
    ahead = "{"
    for key, column in zip(keys, table.columns, strict=True):
        texts = _escaped(column.combine_chunks())
        if texts.null_count:
            texts = pc.fill_null(pc.binary_join_element_wise('"', texts, '"', ""), "null")
            pieces += [f"{ahead}{key}:", texts]
            ahead = ","
        else:
            pieces += [f'{ahead}{key}:"', texts]
            ahead = '",'
    return pc.binary_join_element_wise(*pieces, f"{ahead[:-1]}}}", "").cast(pa.binary())


def _escaped(texts: pa.StringArray) -> pa.StringArray:
    """Escape texts for JSON strings."""
    import numpy as np
    import pyarrow.compute as pc

    _, ends, data = texts.buffers()
    if data is None or not len(texts):
        return texts
    offsets = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    signs = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    special = (signs < 32) | (signs == 34) | (signs == 92)
    # Escape the backslash first: the other escapes contain it.
    for sign in np.unique(signs[special])[::-1].tolist() if special.any() else ():
        texts = pc.replace_substring(texts, chr(sign), json.dumps(chr(sign))[1:-1])
    return texts
