"""How often something failed, by stream: counts that outlive the process, kept in files.

    PLATFORM_HOME/failures/<stream>/<kind>      a file as long as its count

A failure appends one byte. That is atomic between threads and processes, needs no lock, no merging
of dead processes' files and no server, of which one may be what failed; a count never goes back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from ingestion_platform.errors import PlatformError, Transient, WriteConflict

KINDS = ("transient", "permanent", "unexpected")
"""Passes by itself; waits for a person; is a mistake of the platform."""

_FOLDER = "failures"


@contextmanager
def counting_failures(home: Path, stream: str) -> Iterator[None]:
    """Count the error that leaves this block, if one does."""
    try:
        yield
    except Exception as error:
        note(home, stream, error)
        raise


def note(home: Path, stream: str, error: Exception) -> None:
    """Count an error of a stream; never fails. Being overtaken by another writer is no error."""
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
    """Which of KINDS an error is."""
    if isinstance(error, Transient):
        return "transient"
    return "permanent" if isinstance(error, PlatformError) else "unexpected"


def counts(home: Path) -> dict[tuple[str, str], int]:
    """How many errors there were, by stream and kind; what never happened is left out."""
    return {
        (unquote(file.parent.name), file.name): file.stat().st_size
        for file in (home / _FOLDER).glob("*/*")
        if file.name in KINDS
    }
