"""Removing files of a table that no snapshot needs, after everybody has had time to let go of them.

A file goes when it was written longer ago than the gate (a running writer may still be about to
commit it), and was seen to be needed by no snapshot longer ago than the gate (a reader may have
planned before the snapshot that had it was expired). What was seen is kept beside the table's
metadata; losing that only delays the removal. The store's clock is the only one that counts.
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

GATE = timedelta(hours=24)
SEEN = "_unreferenced.json"
"""The object in the table's metadata folder that tells which files were seen unneeded, and since
when."""


class FilesMissing(Permanent):
    """A table's folder does not show files that its snapshots name."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did: files gone with their bytes, and those that wait for the gate."""

    files: int = 0
    bytes: int = 0
    waiting: int = 0


def remove_orphans(
    catalog: Catalog, name: str, *, gate: timedelta = GATE, dry_run: bool = False
) -> Removed:
    """Remove the files below a table's data and metadata folders that nothing needs any more.

    Raises:
        FilesMissing: files that the table needs are not where they are looked for, so that none
            can be told from an orphan; nothing was removed.
        CatalogUnavailable, StoreUnavailable: some may be removed; run it again.
    """
    with answering():
        table = catalog.load_table(name)
        place = _Place.of(table)
        seen, now = place.read_seen(dry_run=dry_run)
        needed = place.paths(_needed(table))
        there = {info.path: info for info in place.listing()}
        _ensure_complete(name, place, needed, there)
        old = {path: i for path, i in there.items() if path not in needed and i.mtime <= now - gate}
        since = {path: seen.get(path, now) for path in old}
        gone = [path for path, first in since.items() if first <= now - gate]
        if not dry_run:
            place.remove(gone)
            place.write_seen({path: at for path, at in since.items() if path not in set(gone)})
    return Removed(len(gone), sum(old[path].size for path in gone), len(old) - len(gone))


@dataclass(frozen=True)
class _Place:
    """The folders of a table on its file system; paths are as that has them."""

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
        """Since when files were seen unneeded, and what time it is by the store's clock."""
        seen: dict[str, datetime] = {}
        path = f"{self.folders[1]}/{SEEN}"
        try:
            with self.files.open_input_stream(path) as stream:
                text = json.loads(stream.read())
            seen = {name: datetime.fromisoformat(at) for name, at in text.items()}
        except (FileNotFoundError, ValueError):
            pass  # the first time, or half written: from now on, then
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
                return  # another maintenance was quicker

        for _ in ExecutorFactory.get_or_create().map(remove, paths):
            pass


def _needed(table: Table) -> set[str]:
    """Every file that the table's metadata lead to, from any of its snapshots."""
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
    """What is needed must be seen where it is looked for; older metadata alone may be gone."""
    missing = [
        path
        for path in needed - there.keys()
        if place.holds(path) and not path.endswith(".metadata.json")
    ]
    if missing:
        raise FilesMissing(
            f"{name}: {len(missing)} files that its snapshots name are not there, first"
            f" {missing[0]}",
            action="restore them from a backup, or roll the table back; nothing was removed",
        )
