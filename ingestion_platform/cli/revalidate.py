"""`ingest revalidate`: validate again the slices that another contract or validator made."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.options import Json, Quiet, StreamName
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table

if TYPE_CHECKING:
    from ingestion_platform.bronze.load import Loaded

_REASONS = 5


def revalidate(
    ctx: typer.Context,
    stream: StreamName,
    ingest_dates: Annotated[
        list[datetime] | None,
        typer.Option("--ingest-date", formats=["%Y-%m-%d"], help="Only this one; repeatable."),
    ] = None,
    all_stale: Annotated[
        bool, typer.Option("--all-stale", help="All slices that another contract validated.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Validate stored records again where another contract or validator did it.

    Replaces their slices in bronze and quarantine, from the lake. Slices
    that the current contract validated are left alone.

    [dim]Examples:[/]
      ingest revalidate pgr_events --all-stale
      ingest revalidate pgr_events --ingest-date 2026-11-20
    """
    from ingestion_platform.lake.segments import SegmentLog
    from ingestion_platform.pipeline import reload_slices
    from ingestion_platform.platform import Platform
    from ingestion_platform.positions import Slice
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import declared_streams, select

    if bool(ingest_dates) == all_stale:
        problem = "name ingest dates, or give --all-stale"
        raise typer.BadParameter(problem, param_hint="--ingest-date")
    terminal: Terminal = ctx.obj
    chosen = select(declared_streams(), [stream])[0]
    platform = Platform(Settings.load())
    segment_log = SegmentLog(platform.store, chosen.topic)
    dates = segment_log.ingest_dates()
    if ingest_dates:
        named = {each.date() for each in ingest_dates}
        dates = [each for each in dates if each in named]
    slices = [Slice(day, partition) for day in dates for partition in segment_log.names(day)]
    done: list[Loaded] = []
    with terminal.progress(total=False) as progress:
        task = progress.add_task(f"{chosen.name} validated", total=None)

        def on_loaded(loaded: Loaded) -> None:
            done.append(loaded)
            progress.update(task, advance=loaded.segment.rows)

        reload_slices(platform, chosen, slices, on_loaded=on_loaded)
    if as_json:
        terminal.json({"stream": chosen.name, **_as_dict(done)})
    else:
        _show(terminal, done)


def _by_slice(done: list[Loaded]) -> dict[tuple[date, int], list[int]]:
    """Return rows of bronze and of quarantine by slice, in order."""
    found: dict[tuple[date, int], list[int]] = {}
    for each in done:
        name = each.segment.name
        rows = found.setdefault((name.ingest_date, name.partition), [0, 0])
        rows[0] += each.bronze_rows
        rows[1] += each.quarantine_rows
    return dict(sorted(found.items()))


def _as_dict(done: list[Loaded]) -> dict[str, object]:
    slices = [
        {"slice": f"{day}|{partition}", "bronze": bronze, "quarantined": quarantined}
        for (day, partition), (bronze, quarantined) in _by_slice(done).items()
    ]
    bronze = sum(each.bronze_rows for each in done)
    quarantined = sum(each.quarantine_rows for each in done)
    figures = {"records": bronze + quarantined, "bronze": bronze, "quarantined": quarantined}
    return {**figures, "reasons": dict(_reasons(done).most_common()), "slices": slices}


def _reasons(done: list[Loaded]) -> Counter[str]:
    return sum((each.reasons for each in done), Counter[str]())


def _show(terminal: Terminal, done: list[Loaded]) -> None:
    if not done:
        terminal.say("the current contract validated all of these records; nothing to do")
        return
    numbers = ("bronze", "quarantined")
    table = new_table("", ("slice", *numbers), numbers=numbers)
    for (day, partition), rows in _by_slice(done).items():
        table.add_row(f"{day}|{partition}", *map(count, rows))
    terminal.table(table)
    for reason, times in _reasons(done).most_common(_REASONS):
        terminal.say(f"  {count(times):>8} x {literal(reason)}")
