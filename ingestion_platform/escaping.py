"""Escape external text for log lines and terminals.

Every log line and all output of commands passes through this module.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any

_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def visible(text: str, *, lines: bool = False) -> str:
    """Return the text with every invisible character as an escape (`\\n`, `\\x1b`).

    These are controls, line and paragraph separators, formatting characters, lone surrogates and
    unassigned code points. `lines` keeps line feeds.
    """
    return _escaped(text, lambda char: char.encode("unicode_escape").decode(), lines=lines)


def visible_json(
    value: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None
) -> str:
    """Return the value as JSON; characters that `visible` escapes become JSON escapes.

    Without `indent` it is one line. The result can be encoded in UTF-8.
    """
    text = json.dumps(value, indent=indent, default=default, ensure_ascii=False)
    # Unescaped line feeds occur between members only: JSON escapes those in strings.
    return _escaped(text, lambda char: json.dumps(char)[1:-1], lines=True)


def _escaped(text: str, escape: Callable[[str], str], *, lines: bool) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if (lines and char == "\n") or unicodedata.category(char) not in _INVISIBLE
        else escape(char)
        for char in text
    )  # fmt: skip
