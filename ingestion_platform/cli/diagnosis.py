"""Checks of `ingest doctor`: one function each, yielding findings with a next action.

Nothing is mended here, and nothing is left behind.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion_platform.each import for_each, results
from ingestion_platform.errors import PlatformError
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams, readable

if TYPE_CHECKING:
    from ingestion_platform.progress.status import StreamStatus
    from ingestion_platform.sinks.declare import Delivery
    from ingestion_platform.sinks.deliver import TargetStatus

TIMEOUT = 5.0  # seconds for a broker to answer
_ALARMS = 10  # that are shown
PILED = 1000  # small files of a table that are worth a word: maintenance would long have come


class Level(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report, with an action if it is not ok."""

    level: Level
    message: str
    action: str = ""
    check: str = ""


def ok(message: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(Level.OK, message)


def warn(message: str, action: str) -> Finding:
    """Return a finding that needs attention soon."""
    return Finding(Level.WARN, message, action)


def fail(message: str, action: str) -> Finding:
    """Return a finding of a failure."""
    return Finding(Level.FAIL, message, action)


@dataclass
class DoctorContext:
    """What the checks examine, and what earlier checks found."""

    settings: Settings
    streams: list[Stream] = field(default_factory=list)
    topics: dict[str, int] | None = None
    """Partition counts by topic; None if the broker does not answer."""
    lake: bool = False
    catalog: bool = False

    def __post_init__(self) -> None:
        self.platform = Platform(self.settings)


Check = Callable[[DoctorContext], Iterable[Finding]]


def examine() -> Iterator[Finding]:
    """Yield all findings as soon as they are known; never raises."""
    try:
        context = DoctorContext(Settings.load())
    except PlatformError as error:
        yield Finding(Level.FAIL, error.message, error.action, "settings")
        return
    for name, check in CHECKS.items():
        try:
            for finding in check(context):
                yield replace(finding, check=name)
        except PlatformError as error:
            yield Finding(Level.FAIL, error.message, error.action, name)
        except Exception as error:  # the report goes on, whatever one check meets
            hint = "`ingest --debug` shows where in the command that meets it; please report it"
            yield Finding(Level.FAIL, f"{type(error).__name__}: {error}", hint, name)


def _settings(context: DoctorContext) -> Iterator[Finding]:
    """Report which settings are set, and where."""
    settings = context.settings
    for name, value in sorted(settings.source.items()):
        origin = ".env" if name in settings.dotenv else "environment"
        yield ok(f"{name}={value} ({origin})")
    if settings.dotenv_file is not None:
        yield from _dotenv(settings.dotenv_file)
    kafka = "the embedded broker" if settings.embedded else "the Kafka of KAFKA_BOOTSTRAP_SERVERS"
    yield ok(f"home {settings.home}, {kafka}, lake {settings.lake_url}")


def _dotenv(file: Path) -> Iterator[Finding]:
    """Check that no other user can read or write the `.env` file, which has secrets."""
    found, folder = file.stat(), file.parent.stat()
    mine = {os.geteuid(), 0}
    if found.st_uid not in mine:
        yield warn(
            f"{file} belongs to another user, who can change every setting",
            f"`chown {os.geteuid()} {file}`, after reading it",
        )
    if found.st_mode & 0o022:
        yield warn(
            f"others can write {file} (mode {stat.S_IMODE(found.st_mode):o}), and so change every "
            "setting",
            f"`chmod 600 {file}`, after reading it",
        )
    elif found.st_mode & 0o044:
        yield warn(
            f"others can read {file} (mode {stat.S_IMODE(found.st_mode):o}), and the secrets in it",
            f"`chmod 600 {file}`",
        )
    if folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX:
        yield warn(
            f"others can replace {file}: its folder has mode {stat.S_IMODE(folder.st_mode):o}",
            f"`chmod go-w {file.parent}`",
        )


def _contracts(context: DoctorContext) -> Iterator[Finding]:
    from ingestion_platform.cli.contract import of_declarations
    from ingestion_platform.contract.lint import Severity, lint

    streams = list(declared_streams().values())
    findings = lint(stream.contract_file for stream in streams) + of_declarations()
    errors = [f for f in findings if f.severity is Severity.ERROR]
    for error in errors:
        yield fail(f"{error.file}: {error.element}: {error.problem}", error.action)
    # The others are examined all the same.
    context.streams, _ = readable(streams)
    if errors:
        return
    if not streams:
        yield warn("no stream is declared", "add a folder with a defs.yaml below domains/")
        return
    yield ok(f"{len(streams)} valid: {', '.join(stream.name for stream in streams)}")
    if findings:
        more = "`ingest contract lint` lists them"
        yield warn(f"{len(findings)} could say more than they do", more)


def _broker(context: DoctorContext) -> Iterator[Finding]:
    from ingestion_platform.kafka.client import bootstrap_servers, topics

    context.topics = topics(context.settings, TIMEOUT)
    servers = bootstrap_servers(context.settings)
    yield ok(f"{servers} answers, {len(context.topics)} topic{_s(len(context.topics))}")


def _topics(context: DoctorContext) -> Iterator[Finding]:
    if context.topics is None:
        yield _not_looked_at("the broker")
        return
    for stream in filter(lambda each: each.kafka, context.streams):
        partitions = context.topics.get(stream.topic)
        if partitions is None:
            yield warn(
                f"{stream.name}: no topic {stream.topic} yet",
                f"create it, or `ingest produce {stream.name} --count 1000` does; it is waited for",
            )
        elif partitions > stream.partitions:
            yield warn(
                f"{stream.name}: topic {stream.topic} has {partitions} partitions, assets are "
                f"declared for {stream.partitions}",
                f"set `partitions: {partitions}` in the stream's defs.yaml",
            )
        else:
            yield ok(f"{stream.topic}: {partitions} partitions")


def _lake(context: DoctorContext) -> Iterator[Finding]:
    """Check that a conditional write fails for an existing object; exactly-once relies on it."""
    store = context.platform.store
    path = f"_doctor-{uuid.uuid4().hex}"
    try:
        first, second = store.create(path, b"one"), store.create(path, b"two")
        intact = store.read(path) == b"one"
    finally:
        store.remove(path)
    if not (first and not second and intact):
        yield fail(
            f"{store.url} lets a conditional put replace an object",
            "use a store with conditional writes (If-None-Match), such as S3 or MinIO",
        )
        return
    context.lake = True
    yield ok(f"{store.url} takes objects, and refuses a second one of the same name")


def _catalog(context: DoctorContext) -> Iterator[Finding]:
    from ingestion_platform.warehouse.catalog import answering

    with answering():
        namespaces = [".".join(name) for name in context.platform.catalog.list_namespaces()]
    context.catalog = True
    yield ok(f"answers, namespaces: {', '.join(namespaces) or 'none yet'}")


def _tables(context: DoctorContext) -> Iterator[Finding]:
    """Check that each stream's tables have the records of their committed offsets."""
    if not (context.lake and context.catalog):
        yield _not_looked_at("lake or catalog")
        return
    yield from _of_each(lambda stream: _tables_of(context.platform, stream), context.streams)


def _tables_of(platform: Platform, stream: Stream) -> Iterator[Finding]:
    from ingestion_platform.lake.segments import SegmentLog
    from ingestion_platform.operations.slice_counts import slice_counts

    segment_log = SegmentLog(platform.store, stream.topic)
    slices = [
        (ingest_date, p)
        for ingest_date in segment_log.ingest_dates()
        for p in segment_log.names(ingest_date)
    ]
    counts = slice_counts(platform, stream, slices)
    wrong = [s for s, c in counts.items() if c.loaded and not c.ok]
    stale = [s for s, c in counts.items() if c.stale]
    if wrong:
        ingest_date, partition = wrong[0]
        yield fail(
            f"{stream.name}: {len(wrong)} slice{_s(len(wrong))} with more or fewer rows than the "
            f"lake has records, first {ingest_date}|{partition}",
            f"`ingest verify {stream.name}` shows which; docs/runbook.md, `rows and lake disagree`",
        )
    if stale:
        ingest_date, partition = stale[0]
        yield warn(
            f"{stream.name}: {len(stale)} slice{_s(len(stale))} validated by an earlier contract, "
            f"first {ingest_date}|{partition}",
            f"`ingest revalidate {stream.name} --all-stale`, or materialize them in Dagster",
        )
    if not wrong and not stale:
        yield ok(f"{stream.name}: {len(slices)} slice{_s(len(slices))} agree with the lake")


def _maintenance(context: DoctorContext) -> Iterator[Finding]:
    """Check whether tables need maintenance."""
    if not context.catalog:
        yield _not_looked_at("the catalog")
        return
    from ingestion_platform.operations.maintenance import conditions, models_of, tables_of

    names = [name for stream in context.streams for name in tables_of(stream)]
    for domain in dict.fromkeys(stream.domain for stream in context.streams):
        names += models_of(context.platform, domain)
    fine = 0
    attempts = list(for_each(lambda name: list(conditions(context.platform, [name])), names))
    yield from (_failed(of.item, of.error) for of in attempts if of.error is not None)
    for found in (condition for some in results(attempts) for condition in some):
        many = {
            "small files": found.small_files,
            "old snapshots": found.expendable,
            "small manifests": found.small_manifests,
        }
        piled = [f"{count:,} {what}" for what, count in many.items() if count >= PILED]
        if not piled:
            fine += 1
            continue
        yield warn(
            f"{found.table}: {', '.join(piled)}, which make it slow",
            "`ingest maintain --all`, or turn the schedule `maintenance` on in Dagster",
        )
    if fine:
        yield ok(f"{fine} table{_s(fine)} in good order")


def _sinks(context: DoctorContext) -> Iterator[Finding]:
    """Check the lag and the rejected rows of targets."""
    if not context.catalog:
        yield _not_looked_at("the catalog")
        return
    from ingestion_platform.sinks.declare import readable_deliveries
    from ingestion_platform.sinks.deliver import target_status

    deliveries, unreadable = readable_deliveries()
    yield from (_failed(of.item.name, of.error) for of in unreadable if of.error is not None)
    there = [each for each in deliveries.values() if each.configured(context.settings)]
    for of in for_each(lambda delivery: target_status(context.platform, delivery), there):
        if of.error is not None:
            yield _failed(of.item.name, of.error)
        else:
            yield _delivered(of.item, of.result)
    if unset := [name for name, each in deliveries.items() if each not in there]:
        yield ok(f"no settings for {', '.join(unset)}: not delivered")


def _delivered(delivery: Delivery, at: TargetStatus) -> Finding:
    said = f"{delivery.name}: {at.rows:,} rows"
    if at.rejected:
        return warn(
            f"{said}, {at.rejected:,} rejected",
            f"`ingest deliver {delivery.source} --rejected 20` shows them with reasons",
        )
    if at.current:
        return ok(f"{said}, as {delivery.table}")
    return warn(f"{said}, behind {delivery.table}", f"`ingest deliver {delivery.source}`")


def _behind(context: DoctorContext) -> Iterator[Finding]:
    """Check bronze's lag, and its age against the contract's freshness."""
    if context.topics is None or not (context.lake and context.catalog):
        yield _not_looked_at("broker, lake or catalog")
        return
    from ingestion_platform.progress.status import stream_status

    def behind(stream: Stream) -> Iterator[Finding]:
        status = stream_status(context.platform, stream)
        yield from _positions(status)
        yield from _losses(status)
        if not status.no_topic_yet:  # which is a finding of `topics`
            yield _lag(context.platform, stream, status)

    yield from _of_each(behind, context.streams)


def _of_each(
    check: Callable[[Stream], Iterable[Finding]], streams: Iterable[Stream]
) -> Iterator[Finding]:
    """Yield a check's findings of every stream; an error becomes a finding."""
    for of in for_each(lambda stream: list(check(stream)), streams):
        yield from of.result if of.error is None else [_failed(of.item.name, of.error)]


def _failed(name: str, error: PlatformError) -> Finding:
    return fail(f"{name}: {error.message}", error.action)


def _positions(status: StreamStatus) -> Iterator[Finding]:
    for p in status.partitions:
        where = f"{status.stream}, partition {p.partition}"
        lake = p.lake_position or 0
        if lake > p.log_end:
            yield fail(
                f"{where}: the log ends at {p.log_end:,}, the lake has it up to {lake:,}: "
                "the broker lost records",
                "restore the broker's data, or recreate the topic to go on",
            )
        if (p.bronze_position or 0) > lake:
            yield fail(
                f"{where}: bronze was loaded up to {p.bronze_position:,}, the lake ends at "
                f"{lake:,}: files are missing",
                f"restore the lake's files of topic={status.topic} from a backup",
            )


def _losses(status: StreamStatus) -> Iterator[Finding]:
    """Check for recent losses: records that retention removed before they were landed."""
    for loss in status.losses:
        if not loss.recent:
            continue
        where = f"{status.stream}, partition {loss.partition}"
        when = f" (seen on {loss.noticed:%Y-%m-%d %H:%M} UTC)" if loss.noticed else ""
        if loss.end is None:
            yield warn(
                f"{where}: topic {status.topic} was recreated{when}; what the old one had at "
                f"offset {loss.start:,} and after, if anything, was not landed",
                "docs/runbook.md, `a topic was recreated`",
            )
        else:
            yield fail(
                f"{where}: {loss.count:,} record{_s(loss.count)} lost, offsets {loss.start:,} to "
                f"before {loss.end:,}: gone from the log before they were landed{when}",
                "docs/runbook.md, `records were lost`",
            )


def _lag(platform: Platform, stream: Stream, status: StreamStatus) -> Finding:
    if not status.lag:
        return ok(f"{stream.name}: up to date")
    age = _seconds_since_load(platform, stream)
    promised = stream.contract.freshness_seconds
    behind = f"{stream.name}: {status.lag:,} record{_s(status.lag)} behind the log"
    if age is not None and promised is not None and age > promised:
        behind += f", stale: last loaded {age:,.0f} s ago, promised every {promised:,.0f} s"
    return warn(behind, f"`ingest run {stream.name}`, or `ingest dev` to keep it current")


def _seconds_since_load(platform: Platform, stream: Stream) -> float | None:
    from ingestion_platform.warehouse.tables import load_or_none

    table = load_or_none(platform.catalog, stream.bronze_table)
    snapshot = table.current_snapshot() if table else None
    return datetime.now(UTC).timestamp() - snapshot.timestamp_ms / 1000 if snapshot else None


def _alarms(context: DoctorContext) -> Iterator[Finding]:
    """Report active alarms, and whether their messages are delivered; sends none."""
    from ingestion_platform.alarms import AlarmStore

    book = AlarmStore(context.settings)
    on = book.open()
    for each in on[:_ALARMS]:
        began = datetime.fromtimestamp(each.since, UTC)
        yield warn(
            f"{each.alarm.severity} since {began:%Y-%m-%d %H:%M} UTC: {each.alarm.what}",
            f"{each.alarm.action}; docs/runbook.md#{each.alarm.section}",
        )
    if len(on) > _ALARMS:
        yield warn(f"{len(on) - _ALARMS} more alarms are on", "`ingest alarm list`")
    if context.settings.alarms.webhook_url is None:
        yield ok("no webhook is set (ALARM_WEBHOOK_URL): alarms are kept here")
    elif left := book.undelivered():
        since = datetime.fromtimestamp(left.since, UTC)
        yield fail(
            f"{left.count} message{_s(left.count)} not delivered since {since:%Y-%m-%d %H:%M} "
            f"UTC: {left.error}",
            "see ALARM_WEBHOOK_URL and its receiver; `ingest alarm test` tries it",
        )
    else:
        yield ok("the webhook has taken all messages; `ingest alarm test` sends one")


def _dagster_home(context: DoctorContext) -> Iterator[Finding]:
    home = context.settings.dagster_home
    if not home.is_dir():
        yield warn(f"{home} does not exist yet", "`ingest dev` or `ingest demo` makes it")
    elif not os.access(home, os.W_OK):
        yield fail(f"{home} cannot be written", "change its rights, or set DAGSTER_HOME")
    elif not (home / "dagster.yaml").is_file():
        yield warn(
            f"{home} has no dagster.yaml, so Dagster's own defaults hold",
            "`ingest dev` links the project's there",
        )
    else:
        yield ok(f"{home} is ready")


def _embedded_broker(context: DoctorContext) -> Iterator[Finding]:
    from ingestion_platform.kafka.broker import address

    home: Path = context.settings.home
    broker = address(home)
    if broker is None and (home / "broker.json").exists():
        yield warn(f"one of {home} ended without cleaning up", "`ingest broker stop` cleans up")
    elif broker is not None and not context.settings.embedded:
        yield warn(
            f"one runs in {home} (process {broker.pid}), unused: KAFKA_BOOTSTRAP_SERVERS is set",
            "`ingest broker stop` ends it",
        )
    elif broker is not None:
        yield ok(f"runs since {broker.started_at} (process {broker.pid})")
    else:
        yield ok("none is left over")


def _not_looked_at(what: str) -> Finding:
    return warn(f"not looked at: {what} did not answer", "mend that first")


def _s(count: int) -> str:
    return "" if count == 1 else "s"


CHECKS: dict[str, Check] = {
    "settings": _settings,
    "contracts": _contracts,
    "broker": _broker,
    "topics": _topics,
    "lake": _lake,
    "catalog": _catalog,
    "tables": _tables,
    "maintenance": _maintenance,
    "streams": _behind,
    "sinks": _sinks,
    "alarms": _alarms,
    "dagster home": _dagster_home,
    "embedded broker": _embedded_broker,
}
"""The checks by their names in the report; later ones use results of earlier ones."""
