"""Make snapshots at a constant cost: few manifests, few snapshots, few copies of the metadata.

PyIceberg's transaction copies all metadata a dozen times per commit, in Python. Here it is given a
table that holds only what the commit needs. Other modules decide which rows to add and remove.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update import AssertRefSnapshotId, RemoveSnapshotsUpdate
from pyiceberg.utils.concurrent import ExecutorFactory

from ingestion_platform.warehouse.pyiceberg_private import new_snapshot, stage
from ingestion_platform.warehouse.retention import expendable

if TYPE_CHECKING:
    from pyiceberg.table.metadata import TableMetadata

# A manifest with fewer live files than this is small. A commit that finds this many small manifests
# merges them, which takes about 0.1 s: every commit reads and writes the list of all manifests.
SMALL = 32
# One commit expires at most this many snapshots and leaves the rest to the next one.
_EXPIRED_AT_ONCE = 100


class StillExpendable(AssertRefSnapshotId):  # type: ignore[misc]
    """Require that main is unchanged, and that no branch or tag names an expired snapshot.

    A catalog that validates by itself (REST) receives the standard requirement on main.
    """

    _expired: frozenset[int] = PrivateAttr(frozenset())

    @classmethod
    def of(cls, metadata: TableMetadata, expired: Iterable[int]) -> StillExpendable:
        """Return the requirement for expiring snapshots of a table as it is now."""
        requirement = cls(ref=MAIN_BRANCH, snapshot_id=metadata.current_snapshot_id)
        requirement._expired = frozenset(expired)
        return requirement

    def validate(self, base_metadata: TableMetadata | None) -> None:
        """Raise CommitFailedException when the requirement does not hold."""
        super().validate(base_metadata)
        if base_metadata is None:
            return
        present = {snapshot.snapshot_id for snapshot in base_metadata.snapshots}
        named = {ref.snapshot_id for ref in base_metadata.refs.values()}
        if not present >= self._expired or named & self._expired:
            raise CommitFailedException("another writer expired or named the same snapshots")


def begin(table: Table, *, expired: Sequence[int] | None = None) -> Transaction:
    """Return a transaction on `table` that also expires snapshots.

    Without `expired` (ids) it takes the oldest expendable ones, a limited number at a time.
    """
    metadata = table.metadata
    if expired is None:
        expired = expendable(metadata)[:_EXPIRED_AT_ONCE]
    ids = set(expired)
    snapshots = [
        snapshot
        for snapshot in metadata.snapshots
        if snapshot.snapshot_id in ids or snapshot.snapshot_id == metadata.current_snapshot_id
    ]
    # A retry by PyIceberg would stage changes that were computed from another snapshot.
    properties = {**metadata.properties, "commit.retry.num-retries": "0"}
    reduced = {"snapshots": snapshots, "snapshot_log": [], "properties": properties}
    small = Table(
        table.name(),
        metadata.model_copy(update=reduced),
        table.metadata_location,
        table.io,
        table.catalog,
        table.config,
    )
    transaction = small.transaction()
    if ids:
        removal = RemoveSnapshotsUpdate(snapshot_ids=list(expired))
        stage(transaction, removal, StillExpendable.of(metadata, expired))
    return transaction


def appending(transaction: Transaction, summary: dict[str, str]) -> AbstractContextManager[Any]:
    """Return a context that adds data files in one snapshot with these summary properties."""
    return new_snapshot(transaction, Operation.APPEND, summary, _merge_small)


def overwriting(transaction: Transaction, summary: dict[str, str]) -> AbstractContextManager[Any]:
    """Return a context that adds and removes data files in one snapshot."""
    return new_snapshot(transaction, Operation.OVERWRITE, summary, _merge_small)


def live_files(manifest: ManifestFile) -> int:
    """Return how many files of a manifest are in the table."""
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def merged(producer: Any, spec_id: int, manifests: Iterable[ManifestFile]) -> ManifestFile:
    """Write the live entries of several manifests into one; `producer` makes the new snapshot."""
    read = ExecutorFactory.get_or_create().map(producer.fetch_manifest_entry, manifests)
    with producer.new_manifest_writer(spec=producer.spec(spec_id)) as writer:
        for entries in read:
            for entry in entries:
                writer.existing(entry)
    return writer.to_manifest_file()


def _merge_small(producer: Any, manifests: list[ManifestFile]) -> list[ManifestFile]:
    """Merge small manifests of earlier snapshots, and leave out those without a live file."""

    def is_new(manifest: ManifestFile) -> bool:
        return bool(manifest.added_snapshot_id == producer.snapshot_id)

    live = [m for m in manifests if is_new(m) or live_files(m)]
    small: dict[int, list[ManifestFile]] = defaultdict(list)
    for manifest in live:
        if not is_new(manifest) and _is_small(manifest):
            small[manifest.partition_spec_id].append(manifest)
    for spec_id, some in small.items():
        if len(some) >= SMALL:
            live = [m for m in live if m not in some]
            live.append(merged(producer, spec_id, some))
    return live


def _is_small(manifest: ManifestFile) -> bool:
    return manifest.content == ManifestContent.DATA and live_files(manifest) < SMALL
