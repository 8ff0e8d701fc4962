"""Evolve a table to its contract's schema and partitions.

The plan is a function of the table's metadata and the contract; one Iceberg commit of metadata
applies it. No data file changes: readers use field ids, and each file keeps its partition spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Contract, Field
from ingestion_platform.contract.problems import Problems
from ingestion_platform.contract.schemas import iceberg_schema
from ingestion_platform.errors import CatalogUnavailable
from ingestion_platform.retries import COMMIT, retry
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import too_many_conflicts

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.types import IcebergType, ListType, NestedField, StructType

VERSION = "ingestion.contract-version"
"""Table property with the version of the contract that changed the table last."""

_DOTTED = re.compile(r"\d+(\.\d+)*")


@dataclass(frozen=True, slots=True)
class Step:
    """One change of a table.

    `kind` is add, widen, rename, optional, describe or partition; `column` is the dotted path of
    names in the contract, empty for partition.
    """

    kind: str
    column: str
    before: str
    after: str

    def __str__(self) -> str:
        match self.kind:
            case "add":
                return f"add {self.column} ({self.after})"
            case "rename":
                return f"rename {self.before} to {self.column}"
            case "describe":
                return f"describe {self.column}: {self.after}"
            case "partition":
                return f"partition by {self.after} from now on (was: {self.before})"
            case "optional":
                return f"let {self.column} be null"
            case _:
                return f"widen {self.column} from {self.before} to {self.after}"


def plan(table: Table, contract: Contract) -> tuple[Step, ...]:
    """Return what the next load would change in a bronze table, without changing it.

    Raises:
        ContractProblems: with every change that would lose data or contradict the table.
    """
    return tuple(_target(table.metadata, contract).steps)


def evolve(catalog: Catalog, table: Table, contract: Contract) -> Table:
    """Evolve a table to its contract and return it.

    Raises:
        ContractProblems: as `plan`; nothing was changed.
        CatalogUnavailable: the catalog does not answer, or there were too many commit conflicts.
    """
    from pyiceberg.exceptions import CommitFailedException

    latest = table

    def attempt() -> Table:
        nonlocal latest
        with answering():
            target = _target(latest.metadata, contract)
            if not target.steps:
                return latest
            try:
                with latest.transaction() as transaction:
                    _stage(transaction, target, contract)
            except CommitFailedException:
                latest = catalog.load_table(latest.name())
                raise
            return latest

    name = ".".join(table.name())
    return retry(
        attempt,
        COMMIT,
        CommitFailedException,
        gave_up=lambda _: too_many_conflicts(CatalogUnavailable, name),
    )


def widens(narrow: IcebergType, wide: IcebergType) -> bool:
    """Return whether Iceberg reads files of type `narrow` as the different type `wide`."""
    from pyiceberg import types as t

    if isinstance(narrow, t.DecimalType) and isinstance(wide, t.DecimalType):
        return bool(narrow.scale == wide.scale and narrow.precision < wide.precision)
    return (isinstance(narrow, t.IntegerType) and isinstance(wide, t.LongType)) or (
        isinstance(narrow, t.FloatType) and isinstance(wide, t.DoubleType)
    )


@dataclass(frozen=True)
class _Target:
    """A table's target schema, the source ids of its partitions, and the steps to them."""

    schema: Schema
    partitions: Sequence[int]
    steps: Sequence[Step]


def _target(metadata: TableMetadata, contract: Contract) -> _Target:
    from pyiceberg.schema import Schema

    merge = _Merge(metadata, contract)
    present = metadata.schema()
    struct = merge.struct(
        present.as_struct(), iceberg_schema(contract).as_struct(), contract.fields, ()
    )
    merge.problems.raise_if_any()
    schema = Schema(
        *struct.fields,
        schema_id=1 + max(known.schema_id for known in metadata.schemas),
        identifier_field_ids=present.identifier_field_ids,
    )
    names = contract.partition_by or (c.INGEST_DATE,)
    partitions = [schema.find_field(name).field_id for name in names]
    if not merge.older:
        merge.steps.extend(_repartition(metadata, schema, partitions))
    return _Target(schema, partitions, merge.steps)


def _repartition(metadata: TableMetadata, schema: Schema, wanted: Sequence[int]) -> Iterable[Step]:
    from pyiceberg.transforms import IdentityTransform

    spec = metadata.spec()
    present = {f.source_id for f in spec.fields if isinstance(f.transform, IdentityTransform)}
    # Readers ignore the order of partition fields.
    if present == set(wanted) and len(spec.fields) == len(wanted):
        return
    before = [_partition_name(schema, f.source_id, str(f.transform)) for f in spec.fields]
    after = [schema.find_field(source).name for source in wanted]
    yield Step("partition", "", ", ".join(before) or "nothing", ", ".join(after))


def _partition_name(schema: Schema, source: int, transform: str) -> str:
    name = schema.find_column_name(source) or f"field {source}"
    return name if transform == "identity" else f"{transform}({name})"


def _stage(transaction: Transaction, target: _Target, contract: Contract) -> None:
    """Stage the whole change in one commit."""
    from ingestion_platform.warehouse.pyiceberg_private import set_schema

    set_schema(transaction, target.schema)
    if any(step.kind == "partition" for step in target.steps):
        _stage_partitions(transaction, target)
    transaction.set_properties({VERSION: contract.version})


def _stage_partitions(transaction: Transaction, target: _Target) -> None:
    from pyiceberg.transforms import IdentityTransform

    present = {}
    with transaction.update_spec() as update:
        for each in transaction.table_metadata.spec().fields:
            if each.source_id in target.partitions and isinstance(
                each.transform, IdentityTransform
            ):
                present[each.source_id] = each
            else:
                update.remove_field(each.name)
        for source in target.partitions:
            if source not in present:
                update.add_identity(target.schema.find_field(source).name)


@dataclass
class _Merge:
    """Merges a contract's schema into a table's, and collects steps and problems."""

    metadata: TableMetadata
    contract: Contract
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.problems = Problems(self.contract.file)
        self.older = _older(self.contract.version, self.metadata.properties.get(VERSION, ""))
        self._ids = count(self.metadata.last_column_id + 1)
        self._past = _Past.of(self.metadata)

    def struct(
        self, have: StructType, want: StructType, fields: Iterable[Field], at: tuple[str, ...]
    ) -> StructType:
        """Return all columns of the table in their order, new ones at the contract's place."""
        from pyiceberg.types import StructType

        described = {f.name: f for f in fields}
        merged = list(have.fields)
        place = 0
        for wanted in want.fields:
            each = described.get(wanted.name)
            path = (*at, wanted.name)
            old = self._present(merged, wanted, each, path)
            if old is None:
                merged.insert(place, self._new(wanted, path))
            else:
                place = merged.index(old)
                merged[place] = self._changed(old, wanted, each, path)
            place += 1
        return StructType(*merged)

    def _present(
        self,
        columns: Sequence[NestedField],
        wanted: NestedField,
        each: Field | None,
        path: tuple[str, ...],
    ) -> NestedField | None:
        """Return the table's column of a contract field, by its name or a previous one."""
        by_name = {f.name: f for f in columns}
        found = by_name.get(wanted.name)
        previous = each.previous_names if each is not None else ()
        former = [by_name[name] for name in previous if name in by_name]
        if found is not None:
            if former and not self._past.had(found.field_id, former[0].name):
                self._reject(
                    path,
                    f"has the previous name {former[0].name}, but the table has both columns",
                    f"remove `previousNames` to write {wanted.name} beside {former[0].name},"
                    " or choose an unused name",
                )
            return found
        if former:
            if len(former) > 1:
                both = " and ".join(f.name for f in former)
                self._reject(path, f"the table has {both}", "keep one of them in `previousNames`")
            if self.older:
                self._reject(path, f"the table calls it {former[0].name}", "raise the version")
            self.steps.append(Step("rename", ".".join(path), former[0].name, wanted.name))
            return former[0]
        self._check_free(by_name, wanted, path)
        return None

    def _check_free(
        self, by_name: Mapping[str, NestedField], wanted: NestedField, path: tuple[str, ...]
    ) -> None:
        """Reject the name of a new column if the table uses or used it otherwise."""
        for name in by_name:
            if name.lower() == wanted.name.lower():
                self._reject(
                    path,
                    f"the table has {name}, which most engines treat as the same name",
                    f"write `{name}`, or rename it with `previousNames: [{name}]`",
                )
        now = self._past.renamed(".".join(path))
        if now is not None:
            self._reject(
                path,
                f"the table has renamed this column to {now}",
                f"write `{now}`, rename it back with `previousNames: [{now}]`, or choose an "
                "unused name",
            )
        dropped = self._past.dropped(".".join(path))
        if dropped is not None and _shown(dropped) != _shown(wanted.field_type):
            self._reject(
                path,
                f"is {_shown(wanted.field_type)}, but a dropped column of that name was "
                f"{_shown(dropped)}",
                f"choose an unused name, or make it {_shown(dropped)}",
            )

    def _new(self, wanted: NestedField, path: tuple[str, ...]) -> NestedField:
        from pyiceberg.schema import assign_fresh_schema_ids
        from pyiceberg.types import NestedField

        self.steps.append(Step("add", ".".join(path), "", _shown(wanted.field_type)))
        number = next(self._ids)
        kind = assign_fresh_schema_ids(wanted.field_type, lambda: next(self._ids))
        return NestedField(number, wanted.name, kind, required=False, doc=wanted.doc)

    def _changed(
        self, old: NestedField, wanted: NestedField, each: Field | None, path: tuple[str, ...]
    ) -> NestedField:
        """Return a column changed as the contract says, with the same field id."""
        from pyiceberg.types import NestedField

        kind = self._type(old.field_type, wanted.field_type, each, path)
        doc = old.doc
        if wanted.doc is not None and wanted.doc != old.doc and not self.older:
            self.steps.append(Step("describe", ".".join(path), old.doc or "", wanted.doc))
            doc = wanted.doc
        if old.required:
            self.steps.append(Step("optional", ".".join(path), "required", "optional"))
        return NestedField(old.field_id, wanted.name, kind, required=False, doc=doc)

    def _type(
        self, have: IcebergType, want: IcebergType, each: Field | None, path: tuple[str, ...]
    ) -> IcebergType:
        from pyiceberg.types import ListType, StructType

        if isinstance(have, StructType) and isinstance(want, StructType):
            return self.struct(have, want, each.fields if each is not None else (), path)
        if isinstance(have, ListType) and isinstance(want, ListType):
            return self._list(have, want, each, path)
        if have == want:
            return have
        if widens(have, want):
            self.steps.append(Step("widen", ".".join(path), _shown(have), _shown(want)))
            return want
        # An older contract may still load: its values fit the wider column.
        if not (self.older and widens(want, have)):
            self._reject(
                path,
                f"is {_shown(want)} in the contract, but {_shown(have)} in the table",
                _way_out(have, want, path[-1]),
            )
        return have

    def _list(
        self, have: ListType, want: ListType, each: Field | None, path: tuple[str, ...]
    ) -> ListType:
        from pyiceberg.types import ListType

        item = each.item if each is not None else None
        path = (*path, "element")
        if have.element_required:
            self.steps.append(Step("optional", ".".join(path), "required", "optional"))
        kind = self._type(have.element_type, want.element_type, item, path)
        return ListType(have.element_id, kind, element_required=False)

    def _reject(self, path: tuple[str, ...], problem: str, action: str) -> None:
        if self.older:
            newest = self.metadata.properties[VERSION]
            action = (
                f"this contract is version {self.contract.version}, but version {newest} has "
                f"changed the table: use that version; or {action}"
            )
        self.problems.add(f"property {'.'.join(path)}", problem, action=action)


@dataclass(frozen=True)
class _Past:
    """The former names and types of a table's columns, from all schemas in its metadata."""

    names: Mapping[int, frozenset[str]]
    types: Mapping[str, tuple[int, IcebergType]]
    present: Mapping[int, str]

    @classmethod
    def of(cls, metadata: TableMetadata) -> _Past:
        names: dict[int, set[str]] = {}
        types: dict[str, tuple[int, IcebergType]] = {}
        for schema in sorted(metadata.schemas, key=lambda schema: schema.schema_id):
            for number in schema.field_ids:
                path = schema.find_column_name(number) or ""
                names.setdefault(number, set()).add(path)
                types[path] = number, schema.find_field(number).field_type
        current = metadata.schema()
        present = {n: current.find_column_name(n) or "" for n in current.field_ids}
        return cls({n: frozenset(paths) for n, paths in names.items()}, types, present)

    def had(self, number: int, name: str) -> bool:
        """Return whether a column ever had this name."""
        return any(path.rpartition(".")[2] == name for path in self.names.get(number, ()))

    def renamed(self, path: str) -> str | None:
        """Return the present name of the column that once had this path; None if it is gone."""
        number = self.types[path][0] if path in self.types else None
        now = self.present.get(number) if number is not None else None
        return None if now is None else now.rpartition(".")[2]

    def dropped(self, path: str) -> IcebergType | None:
        """Return the type of the dropped column that once had this path."""
        number, kind = self.types.get(path, (None, None))
        return None if number is None or number in self.present else kind


def _older(version: str, than: str) -> bool:
    """Return whether a version is lower; False if one of them is not dotted numbers."""
    if not (_DOTTED.fullmatch(version) and _DOTTED.fullmatch(than)):
        return False
    first, second = ([int(part) for part in text.split(".")] for text in (version, than))
    return first < second


def _shown(kind: IcebergType) -> str:
    """Return a short name of a type: `long`, `decimal(12,2)`, `struct`, `list<string>`."""
    from pyiceberg.types import ListType, StructType

    if isinstance(kind, StructType):
        return "struct"
    if isinstance(kind, ListType):
        return f"list<{_shown(kind.element_type)}>"
    return str(kind).replace(", ", ",")


def _way_out(have: IcebergType, want: IcebergType, name: str) -> str:
    from pyiceberg.types import DecimalType

    beside = f"add a column under a new name and remove {name} from the contract"
    table = "or write to a new table (`physicalName` of the schema)"
    if widens(want, have):
        return f"keep {_physical(have)}: every {_shown(want)} fits; {table}"
    if isinstance(have, DecimalType) and isinstance(want, DecimalType):
        wider = DecimalType(max(have.precision, want.precision), have.scale)
        return f"keep the scale, for example {_physical(wider)}; or {beside}; {table}"
    return f"{beside}; {table}"


def _physical(kind: IcebergType) -> str:
    """Return the contract's notation of a type."""
    shown = _shown(kind)
    return f"`physicalType: {'bigint' if shown == 'long' else shown}`"
