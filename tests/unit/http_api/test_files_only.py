"""A stream without a topic: the API says so, and where its records may go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ingestion_platform.http_api.app import build
from ingestion_platform.settings import Settings
from tests.support.api_lab import USER, http_api_settings, own_streams

PATH = "/v1/streams/pgr_events/records"


@pytest.fixture
def client(local_settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    """An API of a stream of files and one with a topic; no broker runs."""
    streams = own_streams("pgr_events", "recomart_users")
    streams["pgr_events"] = replace(streams["pgr_events"], partitions=0)
    app = build(http_api_settings(local_settings, tmp_path), streams)
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("body", [json.dumps(USER), "[]", "not JSON"])
def test_records_are_refused_with_action(client: TestClient, body: str) -> None:
    """409, whatever is sent, and the action names the drop zone and the command."""
    answer = client.post(PATH, content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    problem = answer.json()
    assert problem["type"] == "urn:ingestion-platform:problem:no-topic"
    assert "pgr_events has no Kafka topic" in problem["detail"]
    assert "staging/ of the drop zone" in problem["action"]
    assert "`ingest load pgr_events FILE`" in problem["action"]


def test_path_is_not_described(client: TestClient) -> None:
    """The description has the paths that take records only."""
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/streams/recomart_users/records" in paths
    assert PATH not in paths


def test_other_streams_are_served(client: TestClient) -> None:
    """A stream with a topic is validated, and waits for its broker only."""
    answer = client.post("/v1/streams/recomart_users/records", json=USER | {"age": 0})
    assert answer.status_code == 422
