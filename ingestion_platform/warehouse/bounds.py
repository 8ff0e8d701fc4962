"""A fix of PyIceberg's statistics, so that every text can be the largest of a column.

Its upper bound (version 0.12, to which the platform is pinned) is the first 16 characters with the
last one raised by one. After U+D7FF come the surrogates, which no UTF-8 can hold: writing fails.
"""

from __future__ import annotations

from functools import cache

_BEFORE_SURROGATES, _AFTER_SURROGATES = 0xD7FF, "\ue000"


@cache
def skip_surrogates() -> None:
    """Apply the fix to this process."""
    import pyiceberg.io.pyarrow as module

    vars(module)["truncate_upper_bound_text_string"] = upper_bound


def upper_bound(value: str, length: int | None) -> str | None:
    """Return a text of at most `length` characters that is no less than `value`; None without."""
    if length is None or len(value) <= length:
        return value
    kept = value[:length].rstrip("\U0010ffff")
    if not kept:
        return None
    last = ord(kept[-1])
    return kept[:-1] + (_AFTER_SURROGATES if last == _BEFORE_SURROGATES else chr(last + 1))
