"""The embedded broker: librdkafka's mock cluster in its own process, for use without Kafka.

It speaks the Kafka protocol to any client on this machine and keeps everything in memory. Limits:

- A partition keeps about 5 MB of record batches, as they were sent: about 10,000 uncompressed
  records of 430 bytes, or 140,000 in zstd batches. Older records vanish silently.
- A restart loses all records, so the topic id changes.
- Every topic has four partitions.
- Topics cannot be created on request: asking for a topic's metadata creates it.
- It does not find offsets by time, give topics an id or isolate transactions.
- Other machines cannot reach it.
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
"""Partitions of every topic; the mock cluster supports no other number."""

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_OCCUPIED = 3  # exit code: another broker serves this home
_POLL = 0.02  # seconds


@dataclass(frozen=True)
class BrokerAddress:
    """A running embedded broker, as `broker.json` describes it."""

    bootstrap_servers: str
    pid: int
    process_start: str
    """Start time of the process, which distinguishes it from a later one with the same pid."""
    started_at: str
    """ISO 8601, UTC."""
    topic_id: str
    """A UUID made at start; records of any other topic id are lost."""


def serve(home: Path, *, ready: Callable[[str], None] | None = None) -> None:
    """Run the broker of `home` until SIGTERM, SIGINT or SIGHUP; call from the main thread.

    `ready` is called with the bootstrap servers once clients can connect.

    Raises:
        SourceUnavailable: another broker serves this home.
    """
    from confluent_kafka import Producer

    home.mkdir(parents=True, exist_ok=True)
    with _only_one(home), _blocked(_SIGNALS):
        # The mock cluster lives as long as the client that created it.
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
    """Return the broker of `home`; None unless its process runs and its port accepts."""
    broker = _read(_file(home))
    return broker if broker and _runs(broker) and _accepts(broker) else None


def start(home: Path, timeout: float = 20.0) -> BrokerAddress:
    """Return the broker of `home` when it is ready; start it in the background if none runs.

    The broker logs to `home`/broker.log and outlives this process. Concurrent callers get the same
    broker: they check for it one after the other, and the first one starts it.

    Raises:
        SourceUnavailable: the broker ended, or was not ready within `timeout` seconds, or another
            process was starting or stopping it all that time.
    """
    if (running := address(home)) is not None:
        return running
    deadline = time.monotonic() + timeout
    with _turn(home, deadline) as turn:
        child: subprocess.Popen[bytes] | None = None
        while (broker := address(home)) is None:
            # Occupied: another process runs `serve` and is starting up or shutting down.
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
            # Another broker serves. The child could start to serve when that one ends.
            _kill(child)
        elif child is not None:
            # Reap the child when it ends, so that it does not remain a zombie of this process.
            threading.Thread(target=child.wait, daemon=True).start()
    return broker


def stop(home: Path, timeout: float = 10.0) -> bool:
    """Stop the broker of `home`, wait until it has ended, and return whether one ran.

    All its records are lost. Removes a broker.json that a crash left behind. If any process is
    starting a broker, waits until that has finished and stops that broker.

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
    """Return when a process started, in the system's own format; None if it has ended."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The name, in brackets, may hold any text; state is the first field after it.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return None if not shown or shown[0].startswith("Z") else " ".join(shown[1:])


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the lock of `home`; the system releases it even if the process crashes.

    Raises:
        SourceUnavailable: another broker serves this home.
    """
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
    """Hold the lock for starting and stopping the broker of `home`; yield its file descriptor.

    A process that inherits the descriptor holds the lock until it closes it or ends. `deadline` is
    in seconds of the monotonic clock.

    Raises:
        SourceUnavailable: another process held the lock until `deadline`.
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
    """Block the signals, so that they stay pending until `sigwait` receives them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(home: Path, turn: int) -> subprocess.Popen[bytes]:
    """Start a broker process, which holds the lock `turn` until it has an address or ends."""
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    with _log(home).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ingestion_platform.kafka.broker", str(home), str(turn)],
            pass_fds=[turn],
            # Makes this package importable in the child, even if it is not installed.
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and wait until it has ended."""
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
