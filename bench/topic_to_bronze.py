"""Rows per second from a Kafka topic to the lake, and to validated bronze with the lake kept,
beside the raw consume rate of the same run. Real Kafka, MinIO and Postgres on this machine.

    python -m bench.topic_to_bronze [--records 2000000] [--rounds 5] [--bad-ratio 0.01] [--peer]

With --peer, Kafka Connect's Iceberg sink writes the same topic in every round too; the topic then
has no bad records, which would end its tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import kafka_connect
from bench.kafka_connect import Connect
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.pipeline import land_stream, run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams
from services import ServiceError, Services

RESULTS = Path(__file__).parent / "results"
OURS, PEER = "topic to bronze", kafka_connect.NAME
STEADY = f"{PEER}, steady"


def main() -> None:
    """Measure and print; the figures also go to bench/results as JSON."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder)) as services:
        services.up(["kafka", "minio", "postgres"])
        try:
            env = services.env()
            with _peer(env, wanted=options.peer) as peer:
                result = measure(env, options.records, options.rounds, options.bad_ratio, peer)
        finally:
            services.down(purge=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "topic_to_bronze.json").write_text(json.dumps(result, indent=2))
    report(result)


def measure(
    env: dict[str, str], records: int, rounds: int, bad_ratio: float, peer: Connect | None = None
) -> dict[str, Any]:
    """Seconds of each way, by round; the topic is the same, lake and tables are new each time."""
    stream = replace(declared_streams()["pgr_events"], topic=f"bench-{uuid.uuid4().hex[:8]}")
    source = Settings.load(env)
    # One ingest date, as on an ordinary day: the broker's clock, not the simulated one.
    config = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
    ensure_topic(source, stream.topic, 4, **config)
    print(f"producing {records:,} records ...", flush=True)
    produce(source, stream.topic, simulate(stream.name, records, seed=7, bad_ratio=bad_ratio))
    found = []
    for number in range(rounds + 1):
        seconds = {name: _timed(way, env, stream) for name, way in WAYS.items()}
        if peer is not None:
            seconds |= _timed_peer(peer, env, stream, records)
        print(f"round {number}: " + _line(seconds, records), flush=True)
        if number:  # the first one warms up
            found.append(seconds)
    result = {
        "records": records,
        "bad_ratio": bad_ratio,
        "rounds": found,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    if peer is not None:
        result["peer"] = {"startup_seconds": peer.startup, "peak_mib": peer.peak_mib()}
    return result


def report(result: dict[str, Any]) -> None:
    """Print medians and ratios."""
    rounds, records = result["rounds"], result["records"]
    machine = f"{result['cores']} cores, load {result['load_average']:.1f}"
    bad = f"{result['bad_ratio']:.0%} bad"
    print(f"\n{records:,} records, {bad}, 4 partitions, {len(rounds)} rounds, medians; {machine}")
    for name in rounds[0]:
        seconds = statistics.median(r[name] for r in rounds)
        ratio = _ratio(rounds, "raw consume", name)
        print(f"  {name:24} {records / seconds / 1e3:7.1f}k rows/s   {ratio:5.2f} of raw consume")
    raw = statistics.median(r["raw consume"] for r in rounds)
    print(f"  peak memory {result['peak_mib']:,.0f} MiB; raw consume {raw:.2f} s")
    if "peer" in result:
        peer = result["peer"]
        print(
            f"  {OURS} is {_ratio(rounds, PEER, OURS):.2f} times as fast as {PEER}, "
            f"{_ratio(rounds, STEADY, OURS):.2f} times its steady rate\n"
            f"  its JVM took {peer['startup_seconds']:.1f} s to start, and {peer['peak_mib']:,.0f} "
            f"MiB at most"
        )


def _ratio(rounds: list[dict[str, float]], slower: str, faster: str) -> float:
    return statistics.median(r[slower] / r[faster] for r in rounds)


@contextmanager
def _peer(env: dict[str, str], *, wanted: bool) -> Iterator[Connect | None]:
    """The peer, up before anything is measured; None when it is not wanted or cannot be had."""
    if wanted:
        try:
            kafka_connect.install()
        except ServiceError as error:
            print(f"without {PEER}: {str(error).partition(chr(10))[0]}", flush=True)
            wanted = False
    if not wanted:
        yield None
        return
    with kafka_connect.running(Settings.load(env)) as connect:
        yield connect


def _timed(way: Callable[[Platform, Stream], None], env: dict[str, str], stream: Stream) -> float:
    platform, fresh = _fresh(env, stream)
    began = time.perf_counter()
    way(platform, fresh)
    return time.perf_counter() - began


def _timed_peer(
    peer: Connect, env: dict[str, str], stream: Stream, records: int
) -> dict[str, float]:
    took = peer.load(*_fresh(env, stream), records)
    return {
        PEER: took.since_first_read,
        f"{PEER}, with start": took.since_asked,
        STEADY: took.steady,
    }


def _fresh(env: dict[str, str], stream: Stream) -> tuple[Platform, Stream]:
    """A platform and a stream whose lake, tables and consumer group nobody used before."""
    run = uuid.uuid4().hex[:8]
    own = {
        "LAKE_URL": f"{env['LAKE_URL']}-{run}",
        "PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE": f"s3://bucket-0/warehouse-{run}",
    }
    contract = replace(stream.contract, table=f"bench_{run}")
    fresh = replace(stream, group_id=f"bench-{run}")
    fresh.__dict__["contract"] = contract  # fills the cached property
    return Platform(Settings.load(env | own)), fresh


def _consume(platform: Platform, stream: Stream) -> None:
    with platform.log(stream) as log:
        marks = log.watermarks(log.topic().partitions)
        for _ in log.read({p: range(mark.start, mark.end) for p, mark in marks.items()}):
            pass


def _land(platform: Platform, stream: Stream) -> None:
    land_stream(platform, stream)


def _run(platform: Platform, stream: Stream) -> None:
    run_stream(platform, stream)


WAYS: dict[str, Callable[[Platform, Stream], None]] = {
    "raw consume": _consume,
    "topic to lake": _land,
    OURS: _run,
}


def _line(seconds: dict[str, float], records: int) -> str:
    return ", ".join(f"{name} {records / s / 1e3:.0f}k/s" for name, s in seconds.items())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bad-ratio", type=float, help="default 0.01, with --peer 0")
    parser.add_argument("--peer", action="store_true", help=f"measure {PEER} too")
    options = parser.parse_args()
    if options.bad_ratio is None:
        options.bad_ratio = 0.0 if options.peer else 0.01
    if options.peer and options.bad_ratio:
        parser.error(f"--peer takes no bad records: they would end {PEER}'s tasks")
    return options


if __name__ == "__main__":
    main()
