"""Simulated telemetry: sensors with a rhythm of their own, and log entries that tell a story."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

from ingestion_platform.produce.simulators import simulate

START = datetime(2026, 3, 1, tzinfo=UTC)


def feed(stream: str, count: int, key: str, days: float = 2) -> list[dict[str, Any]]:
    """Events in order of arrival; each is keyed by the field."""
    events = []
    for record in simulate(stream, count, start=START, days=days):
        events.append(json.loads(record.value))
        assert record.key == events[-1][key].encode()
    return events


def test_sensors_read_at_steady_intervals() -> None:
    """Every series has its unit, lasts from beginning to end, and misses few readings."""
    series = defaultdict(set)
    units = defaultdict(set)
    for event in feed("sensor_readings", 20_000, "sensor_id"):
        series[event["sensor_id"], event["metric"]].add(event["reading_time"])
        units[event["metric"]].add(event["unit"])
    assert all(len(found) == 1 for found in units.values())
    sizes = [len(times) for times in series.values()]
    assert max(sizes) - min(sizes) < 0.3 * max(sizes)
    assert all(min(times) < "2026-03-01T04" for times in series.values())
    assert all(max(times) > "2026-03-02T20" for times in series.values())


def test_readings_follow_time_of_day() -> None:
    """It is warmer in the afternoon than before dawn."""
    warm = defaultdict(list)
    for event in feed("sensor_readings", 20_000, "sensor_id"):
        if event["metric"] == "temperature":
            warm[event["reading_time"][11:13]].append(event["value"])
    mean = {hour: sum(values) / len(values) for hour, values in warm.items()}
    assert mean["15"] > mean["03"] + 3


def test_trace_has_entries_in_order() -> None:
    """It enters at the HTTP API, and either completes or fails, there and behind it."""
    traces = defaultdict(list)
    for event in feed("app_logs", 30_000, "service"):
        if event not in traces[event["trace_id"]]:  # an exact duplicate is no new entry
            traces[event["trace_id"]].append(event)
    errors: Counter[str] = Counter()
    for entries in traces.values():
        entries.sort(key=lambda entry: entry["timestamp"])
        assert len({entry["service"] for entry in entries}) <= 2
        messages = {entry["message"] for entry in entries}
        assert not {"upstream timed out", "request completed"} <= messages
        errors.update({e["service"] for e in entries if e["level"] in ("ERROR", "FATAL")})
    assert errors["payments"] > errors["accounts"] > 0
