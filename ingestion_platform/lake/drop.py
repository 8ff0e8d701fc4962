"""Drop zones: where people put files for a stream, and where files go when they are dealt with.

    <folder>/**                            waiting, at any depth
    <folder>/_taken/<id>@<name>            being dealt with, so that nobody appends unseen
    <folder>/_archive/<day>/<sha256>/      originals, unchanged
    <folder>/_refused/<day>/<sha256>/      files that cannot be parsed, with the reason beside

Names that start with `.` or `_`, or end in `.tmp` or `.part`, are nobody's business.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import unquote

from ingestion_platform.errors import StoreUnavailable
from ingestion_platform.lake.store import Entry, Store
from ingestion_platform.sources.files import SUFFIXES, Copied, plain_name
from ingestion_platform.streams import FileDoor

_TAKEN, _ARCHIVE, _REFUSED = "_taken", "_archive", "_refused"
_UNFINISHED = (".tmp", ".part")
_LONG = 240  # bytes of a name that a file system surely takes with an id ahead of it


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file of a zone; `name` is its path in the zone as it was dropped."""

    name: str
    entry: Entry


class DropZone:
    """One stream's zone in the store that DROP_URL names."""

    def __init__(self, store: Store, door: FileDoor) -> None:
        self.store = store
        self._folder = f"{door.folder.strip('/')}/"
        known = ("*",) if door.format else tuple(f"*{suffix}" for suffix in SUFFIXES)
        self._patterns = door.patterns or known

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.store.url}/{self._folder}"

    def waiting(self) -> list[Arrival]:
        """The files that are there, the oldest first."""
        found = [Arrival(e.path.removeprefix(self._folder), e) for e in self._walk(self._folder)]
        taken = f"{self._folder}{_TAKEN}/"
        found += [
            Arrival(unquote(e.path.removeprefix(taken).partition("@")[2]), e)
            for e in self._walk(taken)
        ]
        mine = [arrival for arrival in found if self._matches(arrival.name)]
        return sorted(mine, key=lambda arrival: (arrival.entry.modified, arrival.name))

    def settled(self, seconds: float) -> list[Arrival]:
        """Those of them that do not change for some seconds."""
        before = self.waiting()
        if not before:
            return []
        time.sleep(seconds)
        now = self.waiting()
        return [arrival for arrival in now if arrival in before]

    def take(self, arrival: Arrival) -> Arrival:
        """Move a file aside, where the store can, so that a new one of its name is another."""
        if arrival.entry.path.startswith(f"{self._folder}{_TAKEN}/"):
            return arrival
        name = arrival.name.replace("%", "%25").replace("/", "%2F")
        path = f"{self._folder}{_TAKEN}/{uuid.uuid4().hex[:8]}@{name}"
        if len(name.encode()) > _LONG or not self.store.rename(arrival.entry.path, path):
            return arrival
        found = self.store.entry(path)
        return arrival if found is None else Arrival(arrival.name, found)

    def unchanged(self, arrival: Arrival) -> bool:
        """Whether a file is still what it was."""
        now = self.store.entry(arrival.entry.path)
        return now is not None and (now.version, now.size) == (
            arrival.entry.version,
            arrival.entry.size,
        )

    def remove(self, arrival: Arrival) -> None:
        """Remove a file that was dealt with, unless it has changed: then it is a new one."""
        if self.unchanged(arrival):
            self.store.remove(arrival.entry.path)

    def archive(self, content: Copied) -> str:
        """Keep an original; gives its path in the store.

        Raises:
            StoreUnavailable: what was stored does not read like the original.
        """
        return self._keep(_ARCHIVE, content)

    def refuse(self, content: Copied, reason: str) -> str:
        """Keep a file that cannot be parsed, with the reason; gives its path in the store."""
        path = self._keep(_REFUSED, content)
        self.store.write(f"{path}.reason.txt", f"{reason}\n".encode())
        return path

    def _keep(self, where: str, content: Copied) -> str:
        day = datetime.now(UTC).date().isoformat()
        name = PurePosixPath(content.name).name
        path = f"{self._folder}{where}/{day}/{content.sha256[:16]}/{name}"
        self.store.write_file(path, content.path)
        if _digest(self.store, path) != content.sha256:
            raise StoreUnavailable(
                f"{self.store.url}/{path} does not read as it was written",
                action="check the store that DROP_URL names",
            )
        return path

    def _walk(self, folder: str) -> Iterator[Entry]:
        entries, folders = self.store.listing(folder)
        yield from (e for e in entries if not _hidden(PurePosixPath(e.path).name))
        for name in folders:
            if not _hidden(name):
                yield from self._walk(f"{folder}{name}/")

    def _matches(self, name: str) -> bool:
        last = PurePosixPath(name).name
        names = {last.lower(), plain_name(last).lower()}
        return any(fnmatchcase(n, pattern.lower()) for n in names for pattern in self._patterns)


def _hidden(name: str) -> bool:
    return name.startswith((".", "_")) or name.lower().endswith(_UNFINISHED)


def _digest(store: Store, path: str) -> str:
    digest = hashlib.sha256()
    for chunk in store.chunks(path):
        digest.update(chunk)
    return digest.hexdigest()
