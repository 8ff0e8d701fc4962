"""A contract changes under a running stream, on Kafka, MinIO and Postgres: nothing is lost, old
rows stay, and rejected records come back or are decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.quarantine import Choice, discard, overview, replay
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import load_stream, run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.reading import query
from tests.support.testbed import edited

pytestmark = [pytest.mark.services]

COUNT = 2000
FIRST: dict[str, Any] = {
    "apiVersion": "v3.2.0",
    "kind": "DataContract",
    "id": "trips",
    "version": "1.0.0",
    "status": "active",
    "domain": "test",
    "schema": [
        {
            "name": "trips",
            "properties": [
                {"name": "id", "logicalType": "integer", "physicalType": "int"},
                {"name": "ward", "logicalType": "string", "required": True},
                {"name": "day", "logicalType": "date", "partitioned": True},
                {"name": "status", "logicalType": "string", "enum": [{"value": "open"}]},
            ],
        }
    ],
}


def second(document: dict[str, Any]) -> None:
    """A wider column, a renamed one, a new one, and other partitions."""
    document["version"] = "2.0.0"
    identity, ward, day, status = document["schema"][0]["properties"]
    identity["physicalType"] = "bigint"
    ward["name"] = "area"
    ward["customProperties"] = [{"property": "previousNames", "value": ["ward"]}]
    day.pop("partitioned")
    ward["partitioned"] = True
    note = {"name": "note", "logicalType": "string", "transformLogic": "'in ' || area"}
    document["schema"][0]["properties"] = [identity, ward, day, status, note]


def third(document: dict[str, Any]) -> None:
    """One more value is allowed."""
    document["version"] = "3.0.0"
    document["schema"][0]["properties"][3]["enum"].append({"value": "closed"})


def send(settings: Settings, stream: Stream, start: int, name: str, status: str) -> None:
    """Send trips whose place has that name; every tenth has that status, the others are open."""
    records = [
        Record(
            None,
            json.dumps(
                {
                    "id": start + i,
                    name: f"w{i % 3}",
                    "day": f"2026-11-{10 + i % 2}",
                    "status": status if i % 10 == 0 else "open",
                }
            ).encode(),
        )
        for i in range(COUNT)
    ]
    assert not produce(settings, stream.topic, records).failed


def verified(platform: Platform, stream: Stream, **figures: int) -> None:
    """The platform's own reconciliation holds, with these figures."""
    found = verify_stream(platform, stream)
    assert found.ok, found
    assert {name: getattr(found, name) for name in figures} == figures


def test_a_stream_goes_on_under_changed_contracts(
    real_settings: Settings, make_stream: Callable[..., Stream]
) -> None:
    """Four runs at once meet the change; then old slices are made again, and rejections
    repaired."""
    stream = make_stream(real_settings, contract=json.loads(json.dumps(FIRST)), partitions=2)
    platform = Platform(real_settings)
    send(real_settings, stream, 0, "ward", "open")
    run_stream(platform, stream)

    later = edited(stream, second)
    send(real_settings, stream, 2**40, "area", "closed")
    platforms = [Platform(real_settings) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: run_stream(each, later), platforms))
    table = platform.catalog.load_table(stream.bronze_table)
    assert (len(table.schemas()), len(table.specs())) == (2, 2)
    rejected = COUNT // 10
    verified(platform, later, expected=2 * COUNT, quarantined=rejected, stale=COUNT)
    # As PyIceberg itself reads them.
    rows = table.scan(selected_fields=("id", "area", "note")).to_arrow()
    areas = {row["id"]: (row["area"], row["note"]) for row in rows.to_pylist()}
    assert len(areas) == rows.num_rows == 2 * COUNT - rejected
    assert (areas[7], areas[2**40 + 7]) == (("w1", None), ("w1", "in w1"))
    sql = f"SELECT count(*) AS n FROM {stream.bronze_table} WHERE area = 'w1' AND id < 1000"
    assert query(real_settings, sql).to_pylist() == [{"n": 333}]

    ingest_dates = SegmentLog(platform.store, stream.topic).ingest_dates()
    load_stream(platform, later, partitions=[0, 1], ingest_dates=ingest_dates)
    verified(platform, later, expected=2 * COUNT, quarantined=rejected, stale=0)
    sql = f"SELECT count(*) AS n FROM {stream.bronze_table} WHERE note = 'in ' || area"
    assert query(real_settings, sql).to_pylist() == [{"n": 2 * COUNT - rejected}]

    assert replay(platform, later).came_back == 0
    chosen = Choice(reason="status", ingest_dates=tuple(ingest_dates))
    _, decided = discard(platform, later, chosen, because="a test", by="me")
    assert decided == rejected
    assert overview(platform, later).open == 0
    repaired = edited(later, third)
    assert replay(platform, repaired).came_back == rejected
    assert overview(platform, repaired).records == 0
    verified(platform, repaired, expected=2 * COUNT, quarantined=0, bronze=2 * COUNT, stale=0)
