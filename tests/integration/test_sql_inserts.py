"""The source of those who write SQL: rows that a real Trino inserts into a bronze table."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ingestion_platform.bronze.inserted import validate_inserted
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.operations.maintenance import maintain_stream
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import load_stream, run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams
from services import Services
from tests.support.dbt_warehouse import Warehouse as DbtWarehouse
from tests.support.grievances import EVENT
from tests.support.testbed import edited, separate_environment
from tests.support.trino_sql import Trino

pytestmark = [pytest.mark.services, pytest.mark.slow]

TABLE = "bronze.service_events_raw"
COLUMNS = ", ".join(EVENT)
DAY = date(2024, 12, 17)


class Warehouse(DbtWarehouse):
    """The models of grievances."""

    domain: ClassVar[str] = "pgr"


def values(**change: Any) -> str:
    """The example event as SQL has it, with some values changed."""
    event = EVENT | {"attributes_json": json.dumps(EVENT["attributes_json"])} | change
    kinds = {"event_date": "DATE ", "event_time": "TIMESTAMP "}

    def literal(name: str, value: Any) -> str:
        return "NULL" if value is None else f"{kinds.get(name, '')}'{value}'"

    return f"({', '.join(literal(name, value) for name, value in event.items())})"


@pytest.fixture
def env(servers: Services, trino: Services) -> dict[str, str]:
    """Servers with a catalog of the test's own."""
    return separate_environment(servers)


@pytest.fixture
def platform(env: dict[str, str], tmp_path: Path) -> Platform:
    """The platform on them."""
    return Platform(Settings.load(env, root=tmp_path))


@pytest.fixture
def stream(platform: Platform, tmp_path: Path) -> Stream:
    """The declared stream of grievances, in a topic of its own, with some events and the example
    loaded."""
    declared = declared_streams()["pgr_events"]
    topic, contract = f"sql-{uuid.uuid4().hex[:12]}", tmp_path / "contract.odcs.yaml"
    shutil.copy(declared.contract_file, contract)
    stream = replace(declared, topic=topic, contract_file=contract, partitions=1)
    ensure_topic(platform.settings, topic, 1)
    records = [Record(b"k", json.dumps(EVENT).encode())]
    records += list(simulate("pgr_events", 40, seed=1, bad_ratio=0.1))
    assert not produce(platform.settings, stream.topic, records).failed
    run_stream(platform, stream)
    return stream


@pytest.fixture
def sql(trino: Services, platform: Platform, stream: Stream) -> Iterator[Trino]:
    """Trino on the catalog that holds the stream's tables."""
    with Trino(trino, platform.settings) as sql:
        yield sql


def test_the_example_by_sql_is_the_row_that_it_is_by_kafka(
    platform: Platform, stream: Stream, sql: Trino
) -> None:
    """All fifteen columns are equal; only where it came from is not known of it."""
    sql.run(f"INSERT INTO {TABLE} ({COLUMNS}) VALUES {values()}")
    rows = platform.catalog.load_table(TABLE).scan().to_arrow().to_pylist()
    examples = [row for row in rows if row["event_date"] == DAY]
    assert len(examples) == 2
    (inserted,) = (row for row in examples if row["_offset"] is None)
    (sent,) = (row for row in examples if row["_offset"] is not None)
    assert {n for n, v in inserted.items() if n.startswith("_") and v is not None} == set()
    for name in EVENT:
        if name != "attributes_json":
            assert inserted[name] == sent[name], name
    assert json.loads(inserted["attributes_json"]) == json.loads(sent["attributes_json"])
    assert inserted["event_time"] == datetime(2024, 12, 17, 10)


def test_inserted_rows_are_counted_validated_and_left_alone(
    platform: Platform, stream: Stream, sql: Trino
) -> None:
    """By status, verification and check; a load that replaces all, and maintenance, do not touch
    them, and what SQL deletes of them is gone."""
    before = stream_status(platform, stream)
    bad = [values(entity_id=f"CMP_{n}", status="MAYBE") for n in range(2)]
    for row in (values(entity_id="CMP_A"), *bad):
        sql.run(f"INSERT INTO {TABLE} ({COLUMNS}) VALUES {row}")

    def told(stream: Stream) -> tuple[int, int, int]:
        status, found = stream_status(platform, stream), verify_stream(platform, stream)
        assert found.ok, found
        assert status.bronze_rows == found.bronze + found.inserted
        assert (status.inserted_rows, found.stale) == (found.inserted, 0)
        validated = validate_inserted(platform.catalog.load_table(TABLE), stream.contract)
        assert validated.rows == validated.validated == found.inserted
        return found.bronze, found.inserted, validated.broken

    assert told(stream) == (before.bronze_rows, 3, 2)

    def stricter(document: dict[str, Any]) -> None:
        for item in document["schema"][0]["properties"]:
            if item["name"] == "channel":
                item["enum"] = [v for v in item["enum"] if v["value"] == "WEB"]

    other = edited(stream, stricter)
    ingest_dates = list(
        platform.catalog.load_table(TABLE).scan().to_arrow()["_ingest_date"].to_pylist()
    )
    days = sorted({ingest_date for ingest_date in ingest_dates if ingest_date is not None})
    load_stream(platform, other, partitions=[0], ingest_dates=days)
    bronze, *rest = told(other)
    assert bronze < before.bronze_rows
    assert rest == [3, 2]
    load_stream(platform, stream, partitions=[0], ingest_dates=days)
    maintain_stream(platform, stream)
    assert told(stream) == (before.bronze_rows, 3, 2)

    sql.run(f"DELETE FROM {TABLE} WHERE _offset IS NULL AND status = 'MAYBE'")
    assert told(stream) == (before.bronze_rows, 1, 0)
    maintain_stream(platform, stream)
    assert told(stream) == (before.bronze_rows, 1, 0)
    assert sql.run(f"SELECT count(*) FROM {TABLE}") == [[before.bronze_rows + 1]]


def test_inserted_rows_flow_into_the_models(
    platform: Platform,
    stream: Stream,
    sql: Trino,
    env: dict[str, str],
    manifest: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With their day: the example is one event by whichever sources it came, a later step of the
    case is the next."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    warehouse = Warehouse(tmp_path, manifest, env)
    warehouse.run()
    later = values(event_type="CaseAssigned", status="ASSIGNED", event_time="2024-12-17 11:00:00")
    sql.run(f"INSERT INTO {TABLE} ({COLUMNS}) VALUES {values()}, {later}")
    start, end = DAY.toordinal(), DAY.toordinal() + 1
    first = date(2026, 1, 1).toordinal()
    warehouse.run((start - first, end - first))
    question = "SELECT stage FROM silver.silver_pgr_events WHERE entity_id = 'CMP_001' ORDER BY 1"
    assert warehouse.rows(question) == [("assigned",), ("submitted",)]
    question = "SELECT event_count, current_status FROM gold.gold_pgr_case_lifecycle"
    assert warehouse.rows(f"{question} WHERE entity_id = 'CMP_001'") == [(2, "ASSIGNED")]
