"""Minify JSON text, check its depth and list its keys, without creating field values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import msgspec
import numpy as np

MAX_DEPTH = 500
"""Deeper records are rejected. This is far below Python's own recursion limit, which varies."""
SHALLOW = 2 * MAX_DEPTH
"""Bytes: a JSON text of at most this size cannot be nested deeper than MAX_DEPTH."""
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


_SAMPLE = 64
_AHEAD = np.isin(np.arange(256), list(b"{[,:"))  # white space after one of these may be dropped
_BEHIND = np.isin(np.arange(256), list(b"]},:"))  # white space before one of these may be dropped

minified = cast("Callable[[bytes | msgspec.Raw], bytes]", partial(msgspec.json.format, indent=-1))
"""Return a JSON text without insignificant white space; every token stays as it was written.

The text must follow RFC 8259, except that strings may hold invalid UTF-8.

Raises:
    msgspec.DecodeError: the text is not JSON.
    RecursionError: the text is nested too deeply.
"""


def all_minified(texts: Sequence[bytes]) -> list[bytes]:
    """Return each text minified, as `minified` does; fast if most have nothing to remove."""
    if _spaced(texts[:_SAMPLE]):
        return list(map(minified, texts))
    found = list(texts)
    for place in _spaced(texts):
        found[place] = minified(texts[place])
    return found


def _spaced(texts: Sequence[bytes]) -> list[int]:
    """Return the indexes of the texts that may have insignificant white space.

    Such space is always next to a bracket, a comma or a colon. Space inside a string may be, too.
    """
    characters = np.frombuffer(b"".join(texts), np.uint8)
    blanks = np.flatnonzero(characters[1:-1] <= ord(" ")) + 1  # JSON has no other control character
    loose = blanks[_AHEAD[characters[blanks - 1]] | _BEHIND[characters[blanks + 1]]]
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    places: list[int] = np.unique(np.searchsorted(ends, loose, side="right")).tolist()
    return places


def check_depth(text: bytes) -> None:
    """Raise RecursionError if a JSON text is nested deeper than MAX_DEPTH."""
    if text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for found in _STRUCTURE.finditer(text):
        token = found[0]
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))
        if depth > MAX_DEPTH:
            raise RecursionError


def object_keys(value: bytes | str) -> list[str]:
    """Return the keys of a JSON object in order, with repetitions; [] if it is not an object."""
    keys: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        # The outermost object closes last, so its keys replace those of nested objects.
        keys[:] = [key for key, _ in pairs]

    try:
        is_object = isinstance(json.loads(value, object_pairs_hook=note), type(None))
    except (ValueError, RecursionError):
        return []
    return keys if is_object else []
