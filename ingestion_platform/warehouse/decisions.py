"""People's decisions about rejected records, in an append-only Iceberg table.

A decision names records by (topic id, log partition, offset), so it survives replays, rebuilt
tables and recreated topics. The records' bytes stay in quarantine.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract import columns as c
from ingestion_platform.errors import CatalogUnavailable
from ingestion_platform.retries import COMMIT, retry
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import too_many_conflicts
from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.tables import ensure_table, load_or_none

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table

TABLE = "quarantine._decisions"
"""Reserved: no contract can use this name."""
DISCARD, UNDO = "discard", "undo"

Place = tuple[str, int, int]
"""Topic id, log partition and offset of a record."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about a record; all records of one call share its `id`."""

    id: str
    action: str
    because: str
    by: str
    at: datetime


def decide(
    catalog: Catalog,
    stream: str,
    records: Iterable[tuple[date, Place]],
    *,
    action: str,
    because: str,
    by: str,
) -> Decision:
    """Record one decision about records (ingest date and place of each) in one commit.

    Raises:
        CatalogUnavailable: the catalog does not answer, or there were too many commit conflicts.
        StoreUnavailable: the tables' store does not answer.
    """
    import pyarrow as pa

    decision = Decision(uuid.uuid4().hex, action, because, by, datetime.now(UTC))
    table = ensure_table(catalog, TABLE, _shape)
    rows = [
        (stream, ingest_date, *place, decision.action, decision.because, decision.by, decision.at,
         decision.id)
        for ingest_date, place in records
    ]  # fmt: skip
    columns = zip(*rows, strict=True) if rows else ([] for _ in _arrow_schema())
    arrays = [pa.array(each, f.type) for each, f in zip(columns, _arrow_schema(), strict=True)]
    _append(catalog, table, pa.table(arrays, schema=_arrow_schema()))
    return decision


def discarded(
    catalog: Catalog, stream: str, *, ingest_dates: Sequence[date] | None = None
) -> dict[Place, Decision]:
    """Return the discarded records of a stream, optionally of some ingest dates.

    The last decision about a record counts.

    Raises:
        CatalogUnavailable, StoreUnavailable: one of them does not answer.
    """
    last = dict(_read(catalog, stream, ingest_dates))
    return {place: made for place, made in last.items() if made.action == DISCARD}


def count_discarded(
    catalog: Catalog, stream: str, quarantine: str, *, ingest_dates: Sequence[date] | None = None
) -> Counter[tuple[date, int]]:
    """Return by slice how many rows of a quarantine table (by name) are discarded.

    Reads the table only if there is a decision.

    Raises:
        CatalogUnavailable, StoreUnavailable: one of them does not answer.
    """
    chosen = discarded(catalog, stream, ingest_dates=ingest_dates)
    table = load_or_none(catalog, quarantine) if chosen else None
    counts: Counter[tuple[date, int]] = Counter()
    if table is None:
        return counts
    from ingestion_platform.warehouse.dataset import TableDataset

    columns = [c.INGEST_DATE, c.TOPIC_ID, c.PARTITION, c.OFFSET]
    with answering():
        scanner = TableDataset(table).scanner(columns=columns, filter=_within(ingest_dates))
        rows = scanner.to_table().to_pydict()
    for ingest_date, topic_id, partition, offset in zip(*rows.values(), strict=True):
        counts[ingest_date, partition] += (topic_id, partition, offset) in chosen
    return counts


def _read(
    catalog: Catalog, stream: str, ingest_dates: Sequence[date] | None
) -> list[tuple[Place, Decision]]:
    """Return all decisions of a stream in the order of their time."""
    import pyarrow.compute as pc

    from ingestion_platform.warehouse.dataset import TableDataset

    table = load_or_none(catalog, TABLE)
    if table is None:
        return []
    condition = pc.field("stream") == stream
    if (of_ingest_dates := _within(ingest_dates)) is not None:
        condition &= of_ingest_dates
    with answering():
        rows = TableDataset(table).scanner(filter=condition).to_table().to_pylist()
    rows.sort(key=lambda row: (row["decided_at"], row["decision"]))
    return [
        (
            (row[c.TOPIC_ID], row[c.PARTITION], row[c.OFFSET]),
            Decision(
                row["decision"], row["action"], row["because"], row["decided_by"], row["decided_at"]
            ),
        )
        for row in rows
    ]


def _within(ingest_dates: Sequence[date] | None) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if ingest_dates is None:
        return None
    return pc.field(c.INGEST_DATE).isin(pa.array(ingest_dates, pa.date32()))


def _append(catalog: Catalog, table: Table, rows: pa.Table) -> None:
    """Append rows; a commit conflict with another decision is retried."""
    from pyiceberg.exceptions import CommitFailedException

    from ingestion_platform.warehouse.snapshots import appending, begin

    files = write_data_files(table, rows)

    def attempt() -> None:
        with answering():
            transaction = begin(catalog.load_table(TABLE))
            with appending(transaction, {}) as snapshot:
                for file in files:
                    snapshot.append_data_file(file)
            transaction.commit_transaction()

    retry(
        attempt,
        COMMIT,
        CommitFailedException,
        gave_up=lambda _: too_many_conflicts(CatalogUnavailable, TABLE),
    )


def _arrow_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("stream", pa.string()),
            (c.INGEST_DATE, pa.date32()),
            (c.TOPIC_ID, pa.string()),
            (c.PARTITION, pa.int32()),
            (c.OFFSET, pa.int64()),
            ("action", pa.string()),
            ("because", pa.string()),
            ("decided_by", pa.string()),
            ("decided_at", pa.timestamp("us", tz="UTC")),
            ("decision", pa.string()),
        ]
    )


def _shape() -> tuple[Schema, PartitionSpec]:
    """Return schema and partitions; by stream, so that each reads only its own."""
    from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.transforms import IdentityTransform
    from pyiceberg.types import (
        DateType,
        IntegerType,
        LongType,
        NestedField,
        StringType,
        TimestamptzType,
    )

    text, docs = StringType(), _DOCS
    types = [text, DateType(), text, IntegerType(), LongType(), text, text, text,
             TimestamptzType(), text]  # fmt: skip
    names = _arrow_schema().names
    fields = [
        NestedField(number, name, kind, required=False, doc=docs[name])
        for number, (name, kind) in enumerate(zip(names, types, strict=True), start=1)
    ]
    spec = PartitionSpec(PartitionField(1, PARTITION_FIELD_ID_START, IdentityTransform(), "stream"))
    return Schema(*fields), spec


_DOCS = {
    "stream": "stream of the record",
    c.INGEST_DATE: "ingest date of the record",
    c.TOPIC_ID: "topic id of the log that held the record",
    c.PARTITION: "partition of the log",
    c.OFFSET: "offset in the partition",
    "action": "discard or undo; the last decision about a record counts",
    "because": "reason that the person gave",
    "decided_by": "person who decided",
    "decided_at": "time of the decision",
    "decision": "id shared by all records of one call",
}
