"""`ingest demo`: events from a Kafka topic to gold tables in half a minute, layer by layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import Quiet
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table, text
from ingestion_platform.errors import Permanent

if TYPE_CHECKING:
    from ingestion_platform.pipeline import Platform
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import Stream

STREAM = "pgr_events"
_BAD_RATIO = 0.01
_DAYS = 3
_REASONS = 8
_NEXT = (
    ("make dev", "watch it live: Dagster, with a simulator that goes on sending"),
    ("ingest status", "where log, lake and tables stand"),
    (f"ingest verify {STREAM}", "prove that nothing is lost, doubled or changed"),
    ('ingest query "show all tables"', "ask the tables with SQL"),
    ("ingest broker stop", "end the embedded broker; the tables stay"),
)


@dataclass(frozen=True)
class Run:
    """A run of Dagster, as `orchestration.once` tells it."""

    assets: list[str]
    seconds: float
    run: str
    success: bool
    checks: list[dict[str, Any]]


def demo(
    ctx: typer.Context,
    number: Annotated[
        int, typer.Option("--count", "-n", min=1, max=50_000, help="How many events to send.")
    ] = 4000,
    on_kafka: Annotated[
        bool,
        typer.Option(
            "--on-kafka", help="Send the events to the Kafka of the settings, if one is set."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Take simulated events of civic grievances from a Kafka topic to gold tables.

    Sends them to the embedded broker, some of them broken, then materializes
    lake, bronze, silver and gold as Dagster assets, and shows what arrived where.
    Run again, it adds events. Exits with 1 if a check does not hold.
    """
    terminal: Terminal = ctx.obj
    from ingestion_platform.pipeline import Platform
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import declared_streams, select

    settings = Settings.load()
    if not settings.embedded and not on_kafka:
        raise typer.BadParameter(
            "KAFKA_BOOTSTRAP_SERVERS is set: unset it, or give --on-kafka to send the simulated "
            f"events into its topic {STREAM}"
        )
    stream = select(declared_streams(), [STREAM])[0]
    _send(terminal, settings, stream, number)
    runs = list(_materialize(terminal, settings, stream))
    platform = Platform(settings)
    _show_layers(terminal, platform, stream, runs)
    _show_quarantine(terminal, platform, stream)
    held = _show_checks(terminal, runs)
    _show_next(terminal)
    if not held:
        raise typer.Exit(1)


def _send(terminal: Terminal, settings: Settings, stream: Stream, number: int) -> None:
    from ingestion_platform.sources import broker
    from ingestion_platform.sources.client import bootstrap_servers, ensure_topic
    from ingestion_platform.sources.produce import produce
    from ingestion_platform.sources.simulators import simulate

    if settings.embedded and broker.address(settings.home) is None:
        broker.start(settings.home)
        terminal.say(f"[green]✓[/] embedded broker started below {literal(str(settings.home))}")
    ensure_topic(settings, stream.topic, stream.partitions)
    seed = int(datetime.now(UTC).timestamp())
    records = simulate(stream.name, number, seed=seed, bad_ratio=_BAD_RATIO, days=_DAYS)
    report = produce(settings, stream.topic, records)
    if report.failed:
        raise Permanent(
            f"{len(report.failed)} events were not acknowledged: {report.failed[0].reason}",
            action="see `ingest doctor`",
        )
    terminal.say(
        f"[green]✓[/] {count(report.delivered)} events sent to topic [bold]{stream.topic}[/] "
        f"({bootstrap_servers(settings)}), {_BAD_RATIO:.0%} of them broken"
    )


def _materialize(terminal: Terminal, settings: Settings, stream: Stream) -> Iterator[Run]:
    """Have Dagster materialize the days of the events; its own words go to a log file."""
    today = datetime.now(UTC).date()
    log = settings.home / "demo.log"
    process, lines = _start(log, stream.name, today - timedelta(days=_DAYS), today)
    with terminal.err.status("Dagster materializes lake, bronze, silver and gold"):
        for line in lines:
            run = Run(**json.loads(line))
            sign = "[green]✓[/]" if run.success else "[bold red]✗[/]"
            assets = ", ".join(asset.rpartition("/")[2] for asset in run.assets)
            terminal.say(f"{sign} Dagster run {run.run[:8]}: {assets} ({run.seconds:.1f} s)")
            yield run
            if not run.success:
                raise Permanent(f"the run of {assets} failed", action=f"read {log}")
    if process.wait():
        raise Permanent("Dagster could not run the assets", action=f"read {log}")


def _start(
    log: Path, stream: str, first: date, last: date
) -> tuple[subprocess.Popen[bytes], Iterator[str]]:
    """Start the materialization; gives what it writes, line by line."""
    reader, writer = os.pipe()
    module = "ingestion_platform.orchestration.once"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(writer), stream, str(first), str(last)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[writer],
            )
    finally:
        os.close(writer)
    return process, os.fdopen(reader)


def _show_layers(terminal: Terminal, platform: Platform, stream: Stream, runs: list[Run]) -> None:
    from ingestion_platform.lake.chain import Chain
    from ingestion_platform.status import stream_status
    from ingestion_platform.warehouse.reading import query

    status = stream_status(platform, stream)
    chain = Chain(platform.store, stream.topic)
    files = [
        link for day in chain.windows() for p in chain.names(day) for link in chain.slice(day, p)
    ]
    table = new_table("Rows per layer", ("layer", "where", "rows"), numbers=("rows",))
    in_log = sum(p.log_end - p.log_start for p in status.partitions)
    table.add_row("topic", stream.topic, count(in_log))
    table.add_row("lake", f"{len(files)} Parquet files", count(sum(link.rows for link in files)))
    table.add_row("bronze", stream.bronze_table, count(status.bronze_rows))
    table.add_row("quarantine", stream.quarantine_table, count(status.quarantine_rows))
    for asset in runs[-1].assets:
        name = asset.replace("/", ".")
        rows = query(platform.settings, f"select count(*) as n from {name}")["n"][0].as_py()
        table.add_row(asset.partition("/")[0], name, count(rows))
    terminal.table(table)


def _show_quarantine(terminal: Terminal, platform: Platform, stream: Stream) -> None:
    """Show how often which reason was given, and one record whole, the newest."""
    from ingestion_platform.warehouse.reading import query

    # The offending value or place, in brackets, would make every reason another.
    reasons = query(
        platform.settings,
        f"""
        with reasons as (
            select regexp_replace(unnest(_reasons), ' [(](is|byte) .*', '', 's') as reason
            from {stream.quarantine_table}
        )
        select reason, count(*) as records from reasons
        group by reason order by records desc, reason limit {_REASONS}
        """,
    )
    table = new_table("Why records are in quarantine", ("records", "reason"), numbers=("records",))
    for row in reasons.to_pylist():
        table.add_row(count(row["records"]), literal(row["reason"]))
    terminal.table(table)
    newest = query(
        platform.settings,
        f"""
        select _partition, _offset, _reasons, _value from {stream.quarantine_table}
        where octet_length(_value) > 100 order by _timestamp desc limit 1
        """,
    )
    for row in newest.to_pylist():
        place = f"partition {row['_partition']}, offset {row['_offset']}"
        terminal.out.print(f"[bold]For example[/], {place}:", soft_wrap=True)
        for line in (*row["_reasons"], text(row["_value"])):
            terminal.out.print(f"  {literal(line)}", soft_wrap=True)
        terminal.out.print()


def _show_checks(terminal: Terminal, runs: list[Run]) -> bool:
    """Show the checks, those of a dbt model in one line unless they fail; whether all hold."""
    checks = [check for run in runs for check in run.checks]
    table = new_table("Checks", ("asset", "check", "result", "what it found"))
    bad = [check for check in checks if not check["passed"]]
    for check in runs[0].checks:
        _add_check(table, check)
    for asset in runs[-1].assets if len(runs) > 1 else ():
        own = [check for check in runs[-1].checks if check["asset"] == asset]
        good = sum(check["passed"] for check in own)
        result = "[green]holds[/]" if good == len(own) else "[bold red]fails[/]"
        table.add_row(literal(asset), f"{len(own)} dbt tests", result, f"{good} hold")
        for check in own:
            if not check["passed"]:
                _add_check(table, check)
    terminal.table(table)
    return not any(check["severity"] == "ERROR" for check in bad)


def _add_check(table: Any, check: dict[str, Any]) -> None:
    result = "[green]holds[/]" if check["passed"] else "[bold red]fails[/]"
    table.add_row(
        literal(check["asset"]), literal(check["check"]), result, literal(check["description"])
    )


def _show_next(terminal: Terminal) -> None:
    terminal.out.print("[bold]What next[/]")
    for command, what in _NEXT:
        terminal.out.print(f"  [cyan]{literal(command):<32}[/] {what}", soft_wrap=True)
