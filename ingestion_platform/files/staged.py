"""Encode texts in staging CSV files so that no spreadsheet evaluates them as formulas.

Decoding restores every text exactly. A text that a spreadsheet could evaluate, or read as another
value, gets a leading apostrophe; in such a text, characters that a spreadsheet may treat as
delimiters are percent-encoded. Staging files are written and read elsewhere.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from ingestion_platform.files.reading import Records

_APOSTROPHE = "'"
# Formula prefixes (also full width), delimiters of any locale, nulls, and texts to be trimmed.
_RISKY = re.compile(r"['=+\-@＝＋－＠]|\s|.*[;|\t\r\n]|.*\s\Z|(NULL)?\Z", re.DOTALL)
_DELIMITERS = str.maketrans({letter: f"%{ord(letter):02X}" for letter in "%;|\t\r\n"})


def guarded(text: str) -> str:
    """Encode a text as a cell of a staging file; `unguarded` decodes it."""
    return _APOSTROPHE + text.translate(_DELIMITERS) if _RISKY.match(text) else text


def unguarded(cell: str) -> str:
    """Decode a cell of a staging file."""
    return unquote(cell[1:]) if cell.startswith(_APOSTROPHE) else cell


def with_texts(records: Records) -> Records:
    """Decode all cells of a batch from a staging file; values are JSON objects of strings."""
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
