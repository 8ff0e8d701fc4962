"""`ingest quarantine`: show rejected records, validate them again, or discard them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import All, Json, StreamName, StreamNames, chosen
from ingestion_platform.cli.outcomes import error_dict, finish
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table
from ingestion_platform.cli.visible import shown
from ingestion_platform.lake.names import labelled_partition, partition_label

if TYPE_CHECKING:
    from datetime import date, datetime

    from ingestion_platform.each import Attempt
    from ingestion_platform.operations.quarantine import Choice, Group, Overview, Rejected, Replayed
    from ingestion_platform.platform import Platform
    from ingestion_platform.streams import Stream

app = typer.Typer(no_args_is_help=True)

_SLICES = 20
_MOST = 4096  # bytes of a value that a terminal shows
_WIDTHS = {"code": 16, "reason": 37}  # so that the table fits into 120 columns

Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PARTITION OFFSET...]", help="A log partition (`files` for files), and offsets."
    ),
]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="A code, or part of a reason's text."),
]
IngestDates = Annotated[
    list[str] | None,
    typer.Option("--ingest-date", metavar="DATE", help="Only this ingest date; may be repeated."),
]
TopicId = Annotated[
    str | None,
    typer.Option("--topic-id", metavar="ID", help="Only of this topic id (recreated topics)."),
]


@app.callback()
def quarantine() -> None:
    """Show, replay or discard rejected records."""


@app.command("list")
def list_(
    ctx: typer.Context,
    streams: StreamNames = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Count rejected records by reason and by slice.

    Reasons are grouped by code. A record with several reasons counts under
    each of them. Open records are those that are not discarded.

    [dim]Examples:[/]
      ingest quarantine list pgr_events
      ingest quarantine list --all --json | jq '.[] | {stream, open}'
    """
    from ingestion_platform.each import for_each, results
    from ingestion_platform.operations.quarantine import overview

    terminal: Terminal = ctx.obj
    wanted = chosen(streams, everything=everything)
    platform = _platform()
    found = list(for_each(lambda of: overview(platform, of), wanted, at_once=4))
    if as_json:
        terminal.json([_overview(of) for of in found])
    else:
        _show_overviews(terminal, results(found), everything=everything)
    finish(terminal, found)


def _show_overviews(terminal: Terminal, found: list[Overview], *, everything: bool) -> None:
    for each in found:
        if each.records or not everything:
            _show_overview(terminal, each)
    empty = sum(not each.records for each in found)
    if everything and empty:
        terminal.say(f"nothing in quarantine of {_of(empty, 'other stream')}")


@app.command()
def show(
    ctx: typer.Context,
    stream: StreamName,
    places: Places = None,
    reason: Reason = None,
    ingest_date: IngestDates = None,
    topic_id: TopicId = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only records that are not discarded.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Records to show.")] = 5,
    as_json: Json = False,
) -> None:
    """Show rejected records with their reasons, place and bytes.

    Exits with 1 if there is no such record. JSON has all bytes: as text if
    they are UTF-8, else in base64.

    [dim]Examples:[/]
      ingest quarantine show pgr_events 3 1204
      ingest quarantine show pgr_events --reason channel --limit 2
    """
    from ingestion_platform.operations.quarantine import find

    terminal: Terminal = ctx.obj
    of = _stream(stream)
    choice = _choice(places, reason, ingest_date, topic_id, decided=False if only_open else None)
    # One more than the limit shows whether there are more.
    found = find(_platform(), of, choice, limit=limit + 1)
    if as_json:
        terminal.json([_record(each) for each in found[:limit]])
    for number, each in enumerate(() if as_json else found[:limit]):
        terminal.out.print(("\n" if number else "") + _described(each), soft_wrap=True)
    if len(found) > limit:
        terminal.say(f"there are more than {limit}; --limit for more")
    if not found:
        terminal.error(f"{of.quarantine_table} has no such record")
        raise typer.Exit(1)


@app.command()
def replay(
    ctx: typer.Context, stream: StreamName, ingest_date: IngestDates = None, as_json: Json = False
) -> None:
    """Validate rejected records again after the contract was repaired.

    Reloads the slices with rejected records, as materializing them in
    Dagster does. Valid records are then in bronze; silver and gold follow
    with the next run of their dates.

    [dim]Examples:[/]
      ingest quarantine replay pgr_events
      ingest quarantine replay pgr_events --ingest-date 2026-11-20
    """
    from ingestion_platform.operations import quarantine as core

    terminal: Terminal = ctx.obj
    of = _stream(stream)
    with terminal.progress(total=False) as progress:
        task = progress.add_task("files validated again", total=None)
        done = core.replay(
            _platform(),
            of,
            ingest_dates=_days(ingest_date),
            on_loaded=lambda _: progress.advance(task),
        )
    if as_json:
        terminal.json(done.as_dict())
        return
    _show_replayed(terminal, of, done)


@app.command()
def discard(
    ctx: typer.Context,
    stream: StreamName,
    because: Annotated[
        str, typer.Option("--because", metavar="TEXT", help="The reason; stored with the decision.")
    ],
    places: Places = None,
    reason: Reason = None,
    ingest_date: IngestDates = None,
    topic_id: TopicId = None,
    undo: Annotated[bool, typer.Option("--undo", help="Undo: the records are open again.")] = False,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="NAME", help="Who decides.", show_default="the user"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Discard rejected records, and store who decided, when and why.

    They stay in quarantine, but no longer count against the contract's
    quarantineShare.

    [dim]Examples:[/]
      ingest quarantine discard pgr_events 3 1204 1207 --because "test records"
      ingest quarantine discard pgr_events --reason "not a JSON" --because "load test"
      ingest quarantine discard pgr_events 3 1204 --undo --because "was needed"
    """
    from ingestion_platform.operations import quarantine as core

    terminal: Terminal = ctx.obj
    of = _stream(stream)
    choice = _choice(places, reason, ingest_date, topic_id)
    if choice.empty:
        problem = "give a reason, ingest dates, or a log partition and offsets"
        raise typer.BadParameter(problem, param_hint="PARTITION OFFSET")
    decide = core.undo if undo else core.discard
    decision, records = decide(_platform(), of, choice, because=because, by=by or _user())
    if as_json:
        terminal.json({"stream": of.name, "records": records, **asdict(decision)})
        return
    verb = "open again" if undo else "discarded"
    said = f"{_of(records, 'record')} of {of.name} {verb} by {decision.by}"
    terminal.out.print(literal(said), soft_wrap=True)
    if not undo:
        terminal.say(
            "  [cyan]->[/] blocked dates are published after their slices of bronze are "
            "materialized again"
        )


def _platform() -> Platform:
    from ingestion_platform.platform import Platform
    from ingestion_platform.settings import Settings

    return Platform(Settings.load())


def _stream(name: str) -> Stream:
    return chosen([name], everything=False)[0]


def _user() -> str:
    """Return the name of the system's user."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers may run as a user without a name
        return f"uid {os.getuid()}"


def _choice(
    places: list[str] | None,
    reason: str | None,
    ingest_dates: list[str] | None,
    topic_id: str | None,
    *,
    decided: bool | None = None,
) -> Choice:
    from ingestion_platform.operations.quarantine import Choice

    return Choice(_places(places or []), topic_id, reason, _days(ingest_dates), decided)


def _places(given: list[str]) -> tuple[tuple[int, int], ...]:
    """Return pairs of log partition and offset."""
    if not given:
        return ()
    try:
        partition, *offsets = labelled_partition(given[0]), *map(int, given[1:])
    except ValueError as error:
        problem = "give a log partition and offsets, for example 3 1204 1207"
        raise typer.BadParameter(problem, param_hint="PARTITION OFFSET") from error
    if not offsets:
        raise typer.BadParameter("give offsets too", param_hint="PARTITION OFFSET")
    return tuple((partition, offset) for offset in offsets)


def _days(given: list[str] | None) -> tuple[date, ...]:
    from datetime import date

    try:
        return tuple(date.fromisoformat(text) for text in given or ())
    except ValueError as error:
        problem = f"{error}; an ingest date is a day like 2026-11-20"
        raise typer.BadParameter(problem, param_hint="--ingest-date") from error


def _overview(of: Attempt[Stream, Overview]) -> dict[str, Any]:
    if of.error is not None:
        return {"stream": of.item.name, "error": error_dict(of.error)}
    found = of.result

    def group_dict(group: Group) -> dict[str, Any]:
        return asdict(group) | {"open": group.open}

    return asdict(found) | {
        "open": found.open,
        "by_reason": [group_dict(group) for group in found.by_reason],
        "by_slice": [group_dict(group) for group in found.by_slice],
        "error": None,
    }


def _show_overview(terminal: Terminal, found: Overview) -> None:
    terminal.out.print(
        f"[bold]{literal(found.stream)}[/]: {_of(found.records, 'record')} in {found.table}, "
        f"{_open(found.open)} open, {count(found.decided)} discarded",
        soft_wrap=True,
    )
    if not found.records:
        return
    numbers = ("records", "open", "discarded")
    seen = ("first seen", "last seen")
    reasons = new_table("", ("code", "reason", *numbers, "ingest dates"), numbers=numbers)
    for column in reasons.columns[:2]:
        column.max_width, column.overflow = _WIDTHS[str(column.header)], "fold"
    code = ""
    for group in found.by_reason:
        shown_code = "" if group.code == code else literal(code := group.code)
        reasons.add_row(shown_code, literal(group.name), *_numbers(group), _dates(group))
    terminal.table(reasons)
    slices = new_table("", (*numbers, "slice", *seen), numbers=numbers)
    for group in found.by_slice[-_SLICES:]:
        instants = _instant(group.first_seen), _instant(group.last_seen)
        slices.add_row(*_numbers(group), group.name, *instants)
    terminal.table(slices)
    if len(found.by_slice) > _SLICES:
        terminal.say(f"the last {_SLICES} of {count(len(found.by_slice))} slices; --json has all")


def _numbers(group: Group) -> tuple[str, str, str]:
    return count(group.records), _open(group.open), count(group.decided)


def _dates(group: Group) -> str:
    first, last = group.first_ingest_date, group.last_ingest_date
    return str(first) if first == last else f"{first} … {last}"


def _of(number: int, what: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{count(number)} {what}{'s' * (number != 1)}"


def _open(number: int) -> str:
    return f"[yellow]{count(number)}[/]" if number else "[green]0[/]"


def _instant(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _described(record: Rejected) -> str:
    """Return a record as text with rich's markup; its values are escaped."""
    place = f"log partition {partition_label(record.partition)}, offset {record.offset}"
    lines = [
        f"[bold]{literal(record.stream)}[/] {place}, ingest date {record.ingest_date}",
        *(f"  [red]•[/] {literal(str(reason))}" for reason in record.reasons),
        _line("sent", _instant(record.timestamp)),
        _line("key", _one_line(record.key)),
        *(_line(f"header {_one_line(k)}", _one_line(v)) for k, v in record.headers),
        _line("lake file", record.origin),
        _line("topic_id", record.topic_id),
        _line("validated", f"{_instant(record.ingested_at)} by contract {record.contract}"),
    ]
    if record.decision is not None:
        made = record.decision
        said = f"{_instant(made.at)} by {made.by}: {made.because}"
        lines.append(f"  [dim]discarded[/] {literal(said)}")
    lines.append(_line("value", f"{len(record.value or b''):,} bytes"))
    return "\n".join([*lines, literal(shown(record.value, most=_MOST), lines=True)])


def _line(name: str, value: str) -> str:
    return f"  [dim]{literal(name)}[/] {literal(value)}"


def _one_line(value: bytes | None) -> str:
    if value is None:
        return "null"
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"


def _record(record: Rejected) -> dict[str, Any]:
    """Return a record as plain data, for JSON."""
    return asdict(record) | {
        "key": _bytes(record.key),
        "value": _bytes(record.value),
        "headers": [{"key": _bytes(k), "value": _bytes(v)} for k, v in record.headers],
    }


def _bytes(value: bytes | None) -> dict[str, str] | None:
    """Return bytes for JSON, as text or in base64."""
    from base64 import b64encode

    if value is None:
        return None
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}


def _show_replayed(terminal: Terminal, stream: Stream, done: Replayed) -> None:
    if not done.slices:
        terminal.out.print(f"{stream.name}: nothing is in quarantine")
        return
    if done.unchanged == done.slices:
        terminal.out.print(
            f"{stream.name}: {_of(done.before, 'record')} in {_of(done.slices, 'slice')}, rejected "
            "by the present contract: validating them again changes nothing",
            soft_wrap=True,
        )
        terminal.say("  [cyan]->[/] repair the contract first, or discard the records")
        return
    validated = done.slices - done.unchanged
    terminal.out.print(
        f"{stream.name}: [green]{count(done.came_back)}[/] of {_of(done.before, 'record')} came "
        f"back to bronze, {count(done.after)} in quarantine now "
        f"({count(validated)} of {_of(done.slices, 'slice')} validated again)",
        soft_wrap=True,
    )
    if done.newly_rejected:
        terminal.say(f"  {count(done.newly_rejected)} of them were in bronze before")
    for reason, records in done.reasons.most_common(5):
        terminal.say(f"  {count(records)} still: {literal(str(reason))}")
