"""Simulator of civic grievances: case histories of complaints, from submission to closing.

A whole span is drawn as arrays, about 150 bytes an event, and rendered to JSON in chunks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulation import (
    Ints,
    Shape,
    Simulator,
    choose,
    moments,
    run_number,
    texts,
    with_repeats,
)

SHAPE = Shape(
    required=("event_date", "event_time", "tenant_id", "entity_id", "event_type", "status"),
    texts=("event_time", "tenant_id", "entity_id", "event_type", "status", "actor_id", "ward_id"),
    enums=("event_type", "status", "actor_type"),
    dates=("event_date",),
    timestamps=("event_time",),
    days=(("event_date", "event_time"),),
    json_texts=("attributes_json",),
)

# A place is a locality: five to a ward, twelve wards to a tenant.
TENANTS, WARDS, LOCALITIES = 8, 12, 5
CITIZENS, EMPLOYEES = 20_000, 50  # employees: per tenant
_PLACES = TENANTS * WARDS * LOCALITIES

CHANNELS = {"MOBILE": 45, "WEB": 25, "WHATSAPP": 14, "IVR": 12, "COUNTER": 4}
_OFFICE = list(CHANNELS).index("WEB")  # channel of employees and of the system
SLA_HOURS = {"LOW": 168, "MEDIUM": 72, "HIGH": 24, "CRITICAL": 8}
# Complaint type: its weight, and the weights of its priorities (in the order of SLA_HOURS).
COMPLAINTS: dict[str, tuple[float, tuple[float, ...]]] = {
    "Water Supply": (22, (10, 55, 28, 7)),
    "Garbage Collection": (18, (30, 55, 14, 1)),
    "Street Light": (15, (45, 45, 10, 0)),
    "Sewerage": (14, (5, 45, 38, 12)),
    "Road Damage": (12, (35, 50, 13, 2)),
    "Drainage": (8, (15, 55, 25, 5)),
    "Stray Animals": (5, (40, 45, 12, 3)),
    "Public Health": (3, (5, 35, 40, 20)),
    "Illegal Construction": (3, (40, 50, 10, 0)),
}
_KINDS = [
    (complaint, priority, share * weight)
    for complaint, (share, weights) in COMPLAINTS.items()
    for priority, weight in zip(SLA_HOURS, weights, strict=True)
    if weight
]

# Complaints per hour of the day, midnight first.
_BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 8, 12, 15, 16, 15, 13, 12, 13, 13, 12, 11, 10, 9, 7, 6, 4, 3)

LATE, DUPLICATES, AS_TEXT, WITH_PAYLOAD = 0.005, 0.001, 0.1, 0.02
_PAYLOADS = (
    None,
    "channel=form-v3;lang=en;attachments=0",
    'SMS "no water since 3 days" from +91-XXXXXX',
    "पानी नहीं आ रहा है",
    '{"source":"ivr","digits":[1,4,2]}',
)


@dataclass(frozen=True)
class Step:
    """A step of a case: its event, who acts, and when."""

    event_type: str
    status: str
    actors: tuple[str, str]
    """The usual actor type, which acts in two of three cases, and the other one."""
    delay: float
    """Median time since the step before, as a share of the SLA; log-normal."""
    attributes: dict[str, Any] = field(default_factory=dict)


STEPS = (
    Step("CaseSubmitted", "OPEN", ("CITIZEN", "CITIZEN"), 0.0),
    Step("CaseAssigned", "ASSIGNED", ("SYSTEM", "EMPLOYEE"), 0.01),
    Step("CaseRejected", "REJECTED", ("EMPLOYEE", "EMPLOYEE"), 0.05, {"reason": "Duplicate"}),
    Step("CaseAssigned", "ASSIGNED", ("SYSTEM", "EMPLOYEE"), 0.4, {"escalation_level": 1}),
    Step("CaseInProgress", "IN_PROGRESS", ("EMPLOYEE", "EMPLOYEE"), 0.06),
    Step("CaseResolved", "RESOLVED", ("EMPLOYEE", "EMPLOYEE"), 0.25),
    Step("CaseReopened", "REOPENED", ("CITIZEN", "CITIZEN"), 0.08, {"reason": "Not resolved"}),
    Step("CaseInProgress", "IN_PROGRESS", ("EMPLOYEE", "EMPLOYEE"), 0.04),
    Step("CaseResolved", "RESOLVED", ("EMPLOYEE", "EMPLOYEE"), 0.15),
    Step("CaseClosed", "CLOSED", ("CITIZEN", "SYSTEM"), 0.1),
)
_SPREAD = 0.9  # sigma of the log-normal delays


@dataclass(frozen=True)
class _Events:
    """Columns of events. Times count from the start of the span."""

    case: Ints
    step: Ints
    second: Ints  # of the event
    arrival: Ints  # in the topic, milliseconds
    kind: Ints
    place: Ints
    channel: Ints
    citizen: Ints
    employee: Ints
    usual: Ints  # whether the usual actor acts


def _records(count: int, seed: int, start: datetime, days: float) -> Iterator[Record]:
    if count:
        rng = np.random.default_rng(seed)
        duplicates = round(count * DUPLICATES)
        events = _ordered(_history(rng, count - duplicates, start, days), count - duplicates)
        again = with_repeats(rng, count - duplicates, duplicates)
        yield from _rendered(rng, events, again, start, run_number(seed, start))


SIMULATORS = {"pgr_events": Simulator(_records, SHAPE)}


def _history(rng: np.random.Generator, count: int, start: datetime, days: float) -> _Events:
    """Draw cases until `count` events or a few more arrive within the span."""
    seconds = int(days * 86_400)
    blocks: list[_Events] = []
    cases = missing = 0
    while (missing := count - sum(len(block.case) for block in blocks)) > 0:
        size = missing // len(STEPS) + 16
        block = _block(rng, size, start, seconds, first=cases)
        blocks.append(block)
        cases += size
    return _concatenated(blocks)


def _block(
    rng: np.random.Generator, size: int, start: datetime, seconds: int, *, first: int
) -> _Events:
    """Draw the events of `size` cases, numbered from `first`; those of a case are in order."""
    kind = choose(rng, [share for _, _, share in _KINDS], size)
    sla = np.array([SLA_HOURS[priority] for _, priority, _ in _KINDS])[kind]
    present = _path(rng, size)
    scale = np.array([step.delay for step in STEPS]) * 3600 * sla[:, None]
    delay = np.ceil(scale * rng.lognormal(0, _SPREAD, present.shape)).astype(np.int64)
    delay[:, 0] = moments(rng, size, start, seconds, _BY_HOUR)
    second = np.cumsum(np.where(present, delay, 0), axis=1)
    latency = rng.exponential(800, present.shape)
    # A late event delays those after it in its case: senders keep the order of a case.
    late = rng.random(present.shape) < LATE
    latency += late * rng.lognormal(np.log(2 * 3_600_000), 1, present.shape)
    arrival = np.where(present, second * 1000 + latency.astype(np.int64), 0)
    arrival = np.maximum.accumulate(arrival, axis=1)
    case, step = np.nonzero(present & (arrival <= seconds * 1000))
    place = choose(rng, _PLACE_WEIGHTS, size)
    citizen = rng.integers(CITIZENS, size=size)
    employee = place // (WARDS * LOCALITIES) * EMPLOYEES + rng.integers(EMPLOYEES, size=size)
    return _Events(
        case=case + first,
        step=step,
        second=second[case, step],
        arrival=arrival[case, step],
        kind=kind[case],
        place=place[case],
        channel=choose(rng, list(CHANNELS.values()), size)[case],
        citizen=citizen[case],
        employee=employee[case],
        usual=(rng.random(len(case)) < 2 / 3).astype(np.int64),
    )


_PLACE_WEIGHTS = [
    1 / (1 + place // (WARDS * LOCALITIES)) / (10 + place % (WARDS * LOCALITIES))
    for place in range(_PLACES)
]


def _path(rng: np.random.Generator, size: int) -> npt.NDArray[np.bool_]:
    """Return cases x steps: whether the case has the step, if the span is long enough."""
    chance = rng.random((5, size))
    rejected = chance[0] < 0.06
    assigned = ~rejected | (chance[1] < 0.6)
    escalated = ~rejected & (chance[1] < 0.1)
    worked = ~rejected & (chance[2] < 0.97)
    reopened = worked & (chance[3] < 0.08)
    closed = worked & (chance[4] < 0.9)
    always = np.ones(size, dtype=np.bool_)
    columns = [always, assigned, rejected, escalated, worked, worked]
    return np.column_stack([*columns, reopened, reopened, reopened, closed])


def _concatenated(blocks: list[_Events]) -> _Events:
    columns = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in _Events.__dataclass_fields__
    }
    return _Events(**columns)


def _ordered(events: _Events, count: int) -> _Events:
    """Return the first `count` events by arrival, with cases numbered by their first arrival."""
    # Drop whole cases, so that the events reach the end of the span.
    complete = events.case <= events.case[count - 1]
    # Stable: events of a case that arrive together stay in order.
    order = np.flatnonzero(complete)[np.argsort(events.arrival[complete], kind="stable")][:count]
    columns = {name: getattr(events, name)[order] for name in _Events.__dataclass_fields__}
    _, first, case = np.unique(columns["case"], return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(len(first))
    return _Events(**(columns | {"case": rank[case]}))


def _rendered(
    rng: np.random.Generator, events: _Events, positions: Ints, start: datetime, run: int
) -> Iterator[Record]:
    count = len(events.case)
    as_text = (rng.random(count) < AS_TEXT).astype(np.int64)
    payload = rng.integers(1, len(_PAYLOADS), size=count) * (rng.random(count) < WITH_PAYLOAD)
    epoch = int(start.timestamp())
    # A repeat has the time of its own arrival.
    stamps = np.maximum.accumulate(events.arrival[positions]) + epoch * 1000
    tables = _Tables(start, int(events.second.max()))
    for low in range(0, len(positions), 8192):
        at = positions[low : low + 8192]
        step, kind, place = events.step[at], events.kind[at], events.place[at]
        role = _ROLES[step, events.usual[at]]
        yield from _chunk(
            [f"CMP_{run:05d}{case:06d}" for case in events.case[at].tolist()],
            tables.times(events.second[at]),
            tables.tenants[place // (WARDS * LOCALITIES)].tolist(),
            tables.steps[step].tolist(),
            tables.actors[_actor(role, events.citizen[at], events.employee[at])].tolist(),
            tables.channels[np.where(role == 0, events.channel[at], _OFFICE)].tolist(),
            tables.places[place].tolist(),
            tables.attributes[(kind * len(STEPS) + step) * 2 + as_text[at]].tolist(),
            tables.payloads[payload[at]].tolist(),
            stamps[low : low + 8192].tolist(),
        )


_ROLE_NAMES = ("CITIZEN", "EMPLOYEE", "SYSTEM")
# By step and by whether the usual actor acts.
_ROLES = np.array([[_ROLE_NAMES.index(actor) for actor in step.actors[::-1]] for step in STEPS])


def _actor(role: Ints, citizen: Ints, employee: Ints) -> Ints:
    """Return indexes into the table of actors: citizens, then employees, then the system."""
    system = np.full_like(role, CITIZENS + TENANTS * EMPLOYEES)
    return np.choose(role, [citizen, CITIZENS + employee, system])


class _Tables:
    """The parts of records as JSON text, in arrays to index."""

    def __init__(self, start: datetime, last_second: int) -> None:
        midnight = start.replace(hour=0, minute=0, second=0)
        self._offset = int((start - midnight).total_seconds())
        days = [
            (midnight + timedelta(days=day)).date().isoformat()
            for day in range((self._offset + last_second) // 86_400 + 1)
        ]
        self._days = texts(f'"event_date":"{day}","event_time":"{day} ' for day in days)
        self._minutes = texts(f"{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1440))
        self._seconds = texts(f'{second:02d}"' for second in range(60))
        self.tenants = texts(f'"tenant_id":"TENANT_{n + 1:03d}"' for n in range(TENANTS))
        self.places = texts(
            f'"ward_id":"WARD_{n // LOCALITIES + 1:03d}","locality_id":"LOC_{n + 1:03d}"'
            for n in range(_PLACES)
        )
        self.steps = texts(
            f'"event_type":"{step.event_type}","status":"{step.status}"' for step in STEPS
        )
        self.actors = texts(
            f'"actor_type":"{role}","actor_id":"{prefix}{n + 1:05d}"'
            for role, prefix, size in (
                ("CITIZEN", "CIT_", CITIZENS),
                ("EMPLOYEE", "EMP_", TENANTS * EMPLOYEES),
                ("SYSTEM", "SYS_", 1),
            )
            for n in range(size)
        )
        self.channels = texts(f'"channel":"{name}"' for name in CHANNELS)
        self.attributes = texts(
            f'"attributes_json":{form}'
            for complaint, priority, _ in _KINDS
            for step in STEPS
            for form in _forms(
                complaint_type=complaint,
                priority=priority,
                sla_hours=SLA_HOURS[priority],
                **step.attributes,
            )
        )
        self.payloads = texts(
            f'"raw_payload":{json.dumps(text, ensure_ascii=False)}' for text in _PAYLOADS
        )

    def times(self, seconds: Ints) -> list[str]:
        """Return date and time of events as JSON, from their seconds since the start."""
        clock = seconds + self._offset
        minute = self._minutes[clock // 60 % 1440]
        times: list[str] = (
            self._days[clock // 86_400] + minute + self._seconds[clock % 60]
        ).tolist()
        return times


def _forms(**attributes: Any) -> tuple[str, str]:
    """Return the attributes as a JSON object, and as a JSON string of the object's text."""
    return json.dumps(attributes, separators=(",", ":")), json.dumps(json.dumps(attributes))


def _chunk(ids: list[str], *columns: list[Any]) -> list[Record]:
    return [
        Record(
            None,
            f'{{{time},{tenant},"service":"PGR","entity_type":"complaint","entity_id":"{entity}",'
            f"{step},{actor},{channel},{place},{attributes},{payload}}}".encode(),
            (),
            stamp,
        )
        for entity, time, tenant, step, actor, channel, place, attributes, payload, stamp in zip(
            ids, *columns, strict=True
        )
    ]
