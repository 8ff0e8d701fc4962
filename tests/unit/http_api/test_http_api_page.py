"""The page of the HTTP API: every example is run, every endpoint, problem and limit is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ingestion_platform.http_api.app import build
from ingestion_platform.http_api.limits import key_hash
from ingestion_platform.http_api.middleware import OPEN
from ingestion_platform.http_api.problems import KINDS
from ingestion_platform.settings import HttpApiSettings, Settings
from tests.support.api_lab import NAMES, http_api_settings, own_streams

PAGE = Path(__file__).parents[3] / "docs" / "http-api.md"
TEXT = PAGE.read_text()
KEY = "ik_example"
ANY = {"partition": 0, "offset": 0}
"""What of an answer depends on what the topic holds already."""


@dataclass(frozen=True)
class Message:
    """A request or an answer as the page shows it."""

    start: str
    headers: dict[str, str]
    body: str


def message(block: str) -> Message:
    """The parts of a block: start line, headers, an empty line, body."""
    head, _, body = block.partition("\n\n")
    start, *lines = head.strip().splitlines()
    return Message(start, dict(line.split(": ", 1) for line in lines), body.strip())


def examples() -> Iterator[tuple[Message, Message]]:
    """Requests and their answers, in the order of the page."""
    blocks = [message(block) for block in re.findall(r"^```http\n(.*?)^```$", TEXT, re.M | re.S)]
    for request, answer in zip(blocks[::2], blocks[1::2], strict=True):
        assert not request.start.startswith("HTTP/"), request
        assert answer.start.startswith("HTTP/"), answer
        yield request, answer


def settled(value: Any) -> Any:
    """An answer with what depends on the topic set to the same."""
    if isinstance(value, dict):
        return {name: ANY.get(name, settled(inner)) for name, inner in value.items()}
    return [settled(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture
def client(embedded_settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    """An API with the key of the page, and a stream that takes files only."""
    streams = own_streams(*NAMES)
    refunds = replace(streams["pgr_events"], name="refunds", topic="refunds", partitions=0)
    streams["refunds"] = replace(refunds, files=None)
    keys = {"shop": key_hash(KEY)}
    app = build(http_api_settings(embedded_settings, tmp_path, auth=True, api_keys=keys), streams)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_examples_give_answers_of_page(client: TestClient) -> None:
    """Status, headers and body, one example after the other."""
    number = 0
    for request, answer in examples():
        method, path = request.start.split()
        key = {} if {"Authorization", "X-API-Key"} & set(request.headers) else {"X-API-Key": KEY}
        got = client.request(method, path, content=request.body, headers=request.headers | key)
        assert answer.start == f"HTTP/1.1 {got.status_code}", (request, got.text)
        for name, value in answer.headers.items():
            assert got.headers.get(name) == value, (request, name)
        assert settled(json.loads(answer.body or "null")) == settled(got.json()), request
        number += 1
    assert number >= 12


def test_page_has_every_endpoint(client: TestClient) -> None:
    """Paths of the description, and whether they need a key."""
    table = TEXT.partition("## Endpoints")[2].partition("##")[0]
    rows = {
        path: row.split("|")[2].strip()
        for row in table.splitlines()
        for path in re.findall(r"`(?:GET|POST) ([^`]+)`", row)
    }
    described = {
        re.sub(r"/v1/streams/\w+/", "/v1/streams/{stream}/", path)
        for path in client.get("/openapi.json").json()["paths"]
    }
    assert set(rows) == described | {"/docs", "/openapi.json"}
    assert {path for path, key in rows.items() if key == "no"} == set(rows) & OPEN


def test_page_has_every_problem() -> None:
    """Kinds and statuses are those of the API."""
    table = TEXT.partition("## Problems")[2].partition("## Limits")[0]
    found = re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", table, re.M)
    assert {kind: int(status) for status, kind in found} == {k: s for k, (s, _) in KINDS.items()}


def test_page_has_every_limit() -> None:
    """Settings and their defaults are those of the API."""
    table = TEXT.partition("## Limits")[2].partition("## API keys")[0]
    found = {name: int(value) for name, value in re.findall(r"`(HTTP_API_\w+)` \| (\d+) ", table)}
    assert found == {
        f"HTTP_API_{name.upper()}": field.default
        for name, field in HttpApiSettings.model_fields.items()
        if type(field.default) is int
    }
