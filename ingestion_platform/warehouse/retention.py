"""Which snapshots of a table may go: plain decisions on its metadata; nothing is committed here.

Every commit to a table that is loaded takes the expendable snapshots out with it, so that its
metadata stays as small as it was; maintenance does the same for tables with few commits. Files are
not touched: see `maintenance.orphans`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ingestion_platform.warehouse import committed as committed_by_partition

if TYPE_CHECKING:
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot

# Iceberg's own table properties, so that every engine means the same by them.
KEEP_PROPERTY = "history.expire.min-snapshots-to-keep"
AGE_PROPERTY = "history.expire.max-snapshot-age-ms"
KEEP = 50
"""Snapshots of a branch that stay, unless the table's property says otherwise: each makes every
commit about a tenth of a millisecond slower. A statement of another engine that takes longer than
so many commits fails in the end, since the snapshot that it began with is gone."""
AGE_MS = 0
"""How old a snapshot must be to go, unless the table's property says otherwise."""


def expendable(metadata: TableMetadata, *, now_ms: float | None = None) -> list[int]:
    """The ids of the snapshots that nothing needs any more, oldest first.

    What stays: whatever a branch or tag names, the newest snapshots of each branch, young ones,
    and from each of these back to the newest that tells the positions: a table that is rolled
    back to any snapshot that it still has must find the positions that belong to it.
    """
    now_ms = time.time() * 1000 if now_ms is None else now_ms
    keep, age = _limits(metadata)
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    if len(by_id) <= keep:
        return []
    stay = {s.snapshot_id for s in by_id.values() if s.timestamp_ms > now_ms - age}
    for ref in metadata.refs.values():
        least = 1 if ref.snapshot_ref_type == "tag" else ref.min_snapshots_to_keep or keep
        newest = zip(range(least), _ancestors(by_id, ref.snapshot_id), strict=False)
        stay.update(snapshot.snapshot_id for _, snapshot in newest)
    if tells_positions(metadata.properties):
        stay |= _up_to_positions(by_id, stay)
    return [snapshot_id for snapshot_id in by_id if snapshot_id not in stay]


def is_full(metadata: TableMetadata) -> bool:
    """Whether a table has more snapshots than a branch keeps."""
    return len(metadata.snapshots) > _limits(metadata)[0]


def tells_positions(values: Iterable[str] | None) -> bool:
    """Whether properties or a summary hold committed offsets."""
    return any(name.startswith(committed_by_partition.PREFIX) for name in values or ())


def summary_of(snapshot: Snapshot) -> dict[str, str]:
    """What a snapshot's summary says beside its operation."""
    return snapshot.summary.additional_properties if snapshot.summary is not None else {}


def _limits(metadata: TableMetadata) -> tuple[int, int]:
    properties = metadata.properties
    keep = int(properties.get(KEEP_PROPERTY, KEEP))
    return max(1, keep), int(properties.get(AGE_PROPERTY, AGE_MS))


def _ancestors(by_id: dict[int, Snapshot], snapshot_id: int | None) -> Iterator[Snapshot]:
    """A snapshot and those before it, as far back as they are there."""
    while snapshot_id is not None and (snapshot := by_id.get(snapshot_id)) is not None:
        yield snapshot
        snapshot_id = snapshot.parent_snapshot_id


def _up_to_positions(by_id: dict[int, Snapshot], stay: set[int]) -> set[int]:
    needed: set[int] = set()
    for start in stay:
        for snapshot in _ancestors(by_id, start):
            needed.add(snapshot.snapshot_id)
            if tells_positions(summary_of(snapshot)):
                break
            if snapshot.snapshot_id != start and snapshot.snapshot_id in stay:
                break  # its own way back is walked as well
    return needed
