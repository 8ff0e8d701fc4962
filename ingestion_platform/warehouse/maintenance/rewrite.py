"""Commits that change the files of a table without changing its rows.

Each is computed from one snapshot, and the catalog rejects it when another snapshot came first. It
repeats the positions, so that expiring older snapshots cannot lose them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
)
from pyiceberg.table import Transaction

from ingestion_platform.retries import MAINTENANCE_COMMIT, retry
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, parse_ranges, render_ranges
from ingestion_platform.warehouse.maintenance.choose import runs
from ingestion_platform.warehouse.maintenance.compact import Rewritten
from ingestion_platform.warehouse.maintenance.live import Live, LiveReader
from ingestion_platform.warehouse.pyiceberg_private import ReplaceSnapshot
from ingestion_platform.warehouse.retention import (
    expendable,
    has_positions,
    is_full,
    summary_of,
)
from ingestion_platform.warehouse.snapshots import begin, live_files, merged

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

_CONFLICTS = (CommitFailedException, ValidationException)
# Eight manifests of similar size are merged, up to a size that is still read quickly.
_FAN = 8
_FLOOR = 64 * 1024
_LARGE = 4 * 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """A rewriting snapshot: paths of files to remove, files to add, and manifests to merge."""

    removed: frozenset[str] = frozenset()
    added: Sequence[DataFile] = ()
    together: Sequence[Sequence[ManifestFile]] = field(default_factory=list)


def replace_files(
    catalog: Catalog, name: str, rewritten: Sequence[Rewritten]
) -> tuple[list[Rewritten], list[Rewritten]]:
    """Replace files by rewritten ones in one commit; return the committed and the skipped ones.

    A group is skipped when another writer removed one of its files or added deletes to it.

    Raises:
        CatalogUnavailable, StoreUnavailable: the outcome is unknown; both are valid.
    """
    reader = LiveReader()
    valid: list[Rewritten] = []

    def plan(table: Table) -> tuple[Plan, Live] | None:
        nonlocal valid
        live = reader.read(table)
        valid = [each for each in rewritten if _is_live(each, live)]
        if not valid:
            return None
        removed = {task.file.file_path for each in valid for task in each.group.tasks}
        added = [each.file for each in valid if each.file is not None]
        return Plan(frozenset(removed), added), live

    if not _commit(catalog, name, plan):
        valid = []
    return valid, [each for each in rewritten if each not in valid]


def merge_manifests(catalog: Catalog, name: str) -> int:
    """Merge small manifests and return by how many their number decreased.

    Raises:
        CatalogUnavailable, StoreUnavailable: the outcome is unknown; both are valid.
    """
    reader = LiveReader()
    gone = 0

    def plan(table: Table) -> tuple[Plan, Live] | None:
        nonlocal gone
        live = reader.read(table)
        together = to_merge(manifest for manifest, _ in live.manifests)
        gone = sum(len(run) - 1 for run in together)
        return (Plan(together=together), live) if together else None

    return gone if _commit(catalog, name, plan) else 0


def to_merge(manifests: Iterable[ManifestFile]) -> list[list[ManifestFile]]:
    """Return groups of manifests that are worth merging into one each."""
    by_spec: dict[int, list[ManifestFile]] = defaultdict(list)
    for manifest in manifests:
        small = manifest.manifest_length < _LARGE
        if manifest.content == ManifestContent.DATA and small and live_files(manifest):
            by_spec[manifest.partition_spec_id].append(manifest)
    return [
        bin_
        for some in by_spec.values()
        for run in runs(some, lambda m: m.manifest_length, fan=_FAN, floor=_FLOOR)
        for bin_ in _bins(run)
        if len(bin_) > 1
    ]


def expire(catalog: Catalog, name: str) -> int:
    """Expire the expendable snapshots and return their number.

    Their files stay for running readers: see `orphans`.

    Raises:
        CatalogUnavailable: the outcome is unknown; both are valid.
    """

    def attempt() -> int:
        with answering():
            table = catalog.load_table(name)
            if is_full(table.metadata) and _positions_are_far(table):
                _commit(catalog, name, lambda now: (Plan(), LiveReader().read(now)))
                table = catalog.load_table(name)
            going = expendable(table.metadata)
            if going:
                begin(table, expired=going).commit_transaction()
            return len(going)

    # A writer that is always faster is no error: the next run of maintenance tries again.
    with suppress(*_CONFLICTS):
        return retry(attempt, MAINTENANCE_COMMIT, _CONFLICTS)
    return 0


def positions(table: Table) -> dict[str, str]:
    """Return the committed offsets of the present snapshot as summary properties of the next one.

    Empty ones are included: after a rollback, a table property may be ahead of the rows.
    """
    present = read_committed(table)
    partitions = {*present, *parse_ranges(table.properties)}
    return render_ranges(
        {partition: present.get(partition, CommittedRanges()) for partition in partitions}
    )


@dataclass
class _Drafts:
    """Manifests of one snapshot, written once and reused by each attempt to commit it."""

    snapshot_id: int | None = None
    written: dict[Any, ManifestFile] = field(default_factory=dict)

    def discard(self, table: Table, used: Iterable[ManifestFile] = ()) -> None:
        """Delete the manifests that are not used."""
        needed = {manifest.manifest_path for manifest in used}
        for manifest in self.written.values():
            if manifest.manifest_path not in needed:
                with suppress(OSError):  # stays as an orphan
                    table.io.delete(manifest.manifest_path)


class _Rewrite(ReplaceSnapshot):
    """A snapshot that replaces files without changing rows."""

    def __init__(
        self,
        transaction: Transaction,
        plan: Plan,
        live: Live,
        drafts: _Drafts,
        summary: dict[str, str],
    ) -> None:
        if drafts.snapshot_id is None:
            drafts.snapshot_id = transaction.table_metadata.new_snapshot_id()
        super().__init__(transaction, summary, drafts.snapshot_id)
        self._plan, self._live, self._drafts = plan, live, drafts
        self._idle = _idle_deletes(live, plan.removed)
        self.made: list[ManifestFile] = []

    def list_manifests(self) -> tuple[list[ManifestFile], Sequence[DataFile], set[DataFile]]:
        """Return new and unchanged manifests, added files, and removed files."""
        files_removed: set[DataFile] = set()
        removed = self._plan.removed
        gone = self._idle | {m.manifest_path for run in self._plan.together for m in run}
        made = [
            self._draft(("added", spec_id, removed), spec_id, "add", entries)
            for spec_id, entries in self._added_by_spec().items()
        ]
        made += [self._merged(run) for run in self._plan.together]
        going: dict[int, list[ManifestEntry]] = defaultdict(list)
        for manifest, entries in self._live.manifests:
            path, spec_id = manifest.manifest_path, manifest.partition_spec_id
            if path in self._idle:
                files_removed |= {entry.data_file for entry in entries}
            if path in gone or not entries:
                continue
            stay = [e for e in entries if e.data_file.file_path not in removed]
            if len(stay) == len(entries):
                made.append(manifest)
                continue
            going[spec_id] += [e for e in entries if e.data_file.file_path in removed]
            if stay:
                made.append(self._draft((path, removed), spec_id, "existing", stay))
        for spec_id, entries in going.items():
            files_removed |= {entry.data_file for entry in entries}
            made.append(self._draft(("removed", spec_id, removed), spec_id, "delete", entries))
        self.made = made
        return made, self._plan.added, files_removed

    def _added_by_spec(self) -> dict[int, list[ManifestEntry]]:
        by_spec: dict[int, list[ManifestEntry]] = defaultdict(list)
        for file in self._plan.added:
            entry = ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED,
                snapshot_id=self.snapshot_id,
                sequence_number=None,
                file_sequence_number=None,
                data_file=file,
            )
            by_spec[file.spec_id].append(entry)
        return by_spec

    def _draft(
        self, key: Any, spec_id: int, how: str, entries: Iterable[ManifestEntry]
    ) -> ManifestFile:
        if key not in self._drafts.written:
            with self.new_manifest_writer(spec=self.spec(spec_id)) as writer:
                for entry in entries:
                    getattr(writer, how)(entry)
            self._drafts.written[key] = writer.to_manifest_file()
        return self._drafts.written[key]

    def _merged(self, run: Sequence[ManifestFile]) -> ManifestFile:
        key = tuple(manifest.manifest_path for manifest in run)
        if key not in self._drafts.written:
            self._drafts.written[key] = merged(self, run[0].partition_spec_id, run)
        return self._drafts.written[key]


def _idle_deletes(live: Live, removed: frozenset[str]) -> set[str]:
    """Return the paths of delete manifests that apply to no remaining file."""
    if not removed:
        return set()
    needed = {
        delete.file_path
        for path, task in live.tasks.items()
        if path not in removed
        for delete in task.delete_files
    }
    return {
        manifest.manifest_path
        for manifest, entries in live.manifests
        if manifest.content == ManifestContent.DELETES
        and not any(entry.data_file.file_path in needed for entry in entries)
    }


def _commit(catalog: Catalog, name: str, plan: Callable[[Table], tuple[Plan, Live] | None]) -> bool:
    """Commit what `plan` returns for the present table; return False when it returns None.

    Little work lies between reading and committing, so that busy writers do not always win.
    """
    drafts = _Drafts()

    def attempt() -> bool:
        with answering():
            table = catalog.load_table(name)
            what = plan(table)
            if what is None:
                drafts.discard(table)
                return False
            transaction = begin(table)
            rewrite = _Rewrite(transaction, *what, drafts, positions(table))
            with rewrite:
                pass
            transaction.commit_transaction()
            drafts.discard(table, rewrite.made)
            return True

    with suppress(*_CONFLICTS):
        return retry(attempt, MAINTENANCE_COMMIT, _CONFLICTS)
    drafts.discard(catalog.load_table(name))
    return False


def _is_live(each: Rewritten, live: Live) -> bool:
    """Return whether the files of a group, with the same deletes, are still in the table."""
    for task in each.group.tasks:
        now = live.tasks.get(task.file.file_path)
        if now is None or _paths(now.delete_files) != _paths(task.delete_files):
            return False
    return True


def _paths(files: Iterable[DataFile]) -> set[str]:
    return {file.file_path for file in files}


def _positions_are_far(table: Table) -> bool:
    """Return whether other writers' snapshots follow the one with the positions."""
    snapshot = table.current_snapshot()
    if snapshot is None or not has_positions(table.properties):
        return False
    return not has_positions(summary_of(snapshot))


def _bins(run: Iterable[ManifestFile]) -> Iterable[list[ManifestFile]]:
    bin_: list[ManifestFile] = []
    for manifest in run:
        if bin_ and sum(m.manifest_length for m in [*bin_, manifest]) > _LARGE:
            yield bin_
            bin_ = []
        bin_.append(manifest)
    if bin_:
        yield bin_
