"""Staging files of the drop zone: CSV to which valid records are appended, to be landed.

The file source holds `flock(LOCK_EX)` on a file while it moves it away, so that no row is written
into a file that has gone.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingestion_platform.files.staged import guarded
from ingestion_platform.lake.guarded import open_folder, unfit

_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCK_SECONDS = 5.0
_TAIL = 1024 * 1024  # bytes searched for the end of the last whole line


def append_rows(
    root: Path, path: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Append rows to a CSV file below `root`, and sync it to disk; a new file gets a header.

    Null is an empty field, objects and arrays are JSON text, and no text can be a formula (see
    `files.staged`). An incomplete last line, left by a crash, was never acknowledged and is
    removed. Others may write to the folder, so symbolic links are not followed.

    Raises:
        OSError: the file cannot be written, or is no regular file; its content is unchanged.
    """
    folder, _, name = path.rpartition("/")
    with open_folder(root, folder, make=True) as opened, _locked(opened, name) as descriptor:
        end = _cut_incomplete_line(descriptor)
        lines = [] if end else [list(columns)]
        lines += [[_cell(row.get(column)) for column in columns] for row in rows]
        try:
            _write(descriptor, _as_csv(lines))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
        if not end:
            os.fsync(opened)


@contextmanager
def _locked(folder: int, name: str) -> Iterator[int]:
    """Open and lock the file; reopen it if another one has taken its name meanwhile."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        descriptor = os.open(name, _APPEND, 0o644, dir_fd=folder)
        try:
            if problem := unfit(os.fstat(descriptor)):
                raise OSError(errno.EINVAL, problem)
            _lock(descriptor, deadline)
            if _is_there(folder, name, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, deadline: float) -> None:
    """Lock a file, until a deadline: any process that can read it may hold the lock for ever."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _is_there(folder: int, name: str, descriptor: int) -> bool:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _cut_incomplete_line(descriptor: int) -> int:
    """Remove what follows the last complete line; return the length of the file then."""
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
    match value:
        case None:
            return ""
        case bool() | int() | float():
            return json.dumps(value)
        case str():
            return guarded(value)
    return guarded(json.dumps(value, ensure_ascii=False))


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
