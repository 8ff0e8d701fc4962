"""`ingest upkeep`: small files made large, old snapshots and orphans removed, told and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.options import All, Json, Quiet, StreamNames, chosen
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table

if TYPE_CHECKING:
    from ingestion_platform.upkeep import Kept
    from ingestion_platform.warehouse.upkeep.table import Upkept

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; tell what tables would need.")
]
_FIGURES = ("rows", "files", "manifests", "snapshots", "removed", "freed MB")


def upkeep(
    ctx: typer.Context,
    streams: StreamNames = None,
    everything: All = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge small files, and remove what nothing needs any more; no row changes by it.

    Safe at any time, beside any load, any number of times. --all takes the
    tables of the models as well. Schedules of Dagster do the same.

    [dim]Examples:[/]
      ingest upkeep pgr_events
      ingest upkeep --all --dry-run
    """
    terminal: Terminal = ctx.obj
    wanted = chosen(streams, everything=everything)
    from ingestion_platform.pipeline import Platform
    from ingestion_platform.settings import Settings
    from ingestion_platform.upkeep import upkeep_models, upkeep_stream

    platform = Platform(Settings.load())
    found: list[Kept] = []
    with terminal.progress(total=False) as progress:
        task = progress.add_task("tables looked after", total=None)

        def told(_: Upkept) -> None:
            progress.advance(task)

        found += [
            upkeep_stream(platform, stream, dry_run=dry_run, on_table=told) for stream in wanted
        ]
        domains = dict.fromkeys(stream.domain for stream in wanted) if everything else ()
        found += [
            upkeep_models(platform, domain, dry_run=dry_run, on_table=told) for domain in domains
        ]
    if as_json:
        terminal.json([each.as_dict() for each in found])
    else:
        _show(terminal, found, dry_run=dry_run)


def _show(terminal: Terminal, found: list[Kept], *, dry_run: bool) -> None:
    table = new_table("", ("table", *_FIGURES), numbers=_FIGURES)
    for each in (upkept for kept in found for upkept in kept.tables):
        table.add_row(literal(each.before.table), *_figures(each, dry_run=dry_run))
    terminal.table(table)
    for kept in found:
        for merged in kept.lake:
            terminal.out.print(
                f"lake of {literal(kept.name)}, {merged.window}|{merged.partition}: "
                f"{merged.files_before:,} files became {merged.files_after:,}"
            )
    if all(kept.idle for kept in found) and not dry_run:
        terminal.say("nothing needed to be done")


def _figures(each: Upkept, *, dry_run: bool) -> list[str]:
    before, after, orphans = each.before, each.after, each.orphans
    removed = [count(orphans.files), f"{orphans.bytes / 1e6:,.1f}"] if orphans else ["-", "-"]
    if dry_run:
        needs = (before.small_files, before.small_manifests, before.expendable)
        has = (before.files, before.manifests, before.snapshots)
        parts = [
            f"{of:,}" + (f" ({n:,} too many)" if n else "")
            for of, n in zip(has, needs, strict=True)
        ]
        return [count(before.rows), *parts, *removed]
    pairs = (
        (before.files, after.files),
        (before.manifests, after.manifests),
        (before.snapshots, after.snapshots),
    )
    parts = [f"{a:,}" if a == b else f"{a:,} -> {b:,}" for a, b in pairs]
    return [count(before.rows), *parts, *removed]
