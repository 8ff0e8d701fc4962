"""Build the metadata of assets and their events from plain data of the platform.

Metadata is for people only; no code depends on it. Every event carries all entries, since
overviews show the latest event only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Contract, Field
from ingestion_platform.contract.reasons import label_sql
from ingestion_platform.contract.schemas import duckdb_type
from ingestion_platform.orchestration.partitions import Slice
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

    from ingestion_platform.lake.file_source import Handled
    from ingestion_platform.lake.segments import Segment

Metadata = dict[str, Any]

LAYER = "layer"
"""Tag of an asset's layer: topic, lake, bronze, silver, gold or sink."""

PREVIEW_ROWS = 5
TOP_REASONS = 10
_FILES = 100
_WIDE = 200  # maximum characters of a value in a preview
_COUNT_REASONS = f"""
    SELECT {c.INGEST_DATE}, {c.PARTITION}, {label_sql("reason")} AS kind, count(*)
    FROM (SELECT {c.INGEST_DATE}, {c.PARTITION}, unnest({c.REASONS}) AS reason FROM rejected)
    GROUP BY ALL"""
_NOT_A_TEAM = re.compile(r"[^A-Za-z0-9_-]+")

_LAKE_COLUMNS = {
    "key": ("binary", "key, as sent"),
    "value": ("binary", "value, as sent"),
    "headers": (
        "list<struct<key: binary, value: binary>>",
        "headers, as sent; null if unreadable",
    ),
    "timestamp": ("timestamp[ms, UTC]", "broker timestamp; null beyond the years 1970 to 9999"),
    "timestamp_type": ("string", "what the timestamp tells: create or append time"),
    "timestamp_ms": ("int64", "the number of a broker timestamp that `timestamp` cannot hold"),
    "partition": ("int32", "log partition"),
    "offset": ("int64", "offset in the log partition"),
}
_PLATFORM_COLUMNS = {
    c.INGEST_DATE: ("date", "UTC day of the record in its log", "timestamp"),
    c.TOPIC_ID: ("varchar", "topic id of the log that held the record", None),
    c.PARTITION: ("integer", "partition of the log", "partition"),
    c.OFFSET: ("bigint", "offset in the partition", "offset"),
    c.INGESTED_AT: ("timestamp with time zone", "when the row was written", None),
    c.CONTRACT: ("varchar", "contract and parser that validated the record", None),
}


def owners(owner: str) -> list[str]:
    """Return an owner in Dagster's form: an email address, or `team:<name>`; [] for none."""
    if not owner:
        return []
    return [owner if "@" in owner else f"team:{_NOT_A_TEAM.sub('-', owner).strip('-')}"]


def tags(names: Iterable[str]) -> dict[str, str]:
    """Return tags in Dagster's form: keys with empty values."""
    return {re.sub(r"[^\w.-]+", "-", name)[:63]: "" for name in names}


def lake_schema() -> dg.TableSchema:
    """Return the schema of a lake file."""
    return dg.TableSchema(
        [dg.TableColumn(n, kind, doc) for n, (kind, doc) in _LAKE_COLUMNS.items()]
    )


def bronze_schema(contract: Contract) -> dg.TableSchema:
    """Return the schema of a bronze table, with the contract's descriptions and constraints."""
    own = [
        dg.TableColumn(
            field.name,
            duckdb_type(field).lower(),
            field.description,
            dg.TableColumnConstraints(nullable=not field.required, other=_constraints(field)),
            tags=tags([field.classification] if field.classification else []),
        )
        for field in contract.fields
    ]
    added = [dg.TableColumn(n, kind, doc) for n, (kind, doc, _) in _PLATFORM_COLUMNS.items()]
    return dg.TableSchema([*own, *added])


def bronze_lineage(contract: Contract, lake: dg.AssetKey) -> dg.TableColumnLineage:
    """Return the lake column that each bronze column is derived from."""
    made_from = {field.name: "value" for field in contract.fields}
    made_from |= {name: of for name, (_, _, of) in _PLATFORM_COLUMNS.items() if of}
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(lake, column)] for name, column in made_from.items()}
    )


def _constraints(field: Field) -> list[str]:
    bounds = {
        ">=": field.minimum,
        "<=": field.maximum,
        ">": field.exclusive_minimum,
        "<": field.exclusive_maximum,
        "length >=": field.min_length,
        "length <=": field.max_length,
        "matches": field.pattern,
        "format": field.format,
        "derived:": field.derived,
    }
    said = [f"{what} {value}" for what, value in bounds.items() if value is not None]
    if field.allowed:
        said.append(f"one of {', '.join(map(str, field.allowed))}")
    return said


@dataclass(frozen=True, slots=True)
class Stored:
    """Totals of a slice in the lake; `size` is in bytes.

    `ranges` are the covered offset ranges as (topic id, start, end), end exclusive, in log order.
    """

    records: int = 0
    gaps: int = 0
    files: int = 0
    size: int = 0
    ranges: tuple[tuple[str, int, int], ...] = ()

    def plus(self, segment: Segment, size: int) -> Stored:
        """Return the totals including the next file of the log."""
        *before, last = self.ranges or ((segment.topic_id, segment.gap_start, segment.end),)
        if last[0] == segment.topic_id:
            ranges = (*before, (last[0], last[1], segment.end))
        else:
            ranges = (*before, last, (segment.topic_id, segment.gap_start, segment.end))
        return Stored(
            self.records + segment.rows,
            self.gaps + segment.gaps,
            self.files + 1,
            self.size + size,
            ranges,
        )

    @property
    def offsets(self) -> str:
        """The covered offset ranges as text, one per topic id."""
        return ", ".join(f"{start:,} to before {end:,}" for _, start, end in self.ranges) or "none"

    @property
    def version(self) -> str:
        """A version that changes with the content: the topic id and end offset of the last file."""
        return f"{self.ranges[-1][0]}-{self.ranges[-1][2]}" if self.ranges else "empty"


def stored(
    platform: Platform,
    stream: Stream,
    slices: Iterable[Slice],
    *,
    only: Callable[[Segment], bool] = lambda _: True,
) -> dict[Slice, Stored]:
    """Return the lake totals of slices, from file names, sizes and footers.

    `only` selects the files that are counted.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    from ingestion_platform.lake.names import ingest_date_folder
    from ingestion_platform.lake.segments import SegmentLog

    wanted = list(slices)
    segment_log = SegmentLog(platform.store, stream.topic)
    sizes = {
        entry.path: entry.size
        for ingest_date in {ingest_date for ingest_date, _ in wanted}
        for entry in platform.store.files(ingest_date_folder(stream.topic, ingest_date))
    }
    found = {}
    for ingest_date, partition in wanted:
        held = Stored()
        for segment in segment_log.slice(ingest_date, partition):
            if only(segment):
                held = held.plus(segment, sizes.get(segment.name.path, 0))
        found[ingest_date, partition] = held
    return found


def lake_event(stream: Stream, url: str, of: Slice, held: Stored, lag: int | None) -> Metadata:
    """Return the metadata of a lake slice's event, without the preview."""
    from ingestion_platform.lake.names import ingest_date_folder

    folder = f"{ingest_date_folder(stream.topic, of[0])}partition={of[1]}/"
    return {
        "dagster/partition_row_count": held.records,
        "dagster/column_schema": lake_schema(),
        "dagster/uri": dg.MetadataValue.url(f"{url}/{folder}"),
        "rows": held.records,
        "bytes": held.size,
        "files": held.files,
        "offsets": held.offsets,
        "gaps": held.gaps,
        **_lag(lag),
    }


def bronze_event(
    stream: Stream,
    table: Table,
    held: Stored,
    *,
    bronze: int,
    quarantined: int,
    reasons: Counter[str],
    lag: int | None,
) -> Metadata:
    """Return the metadata of a bronze slice's event, without the preview."""
    return {
        "dagster/partition_row_count": bronze,
        "dagster/row_count": total_rows(table),
        "dagster/table_name": stream.bronze_table,
        "dagster/column_schema": bronze_schema(stream.contract),
        "dagster/column_lineage": bronze_lineage(
            stream.contract, dg.AssetKey(["lake", stream.name])
        ),
        "dagster/uri": dg.MetadataValue.url(table.location()),
        "rows": bronze,
        "quarantined": quarantined,
        "quarantine_table": stream.quarantine_table,
        "reasons": reasons_table(reasons),
        "records": held.records,
        "bytes": held.size,
        "offsets": held.offsets,
        "contract": f"{stream.contract.id} {stream.contract.version}",
        **_lag(lag),
    }


def iceberg_event(table: Table) -> Metadata:
    """Return the metadata of an Iceberg table in its current state."""
    columns = [
        dg.TableColumn(f.name, str(f.field_type), f.doc, dg.TableColumnConstraints(f.optional))
        for f in table.schema().fields
    ]
    return {
        "dagster/row_count": total_rows(table),
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/uri": dg.MetadataValue.url(table.location()),
        "bytes": _summary(table, "total-files-size"),
        "files": _summary(table, "total-data-files"),
    }


def total_rows(table: Table) -> int:
    """Return a table's row count from the summary of its current snapshot."""
    return _summary(table, "total-records") - _summary(table, "total-position-deletes")


def _summary(table: Table, name: str) -> int:
    snapshot = table.current_snapshot()
    if snapshot is None or snapshot.summary is None:
        return 0
    return int(snapshot.summary.additional_properties.get(name, 0))


def _lag(lag: int | None) -> Metadata:
    return {"lag": "unknown: the log does not answer" if lag is None else lag}


def reasons_table(reasons: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """Return the most frequent quarantine reasons with counts, as a Markdown table."""
    top = Counter(reasons).most_common(TOP_REASONS)
    lines = [f"| {count:,} | {_cell(reason)} |" for reason, count in top]
    return dg.MetadataValue.md("\n".join(["| records | reason |", "|---:|---|", *lines]))


def files_table(handled: Sequence[Handled]) -> dg.MarkdownMetadataValue:
    """Return the outcomes of a run's files as a Markdown table: at most 100, not landed first."""
    lines = [["file", "outcome", "records", "detail"], ["---"] * 4]
    for each in sorted(handled, key=lambda each: each.outcome == "landed")[:_FILES]:
        # Names are external text: they must not render as links or images.
        name, detail = (
            f"`{_cell(text.replace('`', chr(39)))}`" for text in (each.name, each.detail)
        )
        lines.append([name, each.outcome, str(each.rows), detail if each.detail else ""])
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def raw_preview(records: pa.Table) -> dg.MarkdownMetadataValue:
    """Return the last records of a lake file as a Markdown table, keys and values as text."""
    import pyarrow as pa

    last = records.slice(max(0, records.num_rows - PREVIEW_ROWS))
    shown = {
        name: [None if v is None else v.decode(errors="replace") for v in last[name].to_pylist()]
        for name in ("key", "value")
    }
    numbers = last["timestamp_ms"].to_pylist()
    pairs = zip(last["timestamp"].to_pylist(), numbers, strict=True)
    # A timestamp out of range is shown as its number.
    times = [f"{number} ms" if number is not None else time for time, number in pairs]
    sent = [None if time is None else str(time) for time in times]
    return preview(pa.table({"offset": last["offset"], "timestamp": sent, **shown}))


def preview(rows: pa.Table) -> dg.MarkdownMetadataValue:
    """Return the first rows as a Markdown table."""
    lines = [rows.column_names, ["---"] * rows.num_columns]
    # pandas would turn lists into arrays, and integers beside nulls into floats.
    few = rows.slice(0, PREVIEW_ROWS).to_pylist()
    lines += [[_cell(value) for value in row.values()] for row in few]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    text = text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"
    return text.replace("|", "\\|").replace("\n", " ")


def slice_preview(table: Table, contract: Contract, of: Slice) -> dg.MarkdownMetadataValue:
    """Return the first rows of a bronze slice; opens only as many files as needed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from ingestion_platform.warehouse.dataset import TableDataset

    condition = (pc.field(c.INGEST_DATE) == pa.scalar(of[0], pa.date32())) & (
        pc.field(c.PARTITION) == pa.scalar(of[1], pa.int32())
    )
    columns = [c.OFFSET, *(field.name for field in contract.fields)]
    rows = TableDataset(table).scanner(columns=columns, filter=condition).head(PREVIEW_ROWS)
    return preview(rows)


def quarantine_reasons(
    platform: Platform, stream: Stream, ingest_dates: Iterable[date]
) -> dict[Slice, Counter[str]]:
    """Return the quarantine reasons of ingest dates with their counts, by slice.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    import duckdb
    from pyiceberg.expressions import In

    from ingestion_platform.warehouse.tables import load_or_none

    table = load_or_none(platform.catalog, stream.quarantine_table)
    days = {day.isoformat() for day in ingest_dates}
    if table is None or not days:
        return {}
    columns = (c.INGEST_DATE, c.PARTITION, c.REASONS)
    rows = table.scan(row_filter=In(c.INGEST_DATE, days), selected_fields=columns).to_arrow()
    with duckdb.connect() as connection:
        connection.register("rejected", rows)
        counts = connection.execute(_COUNT_REASONS).fetchall()
    found: dict[Slice, Counter[str]] = {}
    for ingest_date, partition, reason, count in counts:
        found.setdefault((ingest_date, partition), Counter())[reason] = count
    return found
