"""Texts in staging CSV files, which no spreadsheet can take for a formula, and which read back
exactly. Who writes and who reads such files is elsewhere.

A text that could be run, or be read as another value, begins with an apostrophe; in it, characters
that a spreadsheet may take for a delimiter are percent-encoded.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from ingestion_platform.files.reading import Records

_APOSTROPHE = "'"
# What begins a formula (also in full width), delimiters of any locale, what is null or trimmed.
_RISKY = re.compile(r"['=+\-@＝＋－＠]|\s|.*[;|\t\r\n]|.*\s\Z|(NULL)?\Z", re.DOTALL)
_DELIMITERS = str.maketrans({letter: f"%{ord(letter):02X}" for letter in "%;|\t\r\n"})


def guarded(text: str) -> str:
    """A text as the cell of a staging file that `unguarded` takes back."""
    return _APOSTROPHE + text.translate(_DELIMITERS) if _RISKY.match(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell of a staging file."""
    return unquote(cell[1:]) if cell.startswith(_APOSTROPHE) else cell


def with_texts(records: Records) -> Records:
    """Records of a staging file, JSON objects of strings, with the texts that were staged."""
    import pyarrow as pa

    values = records.values.to_pylist()
    risky = [at for at, value in enumerate(values) if b"\"'" in value and at not in records.reasons]
    for at in risky:
        values[at] = _with_texts(values[at])
    return Records(pa.array(values, records.values.type), records.reasons) if risky else records


def _with_texts(value: bytes) -> bytes:
    import msgspec

    record = msgspec.json.decode(value)
    return msgspec.json.encode(
        {name: unguarded(cell) if isinstance(cell, str) else cell for name, cell in record.items()}
    )
