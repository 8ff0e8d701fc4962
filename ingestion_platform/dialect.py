"""The CSV dialect that a stream declares below `files:` of its `defs.yaml`.

Other modules read the files and handle folders and patterns.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ingestion_platform.errors import ContractError


@dataclass(frozen=True, slots=True)
class Dialect:
    """Settings that a CSV file does not contain itself.

    `delimiter` is `,` if none is declared. `quote` is empty if values are never quoted. `encoding`
    is UTF-8 if none is declared. A byte order mark or a `sep=` line in the file takes precedence.
    `header` names the columns of files whose first line is data. `skip_lines` is the number of
    lines before the header. `trim` removes blanks around values. An unquoted value that is in
    `null_values` is null. `decimal` is the decimal separator of numbers: `.` or `,`.
    """

    delimiter: str | None = None
    quote: str = '"'
    encoding: str | None = None
    header: tuple[str, ...] = ()
    skip_lines: int = 0
    trim: bool = False
    null_values: tuple[str, ...] = ("", "NULL")
    decimal: str = "."

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Dialect:
        """Return the dialect from plain data of `to_json`."""
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in said.items()}
        return cls(**given)


PLAIN = Dialect()
"""The dialect of a stream that declares none."""

SETTINGS = tuple(each.name for each in fields(Dialect))
"""The keys below `files:` that declare a dialect."""


def dialect_of(given: Mapping[str, Any], file: str) -> Dialect:
    """Return the dialect that `files:` declares; `file` is the YAML file, for errors.

    Raises:
        ContractError: a setting has an invalid value; the action gives a valid one.
    """
    declared = {name: given[name] for name in SETTINGS if name in given}
    for name, value in declared.items():
        problem = _PROBLEMS[name](value)
        if problem:
            raise ContractError(file, f"files, {name}", problem[0], action=problem[1])
    if declared.get("quote") == "none":
        declared["quote"] = ""
    found = Dialect.from_json(declared)
    if found.quote and found.quote == (found.delimiter or ","):
        action = "declare another `quote`, or `quote: none`"
        raise ContractError(file, "files, quote", "is the delimiter too", action=action)
    if found.decimal == (found.delimiter or ","):
        action = "for example `delimiter: ';'`"
        raise ContractError(file, "files, decimal", "is the delimiter too", action=action)
    return found


_Found = tuple[str, str] | None
"""The problem of a value, and what to write instead; None if the value is valid."""


def _sign(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1 and value.isascii() and value not in "\r\n\0"


def _delimiter(value: Any) -> _Found:
    if _sign(value) and not value.isalnum():
        return None
    return f"{value!r} is not one ASCII character", "for example `delimiter: ';'` or `\"\\t\"`"


def _quote(value: Any) -> _Found:
    if value == "none" or (_sign(value) and not value.isalnum()):
        return None
    return f"{value!r} is not one ASCII character", 'for example `quote: "\'"`, or `quote: none`'


def _encoding(value: Any) -> _Found:
    try:
        codecs.lookup(value)
        "a".encode(value)
    except (LookupError, TypeError, ValueError):
        return f"{value!r} is no encoding of text", "for example `encoding: latin-1`"
    return None


def _header(value: Any) -> _Found:
    action = "for example `header: [id, note]`, for files whose first line is data"
    if not isinstance(value, list) or not value:
        return "is no list of names", action
    if not all(isinstance(each, str) and each.strip() == each != "" for each in value):
        return "has a name that is empty, has blanks around it, or is no text", action
    return ("names a column twice", action) if len(set(value)) < len(value) else None


def _skip_lines(value: Any) -> _Found:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000_000:
        return None
    return f"{value!r} is no number of lines", "for example `skip_lines: 2`"


def _trim(value: Any) -> _Found:
    return None if isinstance(value, bool) else (f"{value!r} is not true or false", "`trim: true`")


def _null_values(value: Any) -> _Found:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return None
    return "is no list of texts", "for example `null_values: ['', 'NULL', 'n/a']`"


def _decimal(value: Any) -> _Found:
    return None if value in (".", ",") else (f"{value!r} is not . or ,", "`decimal: ','`")


_PROBLEMS = {
    "delimiter": _delimiter,
    "quote": _quote,
    "encoding": _encoding,
    "header": _header,
    "skip_lines": _skip_lines,
    "trim": _trim,
    "null_values": _null_values,
    "decimal": _decimal,
}
