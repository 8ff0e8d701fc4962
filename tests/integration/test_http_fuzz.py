"""Requests made up from the API's own description, good and bad ones: nothing breaks it, and it
accepts exactly what the contract accepts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.streams import declared_streams
from tests.support.api_process import api_process

PATHS = r"^/(users|transactions|internal/.*|v1/streams/(pgr_events|tmdb_movie|app_logs)/records)$"
SHOP = {"user": "recomart_users", "transaction": "recomart_transactions"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/x-ndjson")
def lines(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """Text as it is; anything else as one line of JSON."""
    return value.encode(errors="replace") if isinstance(value, str) else json.dumps(value).encode()


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, _embedded_home: Path) -> Iterator[Any]:
    """The API's description of itself; the API runs meanwhile."""
    folder = tmp_path_factory.mktemp("api")
    environment = {"PLATFORM_HOME": str(_embedded_home), "DROP_URL": (folder / "drop").as_uri()}
    with api_process(environment, folder) as api:
        yield schemathesis.openapi.from_url(f"{api.url}/openapi.json").include(path_regex=PATHS)


@cache
def parser(stream: str) -> Validator:
    """The compiled contract of a stream."""
    return Validator(declared_streams()[stream].contract)


def accepted(stream: str, values: list[bytes]) -> list[bool]:
    """Which records the contract accepts."""
    valid = parser(stream).parse(pa.array(values, pa.binary())).valid.to_pylist()
    return [place in set(valid) for place in range(len(values))]


def sent_records(body: bytes, media: str) -> list[bytes]:
    """The records of a body that was accepted, cut out without the API's code."""
    if media == "application/x-ndjson":
        return [line for line in body.split(b"\n") if line.strip()]
    several = msgspec.json.decode(body) if body.strip().startswith(b"[") else None
    raw = msgspec.json.decode(body, type=list[msgspec.Raw]) if several is not None else [body]
    records = [bytes(each) for each in raw]
    if "cloudevents" in media:
        events = [msgspec.json.decode(each, type=dict[str, msgspec.Raw]) for each in records]
        return [bytes(event.get("data", b"null")) for event in events]
    return records


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_api_accepts_what_the_contract_accepts_and_never_breaks(
    described: Any, mode: schemathesis.GenerationMode
) -> None:
    """No 5xx, answers as described, and a result for each record that agrees with the contract."""
    seen: Counter[int] = Counter()
    for found in described.get_all_operations():
        operation = found.ok()
        strategy = operation.as_strategy(generation_mode=mode)

        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def holds(case: schemathesis.Case) -> None:
            seen[check(case)] += 1

        holds()
    assert len(seen) > 1
    if mode is schemathesis.GenerationMode.POSITIVE:
        assert seen[201] > 20


def check(case: schemathesis.Case) -> int:
    """Send the request and validate the answer; its status."""
    answer = case.call()
    case.validate_response(answer, checks=CHECKS)
    if answer.status_code not in (201, 207):
        return answer.status_code
    told = answer.json()
    media = str(answer.request.headers["content-type"])
    body = answer.request.body
    values = sent_records(body if isinstance(body, bytes) else str(body).encode(), media)
    if "results" in told:
        results = [result["status"] == "accepted" for result in told["results"]]
        assert results == accepted(told["stream"], values)
    else:
        stream = next(name for word, name in SHOP.items() if word in case.path)
        assert accepted(stream, values) == [True]
    return answer.status_code
