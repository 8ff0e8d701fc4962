"""`ingest produce`: send records to a stream's topic, simulated or from labelled files."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.options import Quiet, complete_stream
from ingestion_platform.cli.terminal import Terminal, count, literal, redacted

if TYPE_CHECKING:
    from ingestion_platform.produce.labelled import BadLine
    from ingestion_platform.produce.producer import Report
    from ingestion_platform.produce.record import Record
    from ingestion_platform.streams import Stream

_ROUND = 20_000  # records of one simulated span, if there is no end
_SHOWN = 3
_BAD_SHOWN = 20


def produce(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="STREAM",
            help="A declared stream; with --data also a domain, for all of its streams.",
            autocompletion=complete_stream,
        ),
    ],
    number: Annotated[
        int,
        typer.Option(
            "--count",
            "-n",
            min=0,
            help="How many records; 0 with --rate: no end. With --data: at most; 0 for all.",
        ),
    ] = 0,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Records per second, stamped as they are sent. Default: all at once.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Makes a run repeatable.")] = 0,
    bad_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of records that break the contract.")
    ] = 0.0,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Send FOLDER/<type>/<label>/*.jsonl, mixed at random, instead of simulating.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Send records to a stream's topic, which is created if it is absent.

    They are simulated, or with --data those of JSON Lines files, cleaned and enriched.
    Exits with 1 if a record was not acknowledged by all replicas, or a line is no record.

    [dim]Examples:[/]
      ingest produce pgr_events --count 10000 --bad-ratio 0.01
      ingest produce pgr_events --rate 5        until Ctrl-C
      ingest produce tmdb --data data --seed 7  all types to their topics
    """
    if data is not None and bad_ratio:
        raise typer.BadParameter("only simulated records can be broken", param_hint="--bad-ratio")
    if data is None and not number and rate is None:
        raise typer.BadParameter("give a number above 0, or --rate", param_hint="--count")
    from ingestion_platform.kafka.client import ensure_topic
    from ingestion_platform.produce.producer import produce as send
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import require_topic

    terminal: Terminal = ctx.obj
    streams = [require_topic(stream) for stream in _chosen(name, with_domains=data is not None)]
    bad: Sequence[BadLine] = ()
    if data is None:
        records = _simulated(name, number, seed, bad_ratio, live=rate is not None)
    else:
        records, number, bad = _read(data, streams, number, seed)
    settings = Settings.load()
    for stream in streams:
        ensure_topic(settings, stream.topic, stream.partitions)
    topics = ", ".join(stream.topic for stream in streams)
    with _until_interrupted(records) as (remaining, stopped), terminal.progress() as progress:
        task = progress.add_task(f"to {topics}", total=number or None)
        report = send(
            settings,
            streams[0].topic,
            remaining,
            rate=rate,
            on_progress=lambda done: progress.update(task, completed=done),
        )
    _print_report(terminal, topics, report, bad)
    if report.failed or bad or (not stopped.is_set() and report.sent < number):
        raise typer.Exit(1)
    if stopped.is_set() and number:
        raise typer.Exit(130)


def _chosen(name: str, *, with_domains: bool) -> list[Stream]:
    """Return the stream of that name, or with `with_domains` those of the domain."""
    from ingestion_platform.streams import declared_streams, select

    streams = declared_streams()
    domain = [stream for stream in streams.values() if stream.domain == name]
    if domain and name not in streams and not with_domains:
        names = ", ".join(stream.name for stream in domain)
        raise typer.BadParameter(f"{name} is a domain: give --data, or one of {names}")
    return domain if domain and name not in streams else select(streams, [name])


def _read(
    data: Path, streams: list[Stream], number: int, seed: int
) -> tuple[Iterator[Record], int, Sequence[BadLine]]:
    """Return the records of the files (at most `number`, unless 0), their number, and bad lines."""
    from ingestion_platform.produce.labelled import find

    labelled = find(data, streams)
    number = min(number or len(labelled.lines), len(labelled.lines))
    return itertools.islice(labelled.records(seed), number), number, labelled.bad


def _simulated(
    stream: str, number: int, seed: int, bad_ratio: float, *, live: bool
) -> Iterator[Record]:
    """Yield simulated records; `live` ones get the time of sending."""
    from ingestion_platform.produce.simulators import simulate

    rounds = [(number, seed)] if number else ((_ROUND, n) for n in itertools.count(seed))
    spans = (simulate(stream, size, seed=n, bad_ratio=bad_ratio) for size, n in rounds)
    for record in itertools.chain.from_iterable(spans):
        yield record._replace(timestamp_ms=None) if live else record


@contextmanager
def _until_interrupted(
    records: Iterator[Record],
) -> Iterator[tuple[Iterator[Record], threading.Event]]:
    """Yield the records up to the first Ctrl-C or SIGTERM, and the event that it sets.

    What was sent is still acknowledged then. A second signal ends the process as usual.
    """
    stopped = threading.Event()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()
        restore()

    for number in handlers:
        signal.signal(number, stop)
    try:
        yield itertools.takewhile(lambda _: not stopped.is_set(), records), stopped
    finally:
        restore()


def _print_report(terminal: Terminal, topics: str, report: Report, bad: Sequence[BadLine]) -> None:
    speed = report.delivered / report.seconds if report.seconds else 0
    terminal.say(
        f"{count(report.delivered)} of {count(report.sent)} records delivered to "
        f"[bold]{literal(topics)}[/] in {report.seconds:.1f} s ({speed:,.0f}/s)"
    )
    if report.failed:
        terminal.error(f"{count(len(report.failed))} records were not acknowledged")
        for failure in report.failed[:_SHOWN]:
            key = (failure.record.key or b"").decode(errors="backslashreplace")
            reason = literal(redacted(failure.reason))
            terminal.err.print(f"  key {literal(key)}: {reason}", soft_wrap=True)
    if bad:
        terminal.error(f"{count(len(bad))} lines are no records, and were not sent")
        for line in bad[:_BAD_SHOWN]:
            terminal.err.print(f"  {literal(str(line))}", soft_wrap=True)
        if len(bad) > _BAD_SHOWN:
            terminal.err.print(f"  and {count(len(bad) - _BAD_SHOWN)} more")
