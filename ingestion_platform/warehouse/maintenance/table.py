"""Maintain one table, and report its condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.retention import KEEP, expendable
from ingestion_platform.warehouse.tables import has_changed, load_or_none

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

    from ingestion_platform.settings import TrinoSettings
    from ingestion_platform.warehouse.maintenance.choose import Group
    from ingestion_platform.warehouse.maintenance.compact import Rewritten
    from ingestion_platform.warehouse.maintenance.live import Live
    from ingestion_platform.warehouse.maintenance.orphans import Removed

TARGET = 128 * 1024 * 1024
_WRITABLE = 2  # the format version of which PyIceberg writes manifests


@dataclass(frozen=True, slots=True)
class Condition:
    """The files, manifests and snapshots of a table, and how many maintenance would replace."""

    table: str
    rows: int
    bytes: int
    files: int
    delete_files: int
    manifests: int
    snapshots: int
    small_files: int
    """Files to compact."""
    small_manifests: int
    """Manifests to merge."""
    expendable: int
    """Snapshots to expire."""

    @property
    def fine(self) -> bool:
        """Whether there is nothing to do except orphans."""
        return not (self.small_files or self.small_manifests or self.expendable)

    @property
    def worthwhile(self) -> bool:
        """Whether maintenance is worth a run: the next commit expires a few snapshots anyway."""
        return bool(self.small_files or self.small_manifests or self.expendable >= KEEP)


@dataclass(frozen=True, slots=True)
class TableMaintenance:
    """The result of a table's maintenance."""

    before: Condition
    after: Condition
    rewritten: int = 0
    """Files replaced by compaction."""
    written: int = 0
    """Files written by compaction."""
    given_up: int = 0
    """Files skipped because another writer changed them."""
    merged: int = 0
    """By how many the number of manifests decreased."""
    expired: int = 0
    """Snapshots expired."""
    orphans: Removed | None = None
    """None if orphans were not searched."""

    @property
    def idle(self) -> bool:
        """Whether nothing was changed."""
        done = self.rewritten or self.merged or self.expired
        return not done and not (self.orphans is not None and self.orphans.files)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return asdict(self)


def condition(catalog: Catalog, name: str, *, target: int = TARGET) -> Condition | None:
    """Return the condition of a table; None if it does not exist.

    Raises:
        CatalogUnavailable, StoreUnavailable: try again.
    """
    table = load_or_none(catalog, name)
    if table is None:
        return None
    with answering():
        return _examine(table, target)[0]


def maintenance(
    catalog: Catalog,
    name: str,
    *,
    target: int = TARGET,
    orphan_wait: timedelta | None = None,
    dry_run: bool = False,
    trino: TrinoSettings | None = None,
) -> TableMaintenance | None:
    """Compact files to `target` bytes, merge manifests, expire snapshots, and delete orphans.

    Returns None if the table does not exist. Safe beside other writers and other maintenance.
    Orphans are deleted only with `orphan_wait`. With `dry_run` nothing is changed; `before` has
    what would be done. With `trino`, Trino rewrites files and manifests on its workers, under the
    same conditions. Snapshots and orphans stay here: Trino does not know which snapshots have the
    positions, nor the waiting time of a reader.

    Raises:
        EngineUnavailable: Trino does not answer; try again.
        FilesMissing: referenced files of the table are missing.
        CatalogUnavailable, StoreUnavailable: some of it may be done; run it again.
    """
    from ingestion_platform.warehouse.maintenance.orphans import remove_orphans
    from ingestion_platform.warehouse.maintenance.rewrite import expire

    table = load_or_none(catalog, name)
    if table is None:
        return None
    with answering():
        before, groups = _examine(table, target)
    done = _Done()
    if not dry_run:
        if trino is None:
            _rewrite(catalog, name, table, before, groups, target, done)
        else:
            _rewrite_by_trino(trino, catalog, name, before, target, done)
        expired = expire(catalog, name)
    else:
        expired = 0
    orphans = None
    if orphan_wait is not None:
        orphans = remove_orphans(catalog, name, wait=orphan_wait, dry_run=dry_run)
    changed = not dry_run and not before.fine
    after = condition(catalog, name, target=target) if changed else before
    return TableMaintenance(
        before,
        after or before,
        rewritten=done.rewritten,
        written=done.written,
        given_up=done.given_up,
        merged=done.merged,
        expired=expired,
        orphans=orphans,
    )


@dataclass
class _Done:
    rewritten: int = 0
    written: int = 0
    given_up: int = 0
    merged: int = 0


def _examine(table: Table, target: int) -> tuple[Condition, list[Group]]:
    from ingestion_platform.warehouse.maintenance.choose import groups
    from ingestion_platform.warehouse.maintenance.live import LiveReader
    from ingestion_platform.warehouse.maintenance.rewrite import to_merge

    live: Live = LiveReader().read(table)
    found: list[Group] = []
    if live.readable and table.format_version == _WRITABLE:
        found = groups(live.tasks.values(), table.schema(), target)
    merging = to_merge(manifest for manifest, _ in live.manifests)
    return Condition(
        table=".".join(table.name()),
        rows=live.rows,
        bytes=live.bytes,
        files=len(live.tasks),
        delete_files=live.delete_files,
        manifests=len(live.manifests),
        snapshots=len(table.metadata.snapshots),
        small_files=sum(len(group.tasks) for group in found),
        small_manifests=sum(map(len, merging)),
        expendable=len(expendable(table.metadata)),
    ), found


def _rewrite(
    catalog: Catalog,
    name: str,
    table: Table,
    before: Condition,
    groups: list[Group],
    target: int,
    done: _Done,
) -> None:
    from ingestion_platform.warehouse.maintenance.rewrite import merge_manifests

    _compact(catalog, name, table, groups, target, done)
    if not before.fine:
        done.merged = merge_manifests(catalog, name)


def _rewrite_by_trino(
    trino: TrinoSettings,
    catalog: Catalog,
    name: str,
    before: Condition,
    target: int,
    done: _Done,
) -> None:
    from ingestion_platform.warehouse.maintenance.trino import optimize, optimize_manifests

    if before.small_files:
        outcome = optimize(trino, catalog, name, target)
        done.rewritten, done.written = outcome.rewritten, outcome.written
        done.given_up = before.small_files if outcome.rejected else 0
    if before.small_manifests:
        optimize_manifests(trino, name)
        now = condition(catalog, name, target=target)
        done.merged = max(0, before.manifests - now.manifests) if now is not None else 0


def _compact(
    catalog: Catalog, name: str, table: Table, groups: list[Group], target: int, done: _Done
) -> None:
    """Rewrite the groups; commit after about every `target` bytes."""
    from ingestion_platform.warehouse.maintenance.compact import compact
    from ingestion_platform.warehouse.maintenance.rewrite import replace_files

    for batch in _batches(groups, target):
        try:
            with answering():
                rewritten = [compact(table, group) for group in batch]
        except FileNotFoundError:
            if not has_changed(table):
                raise
            # Another engine has rewritten the table and removed the files.
            done.given_up += sum(len(group.tasks) for group in batch)
            continue
        landed, rejected = replace_files(catalog, name, rewritten)
        # Never committed, so they can be deleted.
        _discard(table, rejected)
        done.rewritten += sum(len(each.group.tasks) for each in landed)
        done.written += sum(each.file is not None for each in landed)
        done.given_up += sum(len(each.group.tasks) for each in rejected)


def _batches(groups: list[Group], target: int) -> Iterator[list[Group]]:
    batch: list[Group] = []
    for group in groups:
        batch.append(group)
        if sum(each.bytes for each in batch) >= target:
            yield batch
            batch = []
    if batch:
        yield batch


def _discard(table: Table, rejected: Sequence[Rewritten]) -> None:
    delete: Callable[[str], None] = table.io.delete
    for each in rejected:
        if each.file is None:
            continue
        try:
            delete(each.file.file_path)
        except OSError:
            continue  # stays as an orphan
