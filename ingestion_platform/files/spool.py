"""A temporary folder for copies of files while they are read.

The folder is removed on exit. A killed process leaves its folder behind; the next spool opened
below the same root removes it.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from ingestion_platform.errors import StoreUnavailable
from ingestion_platform.sizes import in_units

_LOCK = "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_RESERVE = 1024 * 1024 * 1024  # upper bound in bytes of the disk space left free: see `need`


class NoRoom(StoreUnavailable):
    """The spool's disk has too little free space for a copy; smaller files may still fit."""


class Spool:
    """A private folder of this process below `root`, used as a context manager.

    Raises:
        StoreUnavailable: the disk of `root` is full (on entry or on exit).
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> Spool:
        try:
            return self._open()
        except OSError as error:
            self._tell_if_full(error)
            raise

    def _open(self) -> Spool:
        self._root.mkdir(parents=True, exist_ok=True)
        for other in self._root.iterdir():
            _remove_if_dead(other)
        while True:
            self._folder = Path(tempfile.mkdtemp(dir=self._root))
            self._lock = _locked(self._folder)
            if self._folder.is_dir():  # not removed by another process before it was locked
                return self
            self._lock.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()
        self._tell_if_full(error)

    def _tell_if_full(self, error: BaseException | None) -> None:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise StoreUnavailable(
                f"{self._root} cannot keep copies of files: {error.strerror}",
                action="make space on the disk of PLATFORM_HOME, or move it",
            ) from error

    def new(self) -> Path:
        """Return a new path in the folder; the file does not exist yet."""
        return self._folder / uuid.uuid4().hex

    def need(self, size: int) -> None:
        """Check that the disk has room for `size` more bytes.

        1 GiB must stay free, or a twentieth of the disk if that is less.

        Raises:
            NoRoom: too little space is free.
        """
        disk = shutil.disk_usage(self._folder)
        if disk.free - size < min(_RESERVE, disk.total // 20):
            raise NoRoom(
                f"{self._root} has no room for a copy: {in_units(disk.free)} are free",
                action="make space on the disk of PLATFORM_HOME, or move it",
            )

    def clear(self) -> None:
        """Remove all copies from the folder."""
        for file in self._folder.iterdir():
            if file.name != _LOCK:
                file.unlink()


def _locked(folder: Path) -> IO[bytes]:
    lock = (folder / _LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _remove_if_dead(folder: Path) -> None:
    """Remove a spool folder whose process has ended (the system releases its lock)."""
    with suppress(OSError), (folder / _LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
