"""`ingest doctor`: report the checks of `diagnosis`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ingestion_platform.cli.options import Json
from ingestion_platform.cli.terminal import Terminal, literal, mark, redacted

if TYPE_CHECKING:
    from ingestion_platform.cli.diagnosis import Finding


def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Check connections, settings, data and lag, and name the next action.

    Secrets are never shown. Exits with 1 if something fails.
    """
    from ingestion_platform.cli.diagnosis import Level, examine

    terminal: Terminal = ctx.obj
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            _show(terminal, finding)
    if as_json:
        terminal.json([_as_dict(finding) for finding in findings])
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(1)


def _as_dict(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "status": finding.level.value,
        "message": redacted(finding.message),
        "action": redacted(finding.action),
    }


def _show(terminal: Terminal, finding: Finding) -> None:
    action = f"  [cyan]->[/] {literal(redacted(finding.action))}" if finding.action else ""
    terminal.out.print(
        f"{mark(finding.level)}  [bold]{finding.check:<15}[/] "
        f"{literal(redacted(finding.message))}{action}",
        soft_wrap=True,
    )
