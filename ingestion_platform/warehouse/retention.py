"""Which snapshots of a table may be expired: plain decisions on its metadata, no commits.

Every load expires them in its own commit, so that the metadata stays small; maintenance does it for
tables with few commits. Files are deleted later: see `maintenance.orphans`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ingestion_platform.warehouse.committed import PREFIX

if TYPE_CHECKING:
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot

# Iceberg's own table properties, which other engines follow, too.
KEEP_PROPERTY = "history.expire.min-snapshots-to-keep"
AGE_PROPERTY = "history.expire.max-snapshot-age-ms"
KEEP = 50
"""Snapshots kept per branch by default; each slows every commit by about 0.1 ms. A statement of
another engine fails if more commits than this happen while it runs: its snapshot has expired."""
AGE_MS = 0
"""Minimum age of an expired snapshot by default."""


def expendable(metadata: TableMetadata, *, now_ms: float | None = None) -> list[int]:
    """Return the ids of the snapshots that may be expired, oldest first.

    Kept are: what a branch or tag names, the newest snapshots of each branch, young ones, and for
    each of these its ancestors down to the newest one with positions. So after a rollback to any
    kept snapshot the matching positions are found.
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
    if has_positions(metadata.properties):
        stay |= _up_to_positions(by_id, stay)
    return [snapshot_id for snapshot_id in by_id if snapshot_id not in stay]


def is_full(metadata: TableMetadata) -> bool:
    """Return whether a table has more snapshots than one branch keeps."""
    return len(metadata.snapshots) > _limits(metadata)[0]


def has_positions(values: Iterable[str] | None) -> bool:
    """Return whether properties or a summary contain committed offsets."""
    return any(name.startswith(PREFIX) for name in values or ())


def summary_of(snapshot: Snapshot) -> dict[str, str]:
    """Return the properties of a snapshot's summary, without its operation."""
    return snapshot.summary.additional_properties if snapshot.summary is not None else {}


def _limits(metadata: TableMetadata) -> tuple[int, int]:
    properties = metadata.properties
    keep = int(properties.get(KEEP_PROPERTY, KEEP))
    return max(1, keep), int(properties.get(AGE_PROPERTY, AGE_MS))


def _ancestors(by_id: dict[int, Snapshot], snapshot_id: int | None) -> Iterator[Snapshot]:
    """Yield a snapshot and its ancestors, up to the first expired one."""
    while snapshot_id is not None and (snapshot := by_id.get(snapshot_id)) is not None:
        yield snapshot
        snapshot_id = snapshot.parent_snapshot_id


def _up_to_positions(by_id: dict[int, Snapshot], stay: set[int]) -> set[int]:
    needed: set[int] = set()
    for start in stay:
        for snapshot in _ancestors(by_id, start):
            needed.add(snapshot.snapshot_id)
            if has_positions(summary_of(snapshot)):
                break
            if snapshot.snapshot_id != start and snapshot.snapshot_id in stay:
                break  # its own ancestors are followed separately
    return needed
