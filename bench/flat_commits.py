"""What a commit costs after thousands of them, with maintenance running beside it as often as the
schedule would (every ten minutes, at a commit a second). Real MinIO and Postgres on this machine.

    python -m bench.flat_commits [--commits 2000] [--rows 20] [--every 600] [--without-maintenance]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ingestion_platform.contract import columns as c
from ingestion_platform.contract.schemas import bronze_arrow_schema
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.commit import Change, commit
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.maintenance.table import condition, maintenance
from ingestion_platform.warehouse.tables import ensure_bronze
from services import Services

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

RESULTS = Path(__file__).parent / "results"
PARTITIONS = 4
SAMPLE = 100
TOPIC_ID, CONTRACT = "a-topic-id-of-22-chars", "0" * 64


def main() -> None:
    """Measure and print; the figures also go to bench/results as JSON."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder)) as services:
        services.up(["minio", "postgres"])
        try:
            found = measure(services.env(), options)
        finally:
            services.down(purge=True)
    name = "flat_commits_without_maintenance" if options.without_maintenance else "flat_commits"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    report(found)


class Writer:
    """Commits a few rows at a time to a table of its own, and remembers what each cost."""

    def __init__(self, catalog: Catalog, stream: Stream, name: str, count: int) -> None:
        self._catalog, self.name, self._count = catalog, name, count
        self._table = ensure_bronze(catalog, name, stream.contract)
        self._rows = _rows_of(stream, count)
        self._committed_by_partition = [CommittedRanges()] * PARTITIONS
        self.clock: list[float] = []
        self.cpu: list[float] = []

    def commit(self) -> None:
        """One more commit, as a load makes it."""
        partition = len(self.clock) % PARTITIONS
        base = self._committed_by_partition[partition]
        start = base.position.offset if base.position is not None else 0
        files = write_data_files(self._table, self._rows(partition, start))
        span = Span(TOPIC_ID, start, start + self._count, CONTRACT)
        change = Change(partition, base, span, files, replace=False)
        began, cpu_began = time.perf_counter(), time.process_time()
        commit(self._catalog, self.name, [change])
        self.clock.append(time.perf_counter() - began)
        self.cpu.append(time.process_time() - cpu_began)
        self._committed_by_partition[partition] = base.with_span(span)


def measure(env: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each commit, on the clock and of this process's CPU, and the table after it.

    In the end a new table gets its first commits in turn with the old one's last, so that
    whatever else the machine does at the time hits both.
    """
    stream = declared_streams()["pgr_events"]
    catalog = open_catalog(Settings.load(env))
    old = Writer(catalog, stream, stream.bronze_table, options.rows)
    ours, theirs = multiprocessing.Pipe()
    keeper = multiprocessing.get_context("spawn").Process(
        target=_keep, args=(env, stream.bronze_table, theirs), daemon=True
    )
    keeper.start()
    ours.recv()  # it is ready
    for number in range(1, options.commits + 1):
        old.commit()
        if number % options.every == 0 and not options.without_maintenance:
            ours.send("maintenance")
        if number % 200 == 0:
            print(f"{number:6,} commits, {_ms(old.clock[-SAMPLE:])} ms", flush=True)
    new = Writer(catalog, stream, f"{stream.bronze_table}_new", options.rows)
    for _ in range(SAMPLE):
        new.commit()
        old.commit()
    ours.send("end")
    done = []
    while (answer := ours.recv()) is not None:
        done.append(answer)
    keeper.join()
    after = condition(catalog, old.name)
    assert after is not None
    assert after.rows == (options.commits + SAMPLE) * options.rows
    return {
        "commits": options.commits,
        "clock": {"first": old.clock[:SAMPLE], "last": old.clock[-SAMPLE:], "new": new.clock},
        "cpu": {"first": old.cpu[:SAMPLE], "last": old.cpu[-SAMPLE:], "new": new.cpu},
        "slowest": max(old.clock),
        "maintenance": done,
        "table": asdict(after),
    }


def report(found: dict[str, Any]) -> None:
    """Print the last commits beside the first ones, and beside those to a new table."""
    print(f"median of {SAMPLE} commits, after {found['commits']:,} of them:")
    for what, name in (("clock", "on the clock"), ("cpu", "of CPU")):
        first, last, new = (statistics.median(found[what][k]) for k in ("first", "last", "new"))
        print(
            f"  {name}: the last {last * 1000:.1f} ms; the first {first * 1000:.1f} ms, ratio "
            f"{last / first:.2f}; a new table's, in turn with the last, {new * 1000:.1f} ms, "
            f"ratio {last / new:.2f}"
        )
    print(f"slowest commit {found['slowest']:.2f} s")
    for each in found["maintenance"]:
        print(
            f"maintenance took {each['seconds']:.1f} s: {each['rewritten']} files became "
            f"{each['written']}, {each['merged']} manifests and {each['expired']} snapshots fewer"
        )
    table = found["table"]
    print(
        f"table: {table['rows']:,} rows, {table['files']} files, {table['manifests']} manifests, "
        f"{table['snapshots']} snapshots"
    )


def _keep(env: dict[str, str], name: str, pipe: Connection) -> None:
    """The process beside the writer: maintenance whenever it is asked to."""
    catalog = open_catalog(Settings.load(env))
    pipe.send("ready")
    done = []
    while pipe.recv() != "end":
        began = time.perf_counter()
        outcome = maintenance(catalog, name)
        assert outcome is not None
        done.append(outcome.as_dict() | {"seconds": time.perf_counter() - began})
    for each in [*done, None]:
        pipe.send(each)


def _rows_of(stream: Stream, count: int) -> Callable[[int, int], pa.Table]:
    """Makes rows of a log partition from an offset on; one day, as a worker's commit has."""
    schema = bronze_arrow_schema(stream.contract)
    texts = pa.array(["a word of text"] * count)

    def column(field: pa.Field, partition: int, start: int) -> Any:
        if field.name == c.OFFSET:
            return pa.array(range(start, start + count), field.type)
        known = {c.PARTITION: partition, c.INGEST_DATE: date(2026, 11, 20), c.TOPIC_ID: TOPIC_ID}
        known |= {"event_date": date(2026, 11, 20), "service": "PGR"}
        if field.name in known:
            return pa.array([known[field.name]] * count, field.type)
        text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        return texts.cast(field.type) if text else pa.nulls(count, field.type)

    def rows(partition: int, start: int) -> pa.Table:
        return pa.table([column(f, partition, start) for f in schema], schema=schema)

    return rows


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.1f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--commits", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=20, help="of each commit")
    parser.add_argument(
        "--every", type=int, default=600, help="commits between two maintenance runs"
    )
    parser.add_argument("--without-maintenance", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
