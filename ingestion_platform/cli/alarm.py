"""`ingest alarm`: the alarms that are on, and whether the webhook takes them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.options import Json
from ingestion_platform.cli.terminal import Terminal, literal

if TYPE_CHECKING:
    from ingestion_platform.alarms import Open

app = typer.Typer(help="What is wrong at present, and who is told of it (docs/alarms.md).")


@app.command("list")
def list_alarms(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the alarms that are on, as workers and Dagster on this host have found them.

    Exits with 1 if there is any, so that it serves as a probe.
    """
    from ingestion_platform.alarms import AlarmStore
    from ingestion_platform.settings import Settings

    terminal: Terminal = ctx.obj
    found = AlarmStore(Settings.load()).open()
    if as_json:
        terminal.json([{**asdict(each.alarm), "since": _time(each)} for each in found])
    for each in [] if as_json else found:
        _show(terminal, each)
    if not found and not as_json:
        terminal.say("no alarm is on")
    if found:
        raise typer.Exit(1)


@app.command("close")
def close(
    ctx: typer.Context, key: Annotated[str, typer.Argument(help="As `ingest alarm list` has it.")]
) -> None:
    """Close an alarm that nothing else closes: of a worker or a stream that was removed.

    What is still wrong is an alarm again at the next look.
    """
    from ingestion_platform.alarms import AlarmStore
    from ingestion_platform.errors import PlatformError
    from ingestion_platform.settings import Settings

    terminal: Terminal = ctx.obj
    book = AlarmStore(Settings.load())
    if key not in book.noted():
        raise PlatformError(f"there is no alarm {key}", action="`ingest alarm list` shows them")
    book.gone(key)
    book.deliver()
    terminal.say(f"closed {literal(key)}")


@app.command("test")
def test(ctx: typer.Context) -> None:
    """Post an alarm that means nothing to ALARM_WEBHOOK_URL, once."""
    from ingestion_platform.alarms import post, trial_message
    from ingestion_platform.settings import Settings

    terminal: Terminal = ctx.obj
    settings = Settings.load()
    body = trial_message(settings)
    post(settings.alarms, body["id"], json.dumps(body, ensure_ascii=False))
    terminal.say(f"the webhook took it, id {body['id']}")


def _show(terminal: Terminal, each: Open) -> None:
    alarm, colour = each.alarm, "bold red" if each.alarm.severity == "error" else "yellow"
    terminal.out.print(
        f"[{colour}]{alarm.severity}[/] since {_time(each)}  {literal(alarm.what)}", soft_wrap=True
    )
    if alarm.detail:
        terminal.out.print(f"  {literal(alarm.detail)}", soft_wrap=True)
    terminal.out.print(
        f"  [cyan]->[/] {literal(alarm.action)}; docs/runbook.md#{alarm.section}", soft_wrap=True
    )
    terminal.out.print(f"  [dim]{literal(alarm.key)}[/]", soft_wrap=True)


def _time(each: Open) -> str:
    return datetime.fromtimestamp(each.since, UTC).isoformat(timespec="seconds")
