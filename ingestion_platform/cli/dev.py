"""`ingest dev`: broker, simulator and Dagster, live on this machine and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.terminal import Terminal, literal
from ingestion_platform.errors import Permanent

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings

STREAM = "pgr_events"
_BAD_RATIO = 0.01
_POLL = 0.2
_PATIENCE = 8.0  # seconds for a process to end when asked to


def dev(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where Dagster listens.")] = 3000,
    rate: Annotated[
        float, typer.Option(min=0, help="Simulated events per second; 0 for none.")
    ] = 5.0,
) -> None:
    """Run the platform live: Dagster's web server and daemon, and a slow simulator of events.

    Starts the embedded broker if no Kafka is set and none runs. Ctrl-C ends
    all that was started here, and nothing else.
    """
    from ingestion_platform.orchestration.instance import prepare_dagster_home
    from ingestion_platform.settings import Settings

    terminal: Terminal = ctx.obj
    settings = Settings.load()
    prepare_dagster_home(settings)
    with _stopped() as stopped, ExitStack() as started:
        _log(terminal, settings, started)
        if rate:
            log = settings.home / "simulator.log"
            arguments = ["--rate", str(rate), "--bad-ratio", str(_BAD_RATIO)]
            command = [sys.executable, "-m", "ingestion_platform", "produce", STREAM, *arguments]
            started.enter_context(_process(command, log))
            terminal.say(
                f"simulating {rate:g} events a second into {STREAM}, log {literal(str(log))}"
            )
        terminal.say(f"Dagster: http://127.0.0.1:{port}    Ctrl-C ends it all")
        module = ["-m", "ingestion_platform.definitions", "-p", str(port)]
        if settings.log.format == "json":
            module += ["--log-format", "json"]
        dagster = started.enter_context(_process([sys.executable, "-m", "dagster", "dev", *module]))
        while not stopped and dagster.poll() is None:
            time.sleep(_POLL)
        terminal.say("ending what was started")
    if not stopped:
        action = "read what Dagster said above; another port: `make dev PORT=3001`"
        raise Permanent(f"dagster dev ended with {dagster.returncode}", action=action)


def _log(terminal: Terminal, settings: Settings, started: ExitStack) -> None:
    """Make sure that there is a broker and the topic."""
    from ingestion_platform.sources import broker
    from ingestion_platform.sources.client import ensure_topic
    from ingestion_platform.streams import declared_streams, select

    stream = select(declared_streams(), [STREAM])[0]
    if settings.embedded and broker.address(settings.home) is None:
        address = broker.start(settings.home)
        started.callback(broker.stop, settings.home)
        terminal.say(f"started the embedded broker: {address.bootstrap_servers}")
    ensure_topic(settings, stream.topic, stream.partitions)


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
def _process(command: list[str], log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, so that a Ctrl-C reaches it from here only; ended here."""
    with ExitStack() as files:
        output = files.enter_context(log.open("ab")) if log else None
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end its children and itself; then make all of its session end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
