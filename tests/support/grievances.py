"""The example event of civic grievances, and events as files of each format."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

EVENT: dict[str, Any] = {
    "event_date": "2024-12-17",
    "event_time": "2024-12-17 10:00:00",
    "tenant_id": "TENANT_001",
    "service": "PGR",
    "entity_type": "complaint",
    "entity_id": "CMP_001",
    "event_type": "CaseSubmitted",
    "status": "OPEN",
    "actor_type": "CITIZEN",
    "actor_id": "CIT_001",
    "channel": "WEB",
    "ward_id": "WARD_001",
    "locality_id": "LOC_001",
    "attributes_json": {"complaint_type": "Water Supply", "priority": "MEDIUM", "sla_hours": 72},
    "raw_payload": None,
}

GOOD = json.dumps(
    EVENT
    | {
        "event_date": "2026-11-17",
        "event_time": "2026-11-17 10:00:00",
        "tenant_id": "T",
        "entity_id": "CMP_1",
        "actor_id": "C",
        "ward_id": "W",
        "locality_id": "L",
        "attributes_json": None,
    },
    separators=(",", ":"),
).encode()
"""A valid record of `pgr_events`, as JSON."""


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Events as a CSV file: JSON in quotes, the word NULL."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(EVENT)
    for row in rows:
        cells = [row.get(name) for name in EVENT]
        writer.writerow(
            [json.dumps(c) if isinstance(c, dict) else "NULL" if c is None else c for c in cells]
        )
    return out.getvalue().encode()


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    """Events as lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Events as a Parquet file, with typed dates and times."""
    typed = [
        row
        | {
            "event_date": date.fromisoformat(row["event_date"]),
            "event_time": datetime.fromisoformat(row["event_time"]),
        }
        for row in rows
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(typed), out)
    return out.getvalue()
