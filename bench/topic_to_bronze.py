"""Rows per second from a Kafka topic to the lake, and to validated bronze with the lake kept,
beside the raw consume rate of the same run. Real Kafka, MinIO and Postgres on this machine.

    python -m bench.topic_to_bronze [--records 2000000] [--rounds 5] [--bad-ratio 0.01]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ingestion_platform.pipeline import Platform, land_stream, run_stream
from ingestion_platform.settings import Settings
from ingestion_platform.sources.client import ensure_topic
from ingestion_platform.sources.produce import produce
from ingestion_platform.sources.simulators import simulate
from ingestion_platform.streams import Stream, declared_streams
from services import Services

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure and print; the figures also go to bench/results as JSON."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder)) as services:
        services.up(["kafka", "minio", "postgres"])
        try:
            rounds = measure(services.env(), options.records, options.rounds, options.bad_ratio)
        finally:
            services.down(purge=True)
    report(rounds, options.records, options.bad_ratio)


def measure(
    env: dict[str, str], records: int, rounds: int, bad_ratio: float
) -> list[dict[str, float]]:
    """Seconds of each way, by round; the topic is the same, lake and tables are new each time."""
    stream = replace(declared_streams()["pgr_events"], topic=f"bench-{uuid.uuid4().hex[:8]}")
    source = Settings.load(env)
    # One window, as on an ordinary day: the broker's clock, not the simulated one.
    config = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
    ensure_topic(source, stream.topic, 4, **config)
    print(f"producing {records:,} records ...", flush=True)
    produce(source, stream.topic, simulate(stream.name, records, seed=7, bad_ratio=bad_ratio))
    ways: dict[str, Callable[[Platform, Stream], None]] = {
        "raw consume": _consume,
        "topic to lake": lambda platform, stream: _land(platform, stream),
        "topic to bronze": lambda platform, stream: run_stream(platform, stream),
    }
    found = []
    for number in range(rounds + 1):
        seconds = {name: _timed(way, env, stream) for name, way in ways.items()}
        print(f"round {number}: " + _line(seconds, records), flush=True)
        if number:  # the first one warms up
            found.append(seconds)
    return found


def report(rounds: list[dict[str, float]], records: int, bad_ratio: float) -> None:
    """Print medians and ratios, and keep them."""
    medians = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    raw = medians["raw consume"]
    print(
        f"\n{records:,} records, {bad_ratio:.0%} bad, 4 partitions, {len(rounds)} rounds, medians"
    )
    for name, seconds in medians.items():
        ratio = statistics.median(r["raw consume"] / r[name] for r in rounds)
        print(f"  {name:16} {records / seconds / 1e3:7.0f}k rows/s   {ratio:5.2f} of raw consume")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak memory {peak:,.0f} MiB; raw consume {raw:.2f} s")
    RESULTS.mkdir(exist_ok=True)
    result = {"records": records, "bad_ratio": bad_ratio, "rounds": rounds, "peak_mib": peak}
    (RESULTS / "topic_to_bronze.json").write_text(json.dumps(result, indent=2))


def _timed(way: Callable[[Platform, Stream], None], env: dict[str, str], stream: Stream) -> float:
    run = uuid.uuid4().hex[:8]
    own = {
        "LAKE_URL": f"{env['LAKE_URL']}-{run}",
        "PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE": f"s3://bucket-0/warehouse-{run}",
    }
    contract = replace(stream.contract, table=f"bench_{run}")
    fresh = replace(stream, group_id=f"bench-{run}")
    fresh.__dict__["contract"] = contract  # fills the cached property
    platform = Platform(Settings.load(env | own))
    began = time.perf_counter()
    way(platform, fresh)
    return time.perf_counter() - began


def _consume(platform: Platform, stream: Stream) -> None:
    with platform.log(stream) as log:
        marks = log.watermarks(log.topic().partitions)
        for _ in log.read({p: (mark.start, mark.end) for p, mark in marks.items()}):
            pass


def _land(platform: Platform, stream: Stream) -> None:
    land_stream(platform, stream)


def _line(seconds: dict[str, float], records: int) -> str:
    return ", ".join(f"{name} {records / s / 1e3:.0f}k/s" for name, s in seconds.items())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bad-ratio", type=float, default=0.01)
    return parser.parse_args()


if __name__ == "__main__":
    main()
