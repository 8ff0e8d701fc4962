"""`ingest stream` as people run it: processes, signals, exit codes, what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams
from tests.support.testbed import PGR

pytestmark = pytest.mark.slow

PATIENCE = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.05)


class Shop:
    """Three streams of the test's own, on the embedded broker; the third one's contract and table
    disagree once `spoil` was called."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        own = uuid.uuid4().hex[:8]
        home = folder / "domains" / "shop"
        home.mkdir(parents=True)
        documents = []
        for number in range(3):
            contract = yaml.safe_load(PGR.read_text())
            contract["schema"][0]["physicalName"] = f"events_{own}_{number}"
            (home / f"{number}.odcs.yaml").write_text(yaml.safe_dump(contract))
            name = f"shop_{own}_{number}"
            attributes = {"name": name, "topic": name, "contract": f"{number}.odcs.yaml"}
            documents.append(
                {"type": "ingestion_platform.orchestration.Stream", "attributes": attributes}
            )
        (home / "defs.yaml").write_text(yaml.safe_dump_all(documents))
        self.settings = settings
        self.platform = Platform(settings)
        self.streams = list(declared_streams(home.parent).values())
        self.env = {
            "PLATFORM_DOMAINS": str(home.parent),
            "PLATFORM_HOME": str(settings.home),
            "DAGSTER_HOME": "",
            "LAKE_URL": settings.lake_url,
            "DROP_URL": (folder / "drop").as_uri(),
            "FLUSH_INTERVAL_SEC": "0.1",
            "PYICEBERG_CATALOG__LAKEHOUSE__URI": settings.catalog["uri"],
            "PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE": settings.catalog["warehouse"],
        }
        self.sent = 0

    def send(self) -> None:
        """Some events to each of them."""
        for number, stream in enumerate(self.streams):
            records = simulate("pgr_events", 50, seed=self.sent + number)
            assert not produce(self.settings, stream.topic, records).failed
        self.sent += 50

    def loaded(self, *streams: Stream) -> bool:
        """Whether the tables of some have all that was sent."""
        found = [stream_status(self.platform, each) for each in streams]
        return all(each.bronze_rows == self.sent and not each.lag for each in found)

    def spoil(self) -> None:
        """Have the third stream's table be one that its contract cannot be loaded into."""
        from pyiceberg.schema import Schema
        from pyiceberg.types import DoubleType, NestedField

        table = self.streams[2].bronze_table
        self.platform.catalog.create_namespace_if_not_exists("bronze")
        wrong = NestedField(1, "event_time", DoubleType(), required=False)
        self.platform.catalog.create_table(table, Schema(wrong))

    @contextmanager
    def streaming(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """`ingest stream` over all of them, which does not outlive the test."""
        names = [stream.name for stream in self.streams]
        command = [sys.executable, "-m", "ingestion_platform", "stream", *names, *options]
        process = subprocess.Popen(
            command, env=os.environ | self.env, stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def shop(embedded_settings: Settings, tmp_path: Path) -> Shop:
    """Streams that have some events."""
    shop = Shop(embedded_settings, tmp_path)
    shop.send()
    return shop


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    """Tell it to end; its exit code, and what it has said."""
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def children(process: subprocess.Popen[str]) -> list[int]:
    """The worker processes that it has started."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    return [pid for pid, line in lines.items() if b"spawn_main" in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(shop: Shop, number: signal.Signals) -> None:
    """What was sent meanwhile is loaded; quiet where nobody watches; exit code 0."""
    with shop.streaming("--no-report") as process:
        until(lambda: shop.loaded(*shop.streams), "loaded")
        shop.send()
        until(lambda: shop.loaded(*shop.streams), "loaded what came in meanwhile")
        assert end(process, number) == (0, "")


def test_several_processes_end_together(shop: Shop) -> None:
    """The streams are spread over them; a signal to the first one ends all."""
    with shop.streaming("--no-report", "--processes", "2") as process:
        until(lambda: shop.loaded(*shop.streams), "loaded")
        pids = children(process)
        assert len(pids) == 2
        assert end(process) == (0, "")
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_process_that_dies_ends_all(shop: Shop) -> None:
    """Nothing is restarted in silence: the others end well, the exit code is 1."""
    with shop.streaming("--no-report", "--processes", "2") as process:
        until(lambda: shop.loaded(*shop.streams), "loaded")
        first, second = children(process)
        os.kill(first, signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert "died (exit code -9)" in said
        assert not Path(f"/proc/{second}").exists()


def test_processes_end_with_the_one_that_started_them(shop: Shop) -> None:
    """Even when that is killed."""
    with shop.streaming("--no-report", "--processes", "2") as process:
        until(lambda: shop.loaded(*shop.streams), "loaded")
        pids = children(process)
        process.kill()
        until(lambda: not any(alive(pid) for pid in pids), "ended")


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("options", [[], ["--processes", "3"]])
def test_a_stream_that_fails_leaves_the_others(shop: Shop, options: list[str]) -> None:
    """Its error is told with what to do; the others go on; the exit code at the end is 1."""
    shop.spoil()
    with shop.streaming("--no-report", *options) as process:
        until(lambda: shop.loaded(*shop.streams[:2]), "loaded")
        shop.send()
        until(lambda: shop.loaded(*shop.streams[:2]), "loaded what came in meanwhile")
        code, said = end(process)
        assert code == 1
        assert said.count("has stopped") == 1
        assert f"{shop.streams[2].name} has stopped" in said
        assert "event_time" in said
        assert "-> " in said
