"""`ingest dev`: broker, simulator and Dagster, live on this machine and ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.terminal import Terminal, literal
from ingestion_platform.errors import Permanent

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings

LOCATION = "ingestion_platform.definitions"
"""The module with the definitions, which is also the code location's name in Dagster."""

_BAD_RATIO = 0.01
_POLL = 0.2
_PATIENCE = 8.0  # seconds for a process to end when asked to

_WORKSPACE = """load_from:
  - grpc_server:
      location_name: {location}
      socket: {socket}
"""


def dev(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where Dagster listens.")] = 3000,
    rate: Annotated[
        float, typer.Option(min=0, help="Simulated events per second; 0 for none.")
    ] = 5.0,
) -> None:
    """Run the platform live: Dagster's web server and daemon, and a slow simulator of events.

    Starts the embedded broker if no Kafka is set and none runs. Ctrl-C ends
    all that was started here, and nothing else. LOG_LEVEL=INFO shows every
    tick of Dagster's daemon; without it, only runs and problems are shown.
    """
    from ingestion_platform.orchestration.instance import prepare_dagster_home
    from ingestion_platform.settings import Settings

    terminal: Terminal = ctx.obj
    settings = Settings.load()
    prepare_dagster_home(settings)
    _require_free(port)
    with _stopped() as stopped, ExitStack() as started:
        stream = _log(terminal, settings, started)
        if rate and stream:
            log = settings.home / "simulator.log"
            arguments = ["--rate", str(rate), "--bad-ratio", str(_BAD_RATIO)]
            command = [sys.executable, "-m", "ingestion_platform", "produce", stream, *arguments]
            started.enter_context(_process(command, log))
            terminal.say(
                f"simulating {rate:g} events a second into {stream}, log {literal(str(log))}"
            )
        terminal.say("starting Dagster")
        servers = _dagster(settings, port, started, stopped)
        if _wait(lambda: _accepts(("127.0.0.1", port)), servers, stopped):
            terminal.say(f"Dagster: http://127.0.0.1:{port}    Ctrl-C ends it all")
        _wait(lambda: False, servers, stopped)
        terminal.say("ending what was started")


def _require_free(port: int) -> None:
    """Fail before anything is started if the port is taken."""
    if _accepts(("127.0.0.1", port)):
        action = f"end that one, or take another port: `make dev PORT={port + 1}`"
        raise Permanent(f"another server listens on port {port}", action=action)


def _log(terminal: Terminal, settings: Settings, started: ExitStack) -> str | None:
    """Make sure that there is a broker and a topic; return the stream to simulate, if any."""
    from ingestion_platform.kafka import broker
    from ingestion_platform.kafka.client import ensure_topic
    from ingestion_platform.produce.simulators import main_stream, simulated
    from ingestion_platform.streams import declared_streams

    streams = simulated(declared_streams().values())
    if settings.embedded and broker.address(settings.home) is None:
        address = broker.start(settings.home)
        started.callback(broker.stop, settings.home)
        terminal.say(f"started the embedded broker: {address.bootstrap_servers}")
    if not streams:
        return None
    stream = main_stream(streams)
    ensure_topic(settings, stream.topic, stream.partitions)
    return stream.name


def _dagster(
    settings: Settings, port: int, started: ExitStack, stopped: list[int]
) -> Mapping[str, subprocess.Popen[bytes]]:
    """Start Dagster's code server, then the web server and the daemon that use it.

    `dagster dev` and `dg dev` start the same three. They are not used, because they warn about the
    checkout's dagster.yaml, although DAGSTER_HOME has a link to it.
    """
    folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="dagster-")))
    code, workspace = folder / "code.sock", folder / "workspace.yaml"
    workspace.write_text(_WORKSPACE.format(location=LOCATION, socket=code))
    level = (settings.log.level or "WARNING").lower()
    logged = ["--log-format", "json"] if settings.log.format == "json" else []
    python = [sys.executable, "-m"]
    served = ["-m", LOCATION, "--location-name", LOCATION, "--socket", str(code)]
    commands = {
        "dagster code-server": [
            *(*python, "dagster", "code-server", "start", *served),
            *("--log-level", "warning", "--use-python-environment-entry-point"),
        ],
        "dagster-webserver": [
            *(*python, "dagster_webserver", "--port", str(port), "-w", str(workspace)),
            *("--dagster-log-level", level),
        ],
        "dagster-daemon": [
            *(*python, "dagster._daemon", "run", "-w", str(workspace), "--log-level", level),
        ],
    }
    servers: dict[str, subprocess.Popen[bytes]] = {}
    for name, command in commands.items():
        # Interrupted, the daemon closes its workspace under its sensors' threads: the ticks in
        # progress fail. Killed, it leaves them to be evaluated again at the next start.
        end = signal.SIGKILL if name == "dagster-daemon" else signal.SIGINT
        servers[name] = started.enter_context(_process([*command, *logged], end=end))
        # The code server opens its socket once the definitions are loaded.
        if not _wait(lambda: _accepts(str(code)), servers, stopped):
            break
    return servers


def _wait(
    condition: Callable[[], bool],
    servers: Mapping[str, subprocess.Popen[bytes]],
    stopped: list[int],
) -> bool:
    """Wait until the condition is true or a stop is asked for; return whether it is true.

    Raises:
        Permanent: one of the servers ended.
    """
    while not stopped:
        for name, server in servers.items():
            if server.poll() is not None:
                action = "read what it printed above"
                raise Permanent(f"{name} ended with {server.returncode}", action=action)
        if condition():
            return True
        time.sleep(_POLL)
    return False


def _accepts(address: str | tuple[str, int]) -> bool:
    """Return whether a server accepts connections at a Unix socket's path or a host and port."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(2)
        return client.connect_ex(address) == 0


@contextmanager
def _stopped() -> Iterator[list[int]]:
    """A list that gets the number of SIGINT or SIGTERM when it comes.

    Handled signals are reset in the processes that are started, ignored ones would stay ignored:
    a shell ignores SIGINT for what it runs in the background.
    """
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _process(
    command: list[str], log: Path | None = None, end: signal.Signals = signal.SIGINT
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, so that a Ctrl-C reaches it from here only.

    It is asked to end by the signal `end`.
    """
    with ExitStack() as files:
        output = files.enter_context(log.open("ab")) if log else None
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process, end)


def _end(process: subprocess.Popen[bytes], end: signal.Signals) -> None:
    """Ask the process to end its children and itself; then make all of its session end."""
    if process.poll() is None:
        process.send_signal(end)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
