"""A local folder in which others may put anything: no link below it is followed, and only regular
files are opened. What becomes of its entries is decided elsewhere.

Every path is opened folder by folder, from descriptors, so that an entry that is exchanged between
a check and its use gains nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO

from ingestion_platform.errors import Permanent, Transient
from ingestion_platform.lake.store import CHUNK, STAGED, Entry, local_errors

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe without a writer does not block the open, and a terminal does not become ours.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_FOLLOWED = (errno.ELOOP, errno.ENOTDIR)
_SEGMENT = "is a symbolic link, and links are not followed"
_KINDS = {
    stat.S_IFLNK: _SEGMENT,
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
    """Say why what has this status must not be read; empty for a regular file of one name."""
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
    """Open a folder below `root` without following links; gives its descriptor.

    `root` itself may be a link. With `make`, missing folders are made, for this user to write only.

    Raises:
        PermissionError: a link or a file stands in the way, or a folder may not be opened.
        OSError: a folder is missing, or cannot be made.
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
            said = f"{name} is a link or a file, not a folder"
            raise PermissionError(error.errno, said) from None
        raise


class GuardedStore:
    """A local folder that others write to, as a Store; see there for what is not said here."""

    def __init__(self, root: Path, setting: str) -> None:
        self._root = root
        self._setting = setting

    @property
    def url(self) -> str:
        """See Store."""
        return self._root.as_uri()

    def create(self, path: str, data: bytes) -> bool:
        """See Store."""
        with self._staged(path, _writer(data)) as (folder, staged, name):
            try:
                os.link(staged, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                return self.read(path) == data
            finally:
                os.unlink(staged, dir_fd=folder)
            os.fsync(folder)
            return True

    def write(self, path: str, data: bytes) -> None:
        """See Store."""
        self._replace(path, _writer(data))

    def write_file(self, path: str, source: Path) -> None:
        """See Store."""

        def store(folder: int, name: str) -> None:
            try:
                os.link(source, name, dst_dir_fd=folder)
            except OSError:  # another file system, or one without links
                with source.open("rb") as content, _created(folder, name) as file:
                    shutil.copyfileobj(content, file, CHUNK)

        self._replace(path, store)

    def _replace(self, path: str, store: Callable[[int, str], None]) -> None:
        with self._staged(path, store) as (folder, staged, name):
            os.rename(staged, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    @contextmanager
    def _staged(
        self, path: str, store: Callable[[int, str], None]
    ) -> Iterator[tuple[int, str, str]]:
        """A folder, the name of a synced new file in it, and the name that it is for."""
        parent, name = _split(path)
        staged = f"{STAGED}{uuid.uuid4().hex}"
        with self._errors(path), open_folder(self._root, parent, make=True) as folder:
            try:
                store(folder, staged)
                file = os.open(staged, _READ, dir_fd=folder)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
                yield folder, staged, name
            except BaseException:
                with suppress(OSError):
                    os.unlink(staged, dir_fd=folder)
                raise

    def read(self, path: str) -> bytes:
        """See Store."""
        return b"".join(self.chunks(path))

    def tail(self, path: str, size: int) -> bytes:
        """See Store."""
        return self.read(path)[-size:]

    def chunks(self, path: str) -> Iterator[bytes]:
        """See Store.

        Raises:
            Unfit: it is no regular file, or may not be read.
        """
        with self._errors(path), os.fdopen(self._open(path), "rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def _open(self, path: str) -> int:
        parent, name = _split(path)
        with open_folder(self._root, parent) as folder:
            try:
                file = os.open(name, _READ, dir_fd=folder)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Unfit(path, _SEGMENT) from None
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

    def entry(self, path: str) -> Entry | None:
        """See Store; None also for what is no regular file."""
        parent, name = _split(path)
        try:
            with self._errors(path), open_folder(self._root, parent) as folder:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return _entry(path, found) if stat.S_ISREG(found.st_mode) else None

    def rename(self, path: str, to: str) -> bool:
        """See Store; the entry itself is moved, whatever it is. A file that is locked by its
        writer is left.

        Raises:
            Busy: it is locked.
        """
        (parent, name), (parent_to, name_to) = _split(path), _split(to)
        with self._errors(path):
            try:
                with (
                    open_folder(self._root, parent) as folder,
                    open_folder(self._root, parent_to, make=True) as folder_to,
                    _locked(folder, name),
                ):
                    os.rename(name, name_to, src_dir_fd=folder, dst_dir_fd=folder_to)
            except FileNotFoundError:
                return False
            return True

    def files(self, prefix: str) -> Iterator[Entry]:
        """See Store; regular files only."""
        entries, folders = self.listing(prefix)
        yield from (entry for entry in entries if not entry.problem)
        for name in folders:
            yield from self.files(f"{prefix.rstrip('/')}/{name}/".lstrip("/"))

    def listing(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """See Store; what must not be read is an entry with a problem.

        Raises:
            Permanent: a link or a file stands in the place of the folder.
        """
        entries: list[Entry] = []
        folders: list[str] = []
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        with self._errors(prefix):
            try:
                with open_folder(self._root, prefix) as folder:
                    with os.scandir(folder) as found:
                        names = sorted(entry.name for entry in found)
                    for name in names:
                        if not name.startswith(STAGED):
                            _sort_in(folder, name, start, entries, folders)
            except FileNotFoundError:
                return [], []
        return entries, folders

    def folders(self, prefix: str) -> list[str]:
        """See Store."""
        return self.listing(prefix)[1]

    def remove(self, path: str) -> None:
        """See Store."""
        parent, name = _split(path)
        with (
            self._errors(path),
            suppress(FileNotFoundError),
            open_folder(self._root, parent) as folder,
        ):
            os.unlink(name, dir_fd=folder)

    def _errors(self, path: str) -> AbstractContextManager[None]:
        return local_errors(path, self._setting)


def _sort_in(folder: int, name: str, start: str, entries: list[Entry], folders: list[str]) -> None:
    """Add what a folder has under a name to its entries or its folders."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:  # gone since it was listed
        return
    except OSError as error:
        never = datetime.fromtimestamp(0, UTC)
        problem = f"cannot be looked at: {error.strerror}"
        entries.append(Entry(f"{start}{name}", 0, never, problem, problem))
        return
    if stat.S_ISDIR(found.st_mode):
        folders.append(name)
    else:
        entries.append(_entry(f"{start}{name}", found))


def _entry(path: str, found: os.stat_result) -> Entry:
    modified = datetime.fromtimestamp(_in_range(found.st_mtime), UTC)
    version = f"{found.st_ino}-{found.st_mtime_ns}"
    return Entry(path, found.st_size, modified, version, unfit(found))


def _in_range(seconds: float) -> float:
    """A file's time, which its owner may set to any year, as one that a datetime can have."""
    return min(max(seconds, 0.0), 253_000_000_000.0)


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    return parent, name


@contextmanager
def _created(folder: int, name: str) -> Iterator[IO[bytes]]:
    with os.fdopen(os.open(name, _NEW, 0o644, dir_fd=folder), "wb") as file:
        yield file


def _writer(data: bytes) -> Callable[[int, str], None]:
    def store(folder: int, name: str) -> None:
        with _created(folder, name) as file:
            file.write(data)

    return store


@contextmanager
def _locked(folder: int, name: str) -> Iterator[None]:
    """Hold the lock that writers of a file hold; nothing is locked that is no readable file.

    Raises:
        Busy: a writer holds it.
    """
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    file = -1
    if stat.S_ISREG(found.st_mode):
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
