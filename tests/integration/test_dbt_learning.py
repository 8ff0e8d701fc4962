"""The models of the learning platform: what they say of students, whatever order ingest dates run
in."""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar

import pytest

from tests.support import dbt_warehouse
from tests.support.dbt_warehouse import (
    START,
    Bronze,
    assert_any_order_equals_a_rebuild,
    day,
    scattered,
    simulated_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore:Delete operation did not match")

COUNTS = {
    "auth_events": 400,
    "assessment_events": 200,
    "video_events": 700,
    "course_events": 300,
    "profile_events": 100,
    "notification_events": 200,
}


@dataclass
class Warehouse(dbt_warehouse.Warehouse):
    """The six topics, and the models on them."""

    domain: ClassVar[str] = "learning"
    models: ClassVar[dict[str, str]] = {
        "activity": "silver.silver_learning_activity",
        "video": "silver.silver_learning_video_events",
        "attempts": "silver.silver_learning_attempts",
        "students": "gold.gold_learning_active_students_daily",
        "watched": "gold.gold_learning_video_watch_daily",
        "scores": "gold.gold_learning_scores_daily",
    }


@cache
def simulated() -> Bronze:
    """All streams over four days, doubled events and late ones among them."""
    return simulated_rows(COUNTS, days=4)


def test_a_build_says_what_the_events_say(warehouse: Warehouse) -> None:
    """Models and tests succeed; gold agrees with what is counted event by event."""
    for stream, rows in simulated().items():
        warehouse.fill(stream, rows)
    results = warehouse.build()
    assert {"model", "test", "unit_test"} <= {r.node.resource_type for r in results}
    assert {r.status for r in results} <= {"success", "pass"}
    assert (
        dict(
            warehouse.rows(
                f"select event_date, active_students from {warehouse.models['students']}"
            )
        )
        == active_students()
    )
    watched = warehouse.rows(
        f"select event_date, course_id, watched_seconds from {warehouse.models['watched']}"
    )
    assert {(date, course): seconds for date, course, seconds in watched} == watched_seconds()
    scores = warehouse.rows(
        "select graded_date, course_id, assessment_type, total_score, graded_attempts"
        f" from {warehouse.models['scores']}"
    )
    assert {row[:3]: row[3:] for row in scores} == standing_scores()


def distinct(stream: str) -> list[dict[str, Any]]:
    """Events of a stream, each once, in order of time."""
    events = {row["event_id"]: row for row in simulated()[stream]}
    return sorted(events.values(), key=lambda row: row["timestamp"])


def active_students() -> dict[dt.date, int]:
    """By day, counted by hand."""
    students = defaultdict(set)
    for stream in COUNTS:
        for event in distinct(stream):
            if event["event_type"] not in ("sent", "graded"):
                students[event["event_date"]].add(event["user_id"])
    return {date: len(found) for date, found in students.items()}


def watched_seconds() -> dict[tuple[dt.date, str], Decimal]:
    """By day and course, by following each player."""
    seconds: dict[tuple[dt.date, str], Decimal] = defaultdict(Decimal)
    before: dict[tuple[str, str], dict[str, Any]] = {}
    for event in distinct("video_events"):
        view = event["session_id"], event["video_id"]
        last = before.get(view)
        seconds[event["event_date"], event["course_id"]] += 0
        if last and last["event_type"] in ("play", "seek") and event["event_type"] != "play":
            reached = event["position"] if event["seek_from"] is None else event["seek_from"]
            gained = max(reached - last["position"], Decimal())
            seconds[event["event_date"], event["course_id"]] += gained
        before[view] = event
    return dict(seconds)


def standing_scores() -> dict[tuple[Any, ...], tuple[Decimal, int]]:
    """Points and attempts by day, course and type, of the last grade of each attempt."""
    grades = {
        event["attempt_id"]: event
        for event in distinct("assessment_events")
        if event["event_type"] == "graded"
    }
    found: dict[tuple[Any, ...], list[Decimal]] = defaultdict(list)
    for event in grades.values():
        key = event["event_date"], event["course_id"], event["assessment_type"]
        found[key].append(event["score"])
    return {key: (sum(scores, Decimal()), len(scores)) for key, scores in found.items()}


def test_topics_that_never_had_an_event_are_missed_by_nobody(warehouse: Warehouse) -> None:
    """Activity is there with the first topic."""
    warehouse.fill("auth_events", simulated()["auth_events"])
    result = warehouse.dbt("run", "--exclude", "silver_learning_video_events+",
                           "silver_learning_attempts+")  # fmt: skip
    assert result.success, [r.message for r in result.result]
    topics = warehouse.rows(f"select distinct topic from {warehouse.models['activity']}")
    assert topics == [("auth",)]


def video(hours: float, kind: str, position: int, ingest_date: int, number: int) -> dict[str, Any]:
    """An event of the one player of this test, of ten minutes, with the number as its offset."""
    time = START + dt.timedelta(hours=hours)
    return {
        "event_id": f"00000000-0000-4000-8000-{number:012d}", "event_type": kind,
        "timestamp": time, "event_date": time.date(), "user_id": "U", "session_id": "S",
        "device": "mobile", "course_id": "C", "video_id": "V", "position": Decimal(position),
        "duration": Decimal(600), "seek_from": None, "playback_rate": 1.0,
        "_ingest_date": day(ingest_date), "_topic_id": "g", "_partition": 0, "_offset": number,
        "_ingested_at": START, "_contract": "c",
    }  # fmt: skip


def test_a_late_play_counts_on_the_day_after_it(warehouse: Warehouse) -> None:
    """Playback over midnight: when the beginning comes late, the next day's watch time grows."""
    end = video(24.1, "pause", 100, 1, 1)
    warehouse.fill("video_events", [end])
    select = ("--exclude", "silver_learning_activity+", "silver_learning_attempts+")
    seconds = f"select event_date, watched_seconds from {warehouse.models['watched']} order by 1"
    assert warehouse.dbt("run", *select).success
    assert warehouse.rows(seconds) == [(day(1), 0)]
    warehouse.fill("video_events", [end, video(23.9, "play", 40, 3, 2)])
    assert warehouse.dbt("run", *select, ingest_dates=(3, 4)).success
    assert warehouse.rows(seconds) == [(day(0), 0), (day(1), 60)]
    warehouse.fill("video_events", [end])
    assert warehouse.dbt("run", *select, ingest_dates=(3, 4)).success
    assert warehouse.rows(seconds) == [(day(1), 0)]


def test_watched_time_is_no_more_than_passed(warehouse: Warehouse) -> None:
    """Ten minutes of video within one minute are one minute, and counted as a capped stretch."""
    events = [video(1, "play", 0, 0, 1), video(1 + 1 / 60, "complete", 600, 0, 2)]
    warehouse.fill("video_events", events)
    warehouse.only = [Warehouse.models[model].rpartition(".")[2] for model in ("video", "watched")]
    warehouse.run((0, 1))
    watched = f"select watched_seconds, capped_stretches from {warehouse.models['watched']}"
    assert warehouse.rows(watched) == [(60, 1)]


def playback() -> list[dict[str, Any]]:
    """Two views over four days, most of whose stretches last over a midnight."""
    rng = random.Random(1)
    times = [(number, rng.uniform(0, 96)) for number in range(40)]
    return [
        video(hours, rng.choice(["play", "pause"]), int(6 * hours), int(hours // 24), number)
        | {"video_id": f"V{number % 2}"}
        for number, hours in times
    ]


@pytest.mark.scales
@pytest.mark.slow
@pytest.mark.parametrize("models", [("activity", "students"), ("video", "watched"),
                                    ("attempts", "scores")])  # fmt: skip
def test_runs_of_ingest_dates_in_any_order_equal_a_full_rebuild(
    warehouse: Warehouse, models: tuple[str, str], rounds: int
) -> None:
    """Whatever came late, twice, or left: running each changed ingest date once is enough."""
    warehouse.only = [Warehouse.models[model].rpartition(".")[2] for model in models]
    assessments = {"assessment_events": simulated()["assessment_events"]}
    bronze = {
        "activity": scattered(simulated(), seed=1),
        # In the ingest dates of their days: then few runs touch a day for another reason.
        "video": {"video_events": playback()},
        "attempts": scattered(assessments, seed=1),
    }
    assert_any_order_equals_a_rebuild(warehouse, bronze[models[0]], seed=1, rounds=rounds)
