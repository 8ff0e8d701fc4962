"""Comparison of a target with its source: keys and places of rows, by count and hash."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ingestion_platform.sinks import ranges
from ingestion_platform.sinks.base import Rejected, Shape, Target
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.sinks.deliver import is_current
from ingestion_platform.sinks.source import (
    PLACE,
    duckdb_in_memory,
    newest_rows,
    ordinals_table,
    places_table,
    shape_of,
)
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
    """Result of a comparison."""

    source_rows: int
    """Keys of the source."""
    target_rows: int
    rejected: int
    """Rows in the quarantine of the target."""
    agree: bool
    """Whether counts and hashes are equal."""
    behind: bool
    """Whether the source has changed since the last delivery: the two need not agree then."""

    @property
    def ok(self) -> bool:
        """Whether the target is equal to its source, or waits for a delivery."""
        return self.behind or self.agree


def compare(platform: Platform, delivery: Delivery) -> Comparison:
    """Compare a target with its source.

    Raises:
        SinkUnavailable, CatalogUnavailable: one of them does not answer.
        SettingError: the settings do not say where the sink is.
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
            quarantine = target.rejections(_MOST_REJECTED)
            source = _source(connection, table, shape, quarantine, of_log=bool(delivery.stream))
            held = _held(connection, target, shape, of_log=bool(delivery.stream))
    rejected = len(quarantine)
    agree = source == held
    if delivery.stream is None and rejected:  # rows of a model have no place: compare counts
        agree = source[0] - rejected <= held[0] <= source[0]
    return Comparison(source[0], held[0], rejected, agree, behind)


def _source(
    connection: DuckDBPyConnection,
    table: Table,
    shape: Shape,
    rejected: Iterable[Rejected],
    *,
    of_log: bool,
) -> tuple[int, int]:
    """Return count and hash of the rows that the target must hold."""
    connection.register("bronze", TableDataset(table))
    if not of_log:
        return _sum(connection, "bronze", shape.key)
    places = [dict(zip(PLACE, (r.topic_id, r.partition, r.offset), strict=True)) for r in rejected]
    connection.register("excluded", places_table(places))
    connection.register("ordinals", ordinals_table(ranges.ordinals(read_committed(table))))
    names = (*shape.key, *PLACE)
    columns = ", ".join(f"b.{quoted(name)}" for name in dict.fromkeys(names))
    connection.execute(f"CREATE VIEW newest AS {newest_rows(shape, columns)}")
    return _sum(connection, "newest", names)


def _held(
    connection: DuckDBPyConnection, target: Target[Any], shape: Shape, *, of_log: bool
) -> tuple[int, int]:
    """Return count and hash of the rows that the target holds."""
    batches = (batch for part in target.held() for batch in part.to_batches())
    reader = pa.RecordBatchReader.from_batches(shape.place_schema(), batches)
    connection.register("held", reader)
    return _sum(connection, "held", (*shape.key, *PLACE) if of_log else shape.key)


def _sum(connection: DuckDBPyConnection, view: str, names: Iterable[str]) -> tuple[int, int]:
    hashed = ", ".join(quoted(name) for name in dict.fromkeys(names))
    found = connection.execute(f"SELECT count(*), bit_xor(hash({hashed})) FROM {view}").fetchone()
    assert found is not None, "an aggregate has a row"
    return int(found[0]), int(found[1] or 0)
