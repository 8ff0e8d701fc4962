"""Count failures by stream and kind, in files that survive the process.

    PLATFORM_HOME/failures/<stream>/<kind>      the file's size in bytes is the count

A failure appends one byte. Appending is atomic between threads and processes and needs no lock, no
merging of files and no server (which may be what failed). Counts never decrease.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from ingestion_platform.errors import PlatformError, Transient, WriteConflict

KINDS = ("transient", "permanent", "unexpected")
"""Can be retried; needs a person; is a bug of the platform."""

_FOLDER = "failures"


@contextmanager
def counting_failures(home: Path, stream: str) -> Iterator[None]:
    """Count an exception that leaves the block, and raise it again."""
    try:
        yield
    except Exception as error:
        note(home, stream, error)
        raise


def note(home: Path, stream: str, error: Exception) -> None:
    """Count an error of a stream; never fails. Write conflicts are not counted."""
    if isinstance(error, WriteConflict):
        return
    file = home / _FOLDER / quote(stream, safe="") / kind_of(error)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)


def kind_of(error: Exception) -> str:
    """Return the kind of an error, one of KINDS."""
    if isinstance(error, Transient):
        return "transient"
    return "permanent" if isinstance(error, PlatformError) else "unexpected"


def counts(home: Path) -> dict[tuple[str, str], int]:
    """Return the number of errors by (stream, kind); zero counts are omitted."""
    return {
        (unquote(file.parent.name), file.name): file.stat().st_size
        for file in (home / _FOLDER).glob("*/*")
        if file.name in KINDS
    }
