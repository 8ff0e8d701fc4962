"""Arguments and options that commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.terminal import Terminal
from ingestion_platform.errors import PlatformError

if TYPE_CHECKING:
    from ingestion_platform.streams import Stream


def complete_stream(incomplete: str) -> list[str]:
    """Return the declared streams for shell completion."""
    from ingestion_platform.streams import declared_streams

    try:
        return [name for name in declared_streams() if name.startswith(incomplete)]
    except PlatformError:
        return []


StreamName = Annotated[
    str,
    typer.Argument(metavar="STREAM", help="A declared stream.", autocompletion=complete_stream),
]
StreamNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STREAM]...", help="Declared streams.", autocompletion=complete_stream),
]
All = Annotated[bool, typer.Option("--all", help="Every declared stream.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for machines.")]


def _silence(ctx: typer.Context, wanted: bool) -> None:
    if isinstance(ctx.obj, Terminal) and wanted:
        ctx.obj.quiet = True


Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_silence, help="No progress and no remarks."),
]


def chosen(names: list[str] | None, *, everything: bool) -> list[Stream]:
    """Return the named streams, or all.

    Raises:
        typer.BadParameter: neither names nor --all, or both.
        UnknownStream: no stream of a name is declared.
    """
    from ingestion_platform.streams import declared_streams, select

    if bool(names) == everything:
        raise typer.BadParameter("name streams, or give --all", param_hint="STREAM")
    streams = declared_streams()
    return select(streams, dict.fromkeys(names)) if names else list(streams.values())
