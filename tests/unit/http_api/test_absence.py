"""Kafka away: 503 with Retry-After, never a 2xx for what it did not acknowledge, back by itself."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingestion_platform.kafka import broker
from ingestion_platform.settings import Settings
from tests.support.api_lab import USER, Served

Serve = Callable[..., Served]
ONE = json.dumps(USER)


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a home whose broker the test may start, freeze and end."""
    settings = Settings.load({"PLATFORM_HOME": str(tmp_path / "home")}, root=tmp_path)
    yield settings
    broker.stop(settings.home)


def until(condition: Callable[[], bool], timeout: float = 20) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_ready(served: Served) -> bool:
    """Whether the API says that it would take a record."""
    return served.http.get("/readyz").status_code == 200


@contextmanager
def frozen(settings: Settings) -> Iterator[None]:
    """The broker accepts connections, and answers nothing."""
    address = broker.address(settings.home)
    assert address is not None
    os.kill(address.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(address.pid, signal.SIGCONT)


def test_api_starts_without_kafka(serve: Serve, own_broker: Settings) -> None:
    """It is alive and not ready; records get 503, rejected ones 422 all the same."""
    served = serve(own_broker)
    assert served.http.get("/healthz").status_code == 200
    ready = served.http.get("/readyz")
    assert ready.status_code == 503
    assert "broker" in ready.json()["problem"]
    answer = served.records("recomart_users", ONE)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert served.records("recomart_users", "{}").status_code == 422
    assert served.api.counters.by_outcome()["failed"]["recomart_users"] == 1


def test_api_finds_broker_at_new_address(serve: Serve, own_broker: Settings) -> None:
    """Records are taken again after the broker was away, at another address too."""
    broker.start(own_broker.home)
    served = serve(own_broker)
    assert served.records("recomart_users", ONE).status_code == 201
    broker.stop(own_broker.home)
    until(lambda: not is_ready(served))
    assert served.records("recomart_users", ONE).status_code == 503
    broker.start(own_broker.home)
    until(lambda: is_ready(served))
    assert served.records("recomart_users", ONE).status_code == 201
    assert len(served.sent("recomart_users")) == 1


def test_unresponsive_broker_gives_503_in_time(serve: Serve, own_broker: Settings) -> None:
    """No 2xx for what was not acknowledged, and no request waits beyond the settings."""
    broker.start(own_broker.home)
    served = serve(own_broker, ack_seconds=1)
    assert served.records("recomart_users", ONE).status_code == 201
    with frozen(own_broker), ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        posts = [pool.submit(served.records, "recomart_users", f"[{ONE},{ONE}]") for _ in range(4)]
        answers = [post.result() for post in posts]
        assert time.monotonic() - began < 10
    for answer in answers:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        results = answer.json().get("results", [])
        assert all(result["status"] == "failed" for result in results)
    until(lambda: is_ready(served))
    assert served.records("recomart_users", ONE).status_code == 201
    assert served.api.counters.by_outcome()["accepted"]["recomart_users"] == 2


def test_full_queue_gives_503(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-pressure: what does not fit into the queue is rejected before any of it is sent."""
    monkeypatch.setattr("ingestion_platform.http_api.publish._QUEUE", 3)
    served = serve()
    answer = served.records("recomart_users", f"[{','.join([ONE] * 4)}]")
    assert answer.status_code == 503
    assert "queue" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    assert served.sent("recomart_users") == []
    assert served.records("recomart_users", ONE).status_code == 201


def test_unexpected_error_hides_its_message(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 tells the kind of error only: what it says may hold a secret."""

    async def failing(*_: object) -> None:
        raise ValueError("password")

    monkeypatch.setattr(served.api, "validate", failing)
    answer = served.records("recomart_users", ONE)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "password" not in answer.text
