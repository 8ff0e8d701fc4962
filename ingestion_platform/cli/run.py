"""`ingest run`: land and load streams once, up to the present end of their logs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import typer

from ingestion_platform.cli.options import All, Json, Quiet, StreamNames, chosen
from ingestion_platform.cli.outcomes import error_dict, finish
from ingestion_platform.cli.status import not_landed
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table

if TYPE_CHECKING:
    from rich.progress import Progress

    from ingestion_platform.bronze.load import Loaded
    from ingestion_platform.errors import PlatformError
    from ingestion_platform.lake.file_source import Handled
    from ingestion_platform.lake.land import Landed
    from ingestion_platform.platform import Platform
    from ingestion_platform.streams import Stream

_REASONS = 5


@dataclass
class Tally:
    """The result of a run for one stream."""

    stream: str
    landed: int = 0
    bronze: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)
    no_topic_yet: bool = False
    error: PlatformError | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data, for JSON; the most frequent reason first."""
        plain = asdict(replace(self, error=None))
        reasons = dict(self.reasons.most_common())
        return plain | {"reasons": reasons, "error": error_dict(self.error)}


def run(
    ctx: typer.Context,
    streams: StreamNames = None,
    everything: All = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring streams up to date once: topic and files to lake, lake to bronze and quarantine.

    Ends at the end of the log as it is at the start, with the files that are
    in the drop zone then. May be stopped and repeated at any time, also
    beside other runs: nothing is lost or doubled. Exits with 1 if a
    stream failed; the others are run. A topic that does not exist yet gives
    nothing, and is no failure.

    [dim]Examples:[/]
      ingest run pgr_events
      ingest run --all --json
    """
    terminal: Terminal = ctx.obj
    wanted = chosen(streams, everything=everything)
    from ingestion_platform.each import attempt, for_each
    from ingestion_platform.kafka.client import topics
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings

    platform = Platform(Settings.load())
    # One wait for brokers that do not answer, and not one for each stream.
    brokers = attempt(topics, platform.settings) if any(s.kafka for s in wanted) else None
    tallies = {stream.name: Tally(stream.name) for stream in wanted}
    with terminal.progress() as progress:

        def timed(stream: Stream) -> None:
            tally, began = tallies[stream.name], time.monotonic()
            try:
                if stream.kafka and brokers is not None:
                    _ = brokers.result
                _run(terminal, progress, platform, stream, tally)
            finally:
                tally.seconds = round(time.monotonic() - began, 3)

        attempts = list(for_each(timed, wanted))
    for of in attempts:
        tallies[of.item.name].error = of.error
    if as_json:
        terminal.json([tally.as_dict() for tally in tallies.values()])
    else:
        _show(terminal, list(tallies.values()))
    finish(terminal, attempts)


def _run(
    terminal: Terminal, progress: Progress, platform: Platform, stream: Stream, tally: Tally
) -> None:
    from ingestion_platform.pipeline import run_stream
    from ingestion_platform.progress.status import stream_status

    before = stream_status(platform, stream)
    tally.no_topic_yet = before.no_topic_yet
    landing = progress.add_task(f"{stream.name} to the lake", total=not_landed(before))
    loading = progress.add_task(f"{stream.name} to bronze", total=before.lag)

    def on_landed(landed: Landed) -> None:
        tally.landed += landed.segment.rows
        progress.update(landing, completed=tally.landed)

    def on_loaded(loaded: Loaded) -> None:
        tally.bronze += loaded.bronze_rows
        tally.quarantined += loaded.quarantine_rows
        tally.reasons.update(loaded.reasons)
        progress.update(loading, completed=tally.bronze + tally.quarantined)

    def on_file(handled: Handled) -> None:
        about = {"name": handled.name, "outcome": handled.outcome, "records": handled.rows}
        tally.files.append(about | {"detail": handled.detail, "kept": handled.kept})
        said = f": {handled.detail}" if handled.detail else ""
        colour = "green" if handled.outcome == "landed" else "yellow"
        outcome = f"[{colour}]{handled.outcome}[/]"
        terminal.say(f"  {literal(handled.name)} {outcome}{literal(said)}")

    run_stream(platform, stream, on_landed=on_landed, on_loaded=on_loaded, on_file=on_file)


def _result(tally: Tally) -> str:
    if tally.error is not None:
        return f"[bold red]failed: {tally.error.code}[/]"
    return "no topic yet" if tally.no_topic_yet else "[green]up to date[/]"


def _show(terminal: Terminal, tallies: list[Tally]) -> None:
    numbers = ("landed", "bronze", "quarantined", "seconds")
    table = new_table("", ("stream", *numbers, "result"), numbers=numbers)
    for tally in tallies:
        figures = (tally.landed, tally.bronze, tally.quarantined)
        table.add_row(tally.stream, *map(count, figures), f"{tally.seconds:.1f}", _result(tally))
    terminal.table(table)
    for tally in tallies:
        for reason, times in tally.reasons.most_common(_REASONS):
            terminal.say(f"  {count(times):>8} x {literal(reason)}")
