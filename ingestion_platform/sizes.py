"""Numbers of bytes as people write them: `500MB`, `4.0 GiB`."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)}


def bytes_of(text: str) -> int:
    """Return the bytes of a size such as `500MB`, `4 GiB` or a plain number of bytes.

    Raises:
        ValueError: the text is no size, or zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    size = int(float(match[1]) * _UNITS.get(match[2].upper(), 0)) if match else 0
    if size <= 0:
        raise ValueError(f"{text!r} is not a size such as 500MB or 4GiB")
    return size


def in_units(size: int) -> str:
    """Return a number of bytes with its unit, for example `4.0 GiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:,.1f} {unit}"
    return f"{size:,} bytes"
