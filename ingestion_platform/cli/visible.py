"""Render foreign bytes and texts for a terminal, without control sequences and invisible text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ingestion_platform.escaping import visible

_LINE = 16
_DEEPEST = 100


def shown(value: bytes | None, *, most: int | None = None) -> str:
    """Return a record's bytes as text: JSON in lines, other text unchanged, else a hex dump.

    Of more than `most` bytes only the beginning is shown.
    """
    if value is None:
        return "null"
    cut = value if most is None else value[:most]
    rest = len(value) - len(cut)
    more = f"\n… {rest:,} more bytes" if rest else ""
    text = _decoded(cut, whole=not rest)
    if text is None:
        return "\n".join(hexdump(cut)) + more
    if not rest and (laid_out := _json(text)) is not None:
        return visible(laid_out, lines=True)
    return visible(text, lines=True) + more


def hexdump(value: bytes) -> Iterator[str]:
    """Return a hex dump in lines of sixteen bytes."""
    for start in range(0, len(value), _LINE):
        line = value[start : start + _LINE]
        pairs = line.hex(" ")
        ascii_only = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
        yield f"{start:08x}  {pairs:<{3 * _LINE - 1}}  |{ascii_only}|"


def _decoded(value: bytes, *, whole: bool) -> str | None:
    """Decode UTF-8, possibly cut within a character; return None if it is invalid."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(value, final=whole)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object in order, repeated keys included."""


class _Number(str):
    """A JSON number as written."""

    __slots__ = ()


def _json(text: str) -> str | None:
    """Return JSON text indented, with its keys and numbers as sent; None if it is not JSON."""
    try:
        parsed = json.loads(
            text,
            object_pairs_hook=_Members,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_Number,
        )
        return "".join(_pieces(parsed, 0)) if isinstance(parsed, list) else None
    except (ValueError, RecursionError):
        return None


def _pieces(value: Any, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(value, _Members):
        yield from _between("{}", [(json.dumps(k, ensure_ascii=False) + ": ", v) for k, v in value],
                            depth)  # fmt: skip
    elif isinstance(value, list):
        yield from _between("[]", [("", v) for v in value], depth)
    else:
        yield value if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


def _between(brackets: str, members: Sequence[tuple[str, Any]], depth: int) -> Iterator[str]:
    yield brackets[0]
    inner, comma = "\n" + "  " * (depth + 1), ""
    for key, value in members:
        yield f"{comma}{inner}{key}"
        yield from _pieces(value, depth + 1)
        comma = ","
    yield ("\n" + "  " * depth if members else "") + brackets[1]
