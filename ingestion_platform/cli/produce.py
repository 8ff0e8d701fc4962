"""`ingest produce`: simulated records into a stream's topic."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ingestion_platform.cli.options import Quiet, StreamName
from ingestion_platform.cli.terminal import Terminal, count, literal, redacted

if TYPE_CHECKING:
    from ingestion_platform.sources.produce import Report
    from ingestion_platform.sources.record import Record

_ROUND = 20_000  # records of one simulated span, when there is no end
_SHOWN = 3


def produce(
    ctx: typer.Context,
    stream: StreamName,
    number: Annotated[
        int, typer.Option("--count", "-n", min=0, help="How many records; 0 with --rate: no end.")
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
    quiet: Quiet = False,
) -> None:
    """Send simulated records to a stream's topic, which is created if it is absent.

    Exits with 1 if a record was not acknowledged by all replicas.

    [dim]Examples:[/]
      ingest produce pgr_events --count 10000 --bad-ratio 0.01
      ingest produce pgr_events --rate 5        until Ctrl-C
    """
    if not number and rate is None:
        raise typer.BadParameter("give a number above 0, or --rate", param_hint="--count")
    from ingestion_platform.settings import Settings
    from ingestion_platform.sources.client import ensure_topic
    from ingestion_platform.sources.produce import produce as send
    from ingestion_platform.streams import declared_streams, select

    terminal: Terminal = ctx.obj
    declared = select(declared_streams(), [stream])[0]
    records = _records(stream, number, seed, bad_ratio, live=rate is not None)
    settings = Settings.load()
    ensure_topic(settings, declared.topic, declared.partitions)
    with _until_interrupted(records) as (wanted, stopped), terminal.progress() as progress:
        task = progress.add_task(f"to {declared.topic}", total=number or None)
        report = send(
            settings,
            declared.topic,
            wanted,
            rate=rate,
            on_progress=lambda done: progress.update(task, completed=done),
        )
    _tell(terminal, declared.topic, report)
    if report.failed or (not stopped.is_set() and report.sent < number):
        raise typer.Exit(1)
    if stopped.is_set() and number:
        raise typer.Exit(130)


def _records(
    stream: str, number: int, seed: int, bad_ratio: float, *, live: bool
) -> Iterator[Record]:
    """The records to send; `live` ones get their timestamps when they are sent."""
    from ingestion_platform.sources.simulators import simulate

    rounds = [(number, seed)] if number else ((_ROUND, n) for n in itertools.count(seed))
    spans = (simulate(stream, size, seed=n, bad_ratio=bad_ratio) for size, n in rounds)
    for record in itertools.chain.from_iterable(spans):
        yield record._replace(timestamp_ms=None) if live else record


@contextmanager
def _until_interrupted(
    records: Iterator[Record],
) -> Iterator[tuple[Iterator[Record], threading.Event]]:
    """The records up to the first Ctrl-C or SIGTERM, so that what was sent is still confirmed.

    A second one ends the process as usual.
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


def _tell(terminal: Terminal, topic: str, report: Report) -> None:
    speed = report.delivered / report.seconds if report.seconds else 0
    terminal.say(
        f"{count(report.delivered)} of {count(report.sent)} records delivered to "
        f"[bold]{literal(topic)}[/] in {report.seconds:.1f} s ({speed:,.0f}/s)"
    )
    if report.failed:
        terminal.error(f"{count(len(report.failed))} records were not acknowledged")
        for failure in report.failed[:_SHOWN]:
            key = (failure.record.key or b"").decode(errors="backslashreplace")
            reason = literal(redacted(failure.reason))
            terminal.err.print(f"  key {literal(key)}: {reason}", soft_wrap=True)
