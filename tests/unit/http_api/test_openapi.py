"""The description: what it promises is what the API does; counts are as Prometheus reads them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.support.api_lab import USER, Served


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


def test_answers_match_their_schemas(served: Served) -> None:
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
def test_record_schemas_match_contracts(served: Served, stream: str) -> None:
    """Each stream's schema has the fields that its producers send, and says which are required."""
    schema = description(served)["components"]["schemas"][stream]
    fields = [f for f in served.streams[stream].contract.fields if f.derived is None]
    assert list(schema["properties"]) == [f.name for f in fields]
    assert schema["required"] == [f.name for f in fields if f.required]


def test_metrics(served: Served) -> None:
    """Records by stream and outcome, each stream there from the start; answers by path."""
    records = '{outcome="%s",stream="%s"}'
    before = samples(served, "ingestion_http_api_records_total")
    assert records % ("failed", "pgr_events") in before
    served.records("recomart_users", json.dumps([USER, USER, USER | {"age": 0}]))
    after = samples(served, "ingestion_http_api_records_total")
    grown = {labels: after[labels] - before[labels] for labels in before}
    assert {labels: number for labels, number in grown.items() if number} == {
        records % ("accepted", "recomart_users"): 2,
        records % ("rejected", "recomart_users"): 1,
    }
    answers = samples(served, "ingestion_http_api_request_duration_seconds_count")
    assert answers['{route="/v1/streams/recomart_users/records",status="207"}'] >= 1
    assert not [labels for labels in answers if "metrics" in labels]
    assert served.http.get("/readyz").json()["accepted"]["recomart_users"] == 2


def samples(served: Served, metric: str) -> dict[str, float]:
    """The samples of a metric by labels."""
    lines = served.http.get("/metrics").text.splitlines()
    pairs = [line.removeprefix(metric).rsplit(" ", 1) for line in lines if line.startswith(metric)]
    return {labels: float(value) for labels, value in pairs}


def test_request_id_is_made_or_kept(served: Served) -> None:
    """Every answer can be found in the log; a client's own id is kept if it is harmless."""
    kept = served.http.get("/nothing", headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    made = served.http.get("/health", headers={"x-request-id": "a b\tc"})
    assert len(made.headers["x-request-id"]) == 36
