"""A local folder that other users write to, as a Store: a trust boundary.

No link below the root is followed, and only regular files are opened. Every path is opened folder
by folder, from descriptors, so exchanging an entry between a check and its use gains nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath

from ingestion_platform.errors import Permanent, Transient
from ingestion_platform.lake.local import LocalStore, split_path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a pipe without a writer must not block. O_NOCTTY: a terminal must not become ours.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOT_FOLLOWED = (errno.ELOOP, errno.ENOTDIR)
_LINK = "is a symbolic link, and links are not followed"
_KINDS = {
    stat.S_IFLNK: _LINK,
    stat.S_IFIFO: "is a named pipe, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
    stat.S_IFDIR: "is a folder, not a file",
}


class Unfit(Permanent):
    """An entry must not, or cannot, be read; others are not affected."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}", action="replace it with a regular file")
        self.problem = problem


class Busy(Transient):
    """Another process holds a lock on an entry."""


def unfit(status: os.stat_result) -> str:
    """Return why an entry of this status must not be read; empty for a regular file of one name."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        return _KINDS.get(kind, "is not a regular file")
    if status.st_nlink > 1:
        return (
            f"has {status.st_nlink} names (hard links), so it may be another user's file: copy it"
        )
    return ""


@contextmanager
def open_folder(root: Path, path: str, *, make: bool = False) -> Iterator[int]:
    """Open a folder below `root` without following links; yield its descriptor.

    `root` itself may be a link. With `make`, create missing folders, writable by this user only.

    Raises:
        PermissionError: a part of the path is a link or a file, or may not be opened.
        OSError: a folder is missing, or cannot be created.
    """
    if make:
        root.mkdir(parents=True, exist_ok=True)
    opened = os.open(root, _FOLDER & ~os.O_NOFOLLOW)
    try:
        for part in PurePosixPath(path).parts:
            inner = _step(opened, part, make=make)
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)


def _step(folder: int, name: str, *, make: bool) -> int:
    if name in ("..", "/"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_FOLLOWED:
            problem = f"{name} is a link or a file, not a folder"
            raise PermissionError(error.errno, problem) from None
        raise


class GuardedStore(LocalStore):
    """A LocalStore whose entries anyone may have made.

    Reading raises Unfit for what is not a regular file or may not be read, renaming raises Busy
    for a file that its writer has locked, and listing raises Permanent when a link or a file takes
    the place of the folder.
    """

    def _folder(self, path: str, *, make: bool = False) -> AbstractContextManager[int]:
        return open_folder(self._root, path, make=make)

    def _open(self, path: str) -> int:
        parent, name = split_path(path)
        with open_folder(self._root, parent) as folder:
            try:
                file = os.open(name, _READ, dir_fd=folder)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Unfit(path, _LINK) from None
                if error.errno == errno.ENXIO:
                    raise Unfit(path, _KINDS[stat.S_IFSOCK]) from None
                if isinstance(error, PermissionError):
                    raise Unfit(path, f"cannot be read: {error.strerror}") from None
                raise
        kind = stat.S_IFMT(os.fstat(file).st_mode)
        if kind != stat.S_IFREG:
            os.close(file)
            raise Unfit(path, _KINDS.get(kind, "is not a regular file"))
        return file

    def _status(self, folder: int, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def _problem(self, status: os.stat_result) -> str:
        return unfit(status)

    @contextmanager
    def _locked(self, folder: int, name: str) -> Iterator[None]:
        """Hold the lock that writers of a file hold; lock only readable files.

        Raises:
            Busy: a writer holds it.
        """
        file = -1
        if stat.S_ISREG(self._status(folder, name).st_mode):
            with suppress(PermissionError):
                file = os.open(name, _READ, dir_fd=folder)
        try:
            if file >= 0:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Busy(f"{name} is locked by its writer") from None
            yield
        finally:
            if file >= 0:
                os.close(file)
