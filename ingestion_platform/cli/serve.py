"""`ingest serve`: run the HTTP API in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ingestion_platform.cli.terminal import Terminal


def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8080,
    new_key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Make an API key for a client, show it once, and exit."),
    ] = None,
) -> None:
    """Take records by HTTP: POST /v1/streams/STREAM/records, described at /docs.

    Answers when Kafka has acknowledged. SIGTERM or Ctrl-C finishes requests
    in progress first. One process: run several behind a load balancer for more.

    [dim]Examples:[/]
      ingest serve --new-key shop             prints a key, and its HTTP_API_KEYS entry
      HTTP_API_AUTH=off ingest serve           without keys, on this machine
    """
    terminal: Terminal = ctx.obj
    if new_key is not None:
        _show_new_key(terminal, new_key)
        return
    from ingestion_platform.http_api.server import serve as serve_api
    from ingestion_platform.settings import Settings

    settings = Settings.load()
    terminal.say(f"the HTTP API: http://{host}:{port}/docs    Ctrl-C ends it")
    serve_api(settings, host, port)


def _show_new_key(terminal: Terminal, name: str) -> None:
    import re

    from ingestion_platform.http_api.limits import new_key

    if not re.fullmatch(r"[\w.@-]+", name):
        raise typer.BadParameter("use letters, digits and _ . @ -", param_hint="--new-key")
    key, digest = new_key()
    terminal.say("the key, which is not shown again; give it to the client:")
    typer.echo(key)
    terminal.say("its entry in HTTP_API_KEYS (entries are separated by commas):")
    typer.echo(f"{name}:{digest}")
