"""Interface of a sink: the shape and the rows that it is given, and the `Target` it implements.

What is delivered, and when, is decided in `deliver`; how it is stored, in each sink.
"""

from __future__ import annotations

import base64
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract import columns as c
from ingestion_platform.errors import Permanent, WriteConflict
from ingestion_platform.sinks.text import json_row

if TYPE_CHECKING:
    from ingestion_platform.sinks.evolution import Evolution
    from ingestion_platform.warehouse.committed import Span

ORDINAL: Final = "_ordinal"
DELIVERY: Final = "_delivery"
ORDER: Final = (c.INGEST_DATE, c.PARTITION, ORDINAL, c.OFFSET)
"""Columns that decide which of two rows of a key is newer, compared from left to right. Within a
log partition this is the order of the log; across partitions, the order of silver models."""
ORIGIN: Final = (*ORDER, c.TOPIC_ID, DELIVERY)
"""Columns that every delivered row has after its own: its place in the log, and the delivery that
wrote it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A delivered column; `number` is its Iceberg field id, which survives a rename."""

    name: str
    type: pa.DataType
    number: int
    json: bool = False
    """Whether a string holds JSON text."""
    description: str = ""


ORIGIN_COLUMNS: Final = (
    Column(c.INGEST_DATE, pa.date32(), 0, False, "UTC day of the record in its log"),
    Column(c.PARTITION, pa.int32(), 0, False, "partition of the log; 0 for a row of a model"),
    Column(ORDINAL, pa.int32(), 0, False, "number of the topic id in its log partition"),
    Column(c.OFFSET, pa.int64(), 0, False, "offset; of a model, the number of the snapshot"),
    Column(c.TOPIC_ID, pa.string(), 0, False, "topic id; of a model, the id of its table"),
    Column(DELIVERY, pa.string(), 0, False, "the delivery that wrote the row"),
)
"""The columns of ORIGIN; none is null."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Columns (without those of ORIGIN) and key of what is delivered.

    The key names columns. Rows without a key are told apart by their place in the log:
    (`_topic_id`, `_partition`, `_offset`).
    """

    source: str
    """The delivered table, as namespace.name."""
    identity: str
    """Its uuid: column numbers are only comparable within one table."""
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    description: str = ""

    def schema(self) -> pa.Schema:
        """Return the schema of a change's rows: the columns, then those of ORIGIN."""
        return pa.schema([(o.name, o.type) for o in (*self.columns, *ORIGIN_COLUMNS)])

    def key_schema(self) -> pa.Schema:
        """Return the schema of the key columns."""
        return _selected(self.schema(), self.key)

    def place_schema(self) -> pa.Schema:
        """Return the schema of the key columns and those of ORIGIN."""
        return _selected(self.schema(), (*self.key, *ORIGIN))

    def to_json(self) -> str:
        """Return the shape as text, for the state of a target."""
        types = pa.schema([(column.name, column.type) for column in self.columns])
        columns = [(o.name, o.number, o.json, o.description) for o in self.columns]
        given = {n: getattr(self, n) for n in ("source", "identity", "key", "description")}
        encoded = base64.b64encode(types.serialize()).decode("ascii")
        return json.dumps({**given, "columns": columns, "types": encoded})

    @classmethod
    def from_json(cls, text: str) -> Shape:
        """Return the shape that `to_json` has written."""
        given = json.loads(text)
        types = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(given.pop("types"))))
        columns = tuple(
            Column(name, kind, *rest)
            for kind, (name, *rest) in zip(types.types, given.pop("columns"), strict=True)
        )
        return cls(**{**given, "key": tuple(given["key"])}, columns=columns)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a row is rejected: a code to group by, and a message for people."""

    code: str
    """Condition of a SQLSTATE (`check_violation`), error type of Elasticsearch, `null_in_key`."""
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that a target does not accept; `row` has the columns of `Shape.schema`."""

    row: dict[str, Any]
    reason: Reason


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row in the quarantine of a target."""

    topic_id: str
    partition: int
    offset: int
    digest: str
    """Hash of the key: the rows of a model have the same place."""
    code: str
    message: str
    row: str
    """The row as JSON text."""
    delivery: str
    rejected_at: str


REJECTED_COLUMNS: Final = (
    *(c.TOPIC_ID, c.PARTITION, c.OFFSET, "digest", "code", "message", "row", DELIVERY),
    "rejected_at",
)
"""Names of the fields of Rejected in the quarantine of a target."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a log partition that lie in a span; all rows without a span."""

    partition: int = 0
    span: Span | None = None

    def filter(self) -> pc.Expression:
        """Return the condition on the columns of ORIGIN."""
        if self.span is None:
            return pc.scalar(True)
        offset = pc.field(c.OFFSET)
        return (
            (pc.field(c.PARTITION) == pa.scalar(self.partition, pa.int32()))
            & (pc.field(c.TOPIC_ID) == self.span.topic_id)
            & (offset >= self.span.start)
            & (offset < self.span.end)
        )

    def contains(self, row: Rejected) -> bool:
        """Return whether a rejected row lies in the part."""
        if self.span is None:
            return True
        same = (row.partition, row.topic_id) == (self.partition, self.span.topic_id)
        return same and self.span.start <= row.offset < self.span.end


@dataclass(frozen=True, slots=True)
class Change:
    """Rows to write and keys to delete in one step; a key is at most once in either of the two.

    The target must be at position `base`, and is at `position` afterwards. An upsert does not
    replace a row that is newer by ORDER, unless it is `forced`. `rejected` rows go to the
    quarantine of the target. Of the `settled` parts, rejected rows of other deliveries leave it.
    """

    upserts: pa.Table
    """Of `Shape.schema`."""
    deletes: pa.Table
    """Of `Shape.key_schema`."""
    base: str
    position: str
    delivery: str
    forced: bool = False
    rejected: Sequence[Rejection] = ()
    settled: Sequence[Part] = ()

    def quarantined(self, key: Sequence[str]) -> list[Rejected]:
        """Return the entries of the rejected rows, at most one per place and key."""
        at = datetime.now(UTC).isoformat()
        entries = {}
        for each in self.rejected:
            row = each.row
            place = (row[c.TOPIC_ID], row[c.PARTITION], row[c.OFFSET])
            text = json_row({name: row[name] for name in key})
            digest = hashlib.md5(text.encode(errors="surrogatepass")).hexdigest()
            reason = (each.reason.code, each.reason.message)
            entries[*place, digest] = Rejected(
                *place, digest, *reason, json_row(row), row[DELIVERY], at
            )
        return list(entries.values())


@dataclass(frozen=True, slots=True)
class Applied:
    """Result of a change.

    With `rejected` rows (by their numbers in `upserts`) nothing has moved: the change has to be
    made again without them.
    """

    upserted: int = 0
    deleted: int = 0
    rejected: dict[int, Reason] = field(default_factory=dict)


class State(Protocol):
    """What a target stores about itself."""

    @property
    def shape(self) -> Shape:
        """What it can hold, see `Target.stored_column`."""

    @property
    def position(self) -> str:
        """Position of the last change, "" before the first."""


S = TypeVar("S", bound=State)


class Target(ABC, Generic[S]):
    """One table, index or folder of a sink; a context manager, not thread-safe.

    A sink implements the abstract methods. Every method may raise SinkUnavailable (try again
    later) and Permanent (a person must act); `apply` and `ensure` also WriteConflict.
    """

    kind: ClassVar[str]
    """What it is, for messages: table, index, folder."""
    atomic: ClassVar[bool] = True
    """Whether rows and position move in one step. If not, a delivery that dies may leave rows
    that the position does not cover: the delivery therefore marks a range as unfinished before it
    writes rows, and the next delivery replaces the range."""

    shape: Shape
    """The shape that the rows of changes have; known after `ensure`."""
    stored: Shape
    """The shape that the target holds: wider types, and columns the source no longer has."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Self:
        with self.errors():
            self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    # What deliveries call.

    def ensure(self, shape: Shape) -> None:
        """Create the target, or add, widen and rename columns; no row changes.

        Raises:
            Permanent: that would lose data, or something is there that no delivery has made.
        """
        with self.errors():
            want = replace(shape, columns=tuple(map(self.stored_column, shape.columns)))
            with self.shape_lock():
                state = self.read_state()
                state = self.create(want) if state is None else self._follow(state, want)
            self.shape, self.stored = shape, state.shape
            self.prepare(state)

    def position(self) -> str:
        """Return the position of the last change, "" before the first; also before `ensure`."""
        with self.errors():
            state = self.read_state()
            return "" if state is None else state.position

    def apply(self, change: Change) -> Applied:
        """Make a change: completely, or so that making it again completes it.

        The position is never ahead of the rows. Rows that the target cannot hold are returned,
        all of them at once.

        Raises:
            WriteConflict: the target is not at `change.base`; another delivery has moved it.
        """
        with self.errors():
            return self.write(change)

    def held(self, part: Part | None = None, *, without: str = "") -> Iterator[pa.Table]:
        """Yield the rows of `Shape.place_schema` in tables of bounded size.

        Only the rows of a part, and none that the delivery `without` has written.
        """
        with self.errors():
            yield from self.scan(part or Part(), without)

    def rows(self) -> int:
        """Count the rows; 0 before the first `ensure`."""
        with self.errors():
            state = self.read_state()
            return 0 if state is None else self.count(state)

    def rejections(self, limit: int) -> list[Rejected]:
        """Return the rows in quarantine, newest first."""
        with self.errors():
            state = self.read_state()
            return [] if state is None else self.read_rejected(state, limit)

    # What a sink implements.

    def errors(self) -> AbstractContextManager[None]:
        """Turn the errors of the client into those of the platform, without secrets."""
        return nullcontext()

    def connect(self) -> None:
        """Open connections."""

    def close(self, *, failed: bool) -> None:
        """Close them; `failed` says that an exception ends the use of the target."""

    def shape_lock(self) -> AbstractContextManager[None]:
        """Keep other deliveries from creating or evolving the target; optional."""
        return nullcontext()

    def stored_column(self, column: Column) -> Column:
        """Return a column with the type that the target distinguishes.

        Raises:
            Permanent: the target cannot hold a column of that name.
        """
        return column

    @abstractmethod
    def read_state(self) -> S | None:
        """Return what the target stores about itself, None when it does not exist."""

    @abstractmethod
    def create(self, shape: Shape) -> S:
        """Create the target, empty and at position ""."""

    @abstractmethod
    def evolve(self, state: S, evolution: Evolution) -> S:
        """Bring the target to `evolution.after`; the position stays."""

    def prepare(self, state: S) -> None:
        """Prepare for changes, after `create` or `evolve`."""

    @abstractmethod
    def write(self, change: Change) -> Applied:
        """Make a change, see `apply`."""

    @abstractmethod
    def scan(self, part: Part, without: str) -> Iterator[pa.Table]:
        """Yield rows, see `held`."""

    @abstractmethod
    def count(self, state: S) -> int:
        """Count the rows."""

    @abstractmethod
    def read_rejected(self, state: S, limit: int) -> list[Rejected]:
        """Return the rows in quarantine, newest first."""

    def _follow(self, state: S, want: Shape) -> S:
        from ingestion_platform.sinks.evolution import plan

        evolution = plan(state.shape, want)
        if evolution.conflicts:
            raise Permanent(
                f"{self.name}: the {self.kind} cannot follow {want.source}: "
                f"{'; '.join(evolution.conflicts)}",
                action=f"deliver to another {self.kind}, or drop this one: the next delivery "
                "creates it again",
            )
        return self.evolve(state, evolution) if evolution.changed else state

    # What sinks use.

    def conflict(self) -> WriteConflict:
        """Return the error for a target that another delivery has changed."""
        return WriteConflict(
            f"{self.name}: another delivery has changed the {self.kind}",
            action="read its position again and go on from there",
        )

    def foreign(self) -> Permanent:
        """Return the error for something that is there and was not made by a delivery."""
        return Permanent(
            f"{self.name}: the {self.kind} exists, and no delivery has made it",
            action=f"deliver to another {self.kind}, or drop this one",
        )


def _selected(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in dict.fromkeys(names)])
