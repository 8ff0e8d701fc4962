"""What a user does first, as it is started from a shell: `ingest demo`, and `ingest dev`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_platform.sources import broker

ROOT = Path(__file__).parents[2]
OURS = ("KAFKA_", "LAKE_", "AWS_", "PYICEBERG_", "DAGSTER_", "PLATFORM_")
TABLES = (
    "bronze.service_events_raw",
    "quarantine.service_events_raw",
    "silver.silver_pgr_events",
    "gold.gold_pgr_case_lifecycle",
    "gold.gold_pgr_funnel_daily",
)

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of the test's own; its broker ends with the test."""
    folder = tmp_path / "home"
    yield folder
    broker.stop(folder)


def environment(home: Path) -> dict[str, str]:
    """An environment without settings but for the home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return kept | {"PLATFORM_HOME": str(home), "PYTHONPATH": str(ROOT)}


def ingest(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ingest` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ingestion_platform", *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def result(home: Path, *arguments: str) -> Any:
    """The JSON of a command that must succeed."""
    done = ingest(home, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shown_layers(out: str) -> dict[str, int]:
    """The rows per layer that the demo printed, by table, topic or `lake`."""
    section = out.partition("Rows per layer")[2].partition("Why records")[0]
    found = {}
    for line in section.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 3 and cells[2].replace(",", "").isdigit():
            name = "lake" if cells[0] == "lake" else cells[1]
            found[name] = int(cells[2].replace(",", ""))
    return found


def rows(home: Path, table: str) -> int:
    """How many rows a table has."""
    (row,) = result(home, "query", f"select count(*) as n from {table}")
    return int(row["n"])


def test_demo_goes_from_topic_to_gold_and_can_be_repeated(home: Path) -> None:
    """What the demo shows per layer is what the tables hold, also after a second run."""
    for time_run in (1, 2):
        done = ingest(home, "demo", "--count", "800")
        assert done.returncode == 0, done.stdout + done.stderr
        layers = shown_layers(done.stdout)
        assert layers.keys() == {"pgr-events", "lake", *TABLES}
        assert layers["pgr-events"] == layers["lake"] == 800 * time_run
        for table in TABLES:
            assert layers[table] == rows(home, table) > 0, table
        bronze, quarantine = (layers[table] for table in TABLES[:2])
        assert (bronze, quarantine) == (792 * time_run, 8 * time_run)
        assert "reconciliation" in done.stdout
        assert "fails" not in done.stdout
        assert "make dev" in done.stdout
    (found,) = result(home, "verify", "pgr_events")
    assert (found["ok"], found["expected"]) == (True, 1600)
    assert [f for f in result(home, "doctor") if f["status"] == "fail"] == []


def test_demo_does_not_write_to_a_real_kafka_unasked(home: Path) -> None:
    """With a Kafka in the settings the demo asks before it sends simulated events there."""
    env = environment(home) | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    command = [sys.executable, "-m", "ingestion_platform", "demo"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--on-kafka" in done.stderr


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    """Whether Dagster's web server is up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def bronze_rows(home: Path) -> int:
    """How many rows the bronze table has; none while there is no broker."""
    done = ingest(home, "status", "--json")
    return sum(each["bronze_rows"] for each in json.loads(done.stdout or "[]"))


def processes_of(home: Path) -> list[str]:
    """The command lines of the processes that have this home in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"PLATFORM_HOME={home}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_ends_all_that_it_started(home: Path, number: signal.Signals) -> None:
    """`ingest dev` brings up Dagster, which loads bronze by itself, and leaves no process."""
    port = free_port()
    command = [sys.executable, "-m", "ingestion_platform", "dev", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--rate", "20"],
        env=environment(home),
        stderr=subprocess.STDOUT,
        stdout=(home.parent / "dev.log").open("wb"),
        # As for what a shell runs in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        deadline = time.monotonic() + 120
        while not (answers(port) and bronze_rows(home)):
            assert process.poll() is None, (home.parent / "dev.log").read_text()
            assert time.monotonic() < deadline, (home.parent / "dev.log").read_text()
            time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(60) == 0, (home.parent / "dev.log").read_text()
    finally:
        process.kill()
    assert processes_of(home) == []
    assert not answers(port)
    assert broker.address(home) is None
