"""Read a snapshot: its manifests, live files, and the deletes that apply to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from pyiceberg.manifest import DataFileContent, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.delete_file_index import DeleteFileIndex
from pyiceberg.utils.concurrent import ExecutorFactory


@dataclass(frozen=True)
class Live:
    """The live entries of a snapshot, by manifest."""

    manifests: list[tuple[ManifestFile, list[ManifestEntry]]]

    @cached_property
    def tasks(self) -> dict[str, FileScanTask]:
        """The data files by path, with the delete files of each."""
        deletes = DeleteFileIndex()
        for entry in self._entries(ManifestContent.DELETES):
            if entry.data_file.content == DataFileContent.POSITION_DELETES:
                deletes.add_delete_file(entry, partition_key=entry.data_file.partition)
        return {
            entry.data_file.file_path: FileScanTask(
                entry.data_file,
                deletes.for_data_file(
                    entry.sequence_number or 0, entry.data_file, entry.data_file.partition
                ),
            )
            for entry in self._entries(ManifestContent.DATA)
        }

    @cached_property
    def delete_files(self) -> int:
        """The number of delete files."""
        return sum(1 for _ in self._entries(ManifestContent.DELETES))

    @cached_property
    def readable(self) -> bool:
        """Whether PyIceberg can apply all deletes: it does not support equality deletes."""
        kinds = {e.data_file.content for e in self._entries(ManifestContent.DELETES)}
        return DataFileContent.EQUALITY_DELETES not in kinds

    @cached_property
    def bytes(self) -> int:
        """The size of the data files in bytes."""
        return sum(task.file.file_size_in_bytes for task in self.tasks.values())

    @cached_property
    def rows(self) -> int:
        """The rows of the data files, deleted ones included."""
        return sum(task.file.record_count for task in self.tasks.values())

    def _entries(self, content: ManifestContent) -> Iterator[ManifestEntry]:
        for manifest, entries in self.manifests:
            if manifest.content == content:
                yield from entries


class LiveReader:
    """Reads snapshots of one table, each manifest once."""

    def __init__(self) -> None:
        self._read: dict[str, list[ManifestEntry]] = {}

    def read(self, table: Table) -> Live:
        """Return the live files of the present snapshot.

        Raises:
            OSError: the store does not answer.
        """
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot is not None else []
        new = [m for m in manifests if m.manifest_path not in self._read]
        for manifest, entries in zip(new, self._fetch(table, new), strict=True):
            self._read[manifest.manifest_path] = entries
        return Live([(m, self._read[m.manifest_path]) for m in manifests])

    def _fetch(
        self, table: Table, manifests: Iterable[ManifestFile]
    ) -> Iterator[list[ManifestEntry]]:
        workers = ExecutorFactory.get_or_create()
        yield from workers.map(lambda m: m.fetch_manifest_entry(table.io), manifests)
