"""The interface of object stores, and opening one by its URL.

Paths are relative to the store's root, with forward slashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from ingestion_platform.settings import Settings

CHUNK = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object.

    `size` is in bytes; `modified` is exact to a second or better; `version` changes with the
    content. `problem` says why the object must not, or cannot, be read.
    """

    path: str
    size: int
    modified: datetime
    version: str
    problem: str = ""


class Store(Protocol):
    """What the platform needs of an object store.

    Every method raises StoreUnavailable when the store does not answer or is full, and Permanent
    when it refuses (credentials, no such bucket).
    """

    @property
    def url(self) -> str:
        """The store's address: file:///folder or s3://bucket/prefix."""

    def create(self, path: str, data: bytes) -> bool:
        """Store an object durably unless one exists; return False when another one exists.

        Return True also when the existing object has the same content: then a retried request
        meets its own earlier success.
        """

    def write(self, path: str, data: bytes) -> None:
        """Store an object durably, replacing any existing one."""

    def read(self, path: str) -> bytes:
        """Return a whole object.

        Raises:
            FileNotFoundError: there is none.
        """

    def tail(self, path: str, size: int) -> bytes:
        """Return the last `size` bytes of an object, or all of a smaller one.

        Raises:
            FileNotFoundError: there is none.
        """

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a whole object in pieces of at most CHUNK bytes, about.

        Raises:
            FileNotFoundError: there is none.
        """

    def write_file(self, path: str, source: Path) -> None:
        """Store a local file of any size durably, replacing any existing object.

        The file must not change afterwards: it may become the object itself.
        """

    def entry(self, path: str) -> Entry | None:
        """Return one object's entry, or None."""

    def rename(self, path: str, to: str) -> bool:
        """Move an object atomically; return False when there is none or the store cannot."""

    def files(self, prefix: str) -> Iterator[Entry]:
        """Yield all objects below a folder, at any depth, in no particular order."""

    def listing(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """Return the objects directly below a folder, and the names of the folders there."""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below a folder, sorted."""

    def remove(self, path: str) -> None:
        """Remove an object if it exists."""


def open_store(settings: Settings) -> Store:
    """Open the lake's store (LAKE_URL)."""
    return store_at(settings.lake_url, settings.s3)


def open_drop(settings: Settings) -> Store:
    """Open the store of the drop zones (DROP_URL), to which others write."""
    return store_at(settings.drop_url, settings.s3, setting="DROP_URL", guarded=True)


def store_at(
    url: str, s3: Mapping[str, str], *, setting: str = "LAKE_URL", guarded: bool = False
) -> Store:
    """Open the store at a URL.

    Args:
        url: file:///folder or s3://bucket/prefix.
        s3: the client's options, as `Settings.s3`.
        setting: the setting that errors name.
        guarded: do not trust the entries of a local folder.
    """
    from ingestion_platform.lake.guarded import GuardedStore
    from ingestion_platform.lake.local import LocalStore
    from ingestion_platform.lake.s3 import S3Store

    parts = urlsplit(url)
    if parts.scheme == "file":
        kind = GuardedStore if guarded else LocalStore
        return kind(Path(unquote(parts.path)), setting)
    return S3Store(url, parts.netloc, parts.path.strip("/"), s3, setting)
