"""Starting, killing, stopping and awaiting the processes that `forking` forks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ingestion_platform.streams import Stream

ROOT = Path(__file__).parents[2]

KILLED: Counter[str] = Counter()
"""The processes that a test has killed at work so far, by what they did."""


@dataclass
class Attempt:
    """One forked process; `log` tells how far it came."""

    do: str
    pid: int
    log: Path
    _descriptor: int = -1
    _killed: bool = False

    def __post_init__(self) -> None:
        try:
            self._descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:  # it has ended already
            self._descriptor = -1

    def send(self, sign: signal.Signals) -> bool:
        """Signal the process; False when it has ended."""
        if self._descriptor < 0:
            return False
        try:
            signal.pidfd_send_signal(self._descriptor, sign)
        except ProcessLookupError:
            return False
        self._killed = sign == signal.SIGKILL
        return True

    def ended(self, timeout: float) -> bool:
        """Wait for its end for a while; whether it has ended."""
        if self._descriptor < 0:
            return True
        return bool(select.select([self._descriptor], [], [], max(0.0, timeout))[0])

    def wait(self, timeout: float = 120) -> str:
        """How it ended: `ok`, `transient ...`, `permanent ...`, `failed ...`, `` when killed."""
        assert self.ended(timeout), f"still runs after {timeout} s:\n{self.log.read_text()[-2000:]}"
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            KILLED[self.do] += self._killed and self.outcome() == ""
        return self.outcome()

    def outcome(self) -> str:
        """What it wrote at its end, `` if it could not."""
        text = self.log.read_text() if self.log.exists() else ""
        for word in ("failed ", "permanent ", "transient ", "ok\n"):
            at = text.find(f"\n{word}") + 1 or (1 if text.startswith(word) else 0)
            if at:
                return text[at if text[at : at + 1] == word[0] else 0 :].strip()
        return ""

    def steps(self) -> int:
        """How many steps have begun or ended."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def phase(self) -> str:
        """What it was doing last: the steps that had begun and not ended."""
        opened: dict[str, str] = {}
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        for line in lines:
            sign, _, rest = line.partition(" ")
            number, _, name = rest.partition(" ")
            if sign == "+":
                opened[number] = name
            elif sign == "-":
                opened.pop(number, None)
        if opened:
            ranks = ["committing", "writing", "landing", "removing", "merging", "validating"]
            ranks += ["delivering", "storing"]
            return min(opened.values(), key=lambda n: ranks.index(n.split()[0]))
        return "between steps" if lines else "starting"


class Worker:
    """The process that forks; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking"],
            cwd=ROOT,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def start(
        self,
        do: str,
        env: dict[str, str],
        stream: Stream,
        *,
        clock_days: float = 0,
        ingest_dates: tuple[str, str] | None = None,
    ) -> Attempt:
        """Have a piece of work done in a process of its own, whose clock may be wrong by some
        days; what `do` may be stands in `forking.perform`. `ingest dates` are those that `store`
        handles, the end excluded; all without them."""
        self._count += 1
        log = self._folder / f"attempt-{self._count:04d}.log"
        plain = {k: str(v) if k == "contract_file" else v for k, v in asdict(stream).items()}
        request = {
            "do": do,
            "env": env,
            "root": str(self._folder),
            "stream": plain,
            "log": str(log),
            "clock_days": clock_days,
            "ingest_dates": ingest_dates,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Attempt(do, self._answer()["pid"], log)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker died"
        return dict(json.loads(line))
