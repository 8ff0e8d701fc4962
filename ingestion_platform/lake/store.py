"""Object stores behind one small interface: a local folder, or any S3. What is kept in them is
decided elsewhere.

Paths are relative to the store's root, with forward slashes.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from ingestion_platform.errors import Permanent, StoreUnavailable
from ingestion_platform.retries import CREATE, retry
from ingestion_platform.settings import Settings

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store as ObstoreS3
    from pyarrow.fs import S3FileSystem


CHUNK = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object: its size in bytes, when it was written (to a second or better), and what
    changes with its content. `problem` says why it must not, or cannot, be read."""

    path: str
    size: int
    modified: datetime
    version: str
    problem: str = ""


class Store(Protocol):
    """What the lake needs of an object store.

    Every method raises StoreUnavailable when the store does not answer or is full, and Permanent
    when it refuses (credentials, no such bucket).
    """

    @property
    def url(self) -> str:
        """Where the store is, as file:///folder or s3://bucket/prefix."""

    def create(self, path: str, data: bytes) -> bool:
        """Store an object durably unless one is there; False when another one is.

        True also when the object that is there has this very content: a retried request finds
        its own earlier success.
        """

    def write(self, path: str, data: bytes) -> None:
        """Store an object durably, in place of any that is there."""

    def read(self, path: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: there is none.
        """

    def tail(self, path: str, size: int) -> bytes:
        """The last `size` bytes of an object, or all of it when it is smaller.

        Raises:
            FileNotFoundError: there is none.
        """

    def chunks(self, path: str) -> Iterator[bytes]:
        """The whole object, piece by piece.

        Raises:
            FileNotFoundError: there is none.
        """

    def write_file(self, path: str, source: Path) -> None:
        """Store a local file durably, in place of any object that is there; it may be large.

        The file must not change afterwards: it may become the object itself.
        """

    def entry(self, path: str) -> Entry | None:
        """One object, None when there is none."""

    def rename(self, path: str, to: str) -> bool:
        """Move an object in one step; False when there is none, or the store has no such step."""

    def files(self, prefix: str) -> Iterator[Entry]:
        """All objects below a folder, at any depth, in no particular order."""

    def listing(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """What lies directly below a folder: its objects, and the names of its folders."""

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders directly below a folder, sorted."""

    def remove(self, path: str) -> None:
        """Remove an object; nothing happens when there is none."""


def open_store(settings: Settings) -> Store:
    """The lake: the store that LAKE_URL names."""
    return store_at(settings.lake_url, settings.s3)


def open_drop(settings: Settings) -> Store:
    """The store that DROP_URL names; the drop zones are folders of it, and others write there."""
    from ingestion_platform.lake.guarded import GuardedStore

    parts = urlsplit(settings.drop_url)
    if parts.scheme == "file":
        return GuardedStore(Path(unquote(parts.path)), "DROP_URL")
    return store_at(settings.drop_url, settings.s3, setting="DROP_URL")


def store_at(url: str, s3: Mapping[str, str], *, setting: str = "LAKE_URL") -> Store:
    """A store by its URL; `s3` as in `Settings.s3`, `setting` is what errors name."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)), setting)
    return S3Store(url, parts.netloc, parts.path.strip("/"), s3, setting)


class LocalStore:
    """A folder of a local (or mounted) file system."""

    def __init__(self, root: Path, setting: str = "LAKE_URL") -> None:
        self._root = root
        self._setting = setting

    @property
    def url(self) -> str:
        """See Store."""
        return self._root.as_uri()

    def create(self, path: str, data: bytes) -> bool:
        """See Store."""
        target = self._root / path
        with self._errors(path), _staged(target, data) as staged:
            try:
                os.link(staged, target)
            except FileExistsError:
                return target.read_bytes() == data
            _sync(target.parent)
            return True

    def write(self, path: str, data: bytes) -> None:
        """See Store."""
        target = self._root / path
        with self._errors(path), _staged(target, data) as staged:
            staged.replace(target)
            _sync(target.parent)

    def read(self, path: str) -> bytes:
        """See Store."""
        with self._errors(path):
            return (self._root / path).read_bytes()

    def tail(self, path: str, size: int) -> bytes:
        """See Store."""
        with self._errors(path), (self._root / path).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read()

    def chunks(self, path: str) -> Iterator[bytes]:
        """See Store."""
        with self._errors(path), (self._root / path).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def write_file(self, path: str, source: Path) -> None:
        """See Store."""
        target = self._root / path
        with self._errors(path), _staged(target, source) as staged:
            staged.replace(target)
            _sync(target.parent)

    def entry(self, path: str) -> Entry | None:
        """See Store."""
        with self._errors(path):
            return self._entry(self._root / path)

    def _entry(self, file: Path) -> Entry | None:
        try:
            stat = file.stat()
        except FileNotFoundError:  # gone since it was listed
            return None
        path = file.relative_to(self._root).as_posix()
        modified = datetime.fromtimestamp(stat.st_mtime, UTC)
        return Entry(path, stat.st_size, modified, f"{stat.st_ino}-{stat.st_mtime_ns}")

    def rename(self, path: str, to: str) -> bool:
        """See Store."""
        target = self._root / to
        with self._errors(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                (self._root / path).rename(target)
            except FileNotFoundError:
                return False
            return True

    def files(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        for folder, _, names in os.walk(self._root / prefix):
            for name in names:
                if not name.startswith(STAGED) and (found := self._entry(Path(folder) / name)):
                    yield found

    def listing(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """See Store."""
        entries, folders = [], []
        with self._errors(prefix):
            folder = self._root / prefix
            for child in sorted(folder.iterdir()) if folder.is_dir() else []:
                if child.is_dir():
                    folders.append(child.name)
                elif not child.name.startswith(STAGED) and (found := self._entry(child)):
                    entries.append(found)
        return entries, folders

    def folders(self, prefix: str) -> list[str]:
        """See Store."""
        return self.listing(prefix)[1]

    def remove(self, path: str) -> None:
        """See Store."""
        with self._errors(path):
            (self._root / path).unlink(missing_ok=True)

    def _errors(self, path: str) -> AbstractContextManager[None]:
        return local_errors(path, self._setting)


class S3Store:
    """A bucket, or a prefix in it, of AWS S3, MinIO or another server of that protocol."""

    def __init__(
        self, url: str, bucket: str, prefix: str, s3: Mapping[str, str], setting: str
    ) -> None:
        from obstore.store import S3Store as Client

        self._url = url
        self._setting = setting
        self._bucket, self._prefix, self._s3 = bucket, prefix, s3
        config: Any = {**s3, "virtual_hosted_style_request": False}
        plain = s3.get("endpoint", "").startswith("http://")
        self._client: ObstoreS3 = Client(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={"allow_http": plain, "timeout": "60s", "connect_timeout": "5s"},
            retry_config={"max_retries": 5},
        )

    @property
    def url(self) -> str:
        """See Store."""
        return self._url

    def create(self, path: str, data: bytes) -> bool:
        """See Store."""
        from obstore.exceptions import AlreadyExistsError, GenericError

        def attempt() -> bool:
            try:
                self._client.put(path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return self.read(path) == data
            return True

        with self._errors(path):
            # A conditional request whose connection broke is not repeated by the client: it may
            # have been carried out. Repeating this one is safe, because contents are compared.
            return retry(attempt, CREATE, GenericError)

    def write(self, path: str, data: bytes) -> None:
        """See Store."""
        with self._errors(path):
            self._client.put(path, data, use_multipart=False)

    def read(self, path: str) -> bytes:
        """See Store."""
        with self._errors(path):
            return bytes(self._client.get(path).bytes())

    def tail(self, path: str, size: int) -> bytes:
        """See Store."""
        with self._errors(path):
            return bytes(self._client.get(path, options={"range": {"suffix": size}}).bytes())

    def chunks(self, path: str) -> Iterator[bytes]:
        """See Store."""
        with self._errors(path):
            for chunk in self._client.get(path).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def write_file(self, path: str, source: Path) -> None:
        """See Store."""
        with self._errors(path), source.open("rb") as file:
            self._client.put(path, file, chunk_size=CHUNK, max_concurrency=2)

    def entry(self, path: str) -> Entry | None:
        """See Store."""
        with self._errors(path):
            try:
                return _remote_entry(self._client.head(path))
            except FileNotFoundError:
                return None

    def rename(self, path: str, to: str) -> bool:
        """See Store: S3 can copy and delete only."""
        return False

    def files(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        with self._errors(prefix):
            for chunk in self._client.list(prefix):
                for found in chunk:
                    yield _remote_entry(found)

    def listing(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """See Store."""
        from obstore.exceptions import InvalidPathError

        with self._errors(prefix):
            try:
                found = self._client.list_with_delimiter(prefix)
            except InvalidPathError:
                return self._listing_of_any_keys(prefix)
        folders = sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])
        # An object of the folder's own name is how some tools mark that the folder is there.
        objects = [each for each in found["objects"] if f"{each['path']}/" != prefix]
        return [_remote_entry(each) for each in objects], folders

    def _listing_of_any_keys(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """As `listing`, where a key is one that the usual client cannot name: such an object has
        a problem, and does not hide the others."""
        from pyarrow.fs import FileSelector, FileType

        root = f"{self._bucket}/{self._prefix}".rstrip("/")
        selector = FileSelector(f"{root}/{prefix}".rstrip("/"), allow_not_found=True)
        entries: list[Entry] = []
        folders: list[str] = []
        for found in self._any_keys().get_file_info(selector):
            path = found.path.removeprefix(f"{root}/")
            if found.type == FileType.Directory:
                name = path.rsplit("/", 1)[-1]
                if name and not _unnameable(path):
                    folders.append(name)
            elif _unnameable(path):
                version = f"{found.mtime}-{found.size}"
                entries.append(Entry(path, found.size, found.mtime, version, _NO_NAME))
            elif (entry := self.entry(path)) is not None:
                entries.append(entry)
        return entries, sorted(set(folders))

    def _any_keys(self) -> S3FileSystem:
        from pyarrow.fs import S3FileSystem

        endpoint = urlsplit(self._s3.get("endpoint", ""))
        return S3FileSystem(
            access_key=self._s3.get("access_key_id"),
            secret_key=self._s3.get("secret_access_key"),
            session_token=self._s3.get("session_token"),
            region=self._s3.get("region"),
            scheme=endpoint.scheme or "https",
            endpoint_override=endpoint.netloc or None,
        )

    def folders(self, prefix: str) -> list[str]:
        """See Store."""
        return self.listing(prefix)[1]

    def remove(self, path: str) -> None:
        """See Store."""
        with self._errors(path):
            try:
                self._client.delete(path)
            except FileNotFoundError:
                return

    def _errors(self, path: str) -> AbstractContextManager[None]:
        return _remote_errors(self._url, path, self._setting)


_NO_NAME = "has a key with an empty or relative part, or with control characters"


def _unnameable(path: str) -> bool:
    """Whether the usual client cannot name an object of that key."""
    parts = path.rstrip("/").split("/")
    controls = any(ord(letter) < 32 or ord(letter) == 127 for letter in path)
    return controls or not {"", ".", ".."}.isdisjoint(parts)


def _remote_entry(found: ObjectMeta) -> Entry:
    version = found["e_tag"] or found["version"] or str(found["last_modified"])
    return Entry(found["path"], found["size"], found["last_modified"], version)


STAGED = "._staged-"


@contextmanager
def _staged(target: Path, content: bytes | Path) -> Iterator[Path]:
    """A synced temporary file beside `target`, gone at the end; a local file is linked if it can
    be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.parent / f"{STAGED}{uuid.uuid4().hex}"
    try:
        if isinstance(content, bytes):
            staged.write_bytes(content)
        else:
            _link_or_copy(content, staged)
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def local_errors(path: str, setting: str) -> Iterator[None]:
    """Raise errors of the file system as those of a store, but FileNotFoundError."""
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
            f"the store cannot keep or read {path}: {error.strerror}",
            action=f"check the space and the health of the disk that {setting} names",
        ) from error


# How obstore shows a server's answer to a listing, which it does not sort into its exceptions.
_FORBIDDEN = ("403 Forbidden", "401 Unauthorized")


@contextmanager
def _remote_errors(url: str, path: str, setting: str) -> Iterator[None]:
    from obstore.exceptions import (
        BaseError,
        NotFoundError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    try:
        yield
    except (BaseError, OSError, TimeoutError) as error:
        said = str(error)
        if "NoSuchBucket" in said:
            raise Permanent(
                f"there is no bucket for {url}", action=f"create it, or correct {setting}"
            ) from None
        if isinstance(error, NotFoundError | FileNotFoundError):
            raise FileNotFoundError(f"{url}/{path}") from None
        rejected = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        if rejected or any(status in said for status in _FORBIDDEN):
            raise Permanent(
                f"{url} refuses {path or 'the listing'}",
                action="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
            ) from None
        raise StoreUnavailable(
            f"{url} does not answer for {path or 'the listing'}: {type(error).__name__}",
            action="check AWS_ENDPOINT_URL and that its server is up",
        ) from error
