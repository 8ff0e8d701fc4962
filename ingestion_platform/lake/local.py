"""A folder of a local (or mounted) file system as a Store."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from ingestion_platform.errors import Permanent, StoreUnavailable
from ingestion_platform.lake.store import CHUNK, Entry

STAGED = "._staged-"
"""Prefix of the names of files that are being written; they are not listed."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LAST = 253_000_000_000.0  # seconds: a file's owner may set its time beyond what a datetime holds


class LocalStore:
    """A folder that only the platform writes to; links in it are followed."""

    def __init__(self, root: Path, setting: str = "LAKE_URL") -> None:
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

        def link_or_copy(folder: int, name: str) -> None:
            try:
                os.link(source, name, dst_dir_fd=folder)
            except OSError:  # another file system, or one without links
                with source.open("rb") as content, _created(folder, name) as file:
                    shutil.copyfileobj(content, file, CHUNK)

        self._replace(path, link_or_copy)

    def _replace(self, path: str, write: Callable[[int, str], None]) -> None:
        with self._staged(path, write) as (folder, staged, name):
            os.rename(staged, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    @contextmanager
    def _staged(
        self, path: str, write: Callable[[int, str], None]
    ) -> Iterator[tuple[int, str, str]]:
        """Write and sync a new file; yield its folder, its name and its final name."""
        parent, name = split_path(path)
        staged = f"{STAGED}{uuid.uuid4().hex}"
        with self._errors(path), self._folder(parent, make=True) as folder:
            try:
                write(folder, staged)
                file = os.open(staged, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
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
        with self._reading(path) as file:
            return file.read()

    def tail(self, path: str, size: int) -> bytes:
        """See Store."""
        with self._reading(path) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read()

    def chunks(self, path: str) -> Iterator[bytes]:
        """See Store."""
        with self._reading(path) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    @contextmanager
    def _reading(self, path: str) -> Iterator[IO[bytes]]:
        with self._errors(path), os.fdopen(self._open(path), "rb", buffering=0) as file:
            yield file

    def entry(self, path: str) -> Entry | None:
        """See Store; None for what is not a regular file."""
        parent, name = split_path(path)
        try:
            with self._errors(path), self._folder(parent) as folder:
                found = self._status(folder, name)
        except FileNotFoundError:
            return None
        return self._entry(path, found) if stat.S_ISREG(found.st_mode) else None

    def rename(self, path: str, to: str) -> bool:
        """See Store."""
        (parent, name), (parent_to, name_to) = split_path(path), split_path(to)
        with self._errors(path):
            try:
                with (
                    self._folder(parent) as folder,
                    self._folder(parent_to, make=True) as folder_to,
                    self._locked(folder, name),
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
        """See Store; what must not be read is an entry with a problem."""
        entries: list[Entry] = []
        folders: list[str] = []
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        with self._errors(prefix):
            try:
                with self._folder(prefix) as folder:
                    with os.scandir(folder) as found:
                        names = sorted(entry.name for entry in found)
                    for name in names:
                        if not name.startswith(STAGED):
                            self._sort_in(folder, name, start, entries, folders)
            except (FileNotFoundError, NotADirectoryError):
                return [], []
        return entries, folders

    def _sort_in(
        self, folder: int, name: str, start: str, entries: list[Entry], folders: list[str]
    ) -> None:
        """Append the entry of this name to `entries`, or its name to `folders`."""
        try:
            found = self._status(folder, name)
        except FileNotFoundError:  # removed since it was listed
            return
        except OSError as error:
            never = datetime.fromtimestamp(0, UTC)
            problem = f"cannot be examined: {error.strerror}"
            entries.append(Entry(f"{start}{name}", 0, never, problem, problem))
            return
        if stat.S_ISDIR(found.st_mode):
            folders.append(name)
        else:
            entries.append(self._entry(f"{start}{name}", found))

    def folders(self, prefix: str) -> list[str]:
        """See Store."""
        return self.listing(prefix)[1]

    def remove(self, path: str) -> None:
        """See Store."""
        parent, name = split_path(path)
        with self._errors(path), suppress(FileNotFoundError), self._folder(parent) as folder:
            os.unlink(name, dir_fd=folder)

    def _folder(self, path: str, *, make: bool = False) -> AbstractContextManager[int]:
        """Open a folder below the root; yield its descriptor."""
        return _opened(self._root / path, make=make)

    def _open(self, path: str) -> int:
        """Open a file for reading; return its descriptor."""
        return os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC)

    def _status(self, folder: int, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=folder)

    def _problem(self, status: os.stat_result) -> str:
        """Return why a file of this status must not be read; empty when it may be."""
        return ""

    @contextmanager
    def _locked(self, folder: int, name: str) -> Iterator[None]:
        """Lock a file against its writers while it is renamed; no other process writes here."""
        yield

    def _entry(self, path: str, status: os.stat_result) -> Entry:
        modified = datetime.fromtimestamp(min(max(status.st_mtime, 0.0), _LAST), UTC)
        version = f"{status.st_ino}-{status.st_mtime_ns}"
        return Entry(path, status.st_size, modified, version, self._problem(status))

    def _errors(self, path: str) -> AbstractContextManager[None]:
        return _local_errors(path, self._setting)


@contextmanager
def _opened(folder: Path, *, make: bool) -> Iterator[int]:
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def split_path(path: str) -> tuple[str, str]:
    """Return the folder and the name of a path."""
    parent, _, name = path.rpartition("/")
    return parent, name


@contextmanager
def _created(folder: int, name: str) -> Iterator[IO[bytes]]:
    with os.fdopen(os.open(name, _NEW, 0o644, dir_fd=folder), "wb") as file:
        yield file


def _writer(data: bytes) -> Callable[[int, str], None]:
    def write(folder: int, name: str) -> None:
        with _created(folder, name) as file:
            file.write(data)

    return write


@contextmanager
def _local_errors(path: str, setting: str) -> Iterator[None]:
    """Raise errors of the file system, except FileNotFoundError, as those of a store."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise Permanent(
            f"the store refuses {path}: {error.strerror}", action=f"check the rights on {setting}"
        ) from error
    except OSError as error:
        raise StoreUnavailable(
            f"the store cannot write or read {path}: {error.strerror}",
            action=f"check the free space and the health of the disk that {setting} names",
        ) from error
