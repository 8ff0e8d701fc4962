"""Simulators of the learning platform: students sign in, watch, answer and get notifications.

All six streams describe the same visits of the same students: with equal seed, start and days, a
video is watched in a session that auth_events opens. A stream with fewer records has fewer
students.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, auto
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulation import (
    Ints,
    Shape,
    Simulator,
    choose,
    instants,
    moments,
    run_number,
    texts,
    uuids,
    with_repeats,
)

COURSES, LESSONS = 40, 12
BLOCK, VISITS = 512, 8  # students drawn at once; most visits of a student
LATE, DUPLICATES = 0.005, 0.001
DEVICES = {"mobile": 48, "desktop": 40, "tablet": 12}
RATES = {1: 60, 1.25: 20, 1.5: 15, 2: 5}

# Visits per hour of the day, midnight first.
_BY_HOUR = (4, 2, 1, 1, 1, 2, 4, 7, 9, 10, 11, 11, 10, 10, 11, 12, 12, 13, 15, 17, 18, 16, 11, 7)
# Three to twenty minutes per video, in milliseconds, the same in every run.
_DURATIONS = np.random.default_rng(0).integers(1800, 7200, size=(COURSES, LESSONS)) * 100

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Columns = dict[str, Ints]
"""One row per event, or per visit."""


class Moment(IntEnum):
    """Events of a visit and around it, in the order of time (grades come at any later time)."""

    SENT = 0  # a notification, which may bring the student
    OPENED = auto()
    CLICKED = auto()
    ENTER = auto()
    PROFILE = auto()
    ENROL = auto()
    OPEN = auto()
    DOWNLOAD = auto()
    PLAY = auto()  # the first video
    PAUSE = auto()
    RESUME = auto()
    SEEK = auto()
    END = auto()
    PLAY_2 = auto()  # the second video, with the same steps
    PAUSE_2 = auto()
    RESUME_2 = auto()
    SEEK_2 = auto()
    END_2 = auto()
    START = auto()
    SUBMIT = auto()
    FINISH = auto()
    LEAVE = auto()
    GRADE = auto()
    REGRADE = auto()


_VISIT = slice(Moment.ENTER, Moment.GRADE)
_SECOND = Moment.PLAY_2 - Moment.PLAY
# Median seconds since the event before; playback decides the others.
_PAUSES = {
    Moment.PROFILE: 60, Moment.ENROL: 40, Moment.OPEN: 15, Moment.DOWNLOAD: 30, Moment.PLAY: 20,
    Moment.RESUME: 45, Moment.PLAY_2: 30, Moment.RESUME_2: 45, Moment.START: 60,
    Moment.SUBMIT: 600, Moment.FINISH: 20, Moment.LEAVE: 40,
}  # fmt: skip


@dataclass(frozen=True)
class _Visits:
    """The visits of a block of students, ordered by student, then by time."""

    attributes: Columns
    """student, number (of the visit), fresh (the first of one who signs up), course, lesson,
    device, rate, assignment (else a quiz), timed_out."""
    shares: Floats
    """2 x visits: share of the highest score, by the first and by a second grading."""
    position: Ints
    """visits x moments: position in the video after the event, in milliseconds."""
    seek_from: Ints
    """visits x 2 videos: position in the video before a jump, in milliseconds."""
    present: Flags
    """visits x moments: whether the event happens, if the span is long enough."""
    time: Ints
    """visits x moments: milliseconds since the start of the span."""


def _visits(seed: int, block: int, start: datetime, seconds: int) -> _Visits:
    """Draw the visits of a block; they are the same for every stream and count."""
    rng = np.random.default_rng([seed, block])
    pace = min(1.0, seconds / 86_400)  # short spans hold whole visits too
    visits = np.minimum(rng.geometric(0.35, BLOCK), VISITS)
    student, number = np.nonzero(np.arange(VISITS) < visits[:, None])
    size = len(student)
    new = (rng.random(BLOCK) < 0.2)[student]
    usual, other = rng.integers(COURSES, size=(2, BLOCK))[:, student]
    attributes = {
        "student": student + block * BLOCK,
        "number": number,
        "fresh": (new & (number == 0)).astype(np.int64),
        "course": np.where(rng.random(size) < 0.3, other, usual),
        "lesson": (rng.integers(LESSONS, size=BLOCK)[student] + number) % LESSONS,
        "device": choose(rng, list(DEVICES.values()), BLOCK)[student],
        "rate": choose(rng, list(RATES.values()), size),
        "assignment": (rng.random(size) < 0.3).astype(np.int64),
        "timed_out": (rng.random(size) < 0.2).astype(np.int64),
    }
    position, seek_from = _playback(rng, attributes)
    completes = position[:, Moment.END] == _duration(attributes, 0)
    present = _presence(rng, attributes["fresh"] == 1, completes)
    present[:, Moment.ENROL] = new & _first_use(student, number, attributes["course"])
    delay = _delays(rng, attributes, position, seek_from, present) * pace
    steps = np.where(present, np.ceil(delay), 0).astype(np.int64)[:, _VISIT]
    begin = moments(rng, size, start, seconds, _BY_HOUR) * 1000 + rng.integers(1000, size=size)
    begin = _without_overlap(student, number, begin, steps.sum(axis=1) + round(60_000 * pace))
    time = np.zeros((size, len(Moment)), dtype=np.int64)
    time[:, _VISIT] = begin[:, None] + np.cumsum(steps, axis=1)
    _set_notifications_and_grades(rng, time, attributes["assignment"], pace)
    return _Visits(attributes, _shares(rng, student), position, seek_from, present, time)


def _duration(attributes: Columns, view: int | Ints) -> Ints:
    """Return the length of the first (0) or second (1) video of each row, in milliseconds."""
    duration: Ints = _DURATIONS[attributes["course"], (attributes["lesson"] + view) % LESSONS]
    return duration


def _playback(rng: np.random.Generator, attributes: Columns) -> tuple[Ints, Ints]:
    """Return the positions in both videos after each moment, and those before jumps."""
    size = len(attributes["student"])
    position = np.zeros((size, len(Moment)), dtype=np.int64)
    seek_from = np.zeros((size, 2), dtype=np.int64)
    for view in (0, 1):
        duration = _duration(attributes, view)
        begin = (rng.random(size) < 0.25) * rng.random(size) * 0.5 * duration
        share = np.where(rng.random(size) < 0.6, 1, rng.random(size))
        end = begin + (duration - begin) * share
        pause, left = begin + (end - begin) * np.sort(rng.random((2, size)), axis=0)
        # Two jumps in three go ahead, the others back.
        ahead = left + (end - left) * rng.random(size)
        there = np.where(rng.random(size) < 2 / 3, ahead, left * rng.random(size))
        first = Moment.PLAY + view * _SECOND
        position[:, first : first + 5] = np.column_stack([begin, pause, pause, there, end])
        seek_from[:, view] = left
    return position, seek_from


def _presence(rng: np.random.Generator, fresh: Flags, completes: Flags) -> Flags:
    size = len(fresh)
    chance = rng.random((len(Moment), size))
    present = np.zeros((size, len(Moment)), dtype=np.bool_)

    def set_to(moment: int, share: float, given: Flags | bool = True) -> Flags:
        present[:, moment] = (chance[moment] < share) & given
        return present[:, moment]

    set_to(Moment.CLICKED, 0.6, set_to(Moment.OPENED, 0.5, set_to(Moment.SENT, 0.5)))
    set_to(Moment.ENTER, 1)
    present[:, Moment.PROFILE] = set_to(Moment.PROFILE, 0.15) | fresh
    set_to(Moment.DOWNLOAD, 0.2, set_to(Moment.OPEN, 0.9))
    watched = set_to(Moment.PLAY, 0.75)
    set_to(Moment.FINISH, 0.05, watched & completes)
    set_to(Moment.PLAY_2, 0.4, watched)
    for play in (Moment.PLAY, Moment.PLAY_2):
        watched = set_to(play + 4, 1, present[:, play])
        set_to(play + 3, 0.3, watched)
        present[:, play + 2] = set_to(play + 1, 0.4, watched)
    submitted = set_to(Moment.SUBMIT, 0.9, set_to(Moment.START, 0.35))
    set_to(Moment.REGRADE, 0.04, set_to(Moment.GRADE, 1, submitted))
    set_to(Moment.LEAVE, 0.9)
    return present


def _first_use(student: Ints, number: Ints, course: Ints) -> Flags:
    """Return whether a visit is its student's first to its course."""
    met = np.full((BLOCK, VISITS), -1)
    met[student, number] = course
    seen = [(met[:, :k] == met[:, k : k + 1]).any(axis=1) for k in range(VISITS)]
    first: Flags = ~np.column_stack(seen)[student, number]
    return first


def _delays(
    rng: np.random.Generator, attributes: Columns, position: Ints, seek_from: Ints, present: Flags
) -> Floats:
    """Return the milliseconds from each moment of a visit to the next, at full pace.

    Playback between two positions takes their distance divided by the rate. In spans of less than
    a day all delays are shortened, so that playback seems faster.
    """
    delay = np.zeros(position.shape)
    for moment, median in _PAUSES.items():
        delay[:, moment] = rng.lognormal(np.log(median * 1000), 0.6, len(delay))
    delay[:, Moment.LEAVE] += attributes["timed_out"] * 1_800_000
    rate = np.array(list(RATES))[attributes["rate"]]
    for view in (0, 1):
        play = Moment.PLAY + view * _SECOND
        begin, pause, _, there, end = position[:, play : play + 5].T
        paused, jumped = present[:, play + 1], present[:, play + 3]
        since = np.where(paused, pause, begin)
        delay[:, play + 1] = (pause - begin) / rate
        delay[:, play + 3] = (seek_from[:, view] - since) / rate
        delay[:, play + 4] = (end - np.where(jumped, there, since)) / rate
    return delay


def _without_overlap(student: Ints, number: Ints, begin: Ints, length: Ints) -> Ints:
    """Return the beginnings of each student's visits, delayed so that visits do not overlap."""
    begins = np.full((BLOCK, VISITS), np.iinfo(np.int64).max // 2)
    lengths = np.zeros((BLOCK, VISITS), dtype=np.int64)
    begins[student, number], lengths[student, number] = begin, length
    begins.sort(axis=1)
    for k in range(1, VISITS):
        begins[:, k] = np.maximum(begins[:, k], begins[:, k - 1] + lengths[:, k - 1])
    separate: Ints = begins[student, number]
    return separate


def _set_notifications_and_grades(
    rng: np.random.Generator, time: Ints, assignment: Ints, pace: float
) -> None:
    """Set the times of notifications, before the visit, and of grades, after it."""

    def draw(median: float | Floats) -> Ints:
        return np.ceil(rng.lognormal(np.log(median * 1000 * pace), 0.7, len(time))).astype(np.int64)

    for moment, median in ((Moment.CLICKED, 4), (Moment.OPENED, 20), (Moment.SENT, 2400)):
        time[:, moment] = np.maximum(time[:, moment + 1] - draw(median), 0)
    # Quizzes are graded at once, assignments within hours.
    time[:, Moment.GRADE] = time[:, Moment.SUBMIT] + draw(np.where(assignment, 14_400, 1.5))
    time[:, Moment.REGRADE] = time[:, Moment.GRADE] + draw(21_600)


def _shares(rng: np.random.Generator, student: Ints) -> Floats:
    ability = rng.normal(0.7, 0.12, BLOCK)[student]
    first = np.clip(ability + rng.normal(0, 0.12, len(student)), 0, 1)
    again = np.clip(first + rng.choice((-0.05, 0.05, 0.1), len(student)), 0, 1)
    return np.stack([first, again])


@dataclass(frozen=True)
class _Stream:
    """A stream: the moments that are its events, and how they are rendered."""

    kinds: tuple[Moment, ...]
    columns: Callable[[_Visits, Ints, Ints], Columns]
    """Return the columns that `render` needs, from arrays of visits and moments. `special` is 1
    for the second event type of a moment."""
    render: Callable[[Columns, list[str]], Iterator[str]]
    """Return the fields of the topic as JSON, from the columns of events and their visits' ids."""
    shape: Shape


def _records(
    stream: _Stream, number: int, count: int, seed: int, start: datetime, days: float
) -> Iterator[Record]:
    if not count:
        return
    distinct = count - round(count * DUPLICATES)
    rng = np.random.default_rng([seed, number, BLOCK])
    events = _events(stream, rng, distinct, seed, start, int(days * 86_400))
    ids = np.array(uuids(rng, distinct), dtype=object)
    positions = with_repeats(rng, distinct, count - distinct)
    # A repeat has the time of its own arrival.
    stamps = np.maximum.accumulate(events["arrival"][positions]) + int(start.timestamp()) * 1000
    run = run_number(seed, start)
    for low in range(0, count, 8192):
        at = positions[low : low + 8192]
        chunk = {name: column[at] for name, column in events.items()}
        yield from _rendered(stream, chunk, ids[at].tolist(), stamps[low : low + 8192], start, run)


def _events(
    stream: _Stream, rng: np.random.Generator, count: int, seed: int, start: datetime, seconds: int
) -> Columns:
    """Return the first `count` events by arrival, of as few blocks of students as possible."""
    blocks: list[Columns] = []
    found = 0
    while found < count:
        visits = _visits(seed, len(blocks), start, seconds)
        blocks.append(_block_events(stream, rng, visits, seconds))
        found += len(blocks[-1]["student"])
    events = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    # Drop whole students, so that the events reach the end of the span.
    complete = events["student"] <= events["student"][count - 1]
    # Stable: events that arrive together stay in order.
    order = np.flatnonzero(complete)[np.argsort(events["arrival"][complete], kind="stable")][:count]
    return {name: column[order] for name, column in events.items()}


def _block_events(
    stream: _Stream, rng: np.random.Generator, visits: _Visits, seconds: int
) -> Columns:
    kinds = np.array(stream.kinds)
    present, time = visits.present[:, kinds], visits.time[:, kinds]
    latency = rng.exponential(800, time.shape)
    # A late event delays those after it in its visit: devices keep the order.
    late = rng.random(time.shape) < LATE
    latency += late * rng.lognormal(np.log(2 * 3_600_000), 1, time.shape)
    arrival = np.where(present, time + latency.astype(np.int64), 0)
    arrival = np.maximum.accumulate(arrival, axis=1)
    visit, column = np.nonzero(present & (arrival <= seconds * 1000))
    moment = kinds[column]
    return {
        "special": np.zeros_like(visit),
        **_attributes("student", "number", "device")(visits, visit, moment),
        **stream.columns(visits, visit, moment),
        "moment": moment,
        "time": time[visit, column],
        "arrival": arrival[visit, column],
    }


_NAMES = dict.fromkeys(Moment, "pause") | {
    Moment.SENT: "sent", Moment.OPENED: "opened", Moment.CLICKED: "clicked",
    Moment.ENTER: "login", Moment.LEAVE: "logout", Moment.PROFILE: "updated",
    Moment.ENROL: "enrol", Moment.OPEN: "open", Moment.DOWNLOAD: "resource_download",
    Moment.FINISH: "complete", Moment.START: "started", Moment.SUBMIT: "submitted",
    Moment.GRADE: "graded", Moment.REGRADE: "graded",
    **dict.fromkeys((Moment.PLAY, Moment.RESUME, Moment.PLAY_2, Moment.RESUME_2), "play"),
    **dict.fromkeys((Moment.SEEK, Moment.SEEK_2), "seek"),
}  # fmt: skip
_SPECIAL = dict.fromkeys(Moment, "complete") | {Moment.ENTER: "signup", Moment.PROFILE: "created"}
_OUTSIDE = {Moment.SENT, Moment.OPENED, Moment.CLICKED, Moment.GRADE, Moment.REGRADE}
_REMOTE = {Moment.SENT, Moment.GRADE, Moment.REGRADE}  # not from the student's device
_TYPES = texts(
    f'"event_type":"{names[moment]}"' for names in (_NAMES, _SPECIAL) for moment in Moment
)
_DEVICES = texts(
    '"device":null' if moment in _REMOTE else f'"device":"{device}"'
    for moment in Moment
    for device in DEVICES
)


def _rendered(
    stream: _Stream, events: Columns, ids: list[str], stamps: Ints, start: datetime, run: int
) -> list[Record]:
    moment = events["moment"]
    students = [f"{run:05d}{student:06d}" for student in events["student"].tolist()]
    numbers = events["number"].tolist()
    visits = [f"{student}_{n:02d}" for student, n in zip(students, numbers, strict=True)]
    outside = np.isin(moment, list(_OUTSIDE)).tolist()
    columns = (
        ids,
        _TYPES[moment + events["special"] * len(Moment)].tolist(),
        instants(start, events["time"]),
        students,
        ["null" if out else f'"SES_{visit}"' for out, visit in zip(outside, visits, strict=True)],
        _DEVICES[moment * len(DEVICES) + events["device"]].tolist(),
        stream.render(events, visits),
        stamps.tolist(),
    )
    return [
        Record(
            None,
            f'{{"event_id":"{event_id}",{event_type},"timestamp":"{time}",'
            f'"user_id":"STU_{student}","session_id":{session},{device},{members}}}'.encode(),
            (),
            stamp,
        )
        for event_id, event_type, time, student, session, device, members, stamp in zip(
            *columns, strict=True
        )
    ]


def _attributes(*names: str) -> Callable[[_Visits, Ints, Ints], Columns]:
    return lambda visits, visit, _: {name: visits.attributes[name][visit] for name in names}


def _rows(events: Columns, *names: str) -> Iterator[tuple[int, ...]]:
    return zip(*(events[name].tolist() for name in names), strict=True)


def _optional(text: str | None) -> str:
    return "null" if text is None else f'"{text}"'


def _auth_columns(visits: _Visits, visit: Ints, moment: Ints) -> Columns:
    attributes = _attributes("fresh", "timed_out")(visits, visit, moment)
    return {**attributes, "special": attributes["fresh"] * (moment == Moment.ENTER)}


_AGENTS = ("LearnApp/5.2 (Android 16)", "Mozilla/5.0 (X11; Linux x86_64)", "LearnApp/5.1 (iPadOS)")
_METHODS = ("password", "password", "google", "sso")


def _auth(events: Columns, _: list[str]) -> Iterator[str]:
    for student, device, moment, timed_out in _rows(
        events, "student", "device", "moment", "timed_out"
    ):
        enters = moment == Moment.ENTER
        method = _METHODS[student % 4] if enters else None
        reason = None if enters else "timeout" if timed_out else "user"
        yield (
            f'"method":{_optional(method)},"logout_reason":{_optional(reason)},'
            f'"ip_address":"203.0.{student // 250 % 250}.{student % 250 + 1}",'
            f'"user_agent":"{_AGENTS[device]}"'
        )


def _assessment_columns(visits: _Visits, visit: Ints, moment: Ints) -> Columns:
    attributes = _attributes("course", "lesson", "assignment")(visits, visit, moment)
    share = visits.shares[(moment == Moment.REGRADE).astype(np.int64), visit]
    # In quarters of a point; -1 before the grade.
    quarters = np.round(share * np.where(attributes["assignment"], 400, 40)).astype(np.int64)
    return {**attributes, "quarters": np.where(moment >= Moment.GRADE, quarters, -1)}


def _assessment(events: Columns, visits: list[str]) -> Iterator[str]:
    rows = _rows(events, "course", "lesson", "assignment", "quarters")
    for visit, (course, lesson, assignment, quarters) in zip(visits, rows, strict=True):
        kind = "assignment" if assignment else "quiz"
        yield (
            f'"course_id":"CRS_{course:03d}",'
            f'"assessment_id":"CRS_{course:03d}_{kind[0].upper()}{lesson:02d}",'
            f'"assessment_type":"{kind}","attempt_id":"ATT_{visit}",'
            f'"score":{quarters / 4 if quarters >= 0 else "null"},'
            f'"max_score":{100 if assignment else 10}'
        )


def _video_columns(visits: _Visits, visit: Ints, moment: Ints) -> Columns:
    attributes = _attributes("course", "lesson", "rate")(visits, visit, moment)
    view = (moment >= Moment.PLAY_2).astype(np.int64)
    step = moment - view * _SECOND
    duration, position = _duration(attributes, view), visits.position[visit, moment]
    return {
        **attributes,
        "special": ((step == Moment.END) & (position == duration)).astype(np.int64),
        "video": (attributes["lesson"] + view) % LESSONS,
        "duration": duration,
        "position": position,
        "seek_from": np.where(step == Moment.SEEK, visits.seek_from[visit, view], -1),
    }


def _video(events: Columns, _: list[str]) -> Iterator[str]:
    rates = list(RATES)
    for course, video, position, duration, left, rate in _rows(
        events, "course", "video", "position", "duration", "seek_from", "rate"
    ):
        yield (
            f'"course_id":"CRS_{course:03d}","video_id":"CRS_{course:03d}_V{video:02d}",'
            f'"position":{position / 1000},"duration":{duration / 1000},'
            f'"seek_from":{left / 1000 if left >= 0 else "null"},"playback_rate":{rates[rate]}'
        )


def _course(events: Columns, _: list[str]) -> Iterator[str]:
    for course, lesson, moment in _rows(events, "course", "lesson", "moment"):
        lessons = moment in (Moment.OPEN, Moment.DOWNLOAD)
        done = 100 if moment == Moment.FINISH else lesson / LESSONS * 100 if lessons else 0
        name = f"CRS_{course:03d}"
        lesson_id = f"{name}_L{lesson:02d}" if lessons else None
        resource = f"{name}_R{lesson:02d}" if moment == Moment.DOWNLOAD else None
        url = f"https://files.example.org/{resource}.pdf" if resource else None
        yield (
            f'"course_id":"{name}","lesson_id":{_optional(lesson_id)},'
            f'"progress":{done:.1f},"resource_id":{_optional(resource)},'
            f'"resource_url":{_optional(url)},'
            f'"resource_bytes":{_DURATIONS[course, lesson] * 7 if resource else "null"}'
        )


_FIRST = ("Asha", "Ravi", "Zoë", "Liam", "Noor", "Mei", "José", "Anna", "Kofi", "आशा")
_LAST = ("Rao", "Okafor", "Müller", "García", "Chen", "Haddad", "Novák", "Silva", "Kim")
_COUNTRIES = ("IN", "NG", "DE", "MX", "CN", "LB", "CZ", "BR", "KR")
_LEVELS = ("school", "bachelor", "bachelor", "master", "doctorate", "other")
_INTERESTS = ("python", "statistics", "design", "writing", "physics", "economics", "music")


def _profile_columns(visits: _Visits, visit: Ints, moment: Ints) -> Columns:
    return {"special": visits.attributes["fresh"][visit]}


def _profile(events: Columns, _: list[str]) -> Iterator[str]:
    for student, number in _rows(events, "student", "number"):
        name = f"{_FIRST[student % 10]} {_LAST[student % 9]}"
        # Only interests change from visit to visit.
        step = 1 + number % 3
        interests = (f'"{_INTERESTS[(student + step * k) % 7]}"' for k in range(student % 4))
        yield (
            f'"full_name":"{name}","email":"student{student}@example.org",'
            f'"country":"{_COUNTRIES[student % 9]}","birth_year":{1975 + student * 7 % 33},'
            f'"education_level":"{_LEVELS[student % 6]}","interests":[{",".join(interests)}]'
        )


_CHANNELS = ("email", "push", "email", "in_app", "sms")
_CAMPAIGNS = ("course_reminder", "new_lesson", "weekly_digest", "deadline")


def _notification(events: Columns, visits: list[str]) -> Iterator[str]:
    rows = _rows(events, "student", "number", "course", "moment")
    for visit, (student, number, course, moment) in zip(visits, rows, strict=True):
        campaign = _CAMPAIGNS[(student + number) % 4]
        about = None if campaign == "weekly_digest" else f"CRS_{course:03d}"
        url = f"https://learn.example.org/courses/{about or ''}"
        yield (
            f'"notification_id":"NTF_{visit}","channel":"{_CHANNELS[(student + number) % 5]}",'
            f'"campaign":"{campaign}","course_id":{_optional(about)},'
            f'"link_url":{_optional(url if moment == Moment.CLICKED else None)}'
        )


_ENVELOPE = ("event_id", "event_type", "timestamp", "user_id")


def _shape(
    *texts: str, enums: tuple[str, ...] = (), rejected: dict[str, tuple[Any, ...]], **others: Any
) -> Shape:
    """Return the shape of the envelope with the topic's required strings and other fields."""
    wrong = {"event_id": ("17", "g" * 36), "timestamp": ("1999-12-31T23:59:59Z",), **rejected}
    return Shape(
        required=(*_ENVELOPE, *texts),
        texts=(*_ENVELOPE, *texts),
        enums=("event_type", *enums),
        timestamps=("timestamp",),
        rejected=tuple(wrong.items()),
        **others,
    )


_STREAMS = {
    "auth_events": _Stream(
        (Moment.ENTER, Moment.LEAVE),
        _auth_columns,
        _auth,
        _shape("session_id", rejected={"ip_address": ("localhost",), "device": ("watch",)}),
    ),
    "assessment_events": _Stream(
        (Moment.START, Moment.SUBMIT, Moment.GRADE, Moment.REGRADE),
        _assessment_columns,
        _assessment,
        _shape(
            *("course_id", "assessment_id", "assessment_type", "attempt_id"),
            enums=("assessment_type",),
            numbers=("max_score",),
            limits=(("score", "max_score"),),
            rejected={"score": (-0.5, 1.005), "max_score": (0, -10)},
        ),
    ),
    "video_events": _Stream(
        tuple(Moment(moment) for moment in range(Moment.PLAY, Moment.START)),
        _video_columns,
        _video,
        _shape(
            *("session_id", "course_id", "video_id"),
            numbers=("position", "duration", "playback_rate"),
            limits=(("position", "duration"), ("seek_from", "duration")),
            rejected={"position": (-1, None), "duration": (0, None), "playback_rate": (0, 16)},
        ),
    ),
    "course_events": _Stream(
        (Moment.ENROL, Moment.OPEN, Moment.DOWNLOAD, Moment.FINISH),
        _attributes("course", "lesson"),
        _course,
        _shape(
            *("session_id", "course_id"),
            numbers=("progress",),
            rejected={"progress": (-1, 100.5), "resource_bytes": (-1, 0.5)},
        ),
    ),
    "profile_events": _Stream(
        (Moment.PROFILE,),
        _profile_columns,
        _profile,
        _shape(
            *("session_id", "full_name", "email"),
            numbers=("birth_year",),
            rejected={
                "email": ("nobody", "a@b"),
                "country": ("in", "IND"),
                "interests": ("music", [""], ["music", "music"]),
            },
        ),
    ),
    "notification_events": _Stream(
        (Moment.SENT, Moment.OPENED, Moment.CLICKED),
        _attributes("course"),
        _notification,
        _shape(
            *("notification_id", "channel", "campaign"),
            enums=("channel",),
            rejected={"link_url": ("no address",)},
        ),
    ),
}

SIMULATORS = {
    name: Simulator(partial(_records, stream, number), stream.shape)
    for number, (name, stream) in enumerate(_STREAMS.items())
}
