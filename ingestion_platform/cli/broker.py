"""`ingest broker`: run the embedded broker in the foreground or background."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.terminal import Terminal, literal

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings

app = typer.Typer(invoke_without_command=True)


@app.callback()
def broker(
    ctx: typer.Context,
    background: Annotated[
        bool, typer.Option("--background", help="Return when it is ready; it goes on running.")
    ] = False,
) -> None:
    """Run the embedded broker: an in-memory replacement for Kafka.

    It keeps about 5 MB per partition, has four partitions per topic, and
    forgets everything when it ends. The other commands find it by themselves.

    [dim]Examples:[/]
      ingest broker                 until Ctrl-C
      ingest broker --background    then: ingest broker stop
    """
    if ctx.invoked_subcommand is not None:
        return
    from ingestion_platform.settings import Settings

    settings = Settings.load()
    _warn_of_kafka(ctx.obj, settings)
    if background:
        from ingestion_platform.kafka.broker import start

        _ready(start(settings.home).bootstrap_servers)
        return
    from ingestion_platform.kafka.broker import serve

    serve(settings.home, ready=_ready)


@app.command()
def stop(ctx: typer.Context) -> None:
    """Stop the embedded broker; its records are lost, lake and tables stay."""
    from ingestion_platform.kafka import broker as embedded
    from ingestion_platform.settings import Settings

    home = Settings.load().home
    stopped = embedded.stop(home)
    what = "stopped the embedded broker of" if stopped else "no embedded broker ran in"
    ctx.obj.say(f"{what} {literal(str(home))}")


def _ready(servers: str) -> None:
    typer.echo(f"the embedded broker is ready: {servers}")


def _warn_of_kafka(terminal: Terminal, settings: Settings) -> None:
    if not settings.embedded:
        terminal.say(
            "[yellow]note:[/] KAFKA_BOOTSTRAP_SERVERS is set, so the other commands use that "
            "Kafka and not this broker"
        )
