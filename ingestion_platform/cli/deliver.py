"""`ingest deliver`: deliver bronze tables and models to their declared targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import Json, Quiet
from ingestion_platform.cli.outcomes import error_dict, finish
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table

if TYPE_CHECKING:
    from ingestion_platform.each import Attempt
    from ingestion_platform.platform import Platform
    from ingestion_platform.sinks.declare import Delivery
    from ingestion_platform.sinks.deliver import Delivered
    from ingestion_platform.streams import Stream

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STREAM|MODEL]...",
        help="Streams, models (silver.shop_users), or targets (postgres/shop.users).",
    ),
]
_FIGURES = ("upserted", "deleted", "rejected", "seconds")
_SHOWN = 5


def deliver(
    ctx: typer.Context,
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="Every declared delivery.")] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Compare all of it: also rows rejected before, or changed by others."
        ),
    ] = False,
    rejected: Annotated[
        int, typer.Option("--rejected", metavar="N", help="Only show the last N rejected rows.")
    ] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Deliver new rows of streams and models to their declared targets.

    Any number of times, by several at once: each target goes on from where
    it is. Deliveries without settings are left out by --all. Exits with 1 if
    one failed.

    [dim]Examples:[/]
      ingest deliver sensor_readings
      ingest deliver --all
      ingest deliver recomart_users --rejected 20
    """
    terminal: Terminal = ctx.obj
    from ingestion_platform.each import for_each, results
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings

    settings = Settings.load()
    chosen, unreadable = _chosen(terminal, settings, names, everything=everything)
    platform = Platform(settings)
    if rejected:
        shown = list(for_each(lambda one: _rejections(platform, one, rejected), chosen))
        _show_rejected(terminal, [row for rows in results(shown) for row in rows], as_json=as_json)
        finish(terminal, [*shown, *unreadable])
        return
    outcomes = list(for_each(lambda one: _deliver(terminal, platform, one, again=again), chosen))
    if as_json:
        terminal.json([*map(_as_dict, outcomes), *map(_as_dict, unreadable)])
    else:
        _show(terminal, results(outcomes))
    finish(terminal, [*outcomes, *unreadable])


def _as_dict(of: Attempt[Any, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    known = {"name": of.item.name} if of.found is None else asdict(of.found)
    return {**known, "error": error_dict(of.error)}


def _chosen(
    terminal: Terminal, settings: Any, names: list[str] | None, *, everything: bool
) -> tuple[list[Delivery], list[Attempt[Stream, Any]]]:
    """Return the chosen deliveries, and the chosen streams whose deliveries cannot be read."""
    from ingestion_platform.sinks.declare import readable_deliveries, select

    if bool(names) == everything:
        raise typer.BadParameter("name streams or models, or give --all", param_hint="STREAM")
    deliveries, unreadable = readable_deliveries()
    if names:
        unreadable = [of for of in unreadable if of.item.name in names]
        broken = {of.item.name for of in unreadable}
        wanted = [name for name in dict.fromkeys(names) if name not in broken]
        return select(deliveries, wanted), unreadable
    there = [each for each in deliveries.values() if each.configured(settings)]
    for each in deliveries.values():
        if each not in there:
            terminal.say(f"{literal(each.name)}: no settings for {each.sink}, left out")
    return there, unreadable


def _deliver(
    terminal: Terminal, platform: Platform, delivery: Delivery, *, again: bool
) -> Delivered:
    from ingestion_platform.failures import counting_failures
    from ingestion_platform.sinks.deliver import deliver as run

    with terminal.progress(total=False) as progress:
        task = progress.add_task(f"{literal(delivery.name)} rows", total=None)

        def told(done: Delivered) -> None:
            progress.update(task, completed=done.upserted + done.deleted)

        with counting_failures(platform.settings.home, delivery.source):
            return run(platform, delivery, again=again, on_change=told)


def _show(terminal: Terminal, done: list[Delivered]) -> None:
    table = new_table("", ("target", *_FIGURES), numbers=_FIGURES)
    for each in done:
        figures = (count(each.upserted), count(each.deleted), count(each.rejected))
        table.add_row(literal(each.name), *figures, f"{each.seconds:.2f}")
    terminal.table(table)
    for each in done:
        for reason, number in sorted(each.reasons.items(), key=lambda of: -of[1])[:_SHOWN]:
            terminal.out.print(f"{literal(each.name)} rejected {number:,}: {literal(reason)}")


def _rejections(platform: Platform, delivery: Delivery, limit: int) -> list[dict[str, Any]]:
    from dataclasses import asdict

    with delivery.open(platform.settings) as target:
        return [{"target": delivery.name, **asdict(row)} for row in target.rejections(limit)]


def _show_rejected(terminal: Terminal, found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        terminal.json(found)
        return
    names = ("target", "partition", "offset", "code", "message", "row")
    table = new_table("", names, numbers=("partition", "offset"))
    for each in found:
        table.add_row(*(literal(str(each[name])[:120]) for name in names))
    terminal.table(table)
