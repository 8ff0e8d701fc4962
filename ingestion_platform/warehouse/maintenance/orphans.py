"""Delete files of a table that no snapshot references, after a waiting time.

A file is deleted when it is older than the waiting time (a running writer may still commit it), and
was first found unreferenced longer ago than that (a reader may have planned before its snapshot
expired). An object beside the table's metadata lists the files found; losing it only delays the
deletion. All times are the store's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import Permanent
from ingestion_platform.warehouse.catalog import answering

if TYPE_CHECKING:
    import pyarrow.fs as pafs
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table

WAIT = timedelta(hours=24)
SEEN = "_unreferenced.json"
"""Object in the metadata folder: unreferenced files, and when each was first found."""


class FilesMissing(Permanent):
    """Files that a table's snapshots reference are not in its folder."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Files deleted, their bytes, and files whose waiting time is not over."""

    files: int = 0
    bytes: int = 0
    waiting: int = 0


def remove_orphans(
    catalog: Catalog, name: str, *, wait: timedelta = WAIT, dry_run: bool = False
) -> Removed:
    """Delete unreferenced files below a table's data and metadata folders.

    Raises:
        FilesMissing: referenced files are not listed, so the listing cannot be trusted; nothing
            was deleted.
        CatalogUnavailable, StoreUnavailable: some files may be deleted; run it again.
    """
    with answering():
        table = catalog.load_table(name)
        place = _Place.of(table)
        seen, now = place.read_seen(dry_run=dry_run)
        needed = place.paths(_needed(table))
        there = {info.path: info for info in place.listing()}
        _ensure_complete(name, place, needed, there)
        old = {path: i for path, i in there.items() if path not in needed and i.mtime <= now - wait}
        since = {path: seen.get(path, now) for path in old}
        gone = [path for path, first in since.items() if first <= now - wait]
        if not dry_run:
            place.remove(gone)
            place.write_seen({path: at for path, at in since.items() if path not in set(gone)})
    return Removed(len(gone), sum(old[path].size for path in gone), len(old) - len(gone))


@dataclass(frozen=True)
class _Place:
    """The folders of a table on its file system, with that file system's paths."""

    table: Table
    files: pafs.FileSystem
    folders: tuple[str, str]

    @classmethod
    def of(cls, table: Table) -> _Place:
        from pyiceberg.io.pyarrow import PyArrowFileIO

        provider = table.location_provider()
        scheme, netloc, _ = PyArrowFileIO.parse_location(provider.data_path, table.io.properties)
        io: Any = table.io
        folders = (provider.data_path, provider.metadata_path)
        data, metadata = (cls.path(table, folder) for folder in folders)
        return cls(table, io.fs_by_scheme(scheme, netloc), (data, metadata))

    @staticmethod
    def path(table: Table, location: str) -> str:
        from pyiceberg.io.pyarrow import PyArrowFileIO

        return str(PyArrowFileIO.parse_location(location, table.io.properties)[2])

    def paths(self, locations: Iterable[str]) -> set[str]:
        return {self.path(self.table, location) for location in locations}

    def holds(self, path: str) -> bool:
        return path.startswith(tuple(f"{folder.rstrip('/')}/" for folder in self.folders))

    def listing(self) -> Iterator[Any]:
        import pyarrow.fs as pafs

        for folder in self.folders:
            selector = pafs.FileSelector(folder, recursive=True, allow_not_found=True)
            for info in self.files.get_file_info(selector):
                if info.type == pafs.FileType.File and info.base_name != SEEN:
                    yield info

    def read_seen(self, *, dry_run: bool) -> tuple[dict[str, datetime], datetime]:
        """Return when each file was first found unreferenced, and the store's time."""
        seen: dict[str, datetime] = {}
        path = f"{self.folders[1]}/{SEEN}"
        try:
            with self.files.open_input_stream(path) as stream:
                text = json.loads(stream.read())
            seen = {name: datetime.fromisoformat(at) for name, at in text.items()}
        except (FileNotFoundError, ValueError):
            pass  # the first run, or a partial write: waiting starts now
        if dry_run:
            return seen, datetime.now(UTC)
        self.write_seen(seen)
        return seen, self.files.get_file_info(path).mtime

    def write_seen(self, seen: dict[str, datetime]) -> None:
        text = json.dumps({name: at.isoformat() for name, at in seen.items()})
        with self.files.open_output_stream(f"{self.folders[1]}/{SEEN}") as stream:
            stream.write(text.encode())

    def remove(self, paths: Iterable[str]) -> None:
        from pyiceberg.utils.concurrent import ExecutorFactory

        def remove(path: str) -> None:
            try:
                self.files.delete_file(path)
            except FileNotFoundError:
                return  # deleted by another maintenance

        for _ in ExecutorFactory.get_or_create().map(remove, paths):
            pass


def _needed(table: Table) -> set[str]:
    """Return every file that the table's metadata reference, from any snapshot."""
    from pyiceberg.utils.concurrent import ExecutorFactory

    metadata = table.metadata
    needed = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    needed |= {s.statistics_path for s in (*metadata.statistics, *metadata.partition_statistics)}
    manifests: dict[str, ManifestFile] = {}
    for snapshot in metadata.snapshots:
        needed.add(snapshot.manifest_list)
        manifests |= {m.manifest_path: m for m in snapshot.manifests(table.io)}
    needed |= manifests.keys()
    workers = ExecutorFactory.get_or_create()
    for entries in workers.map(lambda m: m.fetch_manifest_entry(table.io), manifests.values()):
        needed |= {entry.data_file.file_path for entry in entries}
    return needed


def _ensure_complete(name: str, place: _Place, needed: set[str], there: dict[str, Any]) -> None:
    """Raise FilesMissing if a referenced file is not listed; old metadata files may be gone."""
    missing = [
        path
        for path in needed - there.keys()
        if place.holds(path) and not path.endswith(".metadata.json")
    ]
    if missing:
        raise FilesMissing(
            f"{name}: {len(missing)} files that its snapshots reference are missing, the first is"
            f" {missing[0]}",
            action="restore them from a backup, or roll the table back; nothing was deleted",
        )
