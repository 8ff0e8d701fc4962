"""Whether a target holds what its source says: keys, and where each one's row came from, by count
and hash. Both sides are read as streams; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from ingestion_platform.contract import columns as c
from ingestion_platform.sinks import plan
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.sinks.deliver import is_current
from ingestion_platform.sinks.interface import ORDER, ORDINAL, Shape, Target, origin_fields
from ingestion_platform.sinks.source import PLACE, duckdb_in_memory, ordinals_table, shape_of
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.reading import quoted
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyiceberg.table import Table

    from ingestion_platform.platform import Platform

_MOST_REJECTED = 1_000_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Keys on both sides, rows that the target rejected, and whether the hashes agree.

    `behind` says that the source has moved on since the last delivery: then the two need not agree.
    """

    source_rows: int
    target_rows: int
    rejected: int
    agree: bool
    behind: bool

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.behind or self.agree


def compare(platform: Platform, delivery: Delivery) -> Comparison:
    """Compare a target with its source.

    Raises:
        SinkUnavailable, CatalogUnavailable: one of them does not answer.
        SettingError: the settings do not tell where the sink is.
    """
    with delivery.open(platform.settings) as target:
        table = load_or_none(platform.catalog, delivery.table)
        if table is None or table.current_snapshot() is None:
            return Comparison(0, target.rows(), 0, agree=True, behind=False)
        if not target.position():
            return Comparison(0, target.rows(), 0, agree=False, behind=True)
        contract = delivery.stream.contract if delivery.stream else None
        shape = shape_of(table, delivery.key, contract)
        behind = not is_current(table, delivery, target.position())
        target.ensure(shape)
        with duckdb_in_memory() as connection:
            rejected = _register_rejected(connection, target)
            wanted = _source(connection, table, shape, of_log=delivery.stream is not None)
            held = _held(connection, target, shape, of_log=delivery.stream is not None)
        agree = wanted == held
        if delivery.stream is None and rejected:  # they name no place of their own: by count alone
            agree = wanted[0] - rejected <= held[0] <= wanted[0]
        return Comparison(wanted[0], held[0], rejected, agree, behind)


def _register_rejected(connection: DuckDBPyConnection, target: Target) -> int:
    schema = pa.schema(field for field in origin_fields() if field.name in PLACE)
    found = target.rejections(_MOST_REJECTED)
    places = [{c.TOPIC_ID: r.topic_id, c.PARTITION: r.partition, c.OFFSET: r.offset} for r in found]
    connection.register("rejected", pa.Table.from_pylist(places, schema))
    return len(found)


def _source(
    connection: DuckDBPyConnection, table: Table, shape: Shape, *, of_log: bool
) -> tuple[int, int]:
    """Count and hash of what the target must hold."""
    connection.register("source", TableDataset(table))
    if not of_log:
        return _sum(connection, "source", shape.key)
    ordinals = plan.ordinals(read_committed(table))
    connection.register("ordinals", ordinals_table(ordinals))
    key = ", ".join(f"b.{quoted(name)}" for name in shape.key)
    whole = " AND ".join(f"b.{quoted(name)} IS NOT NULL" for name in shape.key)
    newest_first = ", ".join(
        f"{'o' if name == ORDINAL else 'b'}.{quoted(name)} DESC" for name in ORDER
    )
    names = ", ".join(f"b.{quoted(name)}" for name in dict.fromkeys((*shape.key, *PLACE)))
    same = " AND ".join(f"b.{name} = r.{name}" for name in PLACE)
    connection.execute(f"""
        CREATE VIEW newest AS SELECT {names}
        FROM source b JOIN ordinals o
            ON b.{c.PARTITION} = o.{c.PARTITION} AND b.{c.TOPIC_ID} = o.{c.TOPIC_ID}
        WHERE b.{c.OFFSET} IS NOT NULL AND {whole}
            AND NOT EXISTS (FROM rejected r WHERE {same})
        QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {newest_first}) = 1""")
    return _sum(connection, "newest", tuple(dict.fromkeys((*shape.key, *PLACE))))


def _held(
    connection: DuckDBPyConnection, target: Target, shape: Shape, *, of_log: bool
) -> tuple[int, int]:
    schema = pa.schema(
        shape.schema().field(name)
        for name in dict.fromkeys((*shape.key, *(f.name for f in origin_fields())))
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for part in target.held():
            yield from part.select(schema.names).cast(schema).to_batches()

    connection.register("held", pa.RecordBatchReader.from_batches(schema, batches()))
    names = dict.fromkeys((*shape.key, *PLACE)) if of_log else shape.key
    return _sum(connection, "held", tuple(names))


def _sum(connection: DuckDBPyConnection, view: str, names: tuple[str, ...]) -> tuple[int, int]:
    hashed = ", ".join(quoted(name) for name in names)
    found = connection.execute(f"SELECT count(*), bit_xor(hash({hashed})) FROM {view}").fetchone()
    assert found is not None, "an aggregate has a row"
    return int(found[0]), int(found[1] or 0)
