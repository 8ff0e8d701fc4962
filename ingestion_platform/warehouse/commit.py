"""Append or replace rows of a table and its committed offsets in one Iceberg commit.

The catalog rejects a commit when the table has changed since it was read. The committed offsets are
then read again, and the commit is retried only if they are unchanged. So of two writers of the same
records only one commits, however late the other one wakes up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingestion_platform.contract import columns
from ingestion_platform.errors import Transient, WriteConflict
from ingestion_platform.retries import COMMIT, retry
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.committed import (
    CommittedRanges,
    Span,
    parse_ranges,
    render_ranges,
)

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table, Transaction

_NO_RETRIES = {"commit.retry.num-retries": "0"}


@dataclass(frozen=True, slots=True)
class Change:
    """One log partition's part of a commit: `files` hold the rows of `span`.

    `base` is the state that the files were computed from; for a second change of the same partition
    it includes the first one. With `replace` the table's rows of the span are removed.
    """

    partition: int
    base: CommittedRanges
    span: Span
    files: Sequence[DataFile]
    replace: bool


def read_committed(table: Table) -> dict[int, CommittedRanges]:
    """Return the committed offset ranges of a table by log partition.

    They are read from the newest ancestor snapshot that has them: unlike a table property, it
    follows a rollback. Once that snapshot has expired, the properties are read.
    """
    snapshot = table.current_snapshot()
    if snapshot is None:
        return {}
    while snapshot is not None:
        summary = snapshot.summary.additional_properties if snapshot.summary else {}
        if found := parse_ranges(summary):
            return found
        if snapshot.sequence_number == 1:
            return {}  # the complete history has no commit of the platform
        # Expired snapshots end the history: the parent is None or missing.
        parent = snapshot.parent_snapshot_id
        snapshot = None if parent is None else table.snapshot_by_id(parent)
    return parse_ranges(table.properties)


def commit(catalog: Catalog, name: str, changes: Sequence[Change]) -> Table:
    """Commit all changes with their positions, or none, and return the changed table.

    Raises:
        WriteConflict: another writer loaded records of one of the log partitions, or changed the
            table's partitions.
        CatalogUnavailable: the catalog does not answer. The commit may have succeeded; read the
            committed offsets again.
    """
    began = time.time()
    table: Table | None = None

    def attempt() -> Table:
        nonlocal table
        with answering():
            table = catalog.load_table(name)
            ensure_no_retries(table)
            # Compare the same metadata that the commit is based on.
            _compare(name, read_committed(table), changes)
            _compare_partitions(table, changes)
            return _commit_once(table, changes, began)

    # Another commit to other rows leaves the files valid.
    return retry(
        attempt,
        COMMIT,
        lambda error: _is_conflict(error) or _has_changed_under(error, table),
        gave_up=lambda _: too_many_conflicts(WriteConflict, name),
    )


def too_many_conflicts(kind: type[Transient], table: str) -> Transient:
    """Return the error after the last attempt to commit to a table."""
    return kind(
        f"{table}: gave up after {COMMIT.attempts} commit conflicts",
        action="see which other writers commit to this table, and try again",
    )


def ensure_no_retries(table: Table) -> None:
    """Disable PyIceberg's retries for a table: they would append the same range twice."""
    if table.properties.get("commit.retry.num-retries") != "0":
        with table.transaction() as transaction:
            transaction.set_properties(_NO_RETRIES)


def range_filter(partition: int, spans: Iterable[Span]) -> BooleanExpression:
    """Return the filter of the rows of some spans of a log partition."""
    from pyiceberg.expressions import AlwaysFalse, And, EqualTo, GreaterThanOrEqual, LessThan, Or

    chosen: BooleanExpression = AlwaysFalse()
    for span in spans:
        rows = And(
            EqualTo(columns.TOPIC_ID, span.topic_id),
            And(GreaterThanOrEqual(columns.OFFSET, span.start), LessThan(columns.OFFSET, span.end)),
        )
        chosen = Or(chosen, rows)
    return And(EqualTo(columns.PARTITION, partition), chosen)


def _commit_once(table: Table, changes: Sequence[Change], began: float) -> Table:
    from ingestion_platform.warehouse import totals
    from ingestion_platform.warehouse.snapshots import begin

    after = read_committed(table)
    for change in changes:
        after[change.partition] = after.get(change.partition, CommittedRanges()).with_span(
            change.span
        )
    position = render_ranges(after)
    transaction = begin(table)
    _stage(table, transaction, changes, position)
    files = [file for change in changes for file in change.files]
    # Rows of a replaced span were counted by the first commit.
    fresh = sum(file.record_count for each in changes if not each.replace for file in each.files)
    counted = totals.after(table, fresh=fresh, files=files, began=began)
    transaction.set_properties(position | counted)
    return transaction.commit_transaction()


def _stage(
    table: Table, transaction: Transaction, changes: Sequence[Change], position: dict[str, str]
) -> None:
    """Stage one snapshot with all files; without files, too, since it carries the positions."""
    from ingestion_platform.warehouse.rewrite import without
    from ingestion_platform.warehouse.snapshots import appending, overwriting

    replaced = [change for change in changes if change.replace]
    producer = overwriting if replaced else appending
    with producer(transaction, position) as snapshot:
        if replaced:
            filters = [range_filter(change.partition, [change.span]) for change in replaced]
            removed, rewritten = without(table, filters)
            for file in removed:
                snapshot.delete_data_file(file)
            for file in rewritten:
                snapshot.append_data_file(file)
        for change in changes:
            for file in change.files:
                snapshot.append_data_file(file)


def _compare(name: str, now: dict[int, CommittedRanges], changes: Sequence[Change]) -> None:
    expected = dict(now)
    for change in changes:
        before = expected.get(change.partition, CommittedRanges())
        expected[change.partition] = change.base.with_span(change.span)
        if before != change.base:
            raise WriteConflict(
                f"{name}: another writer loaded records of log partition {change.partition}",
                action="read the positions again and go on",
            )


def _compare_partitions(table: Table, changes: Sequence[Change]) -> None:
    """Raise WriteConflict if files have an older partition spec: their manifest has the present."""
    present = table.spec().spec_id
    if any(file.spec_id != present for change in changes for file in change.files):
        raise WriteConflict(
            f"{'.'.join(table.name())}: the partitions changed while files were written",
            action="read the positions again and go on",
        )


def _has_changed_under(error: BaseException, table: Table | None) -> bool:
    """Return whether another commit explains the error.

    It is FileNotFoundError when another engine rewrote files that were being read, and ValueError
    when another commit was rolled back: main is unchanged, but the sequence number is taken.
    """
    from ingestion_platform.warehouse.tables import has_changed

    expected = isinstance(error, (FileNotFoundError, ValueError))
    return expected and table is not None and has_changed(table)


def _is_conflict(error: BaseException) -> bool:
    """Return whether the catalog rejected the commit because another one came first."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    return isinstance(error, (CommitFailedException, ValidationException))
