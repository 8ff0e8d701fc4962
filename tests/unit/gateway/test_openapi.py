"""The description: what it promises is what the door does; counts are as Prometheus reads them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from door_lab import USER, Served


def description(served: Served) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = served.http.get("/openapi.json").json()
    return found


def test_every_example_is_accepted(served: Served) -> None:
    """What the description shows for each path and form can be sent as it stands."""
    sent = 0
    for path, operations in description(served)["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for media, body in content.items():
            for example in body["examples"].values():
                value = example["value"]
                text = value if isinstance(value, str) else json.dumps(value)
                answer = served.http.post(path, content=text, headers={"content-type": media})
                assert answer.status_code == 201, (path, media, answer.text)
                sent += 1
    assert sent == 3 * 5 + 4


def test_answers_are_as_described(served: Served) -> None:
    """Bodies of good, mixed and bad answers fit the schemas that the description gives them."""
    document = description(served)
    path = "/v1/streams/recomart_users/records"
    answers = document["paths"][path]["post"]["responses"]
    bad = USER | {"age": 0}
    for body in (USER, [USER, bad], bad, [bad, 5], "[", []):
        text = body if isinstance(body, str) else json.dumps(body)
        answer = served.http.post(path, content=text)
        content = answers[str(answer.status_code)]["content"]
        schema = content[answer.headers["content-type"]]["schema"]
        whole = schema | {"components": document["components"]}
        jsonschema.Draft202012Validator(whole).validate(answer.json())


@pytest.mark.parametrize("stream", ["recomart_users", "recomart_transactions", "pgr_events"])
def test_records_are_described_by_their_contract(served: Served, stream: str) -> None:
    """Each stream's schema has the fields that its producers send, and says which are required."""
    schema = description(served)["components"]["schemas"][stream]
    fields = [f for f in served.streams[stream].contract.fields if f.derived is None]
    assert list(schema["properties"]) == [f.name for f in fields]
    assert schema["required"] == [f.name for f in fields if f.required]


def test_metrics(served: Served) -> None:
    """Counts by the platform's names, labelled by stream, each stream there from the start."""
    served.records("recomart_users", json.dumps([USER, USER, USER | {"age": 0}]))
    lines = served.http.get("/metrics").text.splitlines()
    for line in (
        'ingested_rows_total{stream="recomart_users",door="http"} 2',
        'failed_validations_total{stream="recomart_users",door="http"} 1',
        'ingestion_errors_total{stream="recomart_users",door="http"} 0',
        'ingested_rows_total{stream="pgr_events",door="http"} 0',
        "# TYPE ingested_rows_total counter",
    ):
        assert line in lines
    assert served.http.get("/readyz").json()["ingested_rows_total"]["recomart_users"] == 2


def test_a_request_id_is_given_or_kept(served: Served) -> None:
    """Every answer can be found in the log; a client's own id is kept if it is harmless."""
    kept = served.http.get("/nothing", headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    made = served.http.get("/health", headers={"x-request-id": "a b\tc"})
    assert len(made.headers["x-request-id"]) == 36
