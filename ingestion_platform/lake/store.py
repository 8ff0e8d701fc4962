"""Object stores behind one small interface: a local folder, or any S3. What is kept in them is
decided elsewhere.

Paths are relative to the store's root, with forward slashes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from ingestion_platform.errors import Permanent, StoreUnavailable
from ingestion_platform.settings import Settings

if TYPE_CHECKING:
    from obstore.store import S3Store as ObstoreS3


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object and its size in bytes."""

    path: str
    size: int


class Store(Protocol):
    """What the lake needs of an object store.

    Every method raises StoreUnavailable when the store does not answer, and Permanent when it
    refuses (credentials, no such bucket, disk full).
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

    def files(self, prefix: str) -> Iterator[Entry]:
        """All objects below a folder, at any depth, in no particular order."""

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders directly below a folder, sorted."""

    def remove(self, path: str) -> None:
        """Remove an object; nothing happens when there is none."""


def open_store(settings: Settings) -> Store:
    """The store that LAKE_URL names."""
    return store_at(settings.lake_url, settings.s3)


def store_at(url: str, s3: Mapping[str, str]) -> Store:
    """A store by its URL; `s3` as in `Settings.s3`."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)))
    return S3Store(url, parts.netloc, parts.path.strip("/"), s3)


class LocalStore:
    """A folder of a local (or mounted) file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        """See Store."""
        return self._root.as_uri()

    def create(self, path: str, data: bytes) -> bool:
        """See Store."""
        target = self._root / path
        with _local_errors(path), _staged(target, data) as staged:
            try:
                os.link(staged, target)
            except FileExistsError:
                return target.read_bytes() == data
            _sync(target.parent)
            return True

    def write(self, path: str, data: bytes) -> None:
        """See Store."""
        target = self._root / path
        with _local_errors(path), _staged(target, data) as staged:
            staged.replace(target)
            _sync(target.parent)

    def read(self, path: str) -> bytes:
        """See Store."""
        with _local_errors(path):
            return (self._root / path).read_bytes()

    def tail(self, path: str, size: int) -> bytes:
        """See Store."""
        with _local_errors(path), (self._root / path).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read()

    def files(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        for folder, _, names in os.walk(self._root / prefix):
            for name in names:
                file = Path(folder) / name
                if not name.startswith(_STAGED):
                    yield Entry(file.relative_to(self._root).as_posix(), file.stat().st_size)

    def folders(self, prefix: str) -> list[str]:
        """See Store."""
        folder = self._root / prefix
        return sorted(f.name for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []

    def remove(self, path: str) -> None:
        """See Store."""
        with _local_errors(path):
            (self._root / path).unlink(missing_ok=True)


class S3Store:
    """A bucket, or a prefix in it, of AWS S3, MinIO or another server of that protocol."""

    def __init__(self, url: str, bucket: str, prefix: str, s3: Mapping[str, str]) -> None:
        from obstore.store import S3Store as Client

        self._url = url
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
        from obstore.exceptions import AlreadyExistsError

        with _remote_errors(self._url, path):
            try:
                self._client.put(path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return self.read(path) == data
            return True

    def write(self, path: str, data: bytes) -> None:
        """See Store."""
        with _remote_errors(self._url, path):
            self._client.put(path, data, use_multipart=False)

    def read(self, path: str) -> bytes:
        """See Store."""
        with _remote_errors(self._url, path):
            return bytes(self._client.get(path).bytes())

    def tail(self, path: str, size: int) -> bytes:
        """See Store."""
        with _remote_errors(self._url, path):
            return bytes(self._client.get(path, options={"range": {"suffix": size}}).bytes())

    def files(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        with _remote_errors(self._url, prefix):
            for chunk in self._client.list(prefix):
                for found in chunk:
                    yield Entry(found["path"], found["size"])

    def folders(self, prefix: str) -> list[str]:
        """See Store."""
        with _remote_errors(self._url, prefix):
            found = self._client.list_with_delimiter(prefix)["common_prefixes"]
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def remove(self, path: str) -> None:
        """See Store."""
        with _remote_errors(self._url, path):
            try:
                self._client.delete(path)
            except FileNotFoundError:
                return


_STAGED = "._staged-"


@contextmanager
def _staged(target: Path, data: bytes) -> Iterator[Path]:
    """A synced temporary file beside `target`, gone at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.parent / f"{_STAGED}{uuid.uuid4().hex}"
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _local_errors(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise Permanent(
            f"the lake refuses {path}: {error.strerror}", action="check the rights on LAKE_URL"
        ) from error
    except OSError as error:
        raise StoreUnavailable(
            f"the lake cannot store or read {path}: {error.strerror}",
            action="check the space and the health of the disk that LAKE_URL names",
        ) from error


# How obstore shows a server's answer to a listing, which it does not sort into its exceptions.
_FORBIDDEN = ("403 Forbidden", "401 Unauthorized")


@contextmanager
def _remote_errors(url: str, path: str) -> Iterator[None]:
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
                f"there is no bucket for {url}", action="create it, or correct LAKE_URL"
            ) from None
        if isinstance(error, NotFoundError | FileNotFoundError):
            raise FileNotFoundError(f"{url}/{path}") from None
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        if refused or any(status in said for status in _FORBIDDEN):
            raise Permanent(
                f"{url} refuses {path or 'the listing'}",
                action="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
            ) from None
        raise StoreUnavailable(
            f"{url} does not answer for {path or 'the listing'}: {type(error).__name__}",
            action="check AWS_ENDPOINT_URL and that its server is up",
        ) from error
