"""`ingest status`: the positions and lag of each stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import Json, complete_stream
from ingestion_platform.cli.outcomes import error_dict, finish
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table
from ingestion_platform.lake.names import partition_label

if TYPE_CHECKING:
    from rich.table import Table

    from ingestion_platform.each import Attempt
    from ingestion_platform.progress.status import StreamStatus
    from ingestion_platform.streams import Stream

    Found = Attempt[Stream, StreamStatus]

_AT_ONCE = 16


def status(
    ctx: typer.Context,
    stream: Annotated[
        str | None,
        typer.Argument(
            metavar="[STREAM]", help="One stream, by partition.", autocompletion=complete_stream
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far each stream has come: log, lake, bronze, quarantine, lag.

    A stream that cannot be read has its error beside it, and the others are
    shown; the exit code is 1 then. A topic that does not exist yet is no error.

    [dim]Examples:[/]
      ingest status                    one line per stream
      ingest status pgr_events         one line per log partition
      ingest status --json | jq '.[].partitions[].lag'
    """
    terminal: Terminal = ctx.obj
    found = read([stream] if stream else None)
    if as_json:
        terminal.json([_as_dict(each) for each in found])
    elif not stream:
        terminal.table(streams_table(found))
    elif found[0].error is None:
        terminal.out.print(_heading(found[0].result), soft_wrap=True)
        terminal.table(partitions_table(found[0].result))
        _tell_deliveries(terminal, stream)
    finish(terminal, found)


def _as_dict(of: Found) -> dict[str, Any]:
    """Return a status with its error or null; without a status only the stream."""
    known: dict[str, Any] = {"stream": of.item.name, "topic": of.item.topic, "partitions": []}
    told = known if of.found is None else of.found.as_dict()
    return {**told, "error": error_dict(of.error)}


def _tell_deliveries(terminal: Terminal, stream: str) -> None:
    """Return the lag of the targets of a stream's deliveries."""
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings
    from ingestion_platform.sinks.declare import stream_deliveries
    from ingestion_platform.sinks.deliver import target_status
    from ingestion_platform.streams import declared_streams

    platform = Platform(Settings.load())
    for delivery in stream_deliveries(declared_streams()[stream]):
        name = literal(delivery.name)
        if not delivery.configured(platform.settings):
            terminal.out.print(f"{name}: not delivered, no settings for {delivery.sink}")
            continue
        at = target_status(platform, delivery)
        said = f"{count(at.rows)} rows, {_lag(at.lag or 0)} offsets behind bronze"
        rejected = f", [yellow]{count(at.rejected)} rejected[/]" if at.rejected else ""
        terminal.out.print(f"{name}: {said}{rejected}")


def read(names: list[str] | None) -> list[Found]:
    """Read the status or the error of each stream, several at once.

    Raises:
        UnknownStream: no stream of a name is declared.
    """
    from ingestion_platform.each import for_each
    from ingestion_platform.platform import Platform
    from ingestion_platform.progress.status import stream_status
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import declared_streams, select

    streams = declared_streams()
    wanted = select(streams, names) if names else list(streams.values())
    platform = Platform(Settings.load())
    return list(for_each(lambda of: stream_status(platform, of), wanted, at_once=_AT_ONCE))


def streams_table(found: Sequence[Found]) -> Table:
    """Return a table with one line per stream."""
    numbers = ("in log", "bronze", "quarantine", "not in lake", "lag", "lost", "files")
    table = new_table("", ("stream", "topic", *numbers, "bronze table"), numbers=numbers)
    for of in found:
        if of.error is not None:
            failed = f"[bold red]error: {of.error.code}[/]"
            table.add_row(of.item.name, of.item.topic, *("-" for _ in numbers), failed)
            continue
        each = of.result
        table.add_row(
            each.stream,
            f"{each.topic} [dim](no topic yet)[/]" if each.no_topic_yet else each.topic,
            count(sum(p.log_end - p.log_start for p in each.partitions)),
            _bronze(each),
            _rejected(each),
            _lag(not_landed(each)),
            _lag(each.lag),
            _lost(each.lost),
            _lag(each.waiting_files),
            each.bronze_table,
        )
    return table


def not_landed(found: StreamStatus) -> int:
    """Return how many offsets the lake lacks, over all partitions."""
    return sum(p.not_landed for p in found.partitions)


def partitions_table(found: StreamStatus) -> Table:
    """Return a table with one line per log partition."""
    numbers = ("log start", "log end", "lake", "bronze", "quarantine", "lag", "lost")
    table = new_table("", ("partition", *numbers), numbers=numbers)
    for p in found.partitions:
        positions = (p.log_start, p.log_end, p.lake_position, p.bronze_position)
        table.add_row(
            partition_label(p.partition),
            *map(count, (*positions, p.quarantine_position)),
            _lag(p.lag),
            _lost(p.lost),
        )
    return table


def _heading(found: StreamStatus) -> str:
    source = f"topic {literal(found.topic)} ({found.topic_id})" if found.topic_id else "files only"
    if found.no_topic_yet:
        source = f"no topic {literal(found.topic)} yet"
    return (
        f"[bold]{found.stream}[/]: {source}, {count(found.waiting_files)} files waiting\n"
        f"{_bronze(found)} rows in {found.bronze_table}, "
        f"{_rejected(found)} in {found.quarantine_table}"
        f"{_recreated(found)}{_copies(found)}"
    )


def _copies(found: StreamStatus) -> str:
    if found.copies is None:
        return ""
    return (
        f"\n[yellow]{count(found.copies.count)} files landed nothing, as copies[/]; the last one: "
        f"{literal(str(found.copies))}"
    )


def _recreated(found: StreamStatus) -> str:
    if not found.recreated:
        return ""
    times = [loss.noticed for loss in found.losses if loss.end is None and loss.noticed]
    last = f", last seen on {max(times):%Y-%m-%d %H:%M} UTC" if times else ""
    return f"\n[yellow]the topic was recreated {count(found.recreated)} times{last}[/]"


def _bronze(found: StreamStatus) -> str:
    inserted = f" ({count(found.inserted_rows)} by SQL)" if found.inserted_rows else ""
    return f"{count(found.bronze_rows)}{inserted}"


def _rejected(found: StreamStatus) -> str:
    decided = f" ({count(found.decided_rows)} discarded)" if found.decided_rows else ""
    return f"{count(found.quarantine_rows)}{decided}"


def _lag(lag: int) -> str:
    return f"[yellow]{count(lag)}[/]" if lag else "[green]0[/]"


def _lost(lost: int) -> str:
    return f"[red]{count(lost)}[/]" if lost else "[green]0[/]"
