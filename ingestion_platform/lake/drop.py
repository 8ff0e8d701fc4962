"""Drop zones: where people put files for a stream, and where processed files go.

    <folder>/**                            waiting files, at any depth
    <folder>/_taken/<id>@<name>            being processed, where no writer appends unnoticed
    <folder>/_archive/<day>/<sha256>/      originals, unchanged
    <folder>/_refused/<day>/<id>/          refused files, each with its reason beside
    <folder>/_skipped/<id>.json            refused files that cannot be moved

Names that start with `.` or `_`, or end in `.tmp` or `.part`, are ignored. A zone is a trust
boundary: a user who may put files there must not be able to stop, fill or read the host. So only
regular files are taken, links are not followed, and no entry blocks another one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import unicodedata
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import unquote

from ingestion_platform.errors import Permanent, PlatformError, StoreUnavailable
from ingestion_platform.files.formats import SUFFIXES, Copied, plain_name
from ingestion_platform.lake.guarded import Unfit
from ingestion_platform.lake.store import Entry, Store
from ingestion_platform.streams import FileSource

LOG = logging.getLogger(__name__)

_TAKEN, _ARCHIVE, _REFUSED, _SKIPPED = "_taken", "_archive", "_refused", "_skipped"
_OWN = (_TAKEN, _ARCHIVE, _REFUSED, _SKIPPED)
_UNFINISHED = (".tmp", ".part")
_LONG = 240  # bytes of a name; file systems take 255, and an id is prefixed
_LONGEST_PATH = 1000  # bytes of a path in the zone; S3 takes 1024 in all
_DEEPEST = 32  # nested folders
_NEVER = datetime.fromtimestamp(0, UTC)
_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Arrival:
    """An entry of a zone; `name` is its path in the zone as dropped, escaped for display.

    `problem` says why it cannot be taken. `own` marks an entry in the place of one of the
    platform's own folders, which must be moved away first.
    """

    name: str
    entry: Entry
    problem: str = ""
    own: bool = False


class DropZone:
    """One stream's zone in the store that DROP_URL names."""

    def __init__(self, store: Store, file_source: FileSource) -> None:
        self.store = store
        self._folder = f"{file_source.folder.strip('/')}/"
        known = ("*",) if file_source.format else tuple(f"*{suffix}" for suffix in SUFFIXES)
        self._patterns = file_source.patterns or known

    @property
    def url(self) -> str:
        """Return the zone's address."""
        return f"{self.store.url}/{self._folder}"

    def waiting(self) -> list[Arrival]:
        """Return the waiting files, oldest first, then unskipped entries with a problem."""
        skipped = {name for name, _ in self._skips()}
        concerned = [
            each for each in self._all() if self._concerns(each) and _id(each) not in skipped
        ]
        return sorted(
            concerned, key=lambda each: (each.problem != "", each.entry.modified, each.name)
        )

    def settled(self, seconds: float) -> list[Arrival]:
        """Return the waiting files that do not change for some seconds."""
        before = set(self.waiting())
        if not before:
            return []
        time.sleep(seconds)
        return [arrival for arrival in self.waiting() if arrival in before]

    def take(self, arrival: Arrival) -> Arrival:
        """Move a file to `_taken`, if the store can, so that a new one of its name is separate.

        Raises:
            FileNotFoundError: it is gone.
            Busy: its writer has locked it.
            Unfit: it cannot be moved.
        """
        if arrival.entry.path.startswith(f"{self._folder}{_TAKEN}/"):
            return arrival
        name = _quoted(arrival.name)
        if len(name.encode()) > _LONG:  # after a crash the file keeps the shorter name
            name = _quoted(_safe_name(arrival.name))
        path = f"{self._folder}{_TAKEN}/{uuid.uuid4().hex[:8]}@{name}"
        try:
            moved = self.store.rename(arrival.entry.path, path)
        except Permanent as error:
            raise Unfit(arrival.name, f"cannot be moved: {error.message}") from error
        if not moved:
            return arrival
        found = self.store.entry(path)
        if found is None or found.problem:  # replaced since it was listed: left to the next run
            raise FileNotFoundError(path)
        return Arrival(arrival.name, found)

    def chunks(self, arrival: Arrival) -> Iterator[bytes]:
        """Yield the content of a file in pieces.

        Raises:
            FileNotFoundError: it is gone.
            Unfit: it must not, or cannot, be read.
        """
        try:
            yield from self.store.chunks(arrival.entry.path)
        except Unfit:
            raise
        except Permanent as error:
            raise Unfit(arrival.name, f"cannot be read: {error.message}") from error

    def unchanged(self, arrival: Arrival) -> bool:
        """Return whether a file has not changed since it was listed."""
        now = self.store.entry(arrival.entry.path)
        return now is not None and (now.version, now.size) == (
            arrival.entry.version,
            arrival.entry.size,
        )

    def remove(self, arrival: Arrival) -> None:
        """Remove a processed file, unless it has changed and so is a new one.

        A file that cannot be removed is skipped from now on.
        """
        try:
            if self.unchanged(arrival):
                self.store.remove(arrival.entry.path)
        except Permanent as error:
            LOG.warning("%s: %s stays: %s", self.url, arrival.name, error.message)
            self._skip(arrival, f"was processed and cannot be removed: {error.message}")

    def archive(self, content: Copied) -> str:
        """Store an original in `_archive`; return its path in the store.

        Raises:
            StoreUnavailable: the stored copy differs from the original.
        """
        return self._store_copy(_ARCHIVE, content)

    def refuse(self, content: Copied, reason: str) -> str:
        """Store a file that cannot be parsed in `_refused` with its reason; return its path."""
        path = self._store_copy(_REFUSED, content)
        self.store.write(f"{path}.reason.txt", f"{reason}\n".encode())
        return path

    def set_aside(self, arrival: Arrival, reason: str) -> str:
        """Move an entry that cannot be taken to `_refused`, unread, with its reason.

        Return its new path; empty when it cannot be moved, then it is skipped from now on.
        """
        path = self._aside_path(arrival)
        try:
            moved = self.store.rename(arrival.entry.path, path)
        except PlatformError:
            moved = False
        if moved:
            self.store.write(f"{path}.reason.txt", f"{arrival.name} {reason}\n".encode())
            return path
        self._skip(arrival, reason)
        return ""

    def clean_skips(self) -> None:
        """Remove the records of skipped files that are gone."""
        skips = self._skips()
        if skips:
            there = {_id(arrival) for arrival in self._all()}
            for name, path in skips:
                if name not in there:
                    self.store.remove(path)

    def _aside_path(self, arrival: Arrival) -> str:
        if arrival.own:
            return f"{self._folder}.set-aside-{uuid.uuid4().hex[:16]}"
        day = datetime.now(UTC).date().isoformat()
        name = _safe_name(arrival.name)
        return f"{self._folder}{_REFUSED}/{day}/{uuid.uuid4().hex[:16]}/{name}"

    def _skip(self, arrival: Arrival, reason: str) -> None:
        record = {
            "name": arrival.name,
            "reason": reason,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path = f"{self._folder}{_SKIPPED}/{_id(arrival)}.json"
        self.store.write(path, json.dumps(record, indent=2).encode())

    def _skips(self) -> list[tuple[str, str]]:
        """Return the id of each skipped entry, and the path of its record."""
        try:
            found = self.store.listing(f"{self._folder}{_SKIPPED}/")[0]
        except Permanent:  # not a folder: set aside first
            return []
        return [(PurePosixPath(e.path).stem, e.path) for e in found if not e.problem]

    def _store_copy(self, where: str, content: Copied) -> str:
        day = datetime.now(UTC).date().isoformat()
        name = _safe_name(content.name)
        path = f"{self._folder}{where}/{day}/{content.sha256[:16]}/{name}"
        self.store.write_file(path, content.path)
        if _digest(self.store, path) != content.sha256:
            raise StoreUnavailable(
                f"{self.store.url}/{path} does not read as it was written",
                action="check the store that DROP_URL names",
            )
        return path

    def _all(self) -> list[Arrival]:
        """Return all entries of the zone, and those in `_taken`."""
        found = list(self._walk())
        try:
            entries = self.store.listing(f"{self._folder}{_TAKEN}/")[0]
        except Permanent:  # not a folder: set aside first
            return found
        for entry in entries:
            name = unquote(PurePosixPath(entry.path).name.partition("@")[2])
            found.append(_arrival(name, entry))
        return found

    def _walk(self) -> Iterator[Arrival]:
        """Yield the files of the zone at any depth, and folders that cannot be listed."""
        pending = [(self._folder, 0)]
        while pending:
            folder, depth = pending.pop()
            try:
                entries, folders = self.store.listing(folder)
            except Permanent as error:
                if depth == 0:
                    raise
                yield self._unfit_folder(folder, f"cannot be listed: {error.message}")
                continue
            for entry in entries:
                name = entry.path.removeprefix(self._folder)
                if depth == 0 and name in _OWN:
                    problem = "has the name of one of the platform's own folders"
                    yield Arrival(name, entry, problem, own=True)
                elif not _hidden(PurePosixPath(name).name):
                    yield _arrival(name, entry)
            inner = [f"{folder}{name}/" for name in folders if not _hidden(name)]
            if depth < _DEEPEST:
                pending += [(each, depth + 1) for each in inner]
            else:
                deep = f"lies deeper than {_DEEPEST} folders"
                yield from (self._unfit_folder(each, deep) for each in inner)

    def _unfit_folder(self, folder: str, problem: str) -> Arrival:
        path = folder.rstrip("/")
        name = path.removeprefix(self._folder)
        return Arrival(f"{_shown(name)}/", Entry(path, 0, _NEVER, problem, problem), problem)

    def _concerns(self, arrival: Arrival) -> bool:
        """Return whether the stream takes files of this name; streams may share a folder."""
        name = arrival.name
        if name.endswith("/") or arrival.own:
            return True
        last = PurePosixPath(name).name
        names = {last.lower(), plain_name(last).lower()}
        return any(fnmatchcase(n, pattern.lower()) for n in names for pattern in self._patterns)


def name_problem(name: str) -> str:
    """Return why a file must not have this path in a zone; empty when it may."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    parts = name.split("/")
    if size > _LONGEST_PATH:
        return f"has a name of more than {_LONGEST_PATH:,} bytes"
    if any(_is_control(letter) for letter in name):
        return "has control characters in its name"
    if any(part.startswith("-") for part in parts):
        return "has a name that looks like an option of a command"
    if not {"", ".", ".."}.isdisjoint(parts):
        return "has a name with an empty or relative part"
    return ""


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in _CONTROLS or unicodedata.bidirectional(letter) in _BIDI


def _arrival(name: str, entry: Entry) -> Arrival:
    return Arrival(_shown(name), entry, entry.problem or name_problem(name))


def _shown(name: str) -> str:
    """Return a name, of any bytes, as text that can be shown and stored."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(
        letter.encode("unicode_escape").decode() if _is_control(letter) else letter
        for letter in text
    )


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def _safe_name(name: str) -> str:
    """Return the last part of a name, short enough for every store."""
    last = re.sub(r"^[-.]+", "", _shown(name).rstrip("/").rpartition("/")[2]) or "unnamed"
    data = last.encode()
    if len(data) <= _LONG - 20:
        return last
    return (data[:160] + data[-40:]).decode(errors="ignore")


def _id(arrival: Arrival) -> str:
    """Return an id of an entry that changes with it."""
    entry = arrival.entry
    text = f"{entry.path}\0{entry.version}\0{entry.size}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def _hidden(name: str) -> bool:
    return name.startswith((".", "_")) or name.lower().endswith(_UNFINISHED)


def _digest(store: Store, path: str) -> str:
    digest = hashlib.sha256()
    for chunk in store.chunks(path):
        digest.update(chunk)
    return digest.hexdigest()
