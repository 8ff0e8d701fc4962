"""Read JSON Lines and JSON arrays as records, verbatim.

Invalid records get a reason; the rest of the file is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from ingestion_platform.contract.reasons import Code, Reason
from ingestion_platform.files import reading
from ingestion_platform.files.reading import (
    BATCH,
    LONGEST,
    Readable,
    Records,
    UnreadableFile,
    at_line,
    marked_encoding,
    too_long,
    utf8_chunks,
)

if TYPE_CHECKING:
    import pyarrow as pa

_ESCAPE = 16  # characters of the longest token (except strings) that a chunk's end may cut


def read_lines(name: str, path: Readable) -> Iterator[Records]:
    """Yield the lines of a file verbatim, in batches; blank lines are skipped.

    Raises:
        UnreadableFile: the file is not valid in the encoding of its byte order mark.
    """
    import msgspec
    import pyarrow as pa

    check = msgspec.json.Decoder(msgspec.Raw).decode
    for lines in _lines(utf8_chunks(name, path)):
        kept: list[bytes] = []
        problems: dict[int, list[Reason]] = {}
        for number, line, length in lines:
            if line.isspace() or not line:
                continue
            if length > LONGEST:
                problems[len(kept)] = [too_long(length, number)]
            else:
                try:
                    check(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    problems[len(kept)] = [_not_json(error, number)]
            kept.append(line.rstrip(b"\r"))
        if kept:
            values = pa.array(kept, pa.binary())
            _mark_other_encodings(values, lines, problems)
            yield Records(values, problems)


_Line = tuple[int, bytes, int]
_Problem = tuple[Code, str]
"""_Line is a line number, the line's first LONGEST bytes, and its full length in bytes."""


def _lines(chunks: Iterator[bytes]) -> Iterator[list[_Line]]:
    """Yield the lines of a file in batches of at most BATCH, without line feeds."""
    number, rest, beyond = 1, b"", 0
    for chunk in chunks:
        if beyond:  # inside a line longer than LONGEST
            end = chunk.find(b"\n")
            beyond += len(chunk) if end < 0 else end
            if end < 0:
                continue
            yield [(number, rest, len(rest) + beyond)]
            number, rest, beyond, chunk = number + 1, b"", 0, chunk[end + 1 :]
        *lines, rest = (rest + chunk).split(b"\n")
        for start in range(0, len(lines), BATCH):
            some = lines[start : start + BATCH]
            yield [(number + i, line[:LONGEST], len(line)) for i, line in enumerate(some)]
            number += len(some)
        if len(rest) > LONGEST:
            rest, beyond = rest[:LONGEST], len(rest) - LONGEST
    if rest:
        yield [(number, rest, len(rest) + beyond)]


def _mark_other_encodings(
    values: pa.BinaryArray, lines: list[_Line], problems: dict[int, list[Reason]]
) -> None:
    """Add a reason to `problems` for each line that is not valid UTF-8."""
    import pyarrow as pa

    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        numbers = [number for number, line, _ in lines if line and not line.isspace()]
        for at, value in enumerate(values.to_pylist()):
            if at not in problems and not _is_utf8(value):
                problems[at] = [at_line(Code.ENCODING, "is not valid UTF-8", numbers[at])]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_json(error: Exception, line: int) -> Reason:
    if isinstance(error, RecursionError):
        return at_line(Code.DEPTH, "is nested too deeply", line)
    said = str(error).removeprefix("JSON is malformed: ")
    said = said.replace("Input data was truncated", "cut off")
    said, _, byte = said.removesuffix(")").partition(" (byte ")
    reason = at_line(Code.JSON, f"is not valid JSON: {said[:1].lower()}{said[1:]}", line)
    return replace(reason, value=f"{reason.value}, byte {byte}") if byte else reason


def read_array(name: str, path: Readable) -> Iterator[Records]:
    """Yield the items of a JSON array verbatim, in batches.

    Raises:
        UnreadableFile: the file holds no array, or the boundaries of an item are ambiguous.
    """
    import pyarrow as pa

    encoding = marked_encoding(path) or "utf-8"
    # Invalid UTF-8 is never structural: only the item that contains it is rejected.
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        items = _Items(name, file)
        while found := items.take(BATCH):
            values = [item.encode(errors="surrogateescape") for item, _ in found]
            problems = {at: [each] for at, (_, each) in enumerate(found) if each is not None}
            yield Records(pa.array(values, pa.binary()), problems)


_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"|["\[\]{},]', re.DOTALL)
_BYTES = re.compile("[\ud800-\udfff]")
_OPENS = {"]": "[", "}": "{"}


class _Constant(ValueError):
    """An item contains NaN or an infinity."""


class _Items:
    """Splits a JSON array into items, reading it in chunks."""

    def __init__(self, name: str, file: IO[str]) -> None:
        self._name = name
        self._file = file
        self._text = ""
        self._at = 0
        self._line = 1
        self._more = True
        self._started = False
        self._ended = False
        # Only the end of each item is needed: numbers are not converted.
        self._decode = json.JSONDecoder(
            parse_int=str, parse_float=str, parse_constant=_no_constant
        ).raw_decode

    def take(self, count: int) -> list[tuple[str, Reason | None]]:
        """Return at most `count` items, each with its reason or None; [] at the array's end."""
        found: list[tuple[str, Reason | None]] = []
        size = 0
        if not self._started:
            self._start()
        while len(found) < count and size < LONGEST and not self._ended:
            found.append(self._item())
            size += len(found[-1][0])
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
        if self._peek() == ",":
            self._at += 1
        else:  # only a comma or the closing bracket follows an item
            self._end()

    def _end(self) -> None:
        self._at += 1
        self._ended = True
        if (rest := self._peek()) != "":
            raise self._error(f"{rest!r} follows the end of the array")

    def _item(self) -> tuple[str, Reason | None]:
        self._peek()
        end, problem = self._read_item()
        if end is None:
            end = self._behind_item(problem)
        item = self._text[self._at : end].rstrip(" \t\r\n")
        if problem is None and _BYTES.search(item):
            problem = Code.ENCODING, "is not valid UTF-8"
        told = None if problem is None else at_line(*problem, self._line_here())
        self._at = end
        return item, told

    def _read_item(self) -> tuple[int | None, _Problem | None]:
        """Read until the item is in memory; return its end, or None and the problem."""
        while True:
            try:
                _, end = self._decode(self._text, self._at)
                behind = self._solid(end)
                if behind < len(self._text):
                    if self._text[behind] in ",]":
                        return end, None
                    return None, (Code.JSON, "is not valid JSON: a comma is missing, or a quote")
                # A number at the end of a chunk may continue in the next one.
                if not self._read():
                    raise self._error("ends before its array does")
            except RecursionError:
                return None, (Code.DEPTH, "is nested too deeply")
            except _Constant as constant:
                return None, (Code.JSON, f"is not valid JSON: {constant} is no value")
            except json.JSONDecodeError as error:
                place = error.pos - self._at
                if self._is_wrong(error) or not self._read():
                    self._check_unfinished(self._at + place)
                    said = f"{error.msg[:1].lower()}{error.msg[1:]}"
                    return None, (Code.JSON, f"is not valid JSON: {said}")
            self._check_length()

    def _solid(self, at: int) -> int:
        """Return the index of the next non-blank character, or the end of the text."""
        while at < len(self._text) and self._text[at] in " \t\r\n":
            at += 1
        return at

    def _check_length(self) -> None:
        if len(self._text) - self._at > LONGEST:
            raise self._error(f"an item is longer than {LONGEST:,} bytes")

    def _is_wrong(self, error: json.JSONDecodeError) -> bool:
        """Whether the error is in the JSON itself, not caused by the end of the chunk."""
        return not self._is_open(error.pos) and error.pos < len(self._text) - _ESCAPE

    def _check_unfinished(self, place: int) -> None:
        if self._is_open(place) or place >= len(self._text.rstrip()):
            raise self._error("ends before its array does")

    def _is_open(self, place: int) -> bool:
        """Whether a string starts at `place` and does not end within the text read so far."""
        return self._text[place : place + 1] == '"' and not _STRING.match(self._text, place)

    def _behind_item(self, problem: _Problem | None) -> int:
        """Return the end of an invalid item: the index of the comma or bracket that follows it."""
        while True:
            end = self._structural_end(problem)
            if end is not None:
                return end
            if not self._read():
                raise self._error("ends before its array does")
            self._check_length()

    def _structural_end(self, problem: _Problem | None) -> int | None:
        """Like `_behind_item` on the text read so far; None when the end is not in it."""
        opened: list[str] = []
        for found in _STRUCTURE.finditer(self._text, self._at):
            token = found[0]
            if token == '"':
                return None
            if token in ("[", "{"):
                opened.append(token)
            elif token in (",", "]") and not opened:
                return found.start()
            elif token in ("]", "}") and (not opened or opened.pop() != _OPENS[token]):
                said = problem[1] if problem else "is not valid JSON"
                raise self._error(f"{said}; where the item ends cannot be told")
        return None

    def _peek(self) -> str:
        """Advance to the next non-blank character and return it; "" at the end of the file."""
        while True:
            self._at = self._solid(self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _read(self) -> bool:
        """Read the next chunk and drop the text before `_at`; False at the end of the file."""
        if not self._more:
            return False
        try:
            piece = self._file.read(reading.CHUNK)
        except UnicodeError as error:
            raise self._error(f"is not valid text: {error}") from None
        self._more = bool(piece)
        self._line = self._line_here()
        self._text = self._text[self._at :] + piece
        self._at = 0
        return self._more

    def _line_here(self) -> int:
        return self._line + self._text.count("\n", 0, self._at)

    def _error(self, problem: str) -> UnreadableFile:
        return UnreadableFile(self._name, problem, line=self._line_here())


def _no_constant(name: str) -> Any:
    raise _Constant(name)
