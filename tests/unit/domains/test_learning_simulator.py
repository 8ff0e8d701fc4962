"""The simulated learning platform: six streams about the same students, each in causal order."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from ingestion_platform.produce.simulators import simulate

START = datetime(2026, 3, 1, tzinfo=UTC)
ENVELOPE = ["event_id", "event_type", "timestamp", "user_id", "session_id", "device"]
# So many of each that all streams know the first two thousand students.
COUNTS = {
    "auth_events": 30_000,
    "assessment_events": 15_000,
    "video_events": 60_000,
    "course_events": 20_000,
    "profile_events": 8_000,
    "notification_events": 15_000,
}


@cache
def feed(stream: str) -> list[dict[str, Any]]:
    """Events in order of arrival, each once, those of the first students."""
    found = {}
    for record in simulate(stream, COUNTS[stream], start=START, days=2):
        event = json.loads(record.value)
        assert record.key == event["user_id"].encode()
        found.setdefault(event["event_id"], event)
    return [event for event in found.values() if int(event["user_id"][-6:]) < 2000]


def grouped(stream: str, *by: str) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Events that agree in some fields, in order of event time."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for event in sorted(feed(stream), key=lambda event: event["timestamp"]):
        groups[tuple(event[name] for name in by)].append(event)
    return groups


@pytest.mark.parametrize("stream", COUNTS)
def test_events_have_envelope_and_duplicates(stream: str) -> None:
    """The common fields come first; producers send one event in a thousand again."""
    values = [record.value for record in simulate(stream, 5000, start=START)]
    assert all(list(json.loads(value))[:6] == ENVELOPE for value in values[:500])
    assert sum(n - 1 for n in Counter(values).values()) == 5
    assert len({json.loads(value)["event_id"] for value in values}) == 4995


@pytest.mark.parametrize(
    "stream", ["assessment_events", "video_events", "course_events", "profile_events"]
)
def test_events_lie_between_login_and_logout(stream: str) -> None:
    """Every session is one that auth_events opens, and is still open."""
    opened, closed, users = {}, {}, {}
    for event in feed("auth_events"):
        (closed if event["event_type"] == "logout" else opened)[event["session_id"]] = event
        users[event["session_id"]] = event["user_id"]
    done = [event for event in feed(stream) if event["session_id"] is not None]
    assert len(done) > 1000
    for event in done:
        session = event["session_id"]
        # A login may still be on its way when the span ends.
        if session in opened:
            assert opened[session]["timestamp"] <= event["timestamp"]
            assert users[session] == event["user_id"]
        if session in closed:
            assert event["timestamp"] <= closed[session]["timestamp"]
    assert sum(event["session_id"] in opened for event in done) > 0.95 * len(done)


def test_sessions_of_student_do_not_overlap() -> None:
    """A student logs in after the session before has ended."""
    for visits in grouped("auth_events", "user_id").values():
        sessions = [event["session_id"] for event in visits]
        assert sessions == sorted(sessions)
        assert all(event["event_type"] != "signup" for event in visits[1:])


def test_video_positions_match_playback() -> None:
    """Positions grow while the video runs; only jumps go elsewhere; nothing follows the end."""
    completed = 0
    for steps in grouped("video_events", "session_id", "video_id").values():
        # What is late may come without what came before it.
        if steps[0]["event_type"] != "play":
            continue
        place = steps[0]["position"]
        for step in steps[1:]:
            reached = step["seek_from"] if step["event_type"] == "seek" else step["position"]
            assert reached >= place
            place = step["position"]
        kinds = [step["event_type"] for step in steps]
        assert "complete" not in kinds[:-1]
        if kinds[-1] == "complete":
            completed += 1
            assert place == steps[-1]["duration"]
    assert completed > 100


def test_attempts_are_started_submitted_and_graded() -> None:
    """In this order; a grade is from nobody's device and has a score."""
    orders = Counter()
    for steps in grouped("assessment_events", "attempt_id").values():
        orders[tuple(step["event_type"] for step in steps)] += 1
        for step in steps:
            graded = step["event_type"] == "graded"
            assert (step["score"] is not None) == graded
            assert (step["device"] is None) == graded
    whole = ("started", "submitted", "graded", "graded")
    assert set(orders) <= {whole[:n] for n in (1, 2, 3, 4)}
    assert orders[whole] > 0


def test_student_enrols_once_before_other_events() -> None:
    """Those who enrol in the span open the course's lessons afterwards."""
    for steps in grouped("course_events", "user_id", "course_id").values():
        kinds = [step["event_type"] for step in steps]
        assert "enrol" not in kinds[1:]


def test_notifications_are_sent_then_opened_then_clicked() -> None:
    """They happen outside of sessions."""
    for steps in grouped("notification_events", "notification_id").values():
        kinds = [step["event_type"] for step in steps]
        assert kinds == ["sent", "opened", "clicked"][: len(kinds)]
        assert {step["session_id"] for step in steps} == {None}
