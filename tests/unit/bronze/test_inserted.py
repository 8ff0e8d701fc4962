"""Rows that others inserted into a bronze table are counted, and validated by the contract."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ingestion_platform.bronze import inserted
from ingestion_platform.bronze.inserted import Inserted, validate_inserted
from ingestion_platform.pipeline import load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.inserted import count_inserted
from ingestion_platform.warehouse.tables import ensure_bronze

ROW: dict[str, Any] = {
    "event_date": date(2026, 11, 17),
    "event_time": datetime(2026, 11, 17, 10, 0, 0, 250_000),
    "tenant_id": "T",
    "service": "PGR",
    "entity_type": "complaint",
    "entity_id": "CMP_1",
    "event_type": "CaseSubmitted",
    "status": "OPEN",
    "actor_type": "CITIZEN",
    "attributes_json": '{"sla_hours": 72}',
}


def insert(platform: Platform, stream: Stream, *rows: dict[str, Any]) -> None:
    """Append rows as another engine does: what is not named is null."""
    table = ensure_bronze(platform.catalog, stream.bronze_table, stream.contract)
    table.append(pa.Table.from_pylist(list(rows), table.schema().as_arrow()))


def test_without_any_there_is_nothing_to_tell(platform: Platform, stream: Stream) -> None:
    """Of no table, and of an empty one."""
    assert (count_inserted(None), validate_inserted(None, stream.contract)) == (0, Inserted())
    table = ensure_bronze(platform.catalog, stream.bronze_table, stream.contract)
    assert (count_inserted(table), validate_inserted(table, stream.contract)) == (0, Inserted())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "MAYBE"}, "status: "),
        ({"tenant_id": None}, "tenant_id: "),
        ({"event_date": date(2026, 11, 16)}, "event_date_is_day_of_event_time"),
        ({"attributes_json": "no JSON"}, "attributes_json: "),
        ({"attributes_json": '{"sla_hours": 0}'}, "sla_hours_is_positive"),
    ],
)
def test_a_row_is_validated_as_its_record_would_be(
    platform: Platform, stream: Stream, change: dict[str, Any], reason: str
) -> None:
    """Good rows have no reason against them; a bad one has the contract's own."""
    insert(platform, stream, ROW, ROW | change)
    found = validate_inserted(platform.catalog.load_table(stream.bronze_table), stream.contract)
    assert (found.rows, found.validated, found.broken) == (2, 2, 1)
    (said,) = found.reasons
    assert reason in said


def test_many_are_validated_in_part(
    platform: Platform, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are counted, so that telling of them stays quick."""
    monkeypatch.setattr(inserted, "VALIDATED", 3)
    insert(platform, stream, *[ROW] * 2)
    insert(platform, stream, *[ROW | {"status": "MAYBE"}] * 3)
    found = validate_inserted(platform.catalog.load_table(stream.bronze_table), stream.contract)
    assert (found.rows, found.validated) == (5, 3)


def test_values_of_every_type_are_taken_as_they_are(
    platform: Platform, make_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    """Decimals keep their digits, times their zone; objects and lists are looked into."""
    kinds = {
        "amount": {"logicalType": "number", "physicalType": "decimal(20,2)"},
        "at": {"logicalType": "timestamp", "logicalTypeOptions": {"timezone": True}},
        "clock": {"logicalType": "time"},
        "sure": {"logicalType": "boolean"},
        "part": {
            "logicalType": "object",
            "properties": [{"name": "n", "logicalType": "integer", "required": True}],
        },
        "tags": {"logicalType": "array", "items": {"logicalType": "string"}},
    }

    def edit(document: dict[str, Any]) -> None:
        document["schema"][0]["properties"] += [{"name": n, **kind} for n, kind in kinds.items()]

    stream = make_stream(edit=edit)
    good = ROW | {
        "amount": Decimal("123456789012345678.25"),
        "at": datetime(2026, 11, 17, 10, tzinfo=UTC),
        "clock": time(1, 2, 3, 4),
        "sure": False,
        "part": {"n": 1},
        "tags": ["a", "b"],
    }
    insert(platform, stream, good, good | {"part": {"n": None}})
    found = validate_inserted(platform.catalog.load_table(stream.bronze_table), stream.contract)
    assert (found.validated, found.broken) == (2, 1), found.reasons
    load_stream(platform, stream, partitions=[0])
    assert count_inserted(platform.catalog.load_table(stream.bronze_table)) == 2
