"""Read an Iceberg table as a pyarrow dataset: pruned, projected, streamed, deletes applied.

A dataset of the data files alone would return rows that a MERGE has deleted, and open files that
the manifests rule out. DuckDB reads this dataset without an extension.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import DataFile, ManifestFile
    from pyiceberg.schema import Schema
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.table.metadata import TableMetadata

_PARQUET = ds.ParquetFileFormat()
# Batches decoded ahead of the reader limit the memory: about 100 MB of wide rows.
_AHEAD = {"batch_size": 65_536, "batch_readahead": 8, "fragment_readahead": 2}


class TableDataset(ds.Dataset):  # type: ignore[misc]
    """The rows of one snapshot of a table; by default the newest one at the first use.

    Nothing is read before the first use of `schema` or `scanner`; from then on the snapshot stays
    the same. Of a pyarrow dataset it supports what DuckDB needs, and the methods that build on
    `scanner`.
    """

    def __init__(
        self,
        table: Table | Callable[[], Table],
        snapshot_id: int | None = None,
        *,
        files: Sequence[FileScanTask] | None = None,
    ) -> None:
        self._source = table
        self._snapshot_id = snapshot_id
        self._files = files
        self._lock = threading.Lock()
        self._loaded: Table | None = None
        self._manifests: list[ManifestFile] | None = None

    @property
    def table(self) -> Table:
        """The table with its metadata at the first use."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._source() if callable(self._source) else self._source
            return self._loaded

    @property
    def schema(self) -> pa.Schema:
        """The columns as an Arrow schema, without field ids."""
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        return schema_to_pyarrow(self._iceberg_schema(), include_field_ids=False)

    def scanner(
        self,
        columns: Any = None,
        filter: pc.Expression | None = None,  # noqa: A002 (pyarrow's name, which DuckDB uses)
        **options: Any,
    ) -> Any:
        """Return a scan of the matching rows and given columns; pruned files are not opened."""
        plan = self._plan(filter)
        if not plan.slow:
            return plan.fast.scanner(columns=columns, filter=filter, **(_AHEAD | options))
        return _Scan(self, plan, columns, filter, options)

    def tasks(self) -> list[FileScanTask]:
        """Return all data files of the snapshot with the delete files that apply to them."""
        if self._files is not None:
            return list(self._files)
        return list(self._plan_files(self._all_manifests()))

    def subset(self, tasks: Sequence[FileScanTask]) -> TableDataset:
        """Return a dataset of some of the files of `tasks()`."""
        return TableDataset(self.table, self._snapshot_id, files=tasks)

    def _iceberg_schema(self) -> Schema:
        if self._snapshot_id is None:
            return self.table.schema()
        snapshot = self.table.snapshot_by_id(self._snapshot_id)
        if snapshot is None:
            raise ValueError(f"{self.table.name()} has no snapshot {self._snapshot_id}")
        schemas = self.table.schemas()
        return schemas.get(snapshot.schema_id or 0, self.table.schema())

    def _plan(self, condition: pc.Expression | None) -> _Plan:
        """Return the files that may have matching rows; Arrow reads the fast ones alone."""
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        schema, mentioned = self.schema, self._mentioned(condition)
        tasks = self._candidates(condition, mentioned, schema)
        located = _Located.of(self.table.io, [task.file.file_path for task in tasks])
        specs, iceberg = self.table.specs(), self._iceberg_schema()
        fragments: list[Any] = [
            _PARQUET.make_fragment(
                located.paths[index] or str(index),
                filesystem=located.filesystem,
                partition_expression=_of_file(task.file, specs, iceberg, mentioned),
                file_size=task.file.file_size_in_bytes,
            )
            for index, task in enumerate(tasks)
        ]
        by_path = {fragment.path: task for fragment, task in zip(fragments, tasks, strict=True)}
        kept: Any = _dataset(fragments, schema, located.filesystem).get_fragments(condition)
        by_name = _names_identify_columns(self.table.metadata)
        present = {} if by_name else _paths(schema_to_pyarrow(iceberg, include_field_ids=True))
        fast, slow = [], []
        for fragment in kept:
            task = by_path[fragment.path]
            plain = not task.delete_files and task.file.file_format.name == "PARQUET"
            plain = plain and located.holds(task.file.file_path)
            if plain and (by_name or _has_present_names(fragment, present)):
                fast.append(fragment)
            else:
                slow.append(task)
        return _Plan(_dataset(fast, schema, located.filesystem), slow)

    def _candidates(
        self, condition: pc.Expression | None, mentioned: set[str], schema: pa.Schema
    ) -> list[FileScanTask]:
        """Return the files of the manifests whose partition summaries allow a match."""
        if self._files is not None or condition is None:
            return self.tasks()
        from pyiceberg.manifest import ManifestContent

        specs, iceberg = self.table.specs(), self._iceberg_schema()
        manifests = self._all_manifests()
        data = [m for m in manifests if m.content == ManifestContent.DATA]
        fragments: list[Any] = [
            _PARQUET.make_fragment(
                str(index),
                filesystem=_NOWHERE,
                partition_expression=_of_manifest(manifest, specs, iceberg, mentioned),
            )
            for index, manifest in enumerate(data)
        ]
        possible: Any = _dataset(fragments, schema).get_fragments(condition)
        kept = [data[int(fragment.path)] for fragment in possible]
        if not kept:
            return []
        return self._plan_files([*kept, *(m for m in manifests if m not in data)])

    def _all_manifests(self) -> list[ManifestFile]:
        if self._manifests is None:
            table = self.table
            snapshot = (
                table.current_snapshot()
                if self._snapshot_id is None
                else table.snapshot_by_id(self._snapshot_id)
            )
            self._manifests = snapshot.manifests(table.io) if snapshot is not None else []
        return self._manifests

    def _plan_files(self, manifests: list[ManifestFile]) -> list[FileScanTask]:
        from pyiceberg.table import ManifestGroupPlanner

        planner = ManifestGroupPlanner(self.table.metadata, self.table.io)
        return list(planner.plan_files(manifests))

    def _mentioned(self, condition: pc.Expression | None) -> set[str]:
        """Return the columns that a filter names, possibly more."""
        if condition is None:
            return set()
        try:
            text = str(condition)
        except UnicodeDecodeError:
            # Arrow cuts a long list after 100 bytes, even within a character.
            return set(self.schema.names)
        return {
            name
            for name in self.schema.names
            if name in text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
        }

    # pyarrow implements these in C++ on a dataset that this object does not have.
    def _unsupported(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("an Iceberg TableDataset is read through scanner() only")

    get_fragments = replace_schema = filter = join = join_asof = sort_by = _unsupported
    _get_fragments = _scanner_options = _unsupported

    @property
    def partition_expression(self) -> NoReturn:
        """Not supported: each file has its own expression."""
        self._unsupported()


@dataclass(frozen=True)
class _Plan:
    fast: ds.FileSystemDataset
    slow: list[FileScanTask]


class _Scan:
    """A scan of which PyIceberg reads the slow files (with deletes, renamed columns)."""

    def __init__(
        self,
        dataset: TableDataset,
        plan: _Plan,
        columns: Any,
        condition: pc.Expression | None,
        options: dict[str, Any],
    ) -> None:
        self._dataset, self._plan = dataset, plan
        self._how = {"columns": columns, "filter": condition, **options}
        self._read = self._needed(columns, condition)

    @property
    def projected_schema(self) -> pa.Schema:
        """The schema of the result."""
        return self._plan.fast.scanner(**self._how).projected_schema

    def to_reader(self) -> pa.RecordBatchReader:
        """Return the matching rows as a stream of batches."""
        # Scanner.from_batches deadlocks over a generator when eight threads read.
        return pa.RecordBatchReader.from_batches(self.projected_schema, self.to_batches())

    def to_table(self) -> pa.Table:
        """Return the matching rows in memory."""
        return self.to_reader().read_all()

    def head(self, num_rows: int) -> pa.Table:
        """Return some rows, in no particular order."""
        taken, rows = [], 0
        for batch in self.to_batches():
            taken.append(batch.slice(0, num_rows - rows))
            rows += taken[-1].num_rows
            if rows >= num_rows:
                break
        return pa.Table.from_batches(taken, self.projected_schema)

    def count_rows(self) -> int:
        """Return the number of matching rows."""
        return sum(batch.num_rows for batch in self.to_batches())

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the matching rows."""
        yield from self._plan.fast.scanner(**(_AHEAD | self._how)).to_batches()
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        from ingestion_platform.warehouse.pyiceberg_private import read_with_deletes

        projected = self._dataset._iceberg_schema().select(*self._read)
        schema = schema_to_pyarrow(projected, include_field_ids=False)
        for batch in read_with_deletes(self._dataset.table, projected, self._plan.slow):
            rows = pa.Table.from_batches([batch]).cast(schema)
            yield from ds.dataset(rows).scanner(**self._how).to_batches()

    def _needed(self, columns: Any, condition: pc.Expression | None) -> list[str]:
        """Return the columns to read: the requested ones and those of the filter."""
        names = list(self._dataset.schema.names)
        if columns is None or isinstance(columns, dict):
            return names
        wanted = set(columns) | self._dataset._mentioned(condition)
        # A scan without columns counts rows, and still has to read one column.
        return [name for name in names if name in wanted] or names[:1]


@dataclass(frozen=True)
class _Located:
    """Arrow's file system of some files, and the path of each on it (None: on another one)."""

    filesystem: pafs.FileSystem
    root: tuple[str, str] | None = None
    paths: list[str | None] = field(default_factory=list)

    @classmethod
    def of(cls, io: FileIO, locations: Sequence[str]) -> _Located:
        from pyiceberg.io.pyarrow import PyArrowFileIO

        if not locations or not isinstance(io, PyArrowFileIO):
            return cls(_NOWHERE, None, [None] * len(locations))
        parsed = [io.parse_location(location, io.properties) for location in locations]
        scheme, netloc, _ = parsed[0]
        paths = [path if (s, n) == (scheme, netloc) else None for s, n, path in parsed]
        return cls(io.fs_by_scheme(scheme, netloc), (scheme, netloc), paths)

    def holds(self, location: str) -> bool:
        from pyiceberg.io.pyarrow import PyArrowFileIO

        return self.root is not None and PyArrowFileIO.parse_location(location)[:2] == self.root


_NOWHERE = pafs.LocalFileSystem()


def _dataset(
    fragments: list[Any], schema: pa.Schema, filesystem: pafs.FileSystem = _NOWHERE
) -> ds.FileSystemDataset:
    return ds.FileSystemDataset(fragments, schema, _PARQUET, filesystem)


def _names_identify_columns(metadata: TableMetadata) -> bool:
    """Return whether every column name always had the same field id.

    Then reading by name (Arrow) equals reading by field id (Iceberg).
    """
    ids: dict[str, int] = {}
    names: dict[int, str] = {}
    for schema in metadata.schemas:
        for field_id in schema.field_ids:
            name = schema.find_column_name(field_id) or ""
            if ids.setdefault(name, field_id) != field_id:
                return False
            if names.setdefault(field_id, name) != name:
                return False
    return True


def _has_present_names(fragment: Any, present: dict[str, bytes]) -> bool:
    """Return whether a file's columns have the table's present names, by its footer.

    So files written after a rename are still read by Arrow alone.
    """
    paths = _paths(fragment.physical_schema)
    names = {number: path for path, number in present.items()}
    return all(
        present.get(path, number) == number and names.get(number, path) == path
        for path, number in paths.items()
    )


def _paths(schema: pa.Schema) -> dict[str, bytes]:
    """Return the field id of each column by its path of names."""
    ids: dict[str, bytes] = {}
    pending = [("", column) for column in schema]
    while pending:
        parent, column = pending.pop()
        path = f"{parent}.{column.name}"
        ids[path] = (column.metadata or {}).get(b"PARQUET:field_id", b"")
        kind = column.type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        if pa.types.is_map(kind):
            pending += [(path, kind.key_field), (path, kind.item_field)]
        if pa.types.is_struct(kind):
            pending += [(path, kind.field(i)) for i in range(kind.num_fields)]
    return ids


def _of_file(
    file: DataFile, specs: dict[int, Any], schema: Schema, mentioned: Iterable[str]
) -> pc.Expression:
    """Return what holds for every row of a file: partition values and column bounds."""
    known: list[pc.Expression | None] = []
    partition = _identities(specs[file.spec_id])
    for name in mentioned:
        column = schema.find_field(name)
        if not column.field_type.is_primitive:
            continue
        if column.field_id in partition:
            value = file.partition[partition[column.field_id]]
            known.append(_equals(name, column.field_type, value))
            continue
        nulls = (file.null_value_counts or {}).get(column.field_id)
        if nulls is not None and nulls == file.record_count:
            known.append(pc.field(name).is_null())
            continue
        lower = (file.lower_bounds or {}).get(column.field_id)
        upper = (file.upper_bounds or {}).get(column.field_id)
        known.append(_between(name, column.field_type, lower, upper, nullable=nulls != 0))
    return _all(known)


def _of_manifest(
    manifest: ManifestFile, specs: dict[int, Any], schema: Schema, mentioned: Iterable[str]
) -> pc.Expression:
    """Return what holds for every row of a manifest, by its partition summaries."""
    known: list[pc.Expression | None] = []
    partition = _identities(specs[manifest.partition_spec_id])
    for name in mentioned:
        column = schema.find_field(name)
        if column.field_id not in partition or not manifest.partitions:
            continue
        summary = manifest.partitions[partition[column.field_id]]
        lower, upper = summary.lower_bound, summary.upper_bound
        if lower is None and upper is None and summary.contains_null:
            known.append(pc.field(name).is_null())
        else:
            nullable = summary.contains_null
            known.append(_between(name, column.field_type, lower, upper, nullable=nullable))
    return _all(known)


def _identities(spec: Any) -> dict[int, int]:
    """Return the index in the partition record of each identity field, by source column id."""
    from pyiceberg.transforms import IdentityTransform

    return {
        f.source_id: index
        for index, f in enumerate(spec.fields)
        if isinstance(f.transform, IdentityTransform)
    }


def _equals(name: str, kind: Any, value: Any) -> pc.Expression | None:
    if value is None:
        return pc.field(name).is_null()
    literal = _literal(kind, value)
    return None if literal is None else pc.field(name) == literal


def _between(
    name: str, kind: Any, lower: bytes | None, upper: bytes | None, *, nullable: bool
) -> pc.Expression | None:
    from pyiceberg.conversions import from_bytes

    bounds = []
    if lower is not None and (low := _literal(kind, from_bytes(kind, lower))) is not None:
        bounds.append(pc.field(name) >= low)
    if upper is not None and (high := _literal(kind, from_bytes(kind, upper))) is not None:
        bounds.append(pc.field(name) <= high)
    if not bounds:
        return None
    if nullable:
        # On each bound: Arrow cannot prune by "(low and high) or null".
        bounds = [bound | pc.field(name).is_null() for bound in bounds]
    return reduce(and_, bounds)


def _literal(kind: Any, value: Any) -> Any:
    """Return an Iceberg value for Arrow; None for types whose bounds cannot be compared."""
    from pyiceberg import types as t
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    # Bounds of floats leave out NaN.
    comparable = (
        t.BooleanType,
        t.IntegerType,
        t.LongType,
        t.DateType,
        t.TimestampType,
        t.TimestamptzType,
        t.StringType,
        t.DecimalType,
    )
    if not isinstance(kind, comparable):
        return None
    return pa.scalar(value, type=schema_to_pyarrow(kind))


def _all(known: Iterable[pc.Expression | None]) -> pc.Expression:
    conditions = [condition for condition in known if condition is not None]
    return reduce(and_, conditions) if conditions else pc.scalar(True)
