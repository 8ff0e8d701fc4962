"""Commands that run until they are stopped: Ctrl-C ends them in good order."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import Ingest

DEADLINE = 30.0


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ingest` in a process of its own, which does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ingestion_platform", *arguments],
        # Makes the package importable in the test's folder, installed or not.
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until it holds; fails when it does not in time."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def sent(ingest: Ingest) -> int:
    """How many records the topic has had."""
    return sum(p["log_end"] for p in ingest("status", "pgr_events", "--json").json[0]["partitions"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_endless_producing_ends_well(ingest: Ingest, number: signal.Signals) -> None:
    """A stopped producer confirms what it sent, and that was no failure."""
    ingest("produce", "pgr_events", "--count", "1")
    before = sent(ingest)
    with running("produce", "pgr_events", "--rate", "300") as process:
        wait_until(lambda: sent(ingest) > before)
        process.send_signal(number)
        _, told = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, told
    delivered = re.search(r"([\d,]+) of ([\d,]+) records delivered", told)
    assert delivered is not None, told
    assert delivered[1] == delivered[2]
    assert sent(ingest) - before == int(delivered[1].replace(",", ""))


def test_producing_a_number_that_is_cut_short_is_told(ingest: Ingest) -> None:
    """Stopped before its count, `produce` exits as interrupted."""
    ingest("produce", "pgr_events", "--count", "1")
    before = sent(ingest)
    with running("produce", "pgr_events", "--count", "100000", "--rate", "100") as process:
        wait_until(lambda: sent(ingest) > before)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_broker_in_the_foreground(bare: Ingest, tmp_path: Path, number: signal.Signals) -> None:
    """`ingest broker` serves until it is stopped, and leaves nothing behind."""
    file = tmp_path / ".platform" / "broker.json"
    with running("broker") as process:
        wait_until(file.exists)
        servers = json.loads(file.read_text())["bootstrap_servers"]
        assert bare("produce", "pgr_events", "--count", "5").code == 0
        process.send_signal(number)
        told, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert servers in told
    assert not file.exists()
