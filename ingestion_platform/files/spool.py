"""A folder for copies of files while they are read: gone at the end, whatever happened.

A killed process leaves its folder behind; the next spool that opens removes it.
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
_RESERVE = 1024 * 1024 * 1024  # bytes of the disk that copies leave free, at most: see `need`


class NoRoom(StoreUnavailable):
    """The spool's disk has no room for a copy; smaller files may still fit."""


class Spool:
    """A folder of this process's own below `root`; a context manager.

    Raises:
        StoreUnavailable: its disk is full.
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
            if self._folder.is_dir():  # nobody took it for a dead one's before it was locked
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
        """A path where no file is yet."""
        return self._folder / uuid.uuid4().hex

    def need(self, size: int) -> None:
        """See that the disk has room for `size` more bytes, and a twentieth of it or 1 GiB stays
        free for others.

        Raises:
            NoRoom: it has not.
        """
        disk = shutil.disk_usage(self._folder)
        if disk.free - size < min(_RESERVE, disk.total // 20):
            raise NoRoom(
                f"{self._root} has no room for a copy: {in_units(disk.free)} are free",
                action="make space on the disk of PLATFORM_HOME, or move it",
            )

    def clear(self) -> None:
        """Remove the copies made so far."""
        for file in self._folder.iterdir():
            if file.name != _LOCK:
                file.unlink()


def _locked(folder: Path) -> IO[bytes]:
    lock = (folder / _LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _remove_if_dead(folder: Path) -> None:
    """Remove a spool whose process has ended; the system drops the lock of a dead one."""
    with suppress(OSError), (folder / _LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
