"""Replace rows of a table by a stream of new ones in one atomic commit.

The caller (a dbt model's query) provides the rows. Readers see all or nothing, each call makes one
snapshot, and a failure leaves no files.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ingestion_platform.errors import Permanent, Transient
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.datafiles import (
    DataFileWriter,
    conformed,
    partition_of,
    split_by,
)
from ingestion_platform.warehouse.evolve import widens
from ingestion_platform.warehouse.tables import ensure_namespace

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.partitioning import PartitionField
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table, Transaction
    from pyiceberg.transforms import Transform
    from pyiceberg.types import IcebergType

# Files open at once. Rows sorted by partition need one; others make more, smaller files.
_OPEN_FILES = 32
# Files completed in the background: encoding takes as long as the query.
_FINISHING = 2
_TRANSFORMED = re.compile(r"(year|month|day|hour)\((\w+)\)")


class SchemaConflict(Permanent):
    """A result has columns that do not fit the table."""


class ContentChanged(Transient):
    """Another writer changed the rows that a replacement was computed from."""


@dataclass(frozen=True)
class Shape:
    """A table's partitions (for its creation), comment, and column descriptions.

    `partition_by` has column names, or year, month, day or hour of one, such as "month(opened)".
    """

    partition_by: Sequence[str] = ()
    comment: str = ""
    descriptions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Rows written and removed; `snapshot_id` is None if nothing changed."""

    written: int
    removed: int
    snapshot_id: int | None


class Replacement:
    """Replace some files of a table by new rows; without a commit, leaving the context undoes it.

        with Replacement(catalog, ("gold", "cases"), base, reader.schema, shape) as replacement:
            replacement.write(reader)
            replacement.remove(files)
            outcome = replacement.commit(conflicts=EqualTo("day", day))

    `base` is the table that the new rows were computed from; None creates it.

    Raises:
        SchemaConflict: a column's type does not fit the table, or Iceberg.
    """

    def __init__(
        self,
        catalog: Catalog,
        identifier: tuple[str, str],
        base: Table | None,
        rows: pa.Schema,
        shape: Shape,
    ) -> None:
        self._name = ".".join(identifier)
        self._catalog, self._identifier, self._base = catalog, identifier, base
        self._transaction = (
            _creation(catalog, identifier, rows, shape)
            if base is None
            else _change(base, rows, shape)
        )
        self._files = _Files(self._transaction)
        self._removed: list[DataFile] = []
        self._done = False

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._done:
            self._files.discard()

    def write(self, rows: Iterable[pa.RecordBatch]) -> None:
        """Add rows, columns by name; missing columns become null."""
        for batch in rows:
            if batch.num_rows:
                self._files.write(pa.Table.from_batches([batch]))

    def remove(self, files: Iterable[DataFile]) -> None:
        """Remove files of `base` from the table."""
        self._removed.extend(files)

    def commit(self, conflicts: BooleanExpression | None = None) -> Outcome:
        """Commit in one snapshot.

        Another writer's commit is tolerated if it changed no row that matches `conflicts` (None:
        all rows) and no removed file.

        Raises:
            ContentChanged: another writer changed them; nothing was changed here.
            CatalogUnavailable: the catalog does not answer; the outcome is unknown.
        """
        from pyiceberg.exceptions import (
            CommitFailedException,
            TableAlreadyExistsError,
            ValidationException,
        )
        from pyiceberg.expressions import AlwaysTrue

        added = self._files.close()
        snapshot_id = None
        if added or self._removed:
            # PyIceberg validates this against every commit since `base` before it retries.
            with self._transaction.update_snapshot().overwrite() as snapshot:
                snapshot.delete_by_predicate(conflicts if conflicts is not None else AlwaysTrue())
                for file in self._removed:
                    snapshot.delete_data_file(file)
                for file in added:
                    snapshot.append_data_file(file)
            snapshot_id = snapshot.snapshot_id
        try:
            # From here on the outcome may be unknown, so the files must stay.
            self._done = True
            with answering():
                self._transaction.commit_transaction()
        except (CommitFailedException, TableAlreadyExistsError, ValidationException) as error:
            self._files.discard()
            raise ContentChanged(
                f"{self._name}: another writer changed the rows that this run replaces: {error}",
                action="run it again; nothing was changed",
            ) from error
        return Outcome(
            written=sum(file.record_count for file in added),
            removed=sum(file.record_count for file in self._removed),
            snapshot_id=snapshot_id,
        )


class _Files:
    """Open data files, one per partition; the least recently used is finished first."""

    def __init__(self, transaction: Transaction) -> None:
        from pyiceberg.table import TableProperties

        from ingestion_platform.warehouse.pyiceberg_private import table_of

        self._table = table_of(transaction)
        self._metadata = transaction.table_metadata
        self._schema = self._metadata.schema()
        self._spec = self._metadata.spec()
        self._limit = int(
            self._metadata.properties.get(
                TableProperties.WRITE_TARGET_FILE_SIZE_BYTES,
                TableProperties.WRITE_TARGET_FILE_SIZE_BYTES_DEFAULT,
            )
        )
        self._write = uuid.uuid4()
        self._numbers = itertools.count()
        self._open: OrderedDict[tuple[Any, ...], DataFileWriter] = OrderedDict()
        self._finishing: deque[Future[DataFile]] = deque()
        self._locations: list[str] = []
        self.done: list[DataFile] = []

    def write(self, rows: pa.Table) -> None:
        for values, part in self._split(conformed(self._schema, rows)):
            file = self._open.pop(values, None) or self._new(values)
            self._open[values] = file
            file.write(part)
            if file.bytes >= self._limit:
                self._finish(values)
        while len(self._open) > _OPEN_FILES:
            self._finish(next(iter(self._open)))

    def close(self) -> list[DataFile]:
        """Finish and return all files."""
        for values in list(self._open):
            self._finish(values)
        self._wait(0)
        return self.done

    def discard(self) -> None:
        """Delete what was written; a file that cannot be deleted stays as an orphan."""
        for file in self._open.values():
            file.abandon()
        self._open.clear()
        wait(self._finishing)
        locations = {*self._locations, *(file.file_path for file in self.done)}
        for location in locations:
            try:
                self._table.io.delete(location)
            except OSError:
                continue

    def _split(self, rows: pa.Table) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
        keyed = rows
        names = [f"partition {index}" for index in range(len(self._spec.fields))]
        for name, partition in zip(names, self._spec.fields, strict=True):
            keyed = keyed.append_column(name, self._partition_values(partition, rows))
        for values, part in split_by(keyed, names):
            yield values, part.drop_columns(names)

    def _partition_values(self, partition: PartitionField, rows: pa.Table) -> Any:
        source = self._schema.find_field(partition.source_id)
        transform: Any = partition.transform.pyarrow_transform(source.field_type)
        return transform(rows[source.name])

    def _new(self, values: tuple[Any, ...]) -> DataFileWriter:
        partition = partition_of(self._spec, self._schema, values)
        name = f"00000-{next(self._numbers)}-{self._write}.parquet"
        file = DataFileWriter(self._table, partition, name, metadata=self._metadata)
        self._locations.append(file.location)
        return file

    def _finish(self, values: tuple[Any, ...]) -> None:
        from pyiceberg.utils.concurrent import ExecutorFactory

        file = self._open.pop(values)
        self._finishing.append(ExecutorFactory.get_or_create().submit(file.finish))
        self._wait(_FINISHING)

    def _wait(self, allowed: int) -> None:
        while len(self._finishing) > allowed:
            self.done.append(self._finishing.popleft().result())


def _creation(
    catalog: Catalog, identifier: tuple[str, str], rows: pa.Schema, shape: Shape
) -> Transaction:
    """Return a transaction that creates the table together with its first rows."""
    from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.types import NestedField

    name = ".".join(identifier)
    fields = [
        NestedField(f.field_id, f.name, f.field_type, required=False, doc=_doc(shape, f.name))
        for f in _iceberg(name, rows).fields
    ]
    schema = Schema(*fields)
    partition = []
    for number, text in enumerate(shape.partition_by, start=PARTITION_FIELD_ID_START):
        column, transform, label = _partition(text)
        if column not in rows.names:
            raise SchemaConflict(
                f"{name}: partition_by names {column!r}, which the result does not have",
                action=f"use one of: {', '.join(rows.names)}",
            )
        source = schema.find_field(column).field_id
        partition.append(PartitionField(source, number, transform, label))
    with answering():
        ensure_namespace(catalog, identifier[0])
        return catalog.create_table_transaction(
            identifier,
            schema,
            partition_spec=PartitionSpec(*partition),
            properties={"comment": shape.comment} if shape.comment else {},
        )


def _change(base: Table, rows: pa.Schema, shape: Shape) -> Transaction:
    """Return a transaction on `base` that adds or widens columns for the rows."""
    name = ".".join(base.name())
    transaction = base.transaction()
    present = {f.name: f for f in base.schema().fields}
    with transaction.update_schema() as update:
        for new in _iceberg(name, rows).fields:
            old = present.get(new.name)
            doc = _doc(shape, new.name)
            if old is None:
                update.add_column(new.name, new.field_type, doc=doc)
                continue
            if doc is not None and doc != old.doc:
                update.update_column(new.name, doc=doc)
            if _holds(old.field_type, new.field_type):
                continue
            if not _holds(new.field_type, old.field_type):
                raise SchemaConflict(
                    f"{name}: column {new.name} is {old.field_type}, the result"
                    f" has {new.field_type}",
                    action="cast it in the model, or give the column another name",
                )
            update.update_column(new.name, new.field_type)
    if shape.comment and base.properties.get("comment") != shape.comment:
        transaction.set_properties({"comment": shape.comment})
    return transaction


def _holds(wide: IcebergType, narrow: IcebergType) -> bool:
    """Return whether a column of type `wide` can store values of type `narrow`."""
    # Compared as Arrow types, without the field ids of nested ones.
    return _arrow_type(wide) == _arrow_type(narrow) or widens(narrow, wide)


def _arrow_type(kind: IcebergType) -> pa.DataType:
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    return schema_to_pyarrow(kind, include_field_ids=False)


def _iceberg(name: str, rows: pa.Schema) -> Schema:
    """Return the Arrow schema as Iceberg's, with ids from 1."""
    from ingestion_platform.warehouse.pyiceberg_private import schema_from_arrow

    try:
        return schema_from_arrow(rows)
    except TypeError as error:
        raise SchemaConflict(
            f"{name}: {error}",
            action="cast the column in the model; Iceberg has no HUGEINT (cast sums to bigint)",
        ) from error


def _doc(shape: Shape, column: str) -> str | None:
    return shape.descriptions.get(column) or None


def _partition(text: str) -> tuple[str, Transform[Any, Any], str]:
    """Return column, transform and field name of one element of `partition_by`."""
    from pyiceberg.transforms import IdentityTransform, parse_transform

    match = _TRANSFORMED.fullmatch(text.replace(" ", ""))
    if match is None:
        return text, IdentityTransform(), text
    return match[2], parse_transform(match[1]), f"{match[2]}_{match[1]}"
