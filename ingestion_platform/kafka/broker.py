"""The embedded broker: librdkafka's mock cluster in a process of its own, for use without Kafka.

It speaks Kafka's protocol to any client on this machine, and keeps everything in memory. It cannot:
keep much (about 5 MB of record batches, as they were sent, per partition; older records vanish
silently, which is about 10,000 uncompressed records of 430 bytes, or 140,000 in zstd batches);
survive a restart (all records are lost: hence a new `topic id`); have other than four
partitions per topic; create topics on request (asking for a topic's metadata makes it); find
offsets by time; give topics an id; isolate transactions; be reached from another machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ingestion_platform.errors import SourceUnavailable

PARTITIONS = 4
"""Partitions of every topic; the mock cluster offers no other number."""

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_OCCUPIED = 3  # exit code: another broker serves this home
_POLL = 0.02  # seconds


@dataclass(frozen=True)
class BrokerAddress:
    """A running embedded broker, as its `broker.json` describes it."""

    bootstrap_servers: str
    pid: int
    process_start: str
    """When the operating system started the process: tells it from a later one of equal pid."""
    started_at: str
    """ISO 8601, UTC."""
    topic_id: str
    """A uuid made at start; the records of another topic id are gone."""


def serve(home: Path, *, ready: Callable[[str], None] | None = None) -> None:
    """Be the broker of `home` until SIGTERM, SIGINT or SIGHUP; call from the main thread.

    `ready` is called with the bootstrap servers once clients can connect.

    Raises:
        SourceUnavailable: another broker serves this home.
    """
    from confluent_kafka import Producer

    home.mkdir(parents=True, exist_ok=True)
    with _only_one(home), _blocked(_SIGNALS):
        # The cluster lives as long as the client that was asked to mock it.
        cluster = Producer({"test.mock.num.brokers": 1, "log_level": 3})
        brokers = cluster.list_topics(timeout=10).brokers.values()
        servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        file = _file(home)
        _write(file, servers)
        try:
            if ready is not None:
                ready(servers)
            signal.sigwait(_SIGNALS)
        finally:
            file.unlink(missing_ok=True)


def address(home: Path) -> BrokerAddress | None:
    """The live broker of `home`: its very process runs and its port accepts; otherwise None."""
    broker = _read(_file(home))
    return broker if broker and _runs(broker) and _accepts(broker) else None


def start(home: Path, timeout: float = 20.0) -> BrokerAddress:
    """The broker of `home`, started in the background if none runs; returns when it is ready.

    It logs to `home`/broker.log and outlives this process. Any number of callers at once get the
    same broker: one after the other looks for it, and the first starts it.

    Raises:
        SourceUnavailable: it ended, or was not ready within `timeout` seconds.
    """
    if (running := address(home)) is not None:
        return running
    deadline = time.monotonic() + timeout
    with _turn(home, deadline) as turn:
        child: subprocess.Popen[bytes] | None = None
        while (broker := address(home)) is None:
            # Occupied: a broker that `serve` runs is about to be ready, or about to be gone.
            if child is None or child.poll() == _OCCUPIED:
                child = _spawn(home, turn)
            if child.poll() not in (None, _OCCUPIED) or time.monotonic() > deadline:
                how = "ended at once" if child.poll() else f"was not ready in {timeout:.0f} s"
                _kill(child)
                raise SourceUnavailable(
                    f"the embedded broker {how}: {_last_line(_log(home))}",
                    action=f"read {_log(home)}",
                )
            time.sleep(_POLL)
        if child is not None and child.pid != broker.pid:
            # Another one serves. Left alone, this one might serve after that one.
            _kill(child)
        elif child is not None:
            # Reaps the child when it ends, so that it does not stay as a zombie of this process.
            threading.Thread(target=child.wait, daemon=True).start()
    return broker


def stop(home: Path, timeout: float = 10.0) -> bool:
    """End the broker of `home` and wait until it is gone; whether one ran.

    All its records are lost. A broker.json left behind by a crash is removed. A start in progress,
    by any process, is waited for: its broker is the one that is ended.

    Raises:
        SourceUnavailable: another process was starting or stopping it for `timeout` seconds.
    """
    if not home.is_dir():
        return False
    with _turn(home, time.monotonic() + timeout):
        broker = _read(_file(home))
        running = broker is not None and _runs(broker)
        if broker is not None and running:
            deadline = time.monotonic() + timeout
            _signal(broker, signal.SIGTERM)
            while _runs(broker):
                if time.monotonic() > deadline:
                    _signal(broker, signal.SIGKILL)
                time.sleep(_POLL)
        if broker is not None and _read(_file(home)) == broker:
            _file(home).unlink(missing_ok=True)
    return running


def _file(home: Path) -> Path:
    return home / "broker.json"


def _log(home: Path) -> Path:
    return home / "broker.log"


def _write(file: Path, servers: str) -> None:
    broker = BrokerAddress(
        bootstrap_servers=servers,
        pid=os.getpid(),
        process_start=_process_start(os.getpid()) or "",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        topic_id=str(uuid.uuid4()),
    )
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(broker), indent=2) + "\n")
    draft.replace(file)


def _read(file: Path) -> BrokerAddress | None:
    try:
        return BrokerAddress(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _runs(broker: BrokerAddress) -> bool:
    return _process_start(broker.pid) == broker.process_start


def _accepts(broker: BrokerAddress) -> bool:
    host, _, port = broker.bootstrap_servers.split(",")[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


def _signal(broker: BrokerAddress, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(broker.pid, number)


def _process_start(pid: int) -> str | None:
    """When the process began, in the system's own words; None if it has ended."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The name, in brackets, may hold anything; state is the first field behind it.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return None if not shown or shown[0].startswith("Z") else " ".join(shown[1:])


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the lock of `home`; the system releases it however the process ends."""
    with (home / "broker.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceUnavailable(
                f"an embedded broker already serves {home}",
                action="use that one, or stop it first",
            ) from None
        yield


@contextmanager
def _turn(home: Path, deadline: float) -> Iterator[int]:
    """Keep all others from starting and stopping the broker of `home`; yield the lock's descriptor.

    A process that inherits the descriptor keeps the lock until it closes it or ends.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "broker.turn").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SourceUnavailable(
                        f"another process is starting or stopping the embedded broker of {home}",
                        action="end that process (`fuser` on broker.turn names it), or try again",
                    ) from None
                time.sleep(_POLL)
        yield lock.fileno()


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    """Keep the signals pending, so that `sigwait` gets them and none is lost before it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(home: Path, turn: int) -> subprocess.Popen[bytes]:
    """Start a broker process, which keeps the turn until it has an address, or ends."""
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    with _log(home).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ingestion_platform.kafka.broker", str(home), str(turn)],
            pass_fds=[turn],
            # Makes this package importable there too, installed or not.
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child now; it does nothing after this returns."""
    child.kill()
    child.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it logged nothing")


def _main(arguments: list[str]) -> int:
    home, turn = Path(arguments[0]), arguments[1:]

    def ready(_servers: str) -> None:
        for descriptor in turn:
            os.close(int(descriptor))

    try:
        serve(home, ready=ready)
    except SourceUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return _OCCUPIED
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
