"""The HTTP API as a process of its own, as people run it, and what a topic holds in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from services.net import free_port

ROOT = Path(__file__).parents[2]


@dataclass
class ApiProcess:
    """A running `ingest serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, **how: object) -> httpx2.Client:
        """A client with connections of its own."""
        return httpx2.Client(base_url=self.url, timeout=60, **how)

    def terminate(self) -> None:
        """Ask it to end."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def api_process(environment: Mapping[str, str], folder: Path) -> Iterator[ApiProcess]:
    """`ingest serve` without keys, under this environment; ended in the end if it still runs."""
    port, log = free_port(), folder / "API.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ingestion_platform", "serve", "--port", str(port)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "HTTP_API_AUTH": "off", **environment},
            stdout=output,
            stderr=output,
        )
    api = ApiProcess(process, port, log)
    try:
        until(lambda: answers(api), f"the API is not up: {log.read_text()}", process)
        yield api
    finally:
        process.kill()
        process.wait()


def answers(api: ApiProcess, path: str = "/healthz") -> bool:
    """Whether a path is answered with 200."""
    try:
        return httpx2.get(f"{api.url}{path}", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def until(
    condition: Callable[[], bool],
    problem: str = "it does not come true",
    process: subprocess.Popen[bytes] | None = None,
    timeout: float = 60,
) -> None:
    """Wait for a condition, no longer than the process runs."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, problem
        assert process is None or process.poll() is None, problem
        time.sleep(0.05)
