"""Records of any stream, in every form: what was sent is in the topic, or was rejected by name."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ingestion_platform.produce.simulators import simulate
from tests.support import grievances
from tests.support.api_lab import USER, Served
from tests.support.oracle import validate_pgr

LINES = "application/x-ndjson"
EVENT, EVENTS = "application/cloudevents+json", "application/cloudevents-batch+json"
BAD = USER | {"age": 0}
ATTRIBUTES = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "user.changed"}


def values(served: Served, stream: str = "recomart_users") -> list[Any]:
    """The values in the stream's topic, as JSON."""
    return [json.loads(message.value()) for message in served.sent(stream)]


def numbered(count: int) -> list[dict[str, Any]]:
    """Good users."""
    return [USER | {"user_id": i} for i in range(count)]


def test_record_is_in_kafka_as_sent(served: Served) -> None:
    """The bytes are not changed on the way, and the answer says where they are."""
    body = b'  {"user_id" : 1001, "age":34,\n "gender":"F", "device":"Mobile", "more": [1.50]}  '
    answer = served.records("recomart_users", body)
    assert answer.status_code == 201
    (message,) = served.sent("recomart_users")
    assert message.value() == body.strip()
    (result,) = answer.json()["results"]
    assert result == {
        "index": 0,
        "status": "accepted",
        "partition": message.partition(),
        "offset": message.offset(),
    }


@pytest.mark.parametrize("form", ["array", "lines", "crlf"])
def test_many_records_in_one_request(served: Served, form: str) -> None:
    """An array and lines give a result for each record, in their order."""
    users = numbered(300)
    texts = [json.dumps(user) for user in users]
    if form == "array":
        answer = served.records("recomart_users", json.dumps(users))
    else:
        end = "\r\n\r\n" if form == "crlf" else "\n"
        answer = served.records("recomart_users", end.join(texts), LINES)
    assert answer.status_code == 201
    body = answer.json()
    assert (body["accepted"], body["rejected"], body["failed"]) == (300, 0, 0)
    places = {
        (m.partition(), m.offset()): json.loads(m.value()) for m in served.sent(body["stream"])
    }
    assert len(places) == 300
    assert [places[r["partition"], r["offset"]] for r in body["results"]] == users


def test_kafka_key_is_primary_key(served: Served) -> None:
    """Versions of one user stay in order, in one partition."""
    served.records("recomart_users", json.dumps(numbered(10)))
    assert {m.key(): json.loads(m.value())["user_id"] for m in served.sent("recomart_users")} == {
        str(i).encode(): i for i in range(10)
    }


def test_rejected_records_are_not_sent(served: Served) -> None:
    """In a mixed batch the good ones are sent, and each bad one has its field and code."""
    answer = served.records("recomart_users", json.dumps([USER, BAD, 7, USER | {"gender": 1}]))
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert [r["status"] for r in results] == ["accepted", "rejected", "rejected", "rejected"]
    told = [(e["field"], e["code"], e["pointer"]) for r in results[1:] for e in r["errors"]]
    assert told == [
        ("age", "exclusiveMinimum", "#/age"),
        ("value", "type", "#"),
        ("gender", "type", "#/gender"),
    ]
    assert values(served) == [USER]


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        (json.dumps(BAD), "age", "exclusiveMinimum"),
        (json.dumps({k: v for k, v in USER.items() if k != "device"}), "device", "required"),
        (json.dumps(USER | {"device": "Phone"}), "device", "enum"),
        (json.dumps(USER | {"user_id": "1001"}), "user_id", "type"),
        (json.dumps(USER)[:-1] + ',"age":34}', "age", "uniqueKeys"),
        ("{", "value", "json"),
        ('"text"', "value", "type"),
        ("null", "value", "type"),
    ],
)
def test_single_rejected_record_is_problem(
    served: Served, body: str, field: str, code: str
) -> None:
    """422, a problem by RFC 9457, naming field and code; counted, and not sent."""
    answer = served.records("recomart_users", body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    assert (field, code) in [(e["field"], e["code"]) for e in problem["errors"]]
    assert values(served) == []
    assert served.api.counters.by_outcome()["rejected"]["recomart_users"] == 1


def test_row_rule_is_named(served: Served) -> None:
    """A rule of the contract appears by its own name."""
    (event,) = simulate("pgr_events", 1, seed=1)
    wrong = json.loads(event.value) | {"event_date": "1999-01-01"}
    problem = served.records("pgr_events", json.dumps(wrong)).json()
    (error,) = problem["errors"]
    assert (error["field"], error["code"]) == (None, "rule.event_date_is_day_of_event_time")


def test_api_rejects_what_the_contract_rejects(served: Served) -> None:
    """Of simulated events, good and bad, as the tests' own reading of the contract has it."""
    events = [r.value for r in simulate("pgr_events", 1000, seed=5, bad_ratio=0.3)]
    lines = [value for value in events if b"\n" not in value and value.strip()]
    answer = served.records("pgr_events", b"\n".join(lines), LINES).json()
    rejected = [r["index"] for r in answer["results"] if r["status"] == "rejected"]
    assert rejected == [at for at, line in enumerate(lines) if validate_pgr(line) is None]
    assert 200 < len(rejected) < 400
    assert len(served.sent("pgr_events")) == answer["accepted"] == len(lines) - len(rejected)


def test_documented_grievance_is_accepted(served: Served) -> None:
    """The event as its producers send it passes, keyed by its complaint."""
    body = json.dumps(grievances.EVENT)
    assert served.records("pgr_events", body).status_code == 201
    (message,) = served.sent("pgr_events")
    assert (message.value(), message.key()) == (body.encode(), b"CMP_001")


@pytest.mark.parametrize("data", ["data", "data_base64"])
def test_structured_cloudevent(served: Served, data: str) -> None:
    """Its data is the record, its attributes are Kafka headers, its partition key is the key."""
    text = json.dumps(USER)
    member = USER if data == "data" else base64.b64encode(text.encode()).decode()
    event = ATTRIBUTES | {"partitionkey": "k", "count": 3, data: member}
    assert served.records("recomart_users", json.dumps(event), EVENT).status_code == 201
    (message,) = served.sent("recomart_users")
    assert json.loads(message.value()) == USER
    assert message.key() == b"k"
    assert dict(message.headers() or []) == {
        "ce_specversion": b"1.0",
        "ce_id": b"e-1",
        "ce_source": b"/shop",
        "ce_type": b"user.changed",
        "ce_partitionkey": b"k",
        "ce_count": b"3",
    }


def test_binary_cloudevent(served: Served) -> None:
    """Its body is the record, its attributes are HTTP headers, percent-decoded."""
    headers = {f"ce_{k}": v for k, v in ATTRIBUTES.items()} | {"ce_subject": "Z%C3%BCrich"}
    answer = served.records("recomart_users", json.dumps(USER), "application/json", **headers)
    assert answer.status_code == 201
    (message,) = served.sent("recomart_users")
    assert json.loads(message.value()) == USER
    kept = dict(message.headers() or [])
    assert kept["ce_subject"].decode() == "Zürich"
    assert kept["content-type"] == b"application/json"


def test_batch_of_cloudevents_has_results(served: Served) -> None:
    """Bad envelopes and bad data are told apart by field; the good event is sent."""
    events = [
        ATTRIBUTES | {"data": USER},
        {k: v for k, v in ATTRIBUTES.items() if k != "id"} | {"data": USER},
        ATTRIBUTES | {"data": BAD},
        ATTRIBUTES | {"specversion": "0.3", "data": USER},
        ATTRIBUTES,
        ATTRIBUTES | {"Bad-Name": "x", "data": USER},
        ATTRIBUTES | {"datacontenttype": "text/xml", "data": USER},
        ATTRIBUTES | {"data_base64": "?"},
        5,
    ]
    for number, event in enumerate(events):
        if isinstance(event, dict) and "id" in event:
            event["id"] = f"e-{number}"
    answer = served.records("recomart_users", json.dumps(events), EVENTS)
    assert answer.status_code == 207
    accepted, *rejected = answer.json()["results"]
    assert accepted["status"] == "accepted"
    fields = [error["field"] for result in rejected for error in result["errors"]]
    assert fields == [
        *("id", "age", "specversion", "data", "Bad-Name", "datacontenttype", "data_base64"),
        "value",
    ]
    assert values(served) == [USER]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("", "application/json", 400),
        ("[]", "application/json", 400),
        ("\n \n", LINES, 400),
        ("[{}", "application/json", 400),
        ('[{"a":1},]', "application/json", 422),
        ('[{"a":1}] x', "application/json", 400),
        ("{}", EVENTS, 400),
        ("a=1", "application/x-www-form-urlencoded", 415),
        ("<a/>", "text/xml", 415),
        ("{}", "application/json; charset=latin-1", 415),
    ],
)
def test_unreadable_body_is_problem(served: Served, body: str, kind: str, status: int) -> None:
    """Nothing of it is taken, and the answer is a problem of the right status."""
    answer = served.records("recomart_users", body, kind)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert values(served) == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v1/streams/nothing/records", 404), ("GET", "/users", 405), ("GET", "/", 404)],
)
def test_framework_errors_are_problems(served: Served, method: str, path: str, status: int) -> None:
    """Unknown paths and methods are answered in the same form as all else."""
    answer = served.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_concurrent_requests_are_validated_together(
    served: Served,
) -> None:
    """Each of many concurrent requests gets the results of its own records."""
    from concurrent.futures import ThreadPoolExecutor

    def post(i: int) -> Any:
        users = [USER | {"user_id": i}, USER | {"user_id": i, "age": -i - 1}]
        return served.records("recomart_users", json.dumps(users)).json()

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(60)))
    found = {
        (m.partition(), m.offset()): json.loads(m.value()) for m in served.sent("recomart_users")
    }
    assert len(found) == 60
    for i, answer in enumerate(answers):
        good, bad = answer["results"]
        assert found[good["partition"], good["offset"]]["user_id"] == i
        assert bad["errors"][0]["value"] == str(-i - 1)


@pytest.mark.parametrize("form", ["one", "array", "lines", "event"])
def test_default_is_filled_in_every_format(served: Served, form: str) -> None:
    """A transaction without a time gets the present, one with a time stays as it is."""
    timed = {"user_id": 1, "item_id": 2, "view_mode": "view", "timestamp": "2026-11-20T10:00:00Z"}
    bare = {name: value for name, value in timed.items() if name != "timestamp"}
    body, kind = {
        "one": (json.dumps(bare), "application/json"),
        "array": (json.dumps([timed, bare]), "application/json"),
        "lines": (f"{json.dumps(bare)}\n{json.dumps(timed)}", LINES),
        "event": (json.dumps(ATTRIBUTES | {"data": bare}), EVENT),
    }[form]
    assert served.records("recomart_transactions", body, kind).status_code == 201
    sent = values(served, "recomart_transactions")
    assert [bare | {"timestamp": record["timestamp"]} for record in sent] == sent
    assert sum(record["timestamp"] != timed["timestamp"] for record in sent) == 1
