"""All metrics: name, kind, labels and meaning. docs/metrics.md is generated from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric family; a counter's name ends with _total."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    source: str
    """What it is read from."""


_BY_PARTITION = ("stream", "partition")
_TABLE = ("table", "layer", "domain", "stream")
_SINK = ("sink", "target", "source")

ROWS = Metric(
    "ingested_rows_total",
    "counter",
    ("stream",),
    "Records loaded into bronze; a reload does not count again.",
    "bronze table: property ingestion.totals",
)
REJECTED = Metric(
    "failed_validations_total",
    "counter",
    ("stream",),
    "Records rejected into quarantine; a reload does not count again.",
    "quarantine table: property ingestion.totals",
)
ERRORS = Metric(
    "ingestion_errors_total",
    "counter",
    ("stream", "kind"),
    "Failed attempts of runs, workers, deliveries and the HTTP API: transient ones are retried, "
    "permanent ones need a person, unexpected ones are bugs.",
    "files below PLATFORM_HOME/failures",
)
LOST = Metric(
    "ingestion_lost_records_total",
    "counter",
    ("stream",),
    "Offsets that retention removed from the log before they were landed.",
    "lake: _losses",
)
RECREATED = Metric(
    "ingestion_topic_recreations_total",
    "counter",
    ("stream",),
    "How often the topic was deleted and created again.",
    "lake: _losses",
)
COMMITS = Metric(
    "ingestion_commit_duration_seconds",
    "histogram",
    ("stream", "layer"),
    "From the start of a commit, retries included, until it is sent to the catalog.",
    "tables: property ingestion.totals",
)
FLUSHES = Metric(
    "ingestion_flush_duration_seconds",
    "histogram",
    ("stream", "layer"),
    "From the validation of a commit's oldest row until the commit is sent to the catalog.",
    "tables: property ingestion.totals",
)
LAG = Metric(
    "ingestion_lag_records",
    "gauge",
    _BY_PARTITION,
    "Offsets of the log that bronze or quarantine lack.",
    "log and bronze table",
)
OLDEST_WAIT = Metric(
    "ingestion_oldest_wait_seconds",
    "gauge",
    ("stream",),
    "Age in the log of the oldest record that bronze lacks; 0 without lag. Timestamps before the "
    "stream's `start_date`, or more than an hour in the future, are ignored.",
    "log and bronze table",
)
LOG_END = Metric(
    "ingestion_log_end_offset", "gauge", _BY_PARTITION, "The next offset of the log.", "log"
)
LAKE_END = Metric(
    "ingestion_lake_end_offset", "gauge", _BY_PARTITION, "The next offset to land.", "lake"
)
BRONZE_END = Metric(
    "ingestion_bronze_end_offset",
    "gauge",
    _BY_PARTITION,
    "The next offset to load.",
    "bronze table",
)
NEWEST_EVENT = Metric(
    "ingestion_newest_event_timestamp_seconds",
    "gauge",
    ("stream",),
    "The latest broker timestamp of a landed record; timestamps more than an hour in the future "
    "are ignored.",
    "lake: footers",
)
LAST_COMMIT = Metric(
    "ingestion_last_commit_timestamp_seconds",
    "gauge",
    ("stream",),
    "Time of the last commit to bronze.",
    "bronze table: snapshot",
)
WAITING_FILES = Metric(
    "ingestion_waiting_files", "gauge", ("stream",), "Files in the drop zone.", "drop zone"
)
QUARANTINE_ROWS = Metric(
    "ingestion_quarantine_rows",
    "gauge",
    ("stream", "state"),
    "Rejected records now: open, or discarded by a decision.",
    "quarantine and decisions tables",
)
QUARANTINE_LIMIT = Metric(
    "ingestion_contract_quarantine_ratio",
    "gauge",
    ("stream",),
    "The share of rejected records that the contract tolerates, 0 to 1.",
    "contract",
)
FRESHNESS_LIMIT = Metric(
    "ingestion_contract_freshness_seconds",
    "gauge",
    ("stream",),
    "How old bronze may be by the contract; absent without a promise.",
    "contract",
)
LAKE_BYTES = Metric(
    "ingestion_lake_bytes", "gauge", ("stream",), "Size of the data files of the lake.", "lake"
)
LAKE_FILES = Metric("ingestion_lake_files", "gauge", ("stream",), "Data files of the lake.", "lake")
LAKE_SMALL = Metric(
    "ingestion_lake_small_files",
    "gauge",
    ("stream",),
    "Files of closed ingest dates that are below 1 MiB and not alone: maintenance merges them.",
    "lake",
)
TABLE_ROWS = Metric(
    "ingestion_table_rows", "gauge", _TABLE, "Rows of a table now.", "table: snapshot"
)
TABLE_BYTES = Metric(
    "ingestion_table_bytes", "gauge", _TABLE, "Size of its data files.", "table: snapshot"
)
TABLE_FILES = Metric("ingestion_table_files", "gauge", _TABLE, "Data files.", "table: snapshot")
TABLE_DELETES = Metric(
    "ingestion_table_delete_files", "gauge", _TABLE, "Delete files.", "table: snapshot"
)
TABLE_SNAPSHOTS = Metric(
    "ingestion_table_snapshots", "gauge", _TABLE, "Snapshots kept.", "table: metadata"
)
TABLE_SMALL = Metric(
    "ingestion_table_small_files",
    "gauge",
    _TABLE,
    "Files that maintenance would rewrite.",
    "table: manifests",
)
SINK_LAG = Metric(
    "ingestion_sink_lag_records",
    "gauge",
    _SINK,
    "Offsets of bronze that a target lacks, or has by another contract. Of a model: 1 when the "
    "target is not at its present snapshot.",
    "position of the target, bronze table",
)
SINK_END = Metric(
    "ingestion_sink_end_offset",
    "gauge",
    (*_SINK, "partition"),
    "The next offset to deliver.",
    "position of the target",
)
SINK_REJECTED = Metric(
    "ingestion_sink_rejected_rows",
    "gauge",
    _SINK,
    "Rows in the quarantine of a target, counted up to 1,000.",
    "target",
)
SINK_UP = Metric("ingestion_sink_up", "gauge", _SINK, "Whether the target answered.", "target")
API_RECORDS = Metric(
    "ingestion_http_api_records_total",
    "counter",
    ("stream", "outcome"),
    "Records sent to the HTTP API: accepted, rejected by the contract, or failed because Kafka did "
    "not acknowledge.",
    "files below PLATFORM_HOME/http_api",
)
API_REQUESTS = Metric(
    "ingestion_http_api_request_duration_seconds",
    "histogram",
    ("route", "status"),
    "Responses of the HTTP API by path and status.",
    "files below PLATFORM_HOME/http_api",
)
UP = Metric(
    "ingestion_up",
    "gauge",
    ("stream", "part"),
    "Whether log, lake and tables of a stream could be read.",
    "this reading",
)
READ_AT = Metric(
    "ingestion_read_timestamp_seconds",
    "gauge",
    (),
    "Time of this reading.",
    "this reading",
)
READ_SECONDS = Metric(
    "ingestion_read_duration_seconds", "gauge", (), "Duration of this reading.", "this reading"
)
BUILD = Metric("ingestion_build_info", "gauge", ("version",), "The platform's version.", "package")

API = (API_RECORDS, API_REQUESTS)
PLATFORM = tuple(m for m in list(globals().values()) if isinstance(m, Metric) and m not in API)
"""All others, in the order of their declaration."""


def markdown() -> str:
    """Return a Markdown table of all metrics."""
    lines = ["| metric | kind | labels | meaning | read from |", "|---|---|---|---|---|"]
    for each in (*PLATFORM, *API):
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}` | {each.kind} | {labels} | {each.help} | {each.source} |")
    return "\n".join(lines)
