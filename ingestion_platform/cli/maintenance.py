"""`ingest maintain`: compact files, expire snapshots, delete orphans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import All, Json, Quiet, StreamNames, chosen
from ingestion_platform.cli.outcomes import error_dict, finish
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table

if TYPE_CHECKING:
    from ingestion_platform.each import Attempt
    from ingestion_platform.operations.maintenance import MaintenanceResult
    from ingestion_platform.streams import Stream
    from ingestion_platform.warehouse.maintenance.table import TableMaintenance

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; tell what tables would need.")
]
_FIGURES = ("rows", "files", "manifests", "snapshots", "removed", "freed MB")


def maintenance(
    ctx: typer.Context,
    streams: StreamNames = None,
    everything: All = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compact files, expire snapshots, delete orphans; rows do not change.

    Safe at any time, beside any load, any number of times. --all takes the
    tables of the models as well. Schedules of Dagster do the same. Exits
    with 1 if a table or a lake could not be looked after; the others are.

    [dim]Examples:[/]
      ingest maintain pgr_events
      ingest maintain --all --dry-run
    """
    terminal: Terminal = ctx.obj
    wanted = chosen(streams, everything=everything)
    from ingestion_platform.each import for_each, results
    from ingestion_platform.operations.maintenance import maintain_models, maintain_stream
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings

    platform = Platform(Settings.load())
    with terminal.progress(total=False) as progress:
        task = progress.add_task("tables looked after", total=None)

        def told(_: TableMaintenance) -> None:
            progress.advance(task)

        domains = dict.fromkeys(stream.domain for stream in wanted) if everything else ()
        items: list[Stream | Models] = [*wanted, *map(Models, domains)]

        def kept(item: Stream | Models) -> MaintenanceResult:
            if isinstance(item, Models):
                return maintain_models(platform, item.domain, dry_run=dry_run, on_table=told)
            return maintain_stream(platform, item, dry_run=dry_run, on_table=told)

        attempts = list(for_each(kept, items))
    if as_json:
        terminal.json([_as_dict(of) for of in attempts])
    else:
        _show(terminal, results(attempts), dry_run=dry_run)
    finish(terminal, attempts)


@dataclass(frozen=True)
class Models:
    """The models of a domain."""

    domain: str

    @property
    def name(self) -> str:
        """The name to display."""
        return f"models of {self.domain}"


def _as_dict(of: Attempt[Stream | Models, MaintenanceResult]) -> dict[str, Any]:
    name = of.item.domain if isinstance(of.item, Models) else of.item.name
    known: dict[str, Any] = {"name": name, "lake": [], "tables": []}
    return {**(known if of.found is None else of.found.as_dict()), "error": error_dict(of.error)}


def _show(terminal: Terminal, found: list[MaintenanceResult], *, dry_run: bool) -> None:
    table = new_table("", ("table", *_FIGURES), numbers=_FIGURES)
    for each in (upkept for kept in found for upkept in kept.tables):
        table.add_row(literal(each.before.table), *_figures(each, dry_run=dry_run))
    terminal.table(table)
    for kept in found:
        for merged in kept.lake:
            terminal.out.print(
                f"lake of {literal(kept.name)}, {merged.ingest_date}|{merged.partition}: "
                f"{merged.files_before:,} files became {merged.files_after:,}"
            )
    if all(kept.idle for kept in found) and not dry_run:
        terminal.say("nothing needed to be done")


def _figures(each: TableMaintenance, *, dry_run: bool) -> list[str]:
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
