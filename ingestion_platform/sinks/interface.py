"""What a sink is: a target that takes rows by key together with the position they bring it to.

Plain data on one side (`Shape`, `Change`), the `Target` protocol on the other. What is delivered,
and when, is `deliver`'s; how it is kept, each sink's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from ingestion_platform.contract import columns as c

if TYPE_CHECKING:
    import pyarrow as pa

    from ingestion_platform.warehouse.committed import Span

ORDINAL: Final = "_ordinal"
DELIVERY: Final = "_delivery"
ORDER: Final = (c.INGEST_DATE, c.PARTITION, ORDINAL, c.OFFSET)
"""Which of two rows of a key is the newer one: compared from left to right. Within a log partition
it is the order of the log; between log partitions, the one that silver models use."""
ORIGIN: Final = (*ORDER, c.TOPIC_ID, DELIVERY)
"""The columns that every delivered row has behind its own: where it is from, and the delivery
that wrote it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of what is delivered; `number` is its Iceberg field id, which a rename keeps."""

    name: str
    type: pa.DataType
    number: int
    json: bool = False
    """Whether a string holds JSON text."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a target must be able to hold: columns (those of ORIGIN not among them) and the key.

    The key names columns, or, for rows that have none, their place in the log:
    (`_topic_id`, `_partition`, `_offset`).
    """

    source: str
    """The table that is delivered, as namespace.name."""
    identity: str
    """Of that table (its uuid): the numbers of columns mean something within it only."""
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    description: str = ""

    def schema(self) -> pa.Schema:
        """The rows of a `Change`: the columns, then those of ORIGIN."""
        import pyarrow as pa

        own = [pa.field(column.name, column.type) for column in self.columns]
        return pa.schema([*own, *origin_fields()])

    def key_schema(self) -> pa.Schema:
        """The columns of the key alone."""
        import pyarrow as pa

        schema = self.schema()
        return pa.schema([schema.field(name) for name in self.key])


def origin_fields() -> list[pa.Field[Any]]:
    """The columns of ORIGIN in Arrow; none is null."""
    import pyarrow as pa

    types = {
        c.INGEST_DATE: pa.date32(),
        c.PARTITION: pa.int32(),
        ORDINAL: pa.int32(),
        c.OFFSET: pa.int64(),
        c.TOPIC_ID: pa.string(),
        DELIVERY: pa.string(),
    }
    return [pa.field(name, types[name]) for name in ORIGIN]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that a target does not take, and why; `row` has the columns of `Shape.schema`."""

    row: dict[str, Any]
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a log partition that lie in a span, or of all (`span` None)."""

    partition: int = 0
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a target is to do as one: of a key at most one row in `upserts` or in `deletes`.

    `base` is the position that the target must be at; then it is at `position`. An upsert gives
    way to a row that is newer by ORDER, unless it is `forced`. `rejected` rows are kept in the
    sink's quarantine; `settled` are parts whose older rejections (of other deliveries than
    `delivery`) are over.
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


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a change. With `rejected` rows (their numbers in `upserts`, and the reasons) the
    position is where it was, and the change is to be made again without them."""

    upserted: int = 0
    deleted: int = 0
    rejected: dict[int, str] = field(default_factory=dict)


class Target(Protocol):
    """One table, index or folder of a sink, opened; a context manager, not thread-safe.

    Every method may raise SinkUnavailable (try again later) and Permanent (a person must act).
    """

    atomic: bool
    """Whether rows and position move at once. Where they do not, a delivery that dies may leave
    rows that its source does not have any more when the next one comes: so the position calls a
    range unfinished before its rows are written, and the next delivery replaces it."""

    def __enter__(self) -> Target:
        """Itself, connected."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of everything."""

    def ensure(self, shape: Shape) -> None:
        """Make the target, or make it follow a changed shape; no row changes.

        Columns are added, widened and renamed. Raises Permanent when that would lose data, or when
        something is in the way that no delivery has made.
        """

    def position(self) -> str:
        """The position of the last change, "" before the first; also before `ensure`."""

    def apply(self, change: Change) -> Applied:
        """Make a change, all of it or (when interrupted) so that making it again mends it.

        The position must never be ahead of the rows. A row that the target cannot hold is told in
        the answer, and must not keep the target from finding the other ones like it at once.

        Raises:
            PositionMoved: the target is not at `change.base`: another delivery was quicker.
        """

    def held(self, part: Part | None = None, *, without: str = "") -> Iterator[pa.Table]:
        """Which rows it has: their key and ORIGIN columns, in tables of bounded size.

        Of one part only, and only those that the delivery `without` has not written.
        """

    def rows(self) -> int:
        """How many rows it has; 0 before the first `ensure`."""

    def rejections(self, limit: int) -> list[Rejected]:
        """The quarantine, newest first."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row in a sink's quarantine: its place, why it was rejected, and the row as JSON text."""

    topic_id: str
    partition: int
    offset: int
    reason: str
    row: str
    rejected_at: str
