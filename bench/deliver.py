"""How fast a bronze table is delivered to PostgreSQL, to Elasticsearch and to files, beside a plain
COPY and plain `_bulk` calls of the same rows. Real servers on this machine; lake and tables on its
disk.

    python -m bench.deliver [--rows 500000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from ingestion_platform.contract import columns as c
from ingestion_platform.contract.schemas import bronze_arrow_schema
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import Delivery, stream_deliveries
from ingestion_platform.sinks.deliver import deliver
from ingestion_platform.sinks.elasticsearch.documents import ORIGIN_MAPPINGS, mapping_of
from ingestion_platform.sinks.source import shape_of
from ingestion_platform.sinks.text import csv_bytes, flat
from ingestion_platform.streams import Destination, Stream, declared_streams
from ingestion_platform.warehouse.commit import Change, commit
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.tables import ensure_bronze
from services import Services

RESULTS = Path(__file__).parent / "results"
PER_COMMIT = 50_000


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder) / "servers") as services:
        services.up(["postgres", "elasticsearch"])
        uri = services.env()["PYICEBERG_CATALOG__LAKEHOUSE__URI"].replace("+psycopg", "")
        search = services.env()["ELASTICSEARCH_URL"]
        env = {
            "PLATFORM_HOME": f"{folder}/home",
            "SINK_POSTGRES_URL": uri,
            "ELASTICSEARCH_URL": search,
        }
        platform = Platform(Settings.load(env, root=Path(folder)))
        stream = declared_streams()["sensor_readings"]
        fill(platform, stream, options.rows)
        ways: dict[str, Callable[[], None]] = {
            "plain COPY": lambda: plain_copy(platform, stream, uri),
            "postgres": lambda: once(platform, stream, "postgres"),
            "plain _bulk": lambda: plain_bulk(platform, stream, search),
            "elasticsearch": lambda: once(platform, stream, "elasticsearch"),
            "files": lambda: once(platform, stream, "files"),
        }
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(options.repeat):  # in turns: the machine may change its mind
            for name, way in ways.items():
                runs[name].append(measured(way))
        services.down(purge=True)
    found = {name: summary(options.rows, each) for name, each in runs.items()}
    for name, each in found.items():
        sys.stdout.write(f"{name:14} {json.dumps(each)}\n")
    RESULTS.mkdir(exist_ok=True)
    result = {"rows": options.rows, "load": os.getloadavg()[0], "ways": found}
    (RESULTS / "deliver.json").write_text(json.dumps(result, indent=2) + "\n")


def fill(platform: Platform, stream: Stream, rows: int) -> None:
    """A bronze table of sensor readings, each of another key."""
    table = ensure_bronze(platform.catalog, stream.bronze_table, stream.contract)
    committed = CommittedRanges()
    for start in range(0, rows, PER_COMMIT):
        span = Span("A", start, min(rows, start + PER_COMMIT), "contract")
        files = write_data_files(table, readings(stream, span))
        change = Change(0, committed, span, files, replace=False)
        commit(platform.catalog, stream.bronze_table, [change])
        committed = committed.with_span(span)


def readings(stream: Stream, span: Span) -> pa.Table:
    """Plausible rows at some offsets."""
    schema = bronze_arrow_schema(stream.contract)
    first = 1_763_640_000_000_000  # microseconds: a day in November 2025
    numbers = range(span.start, span.end)
    values: dict[str, Any] = {
        "sensor_id": [f"SNS_{n % 5000:05d}" for n in numbers],
        "metric": [("temperature", "humidity", "power")[n % 3] for n in numbers],
        "value": [n % 997 / 7 for n in numbers],
        "unit": ["K"] * len(numbers),
        "reading_time": [first + n * 1000 for n in numbers],
        "reading_date": [20_412] * len(numbers),
        c.INGEST_DATE: [20_412] * len(numbers),
        c.TOPIC_ID: [span.topic_id] * len(numbers),
        c.PARTITION: [0] * len(numbers),
        c.OFFSET: list(numbers),
        c.INGESTED_AT: [first] * len(numbers),
        c.CONTRACT: [span.contract] * len(numbers),
    }
    return pa.table([pa.array(values[f.name], f.type) for f in schema], schema=schema)


def once(platform: Platform, stream: Stream, sink: str) -> None:
    """All of it into a target that is new."""
    name = f"t{uuid.uuid4().hex[:8]}"
    given = {
        "postgres": {"table": f"bench.{name}"},
        "elasticsearch": {"index": f"bench-{name}"},
        "files": {"folder": f"bench/{name}"},
    }
    target = replace(stream, deliver=(Destination(sink, given[sink]),))
    delivery: Delivery = stream_deliveries(target)[0]
    done = deliver(platform, delivery)
    assert done.upserted > 0


def plain_copy(platform: Platform, stream: Stream, uri: str) -> None:
    """The rows read and copied straight into a table with the same primary key: the least that a
    delivery without position, order, or a second delivery in mind would do."""
    dataset = TableDataset(platform.catalog.load_table(stream.bronze_table))
    names = [*(f.name for f in stream.contract.fields), c.INGEST_DATE, c.PARTITION, c.OFFSET]
    names.append(c.TOPIC_ID)
    with psycopg.connect(uri) as connection:
        name = f"c{uuid.uuid4().hex[:8]}"
        connection.execute(
            f"CREATE TABLE {name} (sensor_id text, metric text, value double precision, unit text, "
            "reading_time timestamptz, reading_date date, _ingest_date date, _partition integer, "
            "_offset bigint, _topic_id text, PRIMARY KEY (sensor_id, metric, reading_time))"
        )
        with connection.cursor().copy(f"COPY {name} FROM STDIN (FORMAT csv)") as copy:
            for batch in dataset.scanner(columns=names).to_batches():
                copy.write(csv_bytes(flat(pa.Table.from_batches([batch]).select(names))))


def plain_bulk(platform: Platform, stream: Stream, url: str) -> None:
    """The rows read and indexed by the client's own helper, each under its key: without position,
    order, or a second delivery in mind. The index is mapped as a delivery maps it."""
    from elasticsearch import Elasticsearch, helpers

    contract = stream.contract
    table = platform.catalog.load_table(stream.bronze_table)
    shape = shape_of(table, contract.primary_key, contract)
    names = [*(f.name for f in contract.fields), c.INGEST_DATE, c.PARTITION, c.OFFSET, c.TOPIC_ID]
    index = f"b{uuid.uuid4().hex[:8]}"
    mappings = {o.name: mapping_of(o, key=o.name in shape.key) for o in shape.columns}
    with Elasticsearch(url, request_timeout=60) as client:
        client.indices.create(index=index, mappings={"properties": mappings | ORIGIN_MAPPINGS})
        actions = (
            {"_id": "|".join(str(row[name]) for name in shape.key), "_source": row}
            for batch in TableDataset(table).scanner(columns=names).to_batches()
            for row in batch.to_pylist()
        )
        helpers.bulk(client, actions, index=index, chunk_size=2000)


def measured(way: Callable[[], None]) -> dict[str, float]:
    """Seconds by the clock, and of this process's processors (the server's are its own)."""
    began, used = time.monotonic(), _cpu()
    way()
    return {"seconds": time.monotonic() - began, "cpu": _cpu() - used}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def summary(rows: int, runs: list[dict[str, float]]) -> dict[str, float]:
    """The median run, as rates."""
    seconds = statistics.median(run["seconds"] for run in runs)
    cpu = statistics.median(run["cpu"] for run in runs)
    return {
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / seconds),
        "rows_per_second_per_core_of_ours": round(rows / cpu),
    }


if __name__ == "__main__":
    main()
