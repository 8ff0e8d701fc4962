"""`ingest load`: load files into a stream, or try what they would become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import Json, Quiet, StreamName
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table
from ingestion_platform.errors import PlatformError

if TYPE_CHECKING:
    from rich.progress import Progress

    from ingestion_platform.bronze.load import Loaded
    from ingestion_platform.lake.file_source import Handled
    from ingestion_platform.lake.land import Landed
    from ingestion_platform.platform import Platform
    from ingestion_platform.streams import Stream

_REASONS = 5


@dataclass
class Outcome:
    """The outcome of a file: its records, and its rows in the two tables."""

    file: str
    result: str = "failed"
    records: int = 0
    bronze: int = 0
    quarantined: int = 0
    detail: str = ""
    reasons: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain data, for JSON; the most frequent reason first."""
        return asdict(self) | {"reasons": dict(self.reasons.most_common())}


def load(
    ctx: typer.Context,
    stream: StreamName,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="CSV, JSONL, JSON or Parquet; .gz and .zst too."),
    ],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only parse and validate; nothing is landed or loaded."),
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Land a content that was landed under another name once more under this one.",
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Land and load files into a stream; each content once, under any name.

    A file that cannot be parsed is left out as a whole, and told with line
    and reason; records that break the contract go to quarantine. The files
    stay where they are, a copy is archived. Exits with 1 if a file failed.

    [dim]Examples:[/]
      ingest load pgr_events staging/*.csv
      ingest load pgr_events events.jsonl.gz --dry-run
      ingest load pgr_events tomorrow.csv --again
    """
    terminal: Terminal = ctx.obj
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import declared_streams, select

    chosen = select(declared_streams(), [stream])[0]
    platform = Platform(Settings.load())
    deal = _try if dry_run else partial(_load, again)
    with terminal.progress() as progress:
        outcomes = [_attempt(terminal, progress, platform, chosen, f, deal) for f in files]
    if as_json:
        terminal.json([each.as_dict() for each in outcomes])
    else:
        _show(terminal, outcomes)
    if any(each.result == "failed" for each in outcomes):
        raise typer.Exit(1)


def _attempt(
    terminal: Terminal,
    progress: Progress,
    platform: Platform,
    stream: Stream,
    file: Path,
    deal: Callable[[Progress, Platform, Stream, Path, Outcome], None],
) -> Outcome:
    """Load one file; report an error and continue with the others."""
    outcome = Outcome(str(file))
    try:
        deal(progress, platform, stream, file, outcome)
    except PlatformError as error:
        outcome.result, outcome.detail = "failed", error.message
        terminal.error(error)
    return outcome


def _try(
    progress: Progress, platform: Platform, stream: Stream, file: Path, outcome: Outcome
) -> None:
    from ingestion_platform.pipeline import try_file

    reading = progress.add_task(f"{file.name} validated", total=None)

    def on_read(done: int) -> None:
        progress.update(reading, completed=done)

    trial = try_file(platform, stream, file, on_read=on_read)
    progress.update(reading, total=trial.records)
    outcome.result, outcome.records, outcome.reasons = "tried", trial.records, trial.reasons
    outcome.bronze, outcome.quarantined = trial.valid, trial.rejected


def _load(
    again: bool,
    progress: Progress,
    platform: Platform,
    stream: Stream,
    file: Path,
    outcome: Outcome,
) -> None:
    from ingestion_platform.pipeline import load_files

    reading = progress.add_task(f"{file.name} read", total=None)
    landing = progress.add_task(f"{file.name} to the lake", total=None)
    loading = progress.add_task(f"{file.name} to bronze", total=None)

    def on_read(done: int) -> None:
        progress.update(reading, completed=done)

    def on_landed(landed: Landed) -> None:
        if landed.segment.file is not None:
            total = landed.segment.file.end - landed.segment.file.start
            for task in (reading, landing, loading):
                progress.update(task, total=total)
        progress.update(landing, advance=landed.segment.rows)

    def on_loaded(loaded: Loaded) -> None:
        # Records that another run had left behind are loaded too, and told with the first file.
        outcome.bronze += loaded.bronze_rows
        outcome.quarantined += loaded.quarantine_rows
        outcome.reasons.update(loaded.reasons)
        progress.update(loading, advance=loaded.segment.rows)

    def on_file(handled: Handled) -> None:
        outcome.result, outcome.records = handled.outcome, handled.rows
        outcome.detail = handled.detail

    load_files(
        platform,
        stream,
        [file],
        again=again,
        on_read=on_read,
        on_landed=on_landed,
        on_loaded=on_loaded,
        on_file=on_file,
    )


def _show(terminal: Terminal, outcomes: list[Outcome]) -> None:
    numbers = ("records", "bronze", "quarantined")
    table = new_table("", ("file", *numbers, "result", ""), numbers=numbers)
    for each in outcomes:
        colours = {"failed": "bold red", "copy": "yellow", "empty": "yellow"}
        colour = colours.get(each.result, "green")
        figures = map(count, (each.records, each.bronze, each.quarantined))
        detail = "" if each.result == "failed" else literal(each.detail)
        table.add_row(literal(each.file), *figures, f"[{colour}]{each.result}[/]", detail)
    terminal.table(table)
    reasons = sum((each.reasons for each in outcomes), Counter[str]())
    for reason, times in reasons.most_common(_REASONS):
        terminal.say(f"  {count(times):>8} x {literal(reason)}")
