"""Simulators of telemetry: sensor_readings and app_logs.

Each sensor reads at its own interval, and its values follow the time of day. Log entries follow
requests from service to service, some of which fail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulation import (
    Ints,
    Shape,
    Simulator,
    instants,
    moments,
    run_number,
    texts,
    with_repeats,
)

LATE, DUPLICATES = 0.005, 0.001
Floats = npt.NDArray[np.float64]
Columns = dict[str, Ints]

READINGS = Shape(
    required=("sensor_id", "metric", "value", "unit", "reading_time"),
    texts=("sensor_id", "metric", "unit", "reading_time"),
    numbers=("value",),
    enums=("unit",),
    timestamps=("reading_time",),
    rejected=(("metric", ("Temperature", "")), ("value", (1e10, "low"))),
)
LOGS = Shape(
    required=("timestamp", "level", "service", "message"),
    texts=("timestamp", "level", "service", "host", "message"),
    enums=("level",),
    timestamps=("timestamp",),
    json_texts=("fields",),
    rejected=(("trace_id", ("4BF92F35", 17)), ("host", ("no host",)), ("fields", ([1], "[]"))),
)


@dataclass(frozen=True)
class Metric:
    """What sensors of a kind measure: a level per sensor, a daily swing, and noise."""

    name: str
    unit: str
    level: float
    spread: float  # of the level between sensors
    swing: float
    noise: float
    lowest: float = -1e9
    highest: float = 1e9


METRICS = (
    Metric("temperature", "°C", 21, 2, 3, 0.2, lowest=-40),
    Metric("humidity", "%", 45, 6, 8, 0.8, lowest=0, highest=100),
    Metric("co2", "ppm", 620, 60, 180, 15, lowest=380),
    Metric("power", "W", 850, 300, 400, 40, lowest=0),
    Metric("vibration", "mm/s", 2.4, 0.6, 0.4, 0.15, lowest=0),
)
# Sensors measure three metrics of a room, or one of a machine.
_KINDS = ((0, 1, 2), (3,), (4,))
_PER_SERIES = 50  # readings per series (a sensor's metric), before another one is added
_MOST_SERIES = 1000
ANOMALIES = 0.002


def _readings(count: int, seed: int, start: datetime, days: float) -> Iterator[Record]:
    if not count:
        return
    rng = np.random.default_rng([seed, 1])
    distinct = count - round(count * DUPLICATES)
    sensor, metric = _series(min(max(distinct // _PER_SERIES, 1), _MOST_SERIES))
    # Three in a hundred readings are lost.
    ticks = int(distinct / 0.97 / len(sensor)) + 1
    sent = np.sort(rng.choice(ticks * len(sensor), distinct, replace=False))
    tick, series = np.divmod(sent, len(sensor))
    span = int(days * 86_400_000)
    phase = rng.random(len(sensor))[series]
    time = ((tick + phase * 0.98 + rng.random(distinct) * 0.02) / ticks * span).astype(np.int64)
    value = _values(rng, series, metric, time, start)
    arrival = np.minimum(time + _latency(rng, distinct), span)
    order = np.argsort(arrival, kind="stable")
    events: Columns = {
        "sensor": sensor[series], "metric": metric[series], "value": value, "time": time,
    }  # fmt: skip
    events = {name: column[order] for name, column in events.items()}
    positions = with_repeats(rng, distinct, count - distinct)
    stamps = np.maximum.accumulate(arrival[order][positions]) + int(start.timestamp()) * 1000
    run = run_number(seed, start)
    for low in range(0, count, 8192):
        at = positions[low : low + 8192]
        chunk = {name: column[at] for name, column in events.items()}
        yield from _rendered_readings(chunk, stamps[low : low + 8192].tolist(), start, run)


def _series(count: int) -> tuple[Ints, Ints]:
    """Return sensor and metric of the first `count` series."""
    pairs = [
        (sensor, metric)
        for sensor in range(count)
        for metric in _KINDS[(0, 0, 1, 0, 2)[sensor % 5]]
    ][:count]
    sensor, metric = np.array(pairs, dtype=np.int64).T
    return sensor, metric


def _values(
    rng: np.random.Generator, series: Ints, metric: Ints, time: Ints, start: datetime
) -> Ints:
    """Return the values of series at the given times, in hundredths."""

    def of(attribute: str) -> Floats:
        table = np.array([getattr(each, attribute) for each in METRICS], dtype=float)
        found: Floats = table[metric][series]
        return found

    level = (rng.normal(0, 1, len(metric))[series]) * of("spread") + of("level")
    seconds = start.hour * 3600 + start.minute * 60 + start.second
    day = (time / 1000 + seconds) / 86_400
    # Highest at three in the afternoon.
    swing = np.cos((day - 15 / 24) * 2 * np.pi) * of("swing")
    noise = rng.normal(0, 1, len(time)) * of("noise")
    noise *= np.where(rng.random(len(time)) < ANOMALIES, 25, 1)
    value = np.clip(level + swing + noise, of("lowest"), of("highest"))
    return np.round(value * 100).astype(np.int64)


def _latency(rng: np.random.Generator, count: int) -> Ints:
    """Return the milliseconds from an event to its arrival in the topic; hours for a few."""
    latency = rng.exponential(300, count)
    latency += (rng.random(count) < LATE) * rng.lognormal(np.log(3_600_000), 1, count)
    return latency.astype(np.int64)


_METRICS = texts(f'"metric":"{metric.name}"' for metric in METRICS)
_UNITS = texts(f'"unit":"{metric.unit}"' for metric in METRICS)


def _rendered_readings(
    events: Columns, stamps: list[int], start: datetime, run: int
) -> list[Record]:
    metric = events["metric"]
    columns = (
        events["sensor"].tolist(),
        _METRICS[metric].tolist(),
        events["value"].tolist(),
        _UNITS[metric].tolist(),
        instants(start, events["time"]),
        stamps,
    )
    return [
        Record(
            None,
            f'{{"sensor_id":"SNS_{run:05d}{sensor:04d}",{name},"value":{value / 100},{unit},'
            f'"reading_time":"{time}"}}'.encode(),
            (),
            stamp,
        )
        for sensor, name, value, unit, time, stamp in zip(*columns, strict=True)
    ]


# Requests per hour of the day, midnight first.
_BY_HOUR = (3, 2, 1, 1, 1, 2, 4, 7, 9, 11, 12, 12, 13, 12, 12, 12, 12, 13, 14, 14, 12, 9, 7, 5)
SERVICES = ("gateway", "catalog", "search", "cart", "checkout", "payments", "accounts", "mailer")
_BEHIND = len(SERVICES) - 1  # services that the gateway calls
# Percent of requests that fail, by service that the gateway calls.
_FAILURES = (1, 2, 1, 3, 6, 1, 4)
HOSTS = 4  # per service
_BLOCK = 1024


@dataclass(frozen=True)
class Entry:
    """A log entry of a request: its level, probability, and delay after the entry before."""

    level: str
    message: str
    likely: float
    delay: float  # milliseconds since the entry before, median
    behind: bool = True  # logged by the service behind the gateway
    fails: bool | None = None  # True: of failing requests only; False: of others only


ENTRIES = (
    Entry("INFO", "request received", 1, 0, behind=False),
    Entry("DEBUG", "cache lookup", 0.35, 2),
    Entry("INFO", "query executed", 0.6, 12),
    Entry("WARN", "slow query, retrying", 0.04, 250),
    Entry("ERROR", "upstream timed out", 1, 900, fails=True),
    Entry("INFO", "request handled", 0.8, 8, fails=False),
    Entry("ERROR", 'request failed: "bad gateway"', 0.7, 3, behind=False, fails=True),
    Entry("INFO", "request completed", 0.9, 3, behind=False, fails=False),
)
_FATAL = 0.0005  # share of requests whose error is fatal


def _logs(count: int, seed: int, start: datetime, days: float) -> Iterator[Record]:
    if not count:
        return
    rng = np.random.default_rng([seed, 2])
    distinct = count - round(count * DUPLICATES)
    events = _entries(rng, distinct, start, int(days * 86_400))
    positions = with_repeats(rng, distinct, count - distinct)
    stamps = np.maximum.accumulate(events["arrival"][positions]) + int(start.timestamp()) * 1000
    run = run_number(seed, start)
    for low in range(0, count, 8192):
        at = positions[low : low + 8192]
        chunk = {name: column[at] for name, column in events.items()}
        yield from _rendered_logs(chunk, stamps[low : low + 8192].tolist(), start, run)


def _entries(rng: np.random.Generator, count: int, start: datetime, seconds: int) -> Columns:
    """Return the first `count` entries by arrival, of as few blocks of requests as possible."""
    blocks: list[Columns] = []
    found = 0
    while found < count:
        blocks.append(_requests(rng, len(blocks) * _BLOCK, start, seconds))
        found += len(blocks[-1]["request"])
    events = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    # Drop whole requests, so that the entries reach the end of the span.
    complete = events["request"] <= events["request"][count - 1]
    order = np.flatnonzero(complete)[np.argsort(events["arrival"][complete], kind="stable")][:count]
    return {name: column[order] for name, column in events.items()}


def _requests(rng: np.random.Generator, first: int, start: datetime, seconds: int) -> Columns:
    """Draw the entries within the span of a block of requests, numbered from `first`."""
    behind = rng.integers(_BEHIND, size=_BLOCK)
    fails = rng.random(_BLOCK) * 100 < np.array(_FAILURES)[behind]
    begin = moments(rng, _BLOCK, start, seconds, _BY_HOUR) * 1000 + rng.integers(1000, size=_BLOCK)
    shape = (_BLOCK, len(ENTRIES))
    allowed = np.array([[each.fails in (None, outcome) for each in ENTRIES] for outcome in (0, 1)])
    present = allowed[fails.astype(np.int64)]
    present &= rng.random(shape) < np.array([each.likely for each in ENTRIES])
    delay = rng.lognormal(0, 0.5, shape) * np.array([each.delay for each in ENTRIES])
    time = begin[:, None] + np.cumsum(np.where(present, np.ceil(delay), 0), axis=1).astype(np.int64)
    # A late entry delays those after it in its request.
    arrival = np.where(present, time + _latency(rng, time.size).reshape(shape), 0)
    arrival = np.maximum.accumulate(arrival, axis=1)
    request, entry = np.nonzero(present & (arrival <= seconds * 1000))
    hosts = rng.integers(HOSTS, size=(_BLOCK, 2))
    inside = np.array([each.behind for each in ENTRIES], dtype=np.int64)[entry]
    return {
        "request": request + first,
        "entry": entry,
        "service": np.where(inside, behind[request] + 1, 0),
        "host": hosts[request, inside],
        "fatal": (rng.random(_BLOCK) < _FATAL).astype(np.int64)[request],
        "duration": (time - begin[:, None])[request, entry],
        "time": time[request, entry],
        "arrival": arrival[request, entry],
    }


def _rendered_logs(events: Columns, stamps: list[int], start: datetime, run: int) -> list[Record]:
    levels = [[each.level, "FATAL" if each.level == "ERROR" else each.level] for each in ENTRIES]
    rows = zip(
        *(
            events[name].tolist()
            for name in ("request", "entry", "service", "host", "fatal", "duration")
        ),
        instants(start, events["time"]),
        stamps,
        strict=True,
    )
    return [
        Record(
            None,
            f'{{"timestamp":"{time}","level":"{levels[entry][fatal]}",'
            f'"service":"{SERVICES[service]}","host":"{SERVICES[service]}-{host}.example.org",'
            f'"message":{_MESSAGES[entry]},"trace_id":"{run:08x}{request:024x}",'
            f'"fields":{{"duration_ms":{duration},"region":"eu-{1 + host % 2}",'
            f'"http":{{"method":"{_METHODS[request % 4]}","path":"/v1/{SERVICES[service]}"}}}}}}'
            .encode(),
            (),
            stamp,
        )
        for request, entry, service, host, fatal, duration, time, stamp in rows
    ]  # fmt: skip


_METHODS = ("GET", "GET", "POST", "PUT")
_MESSAGES = [json.dumps(each.message) for each in ENTRIES]

SIMULATORS = {
    "sensor_readings": Simulator(_readings, READINGS),
    "app_logs": Simulator(_logs, LOGS),
}
