"""Staging files of the drop zone: validated records appended to CSV, for the batch path to land.

Whoever takes such a file away (the file door) holds `flock(LOCK_EX)` on it while doing so: then no
row is written into a file that has gone.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TAIL = 1024 * 1024  # bytes searched for the end of the last whole line


def append_rows(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Append whole lines, on disk when this returns; a new file begins with the header.

    Null is an empty field; objects and arrays are JSON text. A line that a crash left torn was
    never acknowledged, and is removed.

    Raises:
        OSError: the file cannot be written; it is then as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file) as descriptor:
        end = _mend(descriptor)
        lines = [] if end else [list(columns)]
        lines += [[_cell(row.get(column)) for column in columns] for row in rows]
        try:
            _write(descriptor, _as_csv(lines))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
        if not end:
            _sync_folder(file.parent)


@contextmanager
def _locked(file: Path) -> Iterator[int]:
    """The file, open and locked, and certain to be the one of that name."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_there(file, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_there(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _mend(descriptor: int) -> int:
    """Remove what follows the last whole line; the length of what stays."""
    end = os.fstat(descriptor).st_size
    start = max(0, end - _TAIL)
    tail = os.pread(descriptor, end - start, start)
    whole = start + tail.rfind(b"\n") + 1
    if whole < end:
        os.ftruncate(descriptor, whole)
    return whole


def _as_csv(lines: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
