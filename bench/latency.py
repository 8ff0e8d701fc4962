"""Seconds from an event's broker timestamp to the bronze row that anybody can query: the worker, or
Dagster with its sensors, beside a steady producer. Real Kafka, MinIO and Postgres on this machine.

    python -m bench.latency [--rate 5000] [--seconds 60] [--report | --sensors]

A row can be queried once the catalog shows the snapshot that holds it: the table is polled from
outside, so a time includes the poll, up to 0.1 s late.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.tables import load_or_none
from services import Services
from services.net import free_port

RESULTS = Path(__file__).parent / "results"
POLL = 0.1
PATIENCE = 120.0


def main() -> None:
    """Measure and print; the figures also go to bench/results as JSON."""
    options = _options()
    stream = declared_streams()["pgr_events"]
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder) / "servers") as services:
        services.up(["kafka", "minio", "postgres"])
        try:
            env = services.env() | {"PLATFORM_HOME": f"{folder}/home"}
            if options.report or options.sensors:
                env["DAGSTER_HOME"] = f"{folder}/dagster"
            if options.sensors:
                writer = ["dev", "--rate", "0", "--port", str(free_port())]
            else:
                reports = "--report" if options.report else "--no-report"
                writer = ["stream", stream.name, reports]
            result = measure(env, stream, options.rate, options.seconds, writer)
        finally:
            services.down(purge=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latency.json").write_text(json.dumps(result, indent=2))


@dataclass
class Seen:
    """The snapshots of a table as somebody from outside saw them: when, and up to which offsets."""

    times: list[float] = field(default_factory=list)
    ends: list[dict[int, int]] = field(default_factory=list)

    def watch(self, platform: Platform, table: str, ended: threading.Event) -> None:
        """Poll until told to stop."""
        last = None
        while not ended.wait(POLL):
            found = load_or_none(platform.catalog, table)
            now = time.time()
            snapshot = None if found is None else found.current_snapshot()
            if found is None or snapshot is None or snapshot.snapshot_id == last:
                continue
            last = snapshot.snapshot_id
            committed_by_partition = read_committed(found)
            positions = {p: committed.position for p, committed in committed_by_partition.items()}
            self.times.append(now)
            self.ends.append({p: at.offset for p, at in positions.items() if at is not None})

    def reached(self, wanted: dict[int, int]) -> bool:
        """Whether the table has come to some offsets."""
        return bool(self.ends) and all(self.ends[-1].get(p, 0) >= end for p, end in wanted.items())


def measure(
    env: dict[str, str], stream: Stream, rate: int, seconds: int, writer: list[str]
) -> dict[str, object]:
    """Run a producer and a command that loads, and compare what both left behind."""
    platform = Platform(Settings.load(env))
    ensure_topic(platform.settings, stream.topic, stream.partitions)
    seen, ended = Seen(), threading.Event()
    watching = threading.Thread(target=seen.watch, args=(platform, stream.bronze_table, ended))
    with (
        _ingest(env, *writer) as loading,
        _ingest(env, "produce", stream.name, "--rate", "50", "--count", "200") as warm_up,
    ):
        warm_up.wait()
        watching.start()
        _until(lambda: bool(seen.times), "nothing was loaded")
        first = time.time()
        amount = ("--rate", str(rate), "--count", str(rate * seconds), "--bad-ratio", "0.01")
        with _ingest(env, "produce", stream.name, *amount) as producer:
            producer.wait()
        with platform.log(stream) as log:
            marks = log.watermarks(log.topic().partitions)
        ends = {p: mark.end for p, mark in marks.items()}
        _until(lambda: seen.reached(ends), "not all was loaded")
        load = os.getloadavg()[0]
        ended.set()
        watching.join()
        loading.send_signal(signal.SIGTERM)
        code = loading.wait()
    latencies, produced = _latencies(platform, stream, seen, first)
    verified = verify_stream(platform, stream)
    result = {
        "rate_asked": rate,
        "rate_produced": round(produced),
        "events": len(latencies),
        "seconds": {f"p{p}": round(float(np.percentile(latencies, p)), 3) for p in (50, 95, 99)}
        | {"max": round(float(latencies.max()), 3)},
        "snapshots": len(seen.times),
        "longest_between_snapshots": round(float(np.diff(seen.times).max()), 3),
        "loaded_by": f"ingest {' '.join(writer)}",
        "load_average": round(load, 1),
        "cores": os.cpu_count(),
        "exit_code": code,
        "verified": verified.ok,
    }
    print(json.dumps(result, indent=2))
    return result


def _latencies(
    platform: Platform, stream: Stream, seen: Seen, since: float
) -> tuple[np.ndarray, float]:
    """Seconds of each event sent since an instant, and how many of them were sent per second."""
    times = np.array(seen.times)
    found, stamps = [], []
    with platform.log(stream) as log:
        marks = log.watermarks(log.topic().partitions)
        ends = {p: np.array([each.get(p, 0) for each in seen.ends]) for p in marks}
        for run in log.read({p: range(mark.start, mark.end) for p, mark in marks.items()}):
            offsets = np.array([m.offset() for m in run.messages])
            sent = np.array([m.timestamp()[1] for m in run.messages]) / 1000
            held_by = np.searchsorted(ends[run.partition], offsets, side="right")
            wanted = sent >= since
            found.append((times[held_by] - sent)[wanted])
            stamps.append(sent[wanted])
    sent = np.concatenate(stamps)
    return np.concatenate(found), len(sent) / (sent.max() - sent.min())


def _ingest(env: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ingestion_platform", "--quiet", *arguments]
    return subprocess.Popen(command, env=os.environ | env)


def _until(condition: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{problem} after {PATIENCE:.0f} s")
        time.sleep(POLL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=int, default=60)
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--report", action="store_true", help="the worker, with reports to Dagster")
    ways.add_argument(
        "--sensors", action="store_true", help="Dagster's sensors and runs, no worker"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
