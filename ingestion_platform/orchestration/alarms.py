"""The sensor of alarms: failed runs and checks, stuck sensors, streams that are behind.

The alarm store keeps which alarms are open and delivers them.
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
from ingestion_platform.orchestration.cadence import cadence
from ingestion_platform.orchestration.checks import Findings
from ingestion_platform.orchestration.deliveries import EQUAL
from ingestion_platform.orchestration.failing import ACTIONS, BLOCKED, INTERRUPTED, kind_of
from ingestion_platform.platform import Platform
from ingestion_platform.settings import AlarmSettings
from ingestion_platform.streams import Stream

NAME = "alarms"
FAILURES = 3
"""Failed ticks in a row that make a sensor stuck; a single one may be a restart."""
SLACK, LEAST = 10, 300.0
"""A sensor is stuck if it has not ticked for so many of its intervals, so many seconds, and
ALARM_AFTER_SEC."""
MANY = 3
"""If more sensors than this do not tick, one alarm is of the daemon."""
FIRST = 86_400.0
"""Seconds that the first tick goes back for failed runs."""
RUNS = 200
"""Finished runs that a tick reads; the next one reads the others."""
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
    """The cursor of the sensor; times are seconds since the epoch."""

    seen: float
    """End of the last finished run that was read."""
    looked: float
    """Time of the last tick."""
    steady: float
    """Since when it has ticked without a gap: before, the daemon was down."""

    @classmethod
    def of(cls, text: str | None, now: float) -> "Memory":
        """Return the cursor of Dagster's text, with `now` as the last tick."""
        last = cls(**json.loads(text)) if text else cls(now - FIRST, 0.0, now)
        gap = now - last.looked > 4 * cadence().alarms_seconds
        return cls(last.seen, now, now if gap else last.steady)

    def to_text(self) -> str:
        """Return the text that Dagster stores."""
        return json.dumps(asdict(self))


@dataclass
class Tick:
    """The context of a tick, and the events that it leads to."""

    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition
    platform: Platform
    streams: Mapping[str, Stream]
    store: AlarmStore
    memory: Memory
    events: list[dg.AssetCheckEvaluation] = field(default_factory=list)

    @property
    def settings(self) -> AlarmSettings:
        """Return the settings of alarms."""
        return self.platform.settings.alarms

    def url(self, path: str) -> str | None:
        """Return the address of a page of Dagster, if that of the web server is set."""
        base = self.settings.webserver_url
        return None if base is None else f"{base}/{path}"


def alarm_sensor(streams: Mapping[str, Stream]) -> dg.SensorDefinition:
    """Return the sensor; it writes to the alarm store of this host, and to the webhook if set."""

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=cadence().alarms_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports failed runs and checks, stuck sensors and streams behind, once when "
        "they begin and once when they end. See `ingest alarm list` and docs/alarms.md.",
    )
    def watch(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.SensorResult:
        assert context.repository_def is not None
        store = AlarmStore(platform.settings)
        memory = Memory.of(context.cursor, time.time())
        tick = Tick(context.instance, context.repository_def, platform, streams, store, memory)
        failed_runs(tick)
        failed_checks(tick)
        stuck_sensors(tick)
        store.deliver()
        return dg.SensorResult(
            skip_reason=f"{len(store.open())} alarms are on: `ingest alarm list`",
            asset_events=tick.events,
            cursor=memory.to_text(),
        )

    return watch


def failed_runs(tick: Tick) -> None:
    """Open an alarm for a failed run, until another one of the same kind succeeds."""
    records = tick.instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS],
            updated_after=datetime.fromtimestamp(tick.memory.seen, UTC),
        ),
        limit=RUNS,
        order_by="update_timestamp",
        ascending=True,
    )
    for record in records:
        run, ended = record.dagster_run, record.update_timestamp.timestamp()
        for subject in subjects(run):
            alarm = _run_alarm(tick, run, subject) if run.is_failure else None
            if alarm is None:
                tick.store.gone(_run_key(subject))
            else:
                tick.store.saw(alarm, since=ended)
        tick.memory.seen = max(tick.memory.seen, ended)


def subjects(run: dg.DagsterRun) -> list[str]:
    """Return what a run is about: its pools, else its assets, else its job."""
    pools = [tag.removeprefix(_POOL_TAG) for tag in run.tags if tag.startswith(_POOL_TAG)]
    if run.run_op_concurrency is not None:
        pools += run.run_op_concurrency.all_pools or ()
    if pools:
        return sorted(set(pools))
    chosen = sorted(key.to_user_string() for key in run.asset_selection or ())
    return [" ".join(chosen) or run.job_name]


def _run_key(subject: str) -> str:
    return f"run/{subject}"


def _run_alarm(tick: Tick, run: dg.DagsterRun, subject: str) -> Alarm | None:
    """Return the alarm of a failed run; None if it did its work and a check failed, which has an
    alarm of its own."""
    stream = subject.removeprefix("stream_")
    kind, detail = _reason(tick.instance, run.run_id)
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
        stream=stream if stream in tick.streams else None,
        slice=f"{first} to {last}" if first else run.tags.get("dagster/partition"),
        url=tick.url(f"runs/{run.run_id}"),
    )


def _reason(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str]:
    """Return kind and text of the first step's error, the text as the code raised it."""
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


def failed_checks(tick: Tick) -> None:
    """Open an alarm for each check that failed last; checks that need no run are evaluated now."""
    keys = sorted(tick.repository.asset_graph.asset_check_keys, key=str)
    storage = tick.instance.event_log_storage
    newest = storage.get_latest_asset_check_execution_by_key(keys)
    stored = {key: found for key in keys if (found := _evaluation(newest.get(key))) is not None}
    live = {each.asset_check_key: each for each in _live(tick)}
    for key, each in live.items():
        before = stored.get(key)
        if (before is None and not each.passed) or (before and before.passed != each.passed):
            tick.events.append(each)
    known = {_check_key(key) for key in keys}
    for key, evaluation in (stored | live).items():
        if evaluation.passed or not (evaluation.severity is _ERROR or tick.settings.warnings):
            tick.store.gone(_check_key(key))
        else:
            tick.store.saw(_check_alarm(tick, evaluation, newest.get(key)))
    tick.store.gone(*(key for key in tick.store.noted("check/") if key not in known))


def _evaluation(record: Any) -> dg.AssetCheckEvaluation | None:
    """Return the evaluation of an execution of a check; None while it runs."""
    event = record.event.dagster_event if record is not None and record.event is not None else None
    data = event.event_specific_data if event is not None else None
    return data if isinstance(data, dg.AssetCheckEvaluation) else None


def _live(tick: Tick) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluate the checks that need no run. Streams that cannot be read are left out; a server that
    is away is an alarm of its own."""
    from ingestion_platform.kafka.client import topics

    away: dict[str, PlatformError] = {}
    brokers = attempt(lambda settings: topics(settings, _BROKER_TIMEOUT), tick.platform.settings)
    if brokers.error is not None:
        away["log"] = brokers.error
    wanted = [each for each in tick.streams.values() if not (each.kafka and "log" in away)]
    seen = list(for_each(lambda stream: _of_stream(tick, stream), wanted, at_once=_AT_ONCE))
    for name, kind in _SERVERS.items():
        errors = [of.error for of in seen if isinstance(of.error, kind)]
        if errors and len(errors) == len(seen):  # it is the server's, and not one stream's
            away[name] = errors[0]
    yield from (evaluation for some in results(seen) for evaluation in some)
    after = tick.settings.after_seconds
    of_servers = [_away_alarm(name, error) for name, error in away.items()]
    tick.store.only("server/", of_servers, after=after)
    failed = [] if away else [(of.item, of.error) for of in seen if of.error is not None]
    of_streams = [_stream_alarm(stream, error) for stream, error in failed]
    tick.store.only("stream/", of_streams, after=after)


def _of_stream(tick: Tick, stream: Stream) -> list[dg.AssetCheckEvaluation]:
    """Evaluate the live checks of a stream; none while its topic does not exist."""
    from ingestion_platform.progress.status import stream_status

    key = assets.bronze_key(stream)
    if key not in tick.repository.asset_graph.get_all_asset_keys():
        return []
    status = stream_status(tick.platform, stream)
    waits = assets.waits_of(tick.platform, stream, status)
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


def _check_alarm(tick: Tick, found: dg.AssetCheckEvaluation, record: Any) -> Alarm:
    asset = found.asset_key.to_user_string()
    keys = for_each(lambda each: (assets.bronze_key(each), each.name), tick.streams.values())
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
        url=tick.url(f"assets/{asset}?view=checks"),
    )


def stuck_sensors(tick: Tick) -> None:
    """Open alarms for running sensors and schedules whose ticks fail in a row or do not come."""
    names = {each.name for each in tick.repository.sensor_defs}
    names |= {each.name for each in tick.repository.schedule_defs}
    states = [
        state
        for state in tick.instance.all_instigator_state()
        if state.name in names - {NAME} and state.is_running
    ]
    failing, silent = [], []
    for state in states:
        ticks = tick.instance.get_ticks(
            state.instigator_origin_id, state.selector_id, limit=FAILURES
        )
        if len(ticks) == FAILURES and all(one.status == TickStatus.FAILURE for one in ticks):
            error = ticks[0].error
            said = str((error.cause or error).message).strip() if error is not None else ""
            what = f"has failed {FAILURES} times in a row"
            failing.append(_sensor_alarm(tick, state, what, said))
        elif silence := _silence(tick, state, ticks[0].timestamp if ticks else 0.0):
            what = f"has not ticked for {silence:,.0f} s"
            silent.append(_sensor_alarm(tick, state, what, ""))
    if len(silent) > MANY:  # one trouble, and not one for each
        silent = [_daemon_alarm(tick, silent)]
    tick.store.only("sensor/", [*failing, *silent])


def _silence(tick: Tick, state: InstigatorState, last: float) -> float:
    """Return the seconds since a sensor should have ticked; 0 if it has, or is a schedule."""
    data = state.instigator_data
    if not isinstance(data, SensorInstigatorData):
        return 0.0
    allowed = max(
        tick.settings.after_seconds, LEAST, SLACK * (data.min_interval or cadence().alarms_seconds)
    )
    began = max(last, data.last_tick_start_timestamp or 0.0, data.last_tick_timestamp or 0.0)
    began = max(began, data.last_sensor_start_timestamp or 0.0, tick.memory.steady)
    silence = tick.memory.looked - began
    return silence if silence > allowed else 0.0


def _sensor_alarm(tick: Tick, state: InstigatorState, what: str, detail: str) -> Alarm:
    name = state.name
    stream = [s for s in tick.streams if name in (f"{s}_log", f"{s}_files")]
    return Alarm(
        key=f"sensor/{name}",
        what=f"{state.instigator_type.value.lower()} {name} {what}",
        detail=detail,
        action="read its last tick in Dagster (Automation), then switch it off and on, or restart "
        "daemon and code server",
        section="a-sensor-is-stuck",
        stream=stream[0] if stream else None,
        url=tick.url("automation"),
    )


def _daemon_alarm(tick: Tick, silent: Sequence[Alarm]) -> Alarm:
    return Alarm(
        key="sensor/*",
        what=f"{len(silent)} sensors do not tick",
        detail="\n".join(alarm.what for alarm in silent),
        action="restart daemon and code server, or give them more of a machine",
        section="a-sensor-is-stuck",
        url=tick.url("automation"),
    )
