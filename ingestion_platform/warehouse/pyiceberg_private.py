"""The private parts of PyIceberg that the platform uses; no other module uses any.

PyIceberg is pinned to one version (pyproject.toml), because names here may change in any release.
`tests/unit/warehouse/test_pyiceberg_private.py` fails when one of them changes, or when a fix here
is no longer needed. Each function says why the public interface does not do.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pyiceberg.io.pyarrow as arrow_io
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.expressions.visitors import ROWS_MUST_MATCH, _StrictMetricsEvaluator, bind
from pyiceberg.manifest import DataFile, ManifestEntry, ManifestFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import (
    Operation,
    SnapshotSummaryCollector,
    Summary,
    update_snapshot_summaries,
)
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.table.update.snapshot import _FastAppendFiles, _OverwriteFiles, _SnapshotProducer
from pyiceberg.typedef import EMPTY_DICT

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import FileScanTask
    from pyiceberg.table.update import TableRequirement, TableUpdate
    from pyiceberg.types import ListType

Arrange = Callable[[_SnapshotProducer[Any], list[ManifestFile]], list[ManifestFile]]
"""Takes a new snapshot's manifests and returns those to list; the producer writes manifests."""

_BEFORE_SURROGATES, _AFTER_SURROGATES = 0xD7FF, "\ue000"


# Fixes of two faults.


@cache
def apply_fixes() -> None:
    """Fix PyIceberg's upper bounds of texts and its reading of null lists, in this process."""
    vars(arrow_io)["truncate_upper_bound_text_string"] = upper_bound
    project = arrow_io.ArrowProjectionVisitor.list

    def project_with_nulls(
        self: arrow_io.ArrowProjectionVisitor,
        list_type: ListType,
        list_array: pa.Array | None,
        value_array: pa.Array | None,
    ) -> pa.Array | None:
        """Keep null lists of objects null: PyIceberg's projection makes them empty."""
        import pyarrow as pa
        import pyarrow.compute as pc

        projected = project(self, list_type, list_array, value_array)
        if projected is None or list_array is None or projected.null_count == list_array.null_count:
            return projected
        return pc.if_else(list_array.is_valid(), projected, pa.scalar(None, projected.type))

    arrow_io.ArrowProjectionVisitor.list = project_with_nulls


def upper_bound(value: str, length: int | None) -> str | None:
    """Return a text of at most `length` characters that is no less than `value`; None without.

    PyIceberg raises the last character by one. After U+D7FF that gives a surrogate, which UTF-8
    cannot hold, and writing the file fails.
    """
    if length is None or len(value) <= length:
        return value
    prefix = value[:length].rstrip("\U0010ffff")
    if not prefix:
        return None
    last = ord(prefix[-1])
    return prefix[:-1] + (_AFTER_SURROGATES if last == _BEFORE_SURROGATES else chr(last + 1))


# Commits.


def stage(transaction: Transaction, update: TableUpdate, requirement: TableRequirement) -> None:
    """Add an update to a transaction. PyIceberg offers none that expires snapshots beside rows."""
    transaction._stage((update,), (requirement,))


def table_of(transaction: Transaction) -> Table:
    """Return the table of a transaction. A table that is being created has no other access."""
    return transaction._table


def set_schema(transaction: Transaction, schema: Schema) -> None:
    """Set the table's schema. PyIceberg's own update cannot rename a column around a new one."""

    class Prepared(UpdateSchema):  # type: ignore[misc]
        def _apply(self) -> Schema:
            return schema

    Prepared(transaction).commit()


class _Arranged(_SnapshotProducer[Any]):  # type: ignore[misc]
    arrange: Arrange

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        return self.arrange(self, manifests)


class _Append(_Arranged, _FastAppendFiles):  # type: ignore[misc]
    pass


class _Overwrite(_Arranged, _OverwriteFiles):  # type: ignore[misc]
    pass


def new_snapshot(
    transaction: Transaction, operation: Operation, summary: dict[str, str], arrange: Arrange
) -> _Append | _Overwrite:
    """Return a context that appends, or overwrites, data files in one snapshot.

    PyIceberg merges manifests only when a snapshot appends; `arrange` decides for both kinds.
    """
    kind = _Append if operation == Operation.APPEND else _Overwrite
    producer = kind(
        operation=operation,
        transaction=transaction,
        io=table_of(transaction).io,
        snapshot_properties=summary,
    )
    producer.arrange = arrange
    return producer


class ReplaceSnapshot(_SnapshotProducer[Any]):  # type: ignore[misc]
    """A snapshot of operation `replace`, which PyIceberg lacks: other files with the same rows."""

    def __init__(self, transaction: Transaction, summary: dict[str, str], snapshot_id: int) -> None:
        super().__init__(
            operation=Operation.REPLACE,
            transaction=transaction,
            io=table_of(transaction).io,
            snapshot_properties=summary,
        )
        self._snapshot_id: int = snapshot_id

    @abstractmethod
    def list_manifests(self) -> tuple[list[ManifestFile], Sequence[DataFile], set[DataFile]]:
        """Return the manifests of the snapshot, the files that it adds, and those it removes."""

    def _manifests(self) -> list[ManifestFile]:
        manifests, self._added_data_files, self._deleted_data_files = self.list_manifests()
        # PyIceberg removes these after a conflict, but the next attempt lists them again.
        self._written_manifests.clear()
        return manifests

    def _summary(self, snapshot_properties: Mapping[str, str] = EMPTY_DICT) -> Summary:
        metadata = self._transaction.table_metadata
        schema, specs, collected = metadata.schema(), metadata.specs(), SnapshotSummaryCollector()
        for file in self._added_data_files:
            collected.add_file(file, schema, specs[file.spec_id])
        for file in self._deleted_data_files:
            collected.remove_file(file, schema, specs[file.spec_id])
        before = metadata.snapshot_by_id(self._parent_snapshot_id)
        # PyIceberg computes totals of other operations only.
        summed = update_snapshot_summaries(
            Summary(operation=Operation.OVERWRITE, **collected.build(), **snapshot_properties),
            before.summary if before is not None else None,
        )
        return Summary(operation=Operation.REPLACE, **summed.additional_properties)

    def _deleted_entries(self) -> list[ManifestEntry]:
        return []

    def _existing_manifests(self) -> list[ManifestFile]:
        return []


# Reading and writing.


def all_rows_match(schema: Schema, condition: BooleanExpression, file: DataFile) -> bool:
    """Return whether a file's statistics prove that every row matches. No public function does."""
    evaluator = _StrictMetricsEvaluator(schema, condition, case_sensitive=True)
    return bool(evaluator.eval(file) == ROWS_MUST_MATCH)


def rows_not_matching(schema: Schema, condition: BooleanExpression) -> pc.Expression:
    """Return an Arrow filter of the rows that a delete of `condition` leaves, nulls included."""
    bound = bind(schema, condition, case_sensitive=True)
    return arrow_io._expression_to_complementary_pyarrow(bound, schema)


def read_with_deletes(
    table: Table, projected: Schema, tasks: Iterable[FileScanTask]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of files with their deletes applied, one batch at a time.

    The public `ArrowScan.to_record_batches` reads whole files, several at once, into memory.
    """
    tasks = list(tasks)
    scan = arrow_io.ArrowScan(table.metadata, table.io, projected, AlwaysTrue())
    deletes = arrow_io._read_all_delete_files(table.io, tasks)
    for task in tasks:
        yield from scan._record_batches_from_scan_tasks_and_deletes([task], deletes)


def bytes_written(writer: arrow_io.ParquetFormatWriter) -> int:
    """Return how many bytes a writer has written so far, which decides when a file is full."""
    return int(writer._fos.tell()) if writer._fos is not None else 0


def schema_from_arrow(schema: pa.Schema) -> Schema:
    """Return an Arrow schema without field ids as Iceberg's; a type may be unsupported.

    The public conversion demands field ids, or a name mapping of a table that is there already.

    Raises:
        TypeError: Iceberg has no such type.
    """
    from pyiceberg.schema import assign_fresh_schema_ids

    try:
        return assign_fresh_schema_ids(arrow_io._pyarrow_to_schema_without_ids(schema))
    except arrow_io.UnsupportedPyArrowTypeException as error:
        raise TypeError(str(error)) from error
