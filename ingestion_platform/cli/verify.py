"""`ingest verify`: compare lake, bronze and quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from ingestion_platform.cli.options import All, Json, Quiet, StreamNames, chosen
from ingestion_platform.cli.outcomes import error_dict, finish
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table

if TYPE_CHECKING:
    from ingestion_platform.each import Attempt
    from ingestion_platform.operations.verify import Verification
    from ingestion_platform.streams import Stream

    Found = Attempt[Stream, Verification]

_FIGURES = (
    "expected",
    "bronze",
    "quarantined",
    "gaps",
    "missing",
    "duplicated",
    "mismatched",
    "stale",
)


def verify(
    ctx: typer.Context,
    streams: StreamNames = None,
    everything: All = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that every record of the lake is in bronze or quarantine, once and unchanged.

    Compares by position and by value. Exits with 1, and shows the first
    differences, if it does not hold.

    [dim]Examples:[/]
      ingest verify pgr_events
      ingest verify --all --json
    """
    terminal: Terminal = ctx.obj
    wanted = chosen(streams, everything=everything)
    from ingestion_platform.each import for_each
    from ingestion_platform.operations.verify import verify_stream
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings

    platform = Platform(Settings.load())
    with terminal.progress(total=False) as progress:

        def verified(stream: Stream) -> Verification:
            task = progress.add_task(f"{stream.name} compared", total=None)

            def advance(done: int) -> None:
                progress.update(task, completed=done)

            return verify_stream(platform, stream, on_progress=advance)

        found = list(for_each(verified, wanted))
    if as_json:
        terminal.json([_as_dict(of) for of in found])
    else:
        _show(terminal, found)
    finish(terminal, found)
    if not all(of.result.ok for of in found):
        raise typer.Exit(1)


def _as_dict(of: Found) -> dict[str, Any]:
    known: dict[str, Any] = {"stream": of.item.name, "ok": False}
    return {**(known if of.found is None else of.found.as_dict()), "error": error_dict(of.error)}


def _show(terminal: Terminal, attempts: Sequence[Found]) -> None:
    from ingestion_platform.each import results

    table = new_table("", ("stream", *_FIGURES, "holds"), numbers=_FIGURES)
    for of in attempts:
        if of.error is not None:
            failed = f"[bold red]error: {of.error.code}[/]"
            table.add_row(of.item.name, *("-" for _ in _FIGURES), failed)
            continue
        each = of.result
        holds = "[green]yes[/]" if each.ok else "[bold red]NO[/]"
        table.add_row(each.stream, *(count(getattr(each, name)) for name in _FIGURES), holds)
    terminal.table(table)
    for each in results(attempts):
        for difference in each.differences:
            terminal.out.print(f"  [red]{literal(each.stream)}:[/] {literal(difference)}")
        if each.inserted:
            terminal.say(
                f"  {count(each.inserted)} more rows of {literal(each.stream)} were inserted by "
                "others (SQL), and are in no lake"
            )
        if each.stale:
            terminal.say(
                f"  {count(each.stale)} records of {literal(each.stream)} were validated by an "
                "earlier contract\n"
                f"  [cyan]->[/] ingest revalidate {literal(each.stream)} --all-stale"
            )
