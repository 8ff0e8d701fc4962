"""`ingest deliver`: bronze tables and models brought to the stores that they are declared for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import Json, Quiet
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table
from ingestion_platform.errors import PlatformError, SettingError

if TYPE_CHECKING:
    from ingestion_platform.pipeline import Platform
    from ingestion_platform.sinks.declare import Delivery
    from ingestion_platform.sinks.deliver import Delivered

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STREAM|MODEL]...",
        help="Streams, models (silver.shop_users), or targets (postgres/shop.users).",
    ),
]
_FIGURES = ("upserted", "deleted", "refused", "seconds")
_SHOWN = 5


def deliver(
    ctx: typer.Context,
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="Every declared delivery.")] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Compare all of it: also rows refused before, or changed by others."
        ),
    ] = False,
    refused: Annotated[
        int, typer.Option("--refused", metavar="N", help="Only show the last N refused rows.")
    ] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring what is new to the stores that streams and models are declared for.

    Any number of times, by several at once: each target goes on from where
    it is. Deliveries without settings are left out by --all. Exits with 1 if
    one failed.

    [dim]Examples:[/]
      ingest deliver sensor_readings
      ingest deliver --all
      ingest deliver recomart_users --refused 20
    """
    terminal: Terminal = ctx.obj
    from ingestion_platform.pipeline import Platform
    from ingestion_platform.settings import Settings

    settings = Settings.load()
    chosen = _chosen(terminal, settings, names, everything=everything)
    platform = Platform(settings)
    if refused:
        _show_refused(terminal, platform, chosen, refused, as_json=as_json)
        return
    outcomes = [_attempt(terminal, platform, each, again=again) for each in chosen]
    done = [each for each in outcomes if each is not None]
    if as_json:
        from dataclasses import asdict

        terminal.json([asdict(each) for each in done])
    else:
        _show(terminal, done)
    if len(done) < len(outcomes):
        raise typer.Exit(1)


def _chosen(
    terminal: Terminal, settings: Any, names: list[str] | None, *, everything: bool
) -> list[Delivery]:
    from ingestion_platform.sinks.declare import declared_deliveries, select

    if bool(names) == everything:
        raise typer.BadParameter("name streams or models, or give --all", param_hint="STREAM")
    deliveries = declared_deliveries()
    if names:
        return select(deliveries, dict.fromkeys(names))
    there = [each for each in deliveries.values() if each.configured(settings)]
    for each in deliveries.values():
        if each not in there:
            terminal.say(f"{literal(each.name)}: no settings for {each.sink}, left out")
    return there


def _attempt(
    terminal: Terminal, platform: Platform, delivery: Delivery, *, again: bool
) -> Delivered | None:
    """Deliver; an error is told, and does not keep the others from being delivered."""
    from ingestion_platform.failures import noting
    from ingestion_platform.sinks.deliver import deliver as run

    try:
        with terminal.progress(total=False) as progress:
            task = progress.add_task(f"{literal(delivery.name)} rows", total=None)

            def told(done: Delivered) -> None:
                progress.update(task, completed=done.upserted + done.deleted)

            with noting(platform.settings.home, delivery.source):
                return run(platform, delivery, again=again, on_change=told)
    except SettingError:
        raise
    except PlatformError as error:
        terminal.error(error)
        return None


def _show(terminal: Terminal, done: list[Delivered]) -> None:
    table = new_table("", ("target", *_FIGURES), numbers=_FIGURES)
    for each in done:
        figures = (count(each.upserted), count(each.deleted), count(each.refused))
        table.add_row(literal(each.name), *figures, f"{each.seconds:.2f}")
    terminal.table(table)
    for each in done:
        for reason, number in sorted(each.reasons.items(), key=lambda of: -of[1])[:_SHOWN]:
            terminal.out.print(f"{literal(each.name)} refused {number:,}: {literal(reason)}")


def _show_refused(
    terminal: Terminal, platform: Platform, chosen: list[Delivery], limit: int, *, as_json: bool
) -> None:
    from dataclasses import asdict

    found = []
    for delivery in chosen:
        with delivery.open(platform.settings) as target:
            found += [{"target": delivery.name, **asdict(r)} for r in target.refusals(limit)]
    if as_json:
        terminal.json(found)
        return
    names = ("target", "partition", "offset", "reason", "row")
    table = new_table("", names, numbers=("partition", "offset"))
    for each in found:
        table.add_row(*(literal(str(each[name])[:120]) for name in names))
    terminal.table(table)
