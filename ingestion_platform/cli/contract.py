"""`ingest contract`: what is wrong with, or could be better in, the contract files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ingestion_platform.cli.options import Json
from ingestion_platform.cli.terminal import Terminal, literal, mark

app = typer.Typer(no_args_is_help=True)


@app.callback()
def contract() -> None:
    """Contracts of streams (Open Data Contract Standard)."""


@app.command()
def lint(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            exists=True,
            dir_okay=False,
            help="Contract files. Default: those of all declared streams.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check contract files: errors that keep them from loading, and good practice.

    Exits with 1 if there is an error.

    [dim]Examples:[/]
      ingest contract lint
      ingest contract lint my_stream.odcs.yaml --json
    """
    from dataclasses import asdict

    from ingestion_platform.contract.lint import Severity
    from ingestion_platform.contract.lint import lint as check

    terminal: Terminal = ctx.obj
    checked = files or declared_contracts()
    findings = check(checked)
    failed = any(finding.severity is Severity.ERROR for finding in findings)
    if as_json:
        terminal.json([asdict(finding) for finding in findings])
    for finding in () if as_json else findings:
        status = "fail" if finding.severity is Severity.ERROR else "warn"
        place = literal(f"{finding.file}: {finding.element}")
        terminal.out.print(
            f"{mark(status)} {place}: {literal(finding.problem)}\n"
            f"     [cyan]->[/] {literal(finding.action)}",
            soft_wrap=True,
        )
    result = "[bold red]not usable[/]" if failed else "[green]usable[/]"
    terminal.say(f"{len(checked)} contract{'s' * (len(checked) != 1)}: {result}")
    if failed:
        raise typer.Exit(1)


def declared_contracts() -> list[Path]:
    """The contract files of all declared streams, and those that no stream has declared yet."""
    from ingestion_platform.streams import DEFS

    return sorted(DEFS.glob("*/*.odcs.yaml"))
