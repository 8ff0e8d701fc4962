"""Alarms of what Dagster knows, and of what nobody validates while no run comes: one sensor, which
looks at failed runs, checks, sensors, and where the streams stand. Telling is the book's.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import (
    InstigatorState,
    SensorInstigatorData,
    TickStatus,
)

from ingestion_platform.alarms import Alarm, AlarmStore
from ingestion_platform.each import attempt, for_each, results
from ingestion_platform.errors import CatalogUnavailable, PlatformError, StoreUnavailable
from ingestion_platform.orchestration import assets, checks
from ingestion_platform.orchestration.checks import Findings
from ingestion_platform.orchestration.deliveries import EQUAL
from ingestion_platform.orchestration.failing import ACTIONS, BLOCKED, INTERRUPTED, kind_of
from ingestion_platform.platform import Platform
from ingestion_platform.settings import AlarmSettings
from ingestion_platform.streams import Stream

NAME = "alarms"
INTERVAL = 60
"""Seconds between two looks."""
FAILURES = 3
"""So many ticks that fail in a row make a sensor stuck; a single one may be a restart."""
SLACK, LEAST = 10, 300.0
"""A sensor that has not ticked for so many of its intervals, so many seconds, and ALARM_AFTER_SEC,
stands still."""
MANY = 3
"""More sensors than this that stand still are one trouble, the daemon's."""
FIRST = 86_400.0
"""Seconds that the first look of all goes back for runs that failed."""
RUNS = 200
"""Finished runs that a look takes; the next one takes the others."""
_BROKER_TIMEOUT = 5.0
_AT_ONCE = 16
_SERVERS = {"lake": StoreUnavailable, "catalog": CatalogUnavailable}
_LIVE = (checks.LAG, checks.FRESHNESS, checks.LOSSES)
_SECTIONS = {
    checks.QUARANTINE_LIMIT: "too-much-in-quarantine",
    checks.RECONCILIATION: "rows-and-lake-disagree",
    checks.LAG: "records-wait",
    checks.FRESHNESS: "records-wait",
    checks.LOSSES: "records-were-lost",
    checks.INSERTED: "rows-by-sql-break-the-contract",
    EQUAL: "a-target-differs",
}
_POOL_TAG = ".dagster/pool/"
_ERROR = dg.AssetCheckSeverity.ERROR


@dataclass
class Memory:
    """What the sensor remembers, in times (seconds since 1970)."""

    seen: float
    """Of the last finished run that was noted."""
    looked: float
    """Of the last look."""
    steady: float
    """Since when it has looked again and again: before, the daemon was away, or asleep."""

    @classmethod
    def of(cls, text: str | None, now: float) -> "Memory":
        """The memory from the text that Dagster keeps, brought up to `now`."""
        kept = cls(**json.loads(text)) if text else cls(now - FIRST, 0.0, now)
        gap = now - kept.looked > 4 * INTERVAL
        return cls(kept.seen, now, now if gap else kept.steady)

    def to_text(self) -> str:
        """The text that Dagster keeps."""
        return json.dumps(asdict(self))


@dataclass
class Look:
    """What one look has at hand, and the events that it leads to."""

    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition
    platform: Platform
    streams: Mapping[str, Stream]
    book: AlarmStore
    memory: Memory
    events: list[dg.AssetCheckEvaluation] = field(default_factory=list)

    @property
    def settings(self) -> AlarmSettings:
        """The alarms' own."""
        return self.platform.settings.alarms

    def url(self, path: str) -> str | None:
        """A page of Dagster's, where it is known where those are."""
        base = self.settings.webserver_url
        return None if base is None else f"{base}/{path}"


def alarm_sensor(streams: Mapping[str, Stream]) -> dg.SensorDefinition:
    """The sensor; what it finds is in the book of this host, and at the webhook if there is one."""

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Failed runs and checks, sensors that are stuck, streams that are behind: each "
        "told once when it begins and once when it ends (docs/alarms.md).",
    )
    def watch(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.SensorResult:
        assert context.repository_def is not None
        book = AlarmStore(platform.settings)
        memory = Memory.of(context.cursor, time.time())
        look = Look(context.instance, context.repository_def, platform, streams, book, memory)
        failed_runs(look)
        failed_checks(look)
        stuck_sensors(look)
        book.deliver()
        return dg.SensorResult(
            skip_reason=f"{len(book.open())} alarms are on: `ingest alarm list`",
            asset_events=look.events,
            cursor=memory.to_text(),
        )

    return watch


def failed_runs(look: Look) -> None:
    """Note runs that failed, until another one of the same kind succeeds."""
    records = look.instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS],
            updated_after=datetime.fromtimestamp(look.memory.seen, UTC),
        ),
        limit=RUNS,
        order_by="update_timestamp",
        ascending=True,
    )
    for record in records:
        run, ended = record.dagster_run, record.update_timestamp.timestamp()
        for subject in subjects(run):
            alarm = _run_alarm(look, run, subject) if run.is_failure else None
            if alarm is None:
                look.book.gone(_run_key(subject))
            else:
                look.book.saw(alarm, since=ended)
        look.memory.seen = max(look.memory.seen, ended)


def subjects(run: dg.DagsterRun) -> list[str]:
    """What a run is about: the pools that its steps share with others of their kind, else its
    assets, else its job."""
    pools = [tag.removeprefix(_POOL_TAG) for tag in run.tags if tag.startswith(_POOL_TAG)]
    if run.run_op_concurrency is not None:
        pools += run.run_op_concurrency.all_pools or ()
    if pools:
        return sorted(set(pools))
    chosen = sorted(key.to_user_string() for key in run.asset_selection or ())
    return [" ".join(chosen) or run.job_name]


def _run_key(subject: str) -> str:
    return f"run/{subject}"


def _run_alarm(look: Look, run: dg.DagsterRun, subject: str) -> Alarm | None:
    """Return the alarm of a failed run; None if it did its work and a check failed, which has an
    alarm of its own."""
    stream = subject.removeprefix("stream_")
    kind, detail = _reason(look.instance, run.run_id)
    if kind == BLOCKED:
        return None
    chosen = sorted(key.to_user_string() for key in run.asset_selection or ())
    first, last = (run.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    return Alarm(
        key=_run_key(subject),
        what=f"run {run.run_id[:8]} of {subject} failed",
        detail=detail,
        action=ACTIONS[kind],
        section="a-run-failed",
        asset=" ".join(chosen) or None,
        stream=stream if stream in look.streams else None,
        slice=f"{first} to {last}" if first else run.tags.get("dagster/partition"),
        url=look.url(f"runs/{run.run_id}"),
    )


def _reason(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str]:
    """Kind and text of the first step's error; the text is that of the code that raised it."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    for entry in instance.all_logs(run_id, of_type=kinds):
        event = entry.dagster_event
        data: Any = event.event_specific_data if event is not None else None
        if given := getattr(data, "user_failure_data", None):
            return kind_of(data), str(given.description or given.label)
        if error := getattr(data, "error", None):
            return kind_of(data), str((error.cause or error).message).strip()
        if event is not None and event.message:
            return INTERRUPTED, event.message
    return INTERRUPTED, ""


def failed_checks(look: Look) -> None:
    """Note the checks whose newest evaluation failed; what needs no run is evaluated here."""
    keys = sorted(look.repository.asset_graph.asset_check_keys, key=str)
    storage = look.instance.event_log_storage
    newest = storage.get_latest_asset_check_execution_by_key(keys)
    stored = {key: found for key in keys if (found := _evaluation(newest.get(key))) is not None}
    live = {each.asset_check_key: each for each in _live(look)}
    for key, each in live.items():
        before = stored.get(key)
        if (before is None and not each.passed) or (before and before.passed != each.passed):
            look.events.append(each)
    known = {_check_key(key) for key in keys}
    for key, evaluation in (stored | live).items():
        if evaluation.passed or not (evaluation.severity is _ERROR or look.settings.warnings):
            look.book.gone(_check_key(key))
        else:
            look.book.saw(_check_alarm(look, evaluation, newest.get(key)))
    look.book.gone(*(key for key in look.book.noted("check/") if key not in known))


def _evaluation(record: Any) -> dg.AssetCheckEvaluation | None:
    """What an execution of a check found; None while it goes on."""
    event = record.event.dagster_event if record is not None and record.event is not None else None
    data = event.event_specific_data if event is not None else None
    return data if isinstance(data, dg.AssetCheckEvaluation) else None


def _live(look: Look) -> Iterator[dg.AssetCheckEvaluation]:
    """Where the streams stand: validated also while nothing runs. What cannot be seen is not
    validated; a server that is away is an alarm of its own."""
    from ingestion_platform.kafka.client import topics

    away: dict[str, PlatformError] = {}
    brokers = attempt(lambda settings: topics(settings, _BROKER_TIMEOUT), look.platform.settings)
    if brokers.error is not None:
        away["log"] = brokers.error
    wanted = [each for each in look.streams.values() if not (each.kafka and "log" in away)]
    seen = list(for_each(lambda stream: _of_stream(look, stream), wanted, at_once=_AT_ONCE))
    for name, kind in _SERVERS.items():
        errors = [of.error for of in seen if isinstance(of.error, kind)]
        if errors and len(errors) == len(seen):  # it is the server's, and not one stream's
            away[name] = errors[0]
    yield from (evaluation for some in results(seen) for evaluation in some)
    after = look.settings.after_seconds
    of_servers = [_away_alarm(name, error) for name, error in away.items()]
    look.book.only("server/", of_servers, after=after)
    failed = [] if away else [(of.item, of.error) for of in seen if of.error is not None]
    of_streams = [_stream_alarm(stream, error) for stream, error in failed]
    look.book.only("stream/", of_streams, after=after)


def _of_stream(look: Look, stream: Stream) -> list[dg.AssetCheckEvaluation]:
    """Validate where one stream stands; nothing to validate while its topic does not exist yet."""
    from ingestion_platform.progress.status import stream_status

    key = assets.bronze_key(stream)
    if key not in look.repository.asset_graph.get_all_asset_keys():
        return []
    status = stream_status(look.platform, stream)
    waits = assets.waits_of(look.platform, stream, status)
    if status.no_topic_yet or waits is None:
        return []
    return list(_validated(stream, key, Findings({}, {}, status, waits)))


def _validated(
    stream: Stream, key: dg.AssetKey, findings: Findings
) -> Iterator[dg.AssetCheckEvaluation]:
    declared = {spec.name for spec in checks.specs(stream, key)}
    for name in (name for name in _LIVE if name in declared):
        result = checks.evaluate(name, stream, key, findings)
        yield dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=name,
            passed=result.passed,
            metadata=result.metadata,
            severity=result.severity,
            description=result.description,
        )


def _stream_alarm(stream: Stream, error: PlatformError) -> Alarm:
    return Alarm(
        key=f"stream/{stream.name}",
        what=f"stream {stream.name} cannot be read",
        detail=error.message,
        action=error.action or f"see `ingest status {stream.name}`",
        section="a-stream-cannot-be-read",
        stream=stream.name,
    )


def _away_alarm(name: str, error: PlatformError) -> Alarm:
    return Alarm(
        key=f"server/{name}",
        what=f"the {name} does not answer",
        detail=error.message,
        action=error.action or "bring the server back; nothing has to be repaired afterwards",
        section="a-server-does-not-answer",
    )


def _check_key(key: dg.AssetCheckKey) -> str:
    return f"check/{key.asset_key.to_user_string()}/{key.name}"


def _check_alarm(look: Look, found: dg.AssetCheckEvaluation, record: Any) -> Alarm:
    asset = found.asset_key.to_user_string()
    keys = for_each(lambda each: (assets.bronze_key(each), each.name), look.streams.values())
    stream = dict(results(keys)).get(found.asset_key)
    problem, _, action = (found.description or "").partition("\n-> ")
    lines = problem.splitlines() or ["it failed"]
    return Alarm(
        key=_check_key(found.asset_check_key),
        what=f"check {found.check_name} of {asset} failed: {lines[0]}",
        detail="\n".join(lines[1:]),
        action=action or "see the check's page in Dagster",
        section=_SECTIONS.get(found.check_name, "a-test-of-a-model-fails"),
        severity="error" if found.severity is _ERROR else "warning",
        asset=asset,
        stream=stream,
        slice=record.partition if record is not None else None,
        url=look.url(f"assets/{asset}?view=checks"),
    )


def stuck_sensors(look: Look) -> None:
    """Note sensors and schedules that are on, and whose ticks fail again and again, or do not come
    while those of others do."""
    names = {each.name for each in look.repository.sensor_defs}
    names |= {each.name for each in look.repository.schedule_defs}
    states = [
        state
        for state in look.instance.all_instigator_state()
        if state.name in names - {NAME} and state.is_running
    ]
    failing, silent = [], []
    for state in states:
        ticks = look.instance.get_ticks(
            state.instigator_origin_id, state.selector_id, limit=FAILURES
        )
        if len(ticks) == FAILURES and all(tick.status == TickStatus.FAILURE for tick in ticks):
            error = ticks[0].error
            said = str((error.cause or error).message).strip() if error is not None else ""
            what = f"has failed {FAILURES} times in a row"
            failing.append(_sensor_alarm(look, state, what, said))
        elif silence := _silence(look, state, ticks[0].timestamp if ticks else 0.0):
            what = f"has not ticked for {silence:,.0f} s"
            silent.append(_sensor_alarm(look, state, what, ""))
    if len(silent) > MANY:  # one trouble, and not one for each
        silent = [_daemon_alarm(look, silent)]
    look.book.only("sensor/", [*failing, *silent])


def _silence(look: Look, state: InstigatorState, last: float) -> float:
    """Seconds for which a sensor should have ticked while this one did; 0 when it has, or is a
    schedule, whose next tick may be far away."""
    data = state.instigator_data
    if not isinstance(data, SensorInstigatorData):
        return 0.0
    allowed = max(look.settings.after_seconds, LEAST, SLACK * (data.min_interval or INTERVAL))
    began = max(last, data.last_tick_start_timestamp or 0.0, data.last_tick_timestamp or 0.0)
    began = max(began, data.last_sensor_start_timestamp or 0.0, look.memory.steady)
    silence = look.memory.looked - began
    return silence if silence > allowed else 0.0


def _sensor_alarm(look: Look, state: InstigatorState, what: str, detail: str) -> Alarm:
    name = state.name
    stream = [s for s in look.streams if name in (f"{s}_log", f"{s}_files")]
    return Alarm(
        key=f"sensor/{name}",
        what=f"{state.instigator_type.value.lower()} {name} {what}",
        detail=detail,
        action="read its last tick in Dagster (Automation), then switch it off and on, or restart "
        "daemon and code server",
        section="a-sensor-is-stuck",
        stream=stream[0] if stream else None,
        url=look.url("automation"),
    )


def _daemon_alarm(look: Look, silent: Sequence[Alarm]) -> Alarm:
    return Alarm(
        key="sensor/*",
        what=f"{len(silent)} sensors do not tick",
        detail="\n".join(alarm.what for alarm in silent),
        action="restart daemon and code server, or give them more of a machine",
        section="a-sensor-is-stuck",
        url=look.url("automation"),
    )
