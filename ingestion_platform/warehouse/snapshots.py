"""Making snapshots at a cost that does not grow: few manifests, few snapshots, few copies.

PyIceberg's transaction copies all metadata a dozen times per commit, in Python; here it is given a
table that knows only what the commit is about. Which rows go and come is decided elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update import AssertRefSnapshotId, RemoveSnapshotsUpdate
from pyiceberg.table.update.snapshot import (
    _FastAppendFiles,
    _OverwriteFiles,
    _SnapshotProducer,
)
from pyiceberg.utils.concurrent import ExecutorFactory

from ingestion_platform.warehouse.retention import expendable

if TYPE_CHECKING:
    from pyiceberg.table.metadata import TableMetadata

# A manifest of fewer live files is little; as many little ones are made one by the commit that
# meets them, which costs it about 0.1 s. Reading and writing the list of them costs every commit.
LITTLE = 32
# Snapshots that one commit takes out; more are left to the next.
_EXPIRED_AT_ONCE = 100


class StillExpendable(AssertRefSnapshotId):  # type: ignore[misc]
    """Main is where it was, and snapshots that go are there and named by no branch or tag.

    To a catalog that checks for itself (REST) this is the standard requirement on main.
    """

    _going: frozenset[int] = PrivateAttr(frozenset())

    @classmethod
    def of(cls, metadata: TableMetadata, going: Iterable[int]) -> StillExpendable:
        """The requirement for taking snapshots out of a table as it is now."""
        requirement = cls(ref=MAIN_BRANCH, snapshot_id=metadata.current_snapshot_id)
        requirement._going = frozenset(going)
        return requirement

    def validate(self, base_metadata: TableMetadata | None) -> None:
        """Raises CommitFailedException when it does not hold."""
        super().validate(base_metadata)
        if base_metadata is None:
            return
        there = {snapshot.snapshot_id for snapshot in base_metadata.snapshots}
        named = {ref.snapshot_id for ref in base_metadata.refs.values()}
        if not there >= self._going or named & self._going:
            raise CommitFailedException("another writer took or named snapshots that were to go")


def begin(table: Table, *, going: Sequence[int] | None = None) -> Transaction:
    """A transaction on `table` that also takes out the snapshots `going` (those that are
    expendable, some at a time, unless they are given)."""
    metadata = table.metadata
    if going is None:
        going = expendable(metadata)[:_EXPIRED_AT_ONCE]
    gone = set(going)
    known = [
        snapshot
        for snapshot in metadata.snapshots
        if snapshot.snapshot_id in gone or snapshot.snapshot_id == metadata.current_snapshot_id
    ]
    # Its own retries would stage what was worked out on another snapshot.
    properties = {**metadata.properties, "commit.retry.num-retries": "0"}
    known_of = {"snapshots": known, "snapshot_log": [], "properties": properties}
    about = metadata.model_copy(update=known_of)
    small = Table(
        table.name(), about, table.metadata_location, table.io, table.catalog, table.config
    )
    transaction = small.transaction()
    if gone:
        removal = RemoveSnapshotsUpdate(snapshot_ids=list(going))
        transaction._stage((removal,), (StillExpendable.of(metadata, going),))
    return transaction


class _Tidy(_SnapshotProducer[Any]):  # type: ignore[misc]
    """Puts little manifests together, and leaves out those that have no live file."""

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        live = [m for m in manifests if self._is_new(m) or live_files(m)]
        little: dict[int, list[ManifestFile]] = defaultdict(list)
        for manifest in live:
            if not self._is_new(manifest) and _is_little(manifest):
                little[manifest.partition_spec_id].append(manifest)
        for spec_id, some in little.items():
            if len(some) >= LITTLE:
                live = [m for m in live if m not in some]
                live.append(merged(self, spec_id, some))
        return live

    def _is_new(self, manifest: ManifestFile) -> bool:
        return bool(manifest.added_snapshot_id == self._snapshot_id)


class Append(_Tidy, _FastAppendFiles):  # type: ignore[misc]
    """Adds files."""


class Overwrite(_Tidy, _OverwriteFiles):  # type: ignore[misc]
    """Adds files and takes others out."""


def appending(transaction: Transaction, properties: dict[str, str]) -> Append:
    """A snapshot that adds files, its summary with these properties; a context."""
    return Append(
        operation=Operation.APPEND,
        transaction=transaction,
        io=transaction._table.io,
        snapshot_properties=properties,
    )


def overwriting(transaction: Transaction, properties: dict[str, str]) -> Overwrite:
    """A snapshot that adds files and takes others out; a context."""
    return Overwrite(
        operation=Operation.OVERWRITE,
        transaction=transaction,
        io=transaction._table.io,
        snapshot_properties=properties,
    )


def live_files(manifest: ManifestFile) -> int:
    """How many files of a manifest are in the table."""
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def merged(
    producer: _SnapshotProducer[Any], spec_id: int, manifests: Iterable[ManifestFile]
) -> ManifestFile:
    """One manifest with the live files of several, as they are."""
    read = ExecutorFactory.get_or_create().map(producer.fetch_manifest_entry, manifests)
    with producer.new_manifest_writer(spec=producer.spec(spec_id)) as writer:
        for entries in read:
            for entry in entries:
                writer.existing(entry)
    return writer.to_manifest_file()


def _is_little(manifest: ManifestFile) -> bool:
    return manifest.content == ManifestContent.DATA and live_files(manifest) < LITTLE
