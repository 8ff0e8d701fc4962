"""`ingest metrics`: serve the metrics for Prometheus, or print them once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ingestion_platform.cli.terminal import Terminal


def metrics(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 9464,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics, and end.")] = False,
) -> None:
    """Serve the metrics of all streams, tables and targets at GET /metrics.

    They are read from the data, so counters never go back, whatever is
    restarted; one such process is enough for all runs, workers and HTTP APIs
    of a PLATFORM_HOME.

    [dim]Examples:[/]
      ingest metrics --host 0.0.0.0
      ingest metrics --once | promtool check metrics
    """
    terminal: Terminal = ctx.obj
    from ingestion_platform.operations.metrics.serve import reader_of, serve, text
    from ingestion_platform.settings import Settings

    settings = Settings.load()
    if once:
        reader = reader_of(settings)
        typer.echo(text(settings, reader).decode(), nl=False)
        reader.close()
        return
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    terminal.say(f"metrics: http://{host}:{port}/metrics    Ctrl-C ends it")
    serve(settings, host, port, stop)
