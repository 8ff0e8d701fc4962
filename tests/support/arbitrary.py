"""Records of arbitrary bytes and timestamps on a real topic, and everything that looks at them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from ingestion_platform.cli import diagnosis
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.metrics.exposition import PlatformCollector, exposition
from ingestion_platform.operations.metrics.read import Reader
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.orchestration import report, sensors
from ingestion_platform.orchestration.assets import status_of, waits_of
from ingestion_platform.pipeline import run_stream
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from ingestion_platform.settings import WorkerSettings
from ingestion_platform.streams import Stream
from ingestion_platform.worker.loop import Outcome, serve
from tests.support import c_kafka
from tests.support.c_kafka import Raw
from tests.support.dagster_lab import TODAY, Lab
from tests.support.oracle import Oracle

WIDE_OPEN: dict[str, str | int] = {
    "message.timestamp.before.max.ms": 2**63 - 1,
    "message.timestamp.after.max.ms": 2**63 - 1,
    "retention.ms": -1,
}
PATIENCE = 120.0
NOW_MS = int(time.time() * 1000)
STAMPS = (
    *(-(2**63), -(2**63) + 1, -(2**62), -86_400_001, -2, -1, 0, 1, 999),
    *(1_795_000_000, NOW_MS, NOW_MS - 86_400_000, NOW_MS + 86_400_000),
    *(253_402_300_799_999, 253_402_300_800_000, 1_795_000_000_000_000, 2**62, 2**63 - 1),
)
NAMES = (b"", b"\xff", b"\xffbad", b"caf\xe9", b"\xed\xa0\x80", b"ok", "Grüße".encode(), b"\n|%s")


def arbitrary(rng: random.Random, count: int, good: list[bytes]) -> list[Raw]:
    """Records of any bytes; some have a good value, so that bronze has rows of theirs, too.

    Names have no NUL: librdkafka gives a name as a C string.
    """

    def some(most: int) -> bytes | None:
        if rng.random() < 0.25:
            return rng.choice((None, b""))
        return rng.randbytes(rng.randrange(1, most))

    def name() -> bytes:
        if rng.random() < 0.6:
            return rng.choice(NAMES)
        return rng.randbytes(rng.randrange(12)).replace(b"\0", b"\x01")

    def stamp() -> int:
        return rng.choice(STAMPS) if rng.random() < 0.6 else rng.randrange(-(2**63), 2**63)

    def one() -> Raw:
        headers = tuple((name(), some(20)) for _ in range(rng.choice((0, 0, 1, 1, 2, 5))))
        value = rng.choice(good) if rng.random() < 0.4 else some(60)
        return Raw(rng.randrange(2), some(20), value, headers, stamp())

    crowded = Raw(0, None, None, tuple((name(), some(4)) for _ in range(3_000)), stamp())
    return [crowded, *(one() for _ in range(count))]


@dataclass
class Arena:
    """A topic of arbitrary records (partitions 0 and 1) and good ones (2 and 3), and another topic
    of good ones alone, whose timestamps are the broker's."""

    lab: Lab
    other: Stream
    rng: random.Random

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.lab.settings, self.lab.stream)
        self.others_oracle = Oracle(self.lab.settings, self.other)

    def send(self, count: int) -> None:
        """Send so many arbitrary records, and good ones beside them."""
        servers = self.lab.settings.bootstrap_servers
        assert servers is not None
        made = simulate("pgr_events", 20, seed=self.rng.randrange(2**31), bad_ratio=0)
        values = [record.value for record in made]
        fine = [Raw(2 + n % 2, b"k", value, (), NOW_MS) for n, value in enumerate(values)]
        bad = arbitrary(self.rng, count, values)
        c_kafka.send(servers, self.lab.stream.topic, [*fine[:10], *bad, *fine[10:]])
        c_kafka.send(servers, self.other.topic, [replace(each, partition=0) for each in fine])

    def look(self) -> None:
        """See that all that tells of the streams does, with plausible numbers."""
        for stream in (self.lab.stream, self.other):
            assert stream_status(self.lab.platform, stream).partitions
        self._read_metrics()
        context = diagnosis.DoctorContext(self.lab.settings)
        for name, check in diagnosis.CHECKS.items():
            if name not in ("contracts", "topics", "dagster home", "embedded broker"):
                context.streams = [self.lab.stream, self.other]
                list(check(context))

    def _read_metrics(self) -> None:
        reader = Reader(self.lab.platform, [self.lab.stream, self.other])
        try:
            facts = reader.read(thorough=True)
        finally:
            reader.close()
        assert b"ingested_rows_total" in exposition(PlatformCollector(lambda: facts))
        for each in facts.streams:
            assert all(each.up.values()), each
            first = self.lab.stream.first_date.toordinal()
            longest = (TODAY.toordinal() + 1 - first) * 86_400
            assert each.oldest_wait is not None
            assert 0 <= each.oldest_wait <= longest
            newest = each.lake and each.lake.newest
            assert newest is None or newest <= time.time() + 3600

    def run(self) -> None:
        """Land and load as the command does."""
        for stream in (self.lab.stream, self.other):
            run_stream(self.lab.platform, stream)

    def materialize(self) -> None:
        """Have a sensor ask for what is behind, and run it; whatever it is, it has a partition."""
        for stream in (self.lab.stream, self.other):
            lab = replace(self.lab, stream=stream)
            context = dg.build_sensor_context(
                instance=lab.instance,
                definitions=lab.definitions(),
                resources={"platform": lab.platform},
            )
            tick: Any = sensors.stream_sensor(stream, stream.first_date).evaluate_tick(context)
            (request,) = tick.run_requests
            told = lab.run(asset_selection=[lab.lake, lab.bronze], tags=request.tags)
            assert told.checks["reconciliation"].passed
            assert told.checks["freshness"].metadata is not None
            assert any("preview" in event for event in told.of(lab.lake).values())
            waits = waits_of(lab.platform, stream, status_of(lab.platform, stream))
            assert waits == {}

    def work(self, warnings: Any) -> None:
        """Have a worker take what is behind, and tell Dagster of it."""
        with self._working() as outcome:
            deadline = time.monotonic() + PATIENCE
            while any(
                stream_status(self.lab.platform, each).lag for each in (self.lab.stream, self.other)
            ):
                assert time.monotonic() < deadline, "the worker does not come to the end"
                time.sleep(0.1)
        assert not outcome.failed, outcome.failed
        assert not [m for m in warnings.messages if "cannot be told of" in m]

    @contextmanager
    def _working(self) -> Iterator[Outcome]:
        limits = WorkerSettings(flush_seconds=0.1, report_seconds=0.2)
        platform = self.lab.platform
        platform = replace(platform, settings=platform.settings.replace(worker=limits))
        stop, outcome = threading.Event(), Outcome()
        with report.Reporter(platform, lambda: self.lab.instance) as reporter:
            streams = [self.lab.stream, self.other]

            def work() -> None:
                ended = serve(platform.settings, streams, [reporter], stop)
                outcome.failed.update(ended.failed)

            thread = threading.Thread(target=work)
            thread.start()
            try:
                yield outcome
            finally:
                stop.set()
                thread.join()

    def holds(self) -> None:
        """Lake, tables and the platform's own reconciliation have all that the topics have."""
        self.assert_verbatim()
        for oracle in (self.oracle, self.others_oracle):
            oracle.read().assert_holds()
            assert verify_stream(self.lab.platform, oracle.stream).ok
            for slice_date in SegmentLog(
                self.lab.platform.store, oracle.stream.topic
            ).ingest_dates():
                assert oracle.stream.first_date <= slice_date <= TODAY

    def assert_verbatim(self) -> None:
        """The lake has every record as the topic has it, by a reading of the tests' own."""
        stream, settings = self.lab.stream, self.lab.settings
        assert settings.bootstrap_servers is not None
        sent = c_kafka.read(settings.bootstrap_servers, stream.topic, range(4))
        assert lake_records(self.lab) == sent


def lake_records(lab: Lab) -> dict[tuple[int, int], Raw]:
    """The lake's records, each once, straight from its files."""
    kinds = {"not_available": 0, "create_time": 1, "log_append_time": 2}
    store, found = lab.platform.store, {}
    paths = [
        entry.path
        for entry in store.files(f"topic={lab.stream.topic}/")
        if entry.path.endswith(".parquet")
    ]
    for path in paths:
        table = pq.read_table(pa.BufferReader(store.read(path)))
        described = json.loads(store.read(_sidecar(path)))
        assert described["record_count"] == table.num_rows
        assert "key: binary" in described["schema"]["dtypes"]["headers"]
        times = table["timestamp"].cast(pa.int64()).to_pylist()
        rows = table.drop_columns("timestamp").to_pylist()
        for row, stamp in zip(rows, times, strict=True):
            place = row["partition"], row["offset"]
            assert place not in found
            found[place] = Raw(
                row["partition"],
                row["key"],
                row["value"],
                tuple((h["key"], h["value"]) for h in row["headers"]),
                row["timestamp_ms"] if stamp is None else stamp,
                kinds[row["timestamp_type"]],
            )
    return found


def _sidecar(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/_{name.removesuffix('.parquet')}.json"
