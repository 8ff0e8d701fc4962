"""`ingest stream`: land and load streams in a loop, seconds behind their logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform import logs
from ingestion_platform.cli.options import All, Quiet, StreamNames, chosen
from ingestion_platform.cli.outcomes import finish
from ingestion_platform.cli.terminal import Terminal

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ingestion_platform.settings import Settings
    from ingestion_platform.worker.tasks import Observer

LOG = logging.getLogger("ingestion_platform.worker")


def stream(
    ctx: typer.Context,
    streams: StreamNames = None,
    everything: All = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of processes that share the streams.")
    ] = 1,
    report: Annotated[
        bool, typer.Option(help="Report to Dagster, if DAGSTER_HOME has an instance.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Keep streams up to date until SIGTERM or Ctrl-C: what `ingest run` does, in a loop.

    Records are in bronze a second or two after they were sent. May run beside
    Dagster's sensors, other workers and `ingest run`, and be killed at any
    time: nothing is lost or doubled. While a server is away it waits.
    Exits with 1 if a stream failed; the others go on until they are ended.
    A topic that does not exist yet is waited for.

    [dim]Settings:[/] BATCH_SIZE, FLUSH_INTERVAL_SEC, FLUSH_BYTES, DROP_INTERVAL_SEC,
    REPORT_INTERVAL_SEC

    [dim]Examples:[/]
      ingest stream pgr_events
      ingest stream --all --processes 2 --no-report
    """
    terminal: Terminal = ctx.obj
    wanted = chosen(streams, everything=everything)
    from ingestion_platform.each import for_each
    from ingestion_platform.settings import Settings
    from ingestion_platform.sinks.declare import stream_deliveries
    from ingestion_platform.worker.processes import run

    settings = Settings.load()
    # Report an invalid contract or delivery before anything starts.
    attempts = list(for_each(lambda of: (of.contract, stream_deliveries(of)), wanted))
    usable = [of.item for of in attempts if of.error is None]
    if not usable:
        finish(terminal, attempts)
    remarks = not terminal.quiet and terminal.err.is_terminal
    setup = ProcessSetup(report=report, level="INFO" if remarks else "WARNING")
    logs.configure(settings, level=setup.level, run=logs.this_process("worker"))
    for of in attempts:
        if of.error is not None:
            LOG.error("%s is not served: %s", of.item.name, of.error)
    succeeded = run(settings, usable, processes=processes, observe=setup)
    finish(terminal, attempts)
    if not succeeded:
        raise typer.Exit(1)


@dataclass(frozen=True)
class ProcessSetup:
    """Set up the logs, progress and reports to Dagster of each process of the worker."""

    report: bool
    level: str

    def __call__(self, settings: Settings) -> AbstractContextManager[Sequence[Observer]]:
        """See `worker.processes.Observe`."""
        return self._observed(settings)

    @contextmanager
    def _observed(self, settings: Settings) -> Iterator[Sequence[Observer]]:
        from ingestion_platform.worker.tasks import ProgressLog

        logs.configure(settings, level=self.level, run=logs.this_process("worker"))
        with ExitStack() as opened:
            observers: list[Observer] = [ProgressLog()]
            if self.report and _dagster_is_there(settings):
                from ingestion_platform.orchestration.report import reporting

                observers.append(opened.enter_context(reporting(settings)))
            yield observers


def _dagster_is_there(settings: Settings) -> bool:
    """Return whether DAGSTER_HOME is set, or exists because Dagster was used here."""
    there = "DAGSTER_HOME" in settings.source or (settings.dagster_home / "dagster.yaml").exists()
    if not there:
        LOG.info("no reports: Dagster has not been used here (%s)", settings.dagster_home)
    return there
