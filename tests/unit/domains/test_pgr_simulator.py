"""The grievances that are simulated: reproducible, in causal order, exact about what is broken."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_platform.domains.pgr.simulator import SHAPE
from ingestion_platform.errors import Permanent, UnknownStream
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulation import faults_of
from ingestion_platform.produce.simulators import simulate

START = datetime(2026, 3, 1, 6, tzinfo=UTC)
FIELDS = [
    "event_date", "event_time", "tenant_id", "service", "entity_type", "entity_id", "event_type",
    "status", "actor_type", "actor_id", "channel", "ward_id", "locality_id", "attributes_json",
    "raw_payload",
]  # fmt: skip

# What may follow a step of a case; a case starts with None.
NEXT: dict[str | None, set[str]] = {
    None: {"CaseSubmitted"},
    "CaseSubmitted": {"CaseAssigned", "CaseRejected"},
    "CaseAssigned": {"CaseAssigned", "CaseInProgress", "CaseRejected"},
    "CaseInProgress": {"CaseResolved"},
    "CaseResolved": {"CaseReopened", "CaseClosed"},
    "CaseReopened": {"CaseInProgress"},
    "CaseClosed": set(),
    "CaseRejected": set(),
}


def pgr(count: int, **arguments: Any) -> list[Record]:
    """Simulated grievance events of a fixed span."""
    return list(simulate("pgr_events", count, **{"start": START, **arguments}))


def events(records: list[Record]) -> list[dict[str, Any]]:
    """The good records' fields."""
    return [json.loads(record.value) for record in records if record.fault is None]


@pytest.mark.parametrize("bad_ratio", [0.0, 0.2])
def test_equal_arguments_give_equal_records(bad_ratio: float) -> None:
    """A failing test can be repeated."""
    assert pgr(3000, seed=5, bad_ratio=bad_ratio) == pgr(3000, seed=5, bad_ratio=bad_ratio)


def test_seed_and_start_change_cases() -> None:
    """Runs can be produced one after the other into one topic without mixing up cases."""
    runs = [pgr(500), pgr(500, seed=1), pgr(500, start=START + timedelta(days=1))]
    cases = [{record.key for record in run} for run in runs]
    assert len(set.union(*cases)) == sum(map(len, cases))


@given(
    count=st.integers(0, 400),
    seed=st.integers(0, 10),
    bad_ratio=st.floats(0, 1),
    days=st.floats(0.001, 30),
)
@settings(deadline=None, max_examples=60)
def test_counts_and_shares_are_exact(count: int, seed: int, bad_ratio: float, days: float) -> None:
    """As many records as asked for, and of them exactly the share that is bad."""
    records = pgr(count, seed=seed, bad_ratio=bad_ratio, days=days)
    assert len(records) == count
    assert sum(record.fault is not None for record in records) == round(count * bad_ratio)


def test_valid_records_have_documented_fields() -> None:
    """Every good record is one JSON object with the fields in their order and format."""
    for event in events(pgr(3000)):
        assert list(event) == FIELDS
        assert event["service"] == "PGR"
        assert event["entity_type"] == "complaint"
        moment = datetime.strptime(event["event_time"], "%Y-%m-%d %H:%M:%S")
        assert event["event_date"] == moment.date().isoformat()


def test_key_is_entity() -> None:
    """All events of a case go to one partition."""
    for record in pgr(1000):
        assert record.key == json.loads(record.value)["entity_id"].encode()


def test_cases_are_in_causal_order() -> None:
    """A case's events follow each other as its life does, in time and in step."""
    cases: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events(pgr(20_000)):
        if event not in cases[event["entity_id"]]:  # an exact duplicate is no new step
            cases[event["entity_id"]].append(event)
    for case in cases.values():
        steps = [event["event_type"] for event in case]
        for before, after in zip([None, *steps], steps, strict=False):
            assert after in NEXT[before], steps
        times = [event["event_time"] for event in case]
        assert all(a < b for a, b in pairwise(times))
        for fixed in ("tenant_id", "ward_id", "locality_id"):
            assert len({event[fixed] for event in case}) == 1


def test_cases_interleave_and_some_stay_open() -> None:
    """A feed is many cases at once, at every stage."""
    feed = events(pgr(20_000))
    last = {event["entity_id"]: event["status"] for event in feed}
    assert set(last.values()) == {
        "OPEN", "ASSIGNED", "IN_PROGRESS", "RESOLVED", "REOPENED", "CLOSED", "REJECTED",
    }  # fmt: skip
    runs = sum(a["entity_id"] != b["entity_id"] for a, b in pairwise(feed))
    assert runs > 0.95 * len(feed)


def test_attributes_are_object_or_text() -> None:
    """Nine in ten are an object, one in ten is JSON text."""
    forms = Counter(type(event["attributes_json"]) for event in events(pgr(10_000)))
    assert forms[dict] + forms[str] == 10_000
    assert 800 < forms[str] < 1200
    for event in events(pgr(1000)):
        given_ = event["attributes_json"]
        attributes = json.loads(given_) if isinstance(given_, str) else given_
        assert {"complaint_type", "priority", "sla_hours"} <= set(attributes)


def test_some_events_are_duplicates_or_late() -> None:
    """Producers retry, and some events come hours after they happened."""
    feed = pgr(50_000)
    again = sum(n - 1 for n in Counter(record.value for record in feed).values())
    assert 40 <= again <= 60
    late = 0
    for record in feed:
        happened = datetime.strptime(
            json.loads(record.value)["event_time"], "%Y-%m-%d %H:%M:%S"
        ).replace(tzinfo=UTC)
        assert record.timestamp_ms is not None
        late += record.timestamp_ms / 1000 - happened.timestamp() > 1800
    assert 50 < late < 2500


@given(count=st.integers(1, 2000), days=st.floats(0.01, 10), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_records_arrive_in_order_within_span(count: int, days: float, seed: int) -> None:
    """Timestamps never fall, and neither they nor event times leave the span."""
    records = pgr(count, days=days, seed=seed)
    stamps = [record.timestamp_ms or 0 for record in records]
    assert stamps == sorted(stamps)
    end = START + timedelta(days=days)
    assert START.timestamp() * 1000 <= stamps[0]
    assert stamps[-1] <= end.timestamp() * 1000
    for event in events(records):
        happened = datetime.fromisoformat(event["event_time"]).replace(tzinfo=UTC)
        assert START <= happened <= end


def test_span_is_filled_to_end() -> None:
    """The last events are near the end of the span, whatever the number of records."""
    for count in (2000, 20_000):
        last = pgr(count, days=2)[-1].timestamp_ms
        assert last is not None
        assert last / 1000 > (START + timedelta(days=2, hours=-1)).timestamp()


def test_default_span_ends_now() -> None:
    """Nothing is from the future."""
    records = list(simulate("pgr_events", 1000))
    now = datetime.now(UTC).timestamp()
    stamps = [record.timestamp_ms or 0 for record in records]
    assert now - 3 * 86_400 - 60 < stamps[0] / 1000
    assert now - 86_400 < stamps[-1] / 1000 <= now


def test_start_may_have_any_zone() -> None:
    """A start without a zone is UTC; one with a zone is converted."""
    naive = pgr(200, start=START.replace(tzinfo=None))
    east = pgr(200, start=START.astimezone(datetime.strptime("+0530", "%z").tzinfo))
    assert naive == east == pgr(200)


def test_faults_occur_equally_often() -> None:
    """The mix is wide however few bad records there are."""
    kinds = Counter(record.fault for record in pgr(4000, bad_ratio=0.1) if record.fault)
    assert set(kinds) == set(faults_of(SHAPE))
    assert max(kinds.values()) - min(kinds.values()) <= 1


def test_faults_leave_other_records_unchanged() -> None:
    """Breaking some records changes no other."""
    whole, broken = pgr(2000), pgr(2000, bad_ratio=0.3)
    for good, record in zip(whole, broken, strict=True):
        assert record.key == good.key
        assert (record.value == good.value) == (record.fault is None)


def test_records_have_realistic_size() -> None:
    """Benchmarks are about records of 430 bytes."""
    records = pgr(5000)
    assert 415 < sum(len(record.value) for record in records) / len(records) < 445


def test_unknown_stream_lists_known_ones() -> None:
    """The error comes at the call and lists what there is."""
    with pytest.raises(UnknownStream, match="no_such") as raised:
        simulate("no_such", 1)
    assert "pgr_events" in raised.value.action


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"count": -1}, "count"),
        ({"seed": -1}, "seed"),
        ({"bad_ratio": 1.1}, "bad ratio"),
        ({"bad_ratio": float("nan")}, "bad ratio"),
        ({"days": 0}, "days"),
    ],
)
def test_argument_out_of_range_is_named(arguments: dict[str, Any], what: str) -> None:
    """The error comes at the call, not with the first record."""
    with pytest.raises(Permanent, match=what):
        simulate("pgr_events", **{"count": 1, **arguments})
