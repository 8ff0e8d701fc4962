"""`ingest demo`: records of every domain from their sources to gold tables, shown layer by
layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from io import FileIO
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestion_platform.cli.options import Quiet
from ingestion_platform.cli.terminal import Terminal, count, literal, new_table, text
from ingestion_platform.errors import Permanent
from ingestion_platform.project import how_to

if TYPE_CHECKING:
    from ingestion_platform.platform import Platform
    from ingestion_platform.progress.status import StreamStatus
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import Stream

FILE = "demo.jsonl"
"""The file that is put into a drop zone."""

_BAD_RATIO = 0.01
_SHARE = 10  # of the main stream's records, one for each other stream
_DAYS = 3  # of the main stream's records; the others have one
_REASONS = 2  # of each domain
_LANES = 2  # processes that materialize domains side by side
_NEXT = (
    (how_to("dev"), "watch it live: Dagster, with a simulator that goes on sending"),
    ("ingest status", "where log, lake and tables stand"),
    ("ingest verify --all", "prove that nothing is lost, doubled or changed"),
    ('ingest query "show all tables"', "ask the tables with SQL"),
    ("ingest serve", "the HTTP API: docs/http-api.md"),
    ("ingest broker stop", "end the embedded broker; the tables stay"),
)


@dataclass(frozen=True)
class Run:
    """A run of Dagster, as `orchestration.once` tells it."""

    assets: dict[str, str]
    """Their domains, by layer/name."""
    seconds: float
    run: str
    success: bool
    checks: list[dict[str, Any]]

    @property
    def layers(self) -> list[str]:
        """What is materialized: lake and bronze, or silver and gold."""
        return list(dict.fromkeys(asset.partition("/")[0] for asset in self.assets))


def demo(
    ctx: typer.Context,
    number: Annotated[
        int,
        typer.Option(
            "--count",
            "-n",
            min=_SHARE,
            max=50_000,
            help="How many events to send to the main stream; each other stream gets a tenth.",
        ),
    ] = 4000,
    on_kafka: Annotated[
        bool,
        typer.Option(
            "--on-kafka", help="Send the records to the Kafka of the settings, if one is set."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Take simulated records of all domains from their topics, and a file, to gold tables.

    Sends them to the embedded broker, some of them broken, then materializes
    lake, bronze, silver and gold as Dagster assets, and shows what arrived where.
    Run again, it adds records. Exits with 1 if a check does not hold.
    """
    terminal: Terminal = ctx.obj
    from ingestion_platform.platform import Platform
    from ingestion_platform.produce.simulators import main_stream, simulated
    from ingestion_platform.settings import Settings
    from ingestion_platform.streams import DOMAINS_FOLDER, declared_streams

    settings = Settings.load()
    streams = simulated(declared_streams(DOMAINS_FOLDER).values())
    if not streams:
        raise Permanent("no stream has a simulator", action="add a domain with a simulator.py")
    main = main_stream(streams)
    if not settings.embedded and not on_kafka:
        raise typer.BadParameter(
            "KAFKA_BOOTSTRAP_SERVERS is set: unset it, or give --on-kafka to send simulated "
            f"records into {len(streams)} of its topics, such as {main.topic}"
        )
    platform = Platform(settings)
    _send(terminal, settings, streams, main, number)
    if main.files is not None:
        _drop(terminal, platform, main, number // _SHARE)
    runs = _materialize(terminal, settings, streams, main)
    _show_streams(terminal, platform, streams)
    _show_models(terminal, settings, runs)
    _show_quarantine(terminal, settings, streams, main)
    held = _show_checks(terminal, runs)
    _show_next(terminal)
    if not held:
        raise typer.Exit(1)


def _send(
    terminal: Terminal, settings: Settings, streams: Sequence[Stream], main: Stream, number: int
) -> None:
    from ingestion_platform.kafka import broker
    from ingestion_platform.kafka.client import bootstrap_servers, ensure_topic
    from ingestion_platform.produce.producer import produce
    from ingestion_platform.produce.simulators import simulate

    if settings.embedded and broker.address(settings.home) is None:
        broker.start(settings.home)
        terminal.say(f"[green]✓[/] embedded broker started below {literal(str(settings.home))}")
    for stream in streams:
        ensure_topic(settings, stream.topic, stream.partitions)
    seed = int(datetime.now(UTC).timestamp())
    records = (
        record._replace(topic=stream.topic)
        for stream in streams
        for record in simulate(
            stream.name,
            number if stream == main else number // _SHARE,
            seed=seed,
            bad_ratio=_BAD_RATIO,
            days=_days(stream, main),
        )
    )
    report = produce(settings, streams[0].topic, records)
    if report.failed:
        raise Permanent(
            f"{len(report.failed)} records were not acknowledged: {report.failed[0].reason}",
            action="see `ingest doctor`",
        )
    terminal.say(
        f"[green]✓[/] {count(report.delivered)} records sent to the topics of {len(streams)} "
        f"streams ({bootstrap_servers(settings)}), {_BAD_RATIO:.0%} of them broken"
    )


def _days(stream: Stream, main: Stream) -> int:
    return _DAYS if stream == main else 1


def _drop(terminal: Terminal, platform: Platform, stream: Stream, number: int) -> None:
    """Put a file of sound records into the stream's drop zone; the next run lands it."""
    from ingestion_platform.produce.simulators import simulate

    seed = int(datetime.now(UTC).timestamp()) + 1  # other records than those of the topic
    values = [record.value for record in simulate(stream.name, number, seed=seed)]
    platform.drop.write(f"{stream.file_source.folder}/{FILE}", b"\n".join(values) + b"\n")
    terminal.say(
        f"[green]✓[/] {FILE} with {count(number)} more records of {stream.name} "
        f"dropped into {literal(platform.drop.url)}/{literal(stream.file_source.folder)}"
    )


def _materialize(
    terminal: Terminal, settings: Settings, streams: Sequence[Stream], main: Stream
) -> list[Run]:
    """Have Dagster materialize the days of the records; its own words go to a log file."""
    today = datetime.now(UTC).date()
    log = settings.home / "demo.log"
    sizes = Counter(stream.domain for stream in streams)
    firsts = {
        domain: today - timedelta(days=max(_days(s, main) for s in streams if s.domain == domain))
        for domain in sizes
    }

    def lane(domains: list[str]) -> list[Run]:
        return list(_runs(terminal, output, {domain: firsts[domain] for domain in domains}, today))

    with (
        log.open("wb", buffering=0) as output,
        terminal.err.status("Dagster materializes lake, bronze, silver and gold"),
        ThreadPoolExecutor(_LANES) as pool,
    ):
        runs = list(chain.from_iterable(pool.map(lane, _lanes(sizes))))
    if not all(run.success for run in runs):
        raise Permanent("a run of Dagster failed", action=f"read {log}")
    return runs


def _lanes(sizes: Mapping[str, int]) -> list[list[str]]:
    """The domains in as many groups as run at a time, with about as many streams in each."""
    lanes: list[list[str]] = [[] for _ in range(_LANES)]
    for domain in sorted(sizes, key=sizes.__getitem__, reverse=True):
        min(lanes, key=lambda lane: sum(sizes[each] for each in lane)).append(domain)
    return lanes


def _runs(
    terminal: Terminal, output: FileIO, firsts: Mapping[str, date], last: date
) -> Iterator[Run]:
    """The runs of some domains, from the first ingest date of each to the last, told as they end.

    Raises:
        Permanent: Dagster could not be started, or gave up.
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "ingestion_platform.orchestration.once", str(writer)]
    command += [str(last), *(f"{domain}={first}" for domain, first in firsts.items())]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[writer]
        )
    finally:
        os.close(writer)
    with os.fdopen(reader) as lines:
        for line in lines:
            run = Run(**json.loads(line))
            sign = "[green]✓[/]" if run.success else "[bold red]✗[/]"
            domains = ", ".join(dict.fromkeys(run.assets.values()))
            told = f"{' and '.join(run.layers)} of {domains}, {len(run.checks)} checks"
            terminal.say(f"{sign} Dagster run {run.run[:8]}: {told} ({run.seconds:.1f} s)")
            yield run
    if process.wait():
        raise Permanent(f"Dagster ended with {process.returncode}", action=f"read {output.name}")


def _show_streams(terminal: Terminal, platform: Platform, streams: Iterable[Stream]) -> None:
    numbers = ("topic", "files", "lake", "bronze", "rejected")
    title = "Rows per layer; what is rejected is in quarantine"
    table = new_table(title, ("domain", "stream", *numbers), numbers=numbers)
    totals: Counter[str] = Counter()
    with ThreadPoolExecutor(_LANES) as pool:
        found = pool.map(lambda stream: (stream, _rows(platform, stream)), streams)
        for stream, rows in found:
            table.add_row(stream.domain, stream.name, *(count(rows[each]) for each in numbers))
            totals.update(rows)
    table.add_section()
    table.add_row("", "all", *(count(totals[each]) for each in numbers))
    terminal.table(table)


def _rows(platform: Platform, stream: Stream) -> dict[str, int]:
    """What each layer has of a stream."""
    from ingestion_platform.lake.names import FILES
    from ingestion_platform.lake.segments import SegmentLog
    from ingestion_platform.progress.status import stream_status

    status: StreamStatus = stream_status(platform, stream)
    lake = SegmentLog(platform.store, stream.topic)
    segments = [
        segment
        for day in lake.ingest_dates()
        for p in lake.names(day)
        for segment in lake.slice(day, p)
    ]
    logs = {p.partition: p.log_end - p.log_start for p in status.partitions}
    files = logs.pop(FILES, 0)
    return {
        "topic": sum(logs.values()),
        "files": files,
        "lake": sum(segment.rows for segment in segments),
        "bronze": status.bronze_rows,
        "rejected": status.quarantine_rows,
    }


def _show_models(terminal: Terminal, settings: Settings, runs: Iterable[Run]) -> None:
    """Show the models of each domain side by side, by the names that follow layer and domain."""
    from ingestion_platform.warehouse.reading import query

    models = {a: d for run in runs if "gold" in run.layers for a, d in run.assets.items()}
    counts = " union all ".join(
        f"select '{asset}' as asset, count(*) as n from {asset.replace('/', '.')}"
        for asset in models
    )
    rows = {row["asset"]: row["n"] for row in query(settings, counts).to_pylist()}
    example = max(models, default="silver/silver_model").replace("/", ".")
    table = new_table(
        f"Rows per model, for example {example}",
        ("domain", "silver", "rows", "gold", "rows "),
        numbers=("rows", "rows "),
    )
    for domain in sorted(set(models.values())):
        own = sorted(asset for asset, of in models.items() if of == domain)
        silver, gold = ([a for a in own if a.startswith(layer)] for layer in ("silver", "gold"))
        for number, pair in enumerate(zip_longest(silver, gold)):
            cells = chain.from_iterable(_model_cells(domain, asset, rows) for asset in pair)
            table.add_row("" if number else domain, *cells)
    terminal.table(table)


def _model_cells(domain: str, asset: str | None, rows: Mapping[str, int]) -> tuple[str, str]:
    if asset is None:
        return "", ""
    layer, _, name = asset.partition("/")
    return literal(name.removeprefix(f"{layer}_{domain}_")), count(rows[asset])


def _show_quarantine(
    terminal: Terminal, settings: Settings, streams: Sequence[Stream], main: Stream
) -> None:
    """Show the most frequent reasons in each domain, and the main stream's newest record whole."""
    from ingestion_platform.contract.reasons import label_sql, reasons_of
    from ingestion_platform.warehouse.reading import query

    quarantined = " union all ".join(
        f"select '{s.domain}' as domain, '{s.name}' as stream, unnest(_reasons) as said "
        f"from {s.quarantine_table}"
        for s in streams
    )
    reasons = query(
        settings,
        f"""
        with reasons as (
            select domain, stream, {label_sql("said")} as reason
            from ({quarantined})
        )
        select domain, stream, reason, count(*) as records from reasons
        group by domain, stream, reason
        qualify row_number() over (partition by domain order by records desc, reason, stream)
            <= {_REASONS}
        order by domain, records desc, reason, stream
        """,
    )
    title = "Why records are in quarantine, most of all"
    table = new_table(title, ("stream", "records", "reason"), numbers=("records",))
    for row in reasons.to_pylist():
        table.add_row(row["stream"], count(row["records"]), literal(row["reason"]))
    terminal.table(table)
    newest = query(
        settings,
        f"""
        select _partition, _offset, _reasons, _value from {main.quarantine_table}
        where octet_length(_value) > 100 order by _timestamp desc limit 1
        """,
    )
    for row in newest.to_pylist():
        place = f"{main.name}, partition {row['_partition']}, offset {row['_offset']}"
        terminal.out.print(f"[bold]For example[/] {place}:", soft_wrap=True)
        for line in (*map(str, reasons_of(row["_reasons"])), text(row["_value"])):
            terminal.out.print(f"  {literal(line)}", soft_wrap=True)
        terminal.out.print()


def _show_checks(terminal: Terminal, runs: Sequence[Run]) -> bool:
    """Show by domain how many checks of each kind hold, and those that do not; whether all do."""
    checks = [_told(run, check) for run in runs for check in run.checks]
    kinds = list(dict.fromkeys(check.kind for check in checks))
    table = new_table("Checks that hold", ("domain", *kinds), numbers=kinds)
    for domain in sorted({check.domain for check in checks}):
        cells = []
        for kind in kinds:
            passed = [c.passed for c in checks if (c.domain, c.kind) == (domain, kind)]
            colour = "green" if all(passed) else "bold red"
            cells.append(f"[{colour}]{sum(passed)} of {len(passed)}[/]")
        table.add_row(domain, *cells)
    terminal.table(table)
    bad = [check for check in checks if not check.passed]
    for check in bad:
        terminal.out.print(f"[bold red]fails:[/] {literal(check.said)}", soft_wrap=True)
    return not any(check.severe for check in bad)


@dataclass(frozen=True)
class Check:
    """What a check found; a dbt test is of the kind `dbt tests`, another of its own."""

    domain: str
    kind: str
    passed: bool
    severe: bool
    said: str


def _told(run: Run, check: Mapping[str, Any]) -> Check:
    return Check(
        domain=run.assets[check["asset"]],
        kind="dbt tests" if "gold" in run.layers else check["check"],
        passed=check["passed"],
        severe=check["severity"] == "ERROR",
        said=f"{check['asset']}, {check['check']}: {check['description']}",
    )


def _show_next(terminal: Terminal) -> None:
    terminal.out.print("[bold]What next[/]")
    for command, what in _NEXT:
        terminal.out.print(f"  [cyan]{literal(command):<32}[/] {what}", soft_wrap=True)
