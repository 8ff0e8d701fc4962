"""Writers whose clocks are wrong: a record may be counted to another day, and is there once.

What producers stamp, in the far future and past, is in tests/integration/test_exactly_once.py.
"""

from __future__ import annotations

import signal
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.slice_counts import slice_counts
from services import Services
from tests.support.oracle import Logged, Place, read_table
from tests.support.processes import Worker
from tests.support.scene import Scene, together
from tests.support.testbed import separate_environment

pytestmark = [pytest.mark.services]


@pytest.fixture
def scene(servers: Services, worker: Worker, tmp_path: Path) -> Scene:
    """A new stream; the day of a record is what its row says, within reason."""
    scene = Scene.new(worker, separate_environment(servers), tmp_path)

    def as_written(_: dict[Place, Logged]) -> dict[Place, date]:
        found = {}
        for name in (scene.stream.bronze_table, scene.stream.quarantine_table):
            rows = read_table(scene.settings, name)
            columns = ("_topic_id", "_partition", "_offset", "_ingest_date")
            for *place, ingest_date in zip(*(rows[c].to_pylist() for c in columns), strict=True):
                found[(place[0], place[1], place[2])] = ingest_date
        today = datetime.now(UTC).date()
        assert {today - ingest_date for ingest_date in found.values()} <= {
            timedelta(n) for n in range(4)
        }
        return found

    scene.oracle.ingest_dates = as_written
    return scene


def holds(scene: Scene) -> None:
    """The oracle holds, and no slice's numbers are an alarm."""
    scene.holds()
    segment_log = SegmentLog(scene.platform.store, scene.stream.topic)
    slices = [
        (ingest_date, p)
        for ingest_date in segment_log.ingest_dates()
        for p in segment_log.names(ingest_date)
    ]
    counts = slice_counts(scene.platform, scene.stream, slices)
    assert all(count.ok and count.loaded for count in counts.values()), counts


@pytest.mark.fault("clocks", "the writer's clock jumps back and forth by days between runs")
def test_a_clock_that_jumps(scene: Scene) -> None:
    """A clock that is behind counts records to its own today, one that is ahead changes nothing;
    days never run backwards along a log partition."""
    for days in (-2, 0, 400, -1):
        scene.send(300)
        assert scene.start("run", clock_days=days).wait() == "ok"
    holds(scene)
    for partition in range(4):
        segments = SegmentLog(scene.platform.store, scene.stream.topic).after(partition, None)
        ingest_dates = [segment.name.ingest_date for segment in segments]
        assert ingest_dates == sorted(ingest_dates)


@pytest.mark.fault("clocks", "two writers at once, whose clocks differ by a day")
def test_writers_with_different_clocks(scene: Scene) -> None:
    """They may copy the same records into two days; each is read once."""
    scene.send(1_500, days=0.001)  # all of today
    # The one that is behind has read the log and stored nothing when the other does all of it.
    behind = scene.start("run", clock_days=-1)
    while behind.phase() != "landing a file":
        assert not behind.ended(0.001)
    behind.send(signal.SIGSTOP)
    together([scene.start("run")])
    behind.send(signal.SIGCONT)
    together([behind])
    segment_log = SegmentLog(scene.platform.store, scene.stream.topic)
    copies = sum(
        segment.rows
        for day in segment_log.ingest_dates()
        for p in range(4)
        for segment in segment_log.slice(day, p)
    )
    assert copies > 1_500
    for days in (-1, 30):
        scene.send(500)
        together([scene.start("run", clock_days=days), scene.start("run")])
    holds(scene)
