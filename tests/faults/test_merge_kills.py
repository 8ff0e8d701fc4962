"""The lake's small files are merged while it is written and read; merges are killed, stopped, or
many at once.

`--kills N --seed S` kills more, and elsewhere.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from services import Services
from tests.support.processes import Attempt, Worker
from tests.support.scene import Scene, together, until
from tests.support.testbed import separate_environment

pytestmark = [pytest.mark.services]

FIRST = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=200)


class Days(Scene):
    """A stream whose records come day by day, from half a year ago on."""

    day: int = 0

    def send_today(self, count: int) -> None:
        """Records of the day that it is."""
        self.seed += 1
        stamp = int((FIRST + timedelta(days=self.day)).timestamp() * 1000)
        records = simulate("pgr_events", count, seed=self.seed, bad_ratio=0.05, days=0.5)
        dated = (record._replace(timestamp_ms=stamp) for record in records)
        assert not produce(self.settings, self.stream.topic, dated).failed

    def pass_day(self, landings: int) -> None:
        """Land some records so many times, which makes as many files per partition; then, once,
        some of the next day."""
        for _ in range(landings):
            self.send_today(200)
            together([self.start("land")])
        self.day += 1
        self.send_today(200)
        together([self.start("land")])

    def stop(self, rng: random.Random, do: str, steps: int) -> Attempt:
        """Begin, and stop at one of the first steps."""
        self.steps[do] = steps
        attempt = self.start(do)
        self.await_step(rng, attempt)
        attempt.send(signal.SIGSTOP)
        return attempt

    def files(self) -> Counter[int]:
        """The lake's files by log partition."""
        segment_log = SegmentLog(self.platform.store, self.stream.topic)
        return Counter(
            name.partition
            for ingest_date in segment_log.ingest_dates()
            for names in segment_log.names(ingest_date).values()
            for name in names
        )

    def merged(self) -> None:
        """All is in the tables once, and one more merge leaves as few files as there can be."""
        together([self.start("merge")])
        before = self.files()
        together([self.start("merge")])
        assert self.files() == before
        assert max(before.values()) <= 3 * (self.day + 1)
        self.holds()


@pytest.fixture
def scene(servers: Services, worker: Worker, tmp_path: Path) -> Days:
    """A new stream with an empty topic."""
    return Days.new(worker, separate_environment(servers), tmp_path)


@pytest.mark.fault("processes", "kill -9 of a merge of lake files, at any instant, beside runs")
def test_kills_while_merging(
    scene: Days, rng: random.Random, request: pytest.FixtureRequest
) -> None:
    """Files and merged files tell the same; the next merge ends the work, and no run notices."""
    kills = max(1, int(request.config.getoption("kills")) // 6)
    scene.pass_day(3)
    scene.measure("merge")
    done = 0
    while done < kills:
        scene.pass_day(2)
        run = scene.start(rng.choice(["run", "load", "replace"])) if rng.random() < 0.5 else None
        done += scene.kill(rng, "merge")
        if run is not None:
            together([run])
    print(f"{sum(scene.phases.values())} kills hit: {dict(scene.phases)}")  # noqa: T201
    scene.merged()


@pytest.mark.fault("processes", "several merges of lake files at once, beside runs and loads")
def test_merges_at_once(scene: Days) -> None:
    """None fails, and every record is there once."""
    for _ in range(3):
        scene.pass_day(4)
        together([scene.start(do) for do in ("merge", "merge", "run", "replace")])
    scene.merged()


@pytest.mark.fault(
    "processes", "SIGSTOP of a writer and a merge, whose files others merge meanwhile"
)
def test_a_stopped_writer_wakes_in_a_merged_ingest_date(scene: Days, rng: random.Random) -> None:
    """The name that it was about to take is free again: what it lands there is passed over, and
    removed by the next merge."""
    scene.pass_day(2)
    for _ in range(3):
        scene.send_today(300)
        writer = scene.stop(rng, "run", 3)
        scene.pass_day(2)
        merge = scene.stop(rng, "merge", 6)
        together([scene.start("merge")])
        for sleeper in (writer, merge):
            sleeper.send(signal.SIGCONT)
        together([writer, merge])
    scene.merged()


@pytest.mark.fault("processes", "SIGSTOP of a worker for days, whose files others merge meanwhile")
def test_a_worker_wakes_days_later(scene: Days) -> None:
    """The ends of the log that it remembers are those of files that are gone: its work is rejected,
    and it goes on from what there is."""
    scene.env["FLUSH_INTERVAL_SEC"] = "0.1"
    scene.send_today(200)
    worker = scene.start("stream")

    def loaded() -> bool:
        assert not worker.ended(0), worker.outcome()
        return stream_status(scene.platform, scene.stream).lag == 0

    until(loaded, "the worker has loaded all")
    worker.send(signal.SIGSTOP)
    for _ in range(2):
        scene.pass_day(2)
    together([scene.start("merge")])
    worker.send(signal.SIGCONT)
    scene.send_today(200)
    until(loaded, "the worker goes on")
    worker.send(signal.SIGTERM)
    together([worker])
    scene.merged()
