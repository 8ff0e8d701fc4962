"""What a changed contract would do to the records that are stored: counted, nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.load import RowBuilder
from ingestion_platform.bronze.validate import code_version, count_reasons
from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Contract
from ingestion_platform.lake.records import read
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.operations.verify import between, due, partitions_of, rows_of
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table


@dataclass(slots=True)
class Impact:
    """What validating stored records again would change.

    `stale` records were validated by another contract or validator; `checked` of them, the newest,
    were validated now. Of those, `rejected` are in bronze and would be rejected, `returned` are in
    quarantine and would be valid. Reasons are counted by label; a record can have several.
    `dropped` has the columns that the contract lacks, with the number of rows that have a value.
    """

    stale: int = 0
    checked: int = 0
    rejected: int = 0
    returned: int = 0
    rejected_by_reason: Counter[str] = field(default_factory=Counter)
    returned_by_reason: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the impact as plain data, the most frequent reason first."""
        return {
            "stale": self.stale,
            "checked": self.checked,
            "rejected": self.rejected,
            "returned": self.returned,
            "rejected_by_reason": dict(self.rejected_by_reason.most_common()),
            "returned_by_reason": dict(self.returned_by_reason.most_common()),
            "dropped": self.dropped,
        }


def impact_of(platform: Platform, stream: Stream, *, most: int | None = None) -> Impact:
    """Validate stored records of a stream by its current contract, and compare with the tables.

    Args:
        most: how many records to validate, from the newest ingest dates; None for all.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
        SegmentLogBroken: the lake lacks files.
    """
    bronze = load_or_none(platform.catalog, stream.bronze_table)
    if bronze is None:
        return Impact()
    quarantine = load_or_none(platform.catalog, stream.quarantine_table)
    builder = RowBuilder(stream.contract)
    tables = [bronze] if quarantine is None else [bronze, quarantine]
    segment_log = SegmentLog(platform.store, stream.topic)
    stale = list(_stale(segment_log, tables, code_version(stream.contract)))
    impact = Impact(stale=sum(min(segment.rows, s.end - s.start) for segment, s in stale))
    stale.sort(key=lambda part: (part[0].name.ingest_date, part[1].end), reverse=True)
    dataset = None if quarantine is None else TableDataset(quarantine)
    for segment, span in stale:
        left = None if most is None else most - impact.checked
        if left is not None and left <= 0:
            break
        records = between(read(platform.store, segment), "offset", span.start, span.end)
        if left is not None:
            records = records.slice(max(0, records.num_rows - left))
        held = rows_of(dataset, segment.name.partition, span)
        _compare(impact, records, builder.rows(segment, records)[1], held)
    impact.dropped = _dropped(bronze, stream.contract)
    return impact


def _stale(
    segment_log: SegmentLog, tables: Iterable[Table], version: str
) -> Iterator[tuple[Segment, Span]]:
    """Yield the loaded parts of the lake's files that another version validated, each once."""
    committed = [read_committed(table) for table in tables]
    for partition in partitions_of(segment_log):
        ranges = [each.get(partition, CommittedRanges()) for each in committed]
        segments = segment_log.after(partition, None)
        for segment, span in due(segments, ranges[0].position, None):
            parts = [p for each in ranges for p in each.of(span.topic_id, span.start, span.end)]
            if any(part.contract != version for part in parts):
                yield segment, span


def _compare(impact: Impact, records: pa.Table, rejected: pa.Table, held: pa.Table | None) -> None:
    """Add the differences between what is rejected now and what the quarantine table has."""
    offsets, now = records["offset"].to_numpy(), rejected[c.OFFSET].to_numpy()
    before = np.array([], np.int64) if held is None else held[c.OFFSET].to_numpy()
    added = ~np.isin(now, before)
    impact.checked += records.num_rows
    impact.rejected += int(added.sum())
    impact.rejected_by_reason += count_reasons(rejected.filter(pa.array(added))[c.REASONS])
    if held is None:
        return
    gone = np.isin(before, offsets) & ~np.isin(before, now)
    impact.returned += int(gone.sum())
    impact.returned_by_reason += count_reasons(held.filter(pa.array(gone))[c.REASONS])


def _dropped(bronze: Table, contract: Contract) -> dict[str, int]:
    """Return the columns of a table that the contract lacks, with their numbers of values."""
    known = {name for f in contract.fields for name in (f.name, *f.previous_names)}
    columns = [field.name for field in bronze.schema().fields]
    dropped = [name for name in columns if name not in known and name not in c.BRONZE_COLUMNS]
    with answering():
        return {
            name: TableDataset(bronze).scanner(filter=pc.field(name).is_valid()).count_rows()
            for name in dropped
        }
