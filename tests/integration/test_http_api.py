"""The HTTP API as a process: under load while Kafka comes and goes, on SIGTERM, and with clients
that are slow or endless.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ingestion_platform.kafka import broker
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams
from services import Services
from tests.support.api_process import ApiProcess, answers, api_process, until
from tests.support.oracle import read_table, read_topic

USERS = "/v1/streams/recomart_users/records"
SIZE = 50  # users of a batch, every tenth of them bad
PATIENCE = 120.0


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Services]:
    """A Kafka of the test's own, to kill and to freeze."""
    services = Services(tmp_path / "kafka")
    try:
        services.up(["kafka"])
        yield services
    finally:
        services.down(purge=True)


@pytest.fixture
def api(embedded_settings: Settings, tmp_path: Path) -> Iterator[ApiProcess]:
    """An API in front of the embedded broker, with small limits."""
    environment = {
        "PLATFORM_HOME": str(embedded_settings.home),
        "HTTP_API_MAX_BODY_BYTES": "100000",
        "HTTP_API_BODY_SECONDS": "1",
    }
    with api_process(environment, tmp_path) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Settings]:
    """An embedded broker of the test's own, to freeze."""
    found = Settings.load({"PLATFORM_HOME": str(tmp_path / "home")}, root=tmp_path)
    broker.start(found.home)
    yield found
    broker.stop(found.home)


def user(number: int, *, bad: bool = False) -> dict[str, Any]:
    """A user of that id."""
    return {"user_id": number, "age": -1 if bad else 30, "gender": "F", "device": "Tablet"}


@dataclass
class Told:
    """What the API said of each user id, the last time it was asked."""

    accepted: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, numbers: range, answer: httpx2.Response) -> None:
        """Take an answer to a batch of these users."""
        results = answer.json().get("results")
        with self.lock:
            self.statuses[answer.status_code] += 1
            self.unknown |= set(numbers)
            for result in results or ():
                number = numbers[result["index"]]
                if result["status"] == "failed":
                    continue
                self.unknown.discard(number)
                kept = self.accepted if result["status"] == "accepted" else self.rejected
                kept.add(number)


def load(api: ApiProcess, told: Told, writer: int, batches: int, *, retry: bool) -> None:
    """Send batches one after the other; with `retry`, each again until it is final."""
    with api.client() as client:
        for batch in range(batches):
            first = (writer * batches + batch) * SIZE
            numbers = range(first, first + SIZE)
            body = json.dumps([user(n, bad=n % 10 == 3) for n in numbers])
            headers = {"content-type": "application/json", "idempotency-key": str(uuid.uuid4())}
            deadline = time.monotonic() + PATIENCE
            while True:
                answer = client.post(USERS, content=body, headers=headers)
                told.note(numbers, answer)
                if answer.status_code != 503 or not retry:
                    break
                assert int(answer.headers["retry-after"]) >= 1
                assert time.monotonic() < deadline
                time.sleep(0.2)


@contextmanager
def loaded(
    api: ApiProcess, told: Told, writers: int, batches: int, *, retry: bool
) -> Iterator[None]:
    """Writers at work while the block runs; waits for their end."""
    with ThreadPoolExecutor(writers) as pool:
        work = [
            pool.submit(load, api, told, writer, batches, retry=retry) for writer in range(writers)
        ]
        yield
        for future in work:
            future.result()


def progressed(told: Told, count: int) -> bool:
    """Whether that many users are accepted."""
    with told.lock:
        return len(told.accepted) >= count


def ids_in_topic(found: Settings, stream: Stream) -> Counter[int]:
    """How often each user stands in the topic, read by a consumer of the test's own."""
    values = (record.value for record in read_topic(found, stream.topic).values())
    return Counter(json.loads(value)["user_id"] for value in values if value)


def ids_in_bronze(found: Settings, stream: Stream) -> Counter[int]:
    """How often each user stands in bronze, after a run that the reconciliation confirms."""
    platform = Platform(found)
    run_stream(platform, stream)
    assert verify_stream(platform, stream).ok
    return Counter(read_table(found, stream.bronze_table)["user_id"].to_pylist())


@pytest.mark.fault("api", "Kafka is killed under load, and clients repeat")
@pytest.mark.services
@pytest.mark.slow
def test_every_acknowledged_record_is_in_bronze_once_when_kafka_is_killed(
    kafka: Services, tmp_path: Path
) -> None:
    """Kafka is killed and started again under load, and clients repeat what got 503 under its
    Idempotency-Key: in the end every good user is accepted and in bronze exactly once."""
    environment = kafka.env() | {"PLATFORM_HOME": str(tmp_path / "home")}
    environment["HTTP_API_ACK_SECONDS"] = "60"  # longer than Kafka is ever away here
    found = Settings.load(environment, root=tmp_path)
    stream, told, writers, batches = declared_streams()["recomart_users"], Told(), 4, 150
    with (
        api_process(environment, tmp_path) as api,
        loaded(api, told, writers, batches, retry=True),
    ):
        for wanted in (3000, 12_000):
            until(partial(progressed, told, wanted))
            kafka.kill("kafka")
            until(lambda: not answers(api, "/readyz"))
            kafka.start("kafka")
    numbers = set(range(writers * batches * SIZE))
    bad = {n for n in numbers if n % 10 == 3}
    assert (told.rejected, told.accepted) == (bad, numbers - bad)
    assert ids_in_topic(found, stream) == Counter(numbers - bad)
    assert ids_in_bronze(found, stream) == Counter(numbers - bad)


@pytest.mark.fault("api", "Kafka stops under load, and no client retries")
@pytest.mark.services
@pytest.mark.slow
def test_no_record_is_acknowledged_that_kafka_does_not_have(
    kafka: Services, tmp_path: Path
) -> None:
    """Kafka is frozen for longer than the API waits, and no client retries: what got 2xx
    is there once, what was rejected is not, and what got 503 is there at most once."""
    environment = kafka.env() | {"PLATFORM_HOME": str(tmp_path / "home")}
    environment["HTTP_API_ACK_SECONDS"] = "2"
    found = Settings.load(environment, root=tmp_path)
    stream, told, writers, batches = declared_streams()["recomart_users"], Told(), 4, 300
    process = next(s for s in kafka.status() if s.name == "kafka")
    assert process.pid is not None
    with (
        api_process(environment, tmp_path) as api,
        loaded(api, told, writers, batches, retry=False),
    ):
        until(lambda: progressed(told, 2000))
        os.kill(process.pid, signal.SIGSTOP)
        try:
            until(lambda: told.statuses[503] >= 20)
        finally:
            os.kill(process.pid, signal.SIGCONT)
    assert told.unknown
    assert told.statuses[201] == 0  # each batch has bad ones
    topic, bronze = ids_in_topic(found, stream), ids_in_bronze(found, stream)
    assert topic == bronze
    assert {n for n in told.accepted if bronze[n] != 1} == set()
    assert told.rejected.isdisjoint(bronze)
    assert {n for n in told.unknown if bronze[n] > 1} == set()
    assert set(bronze) <= told.accepted | told.unknown


@pytest.mark.fault("api", "SIGTERM while requests wait for Kafka")
def test_sigterm_finishes_what_was_begun(own_broker: Settings, tmp_path: Path) -> None:
    """Requests in progress are answered by what Kafka says, no new ones are taken, and the process
    ends with 0."""
    address = broker.address(own_broker.home)
    assert address is not None
    with (
        api_process({"PLATFORM_HOME": str(own_broker.home)}, tmp_path) as api,
        ThreadPoolExecutor(5) as pool,
    ):
        with api.client() as client:
            assert client.post("/users", json=user(0)).status_code == 201
        os.kill(address.pid, signal.SIGSTOP)
        try:
            posts = [
                pool.submit(httpx2.post, f"{api.url}/users", json=user(n), timeout=60)
                for n in range(1, 6)
            ]
            until(lambda: httpx2.get(f"{api.url}/readyz").json()["in_progress"] == 5)
            api.terminate()
            until(lambda: refuses_connections(api))
            assert api.process.poll() is None
        finally:
            os.kill(address.pid, signal.SIGCONT)
        assert [post.result().status_code for post in posts] == [201] * 5
        assert api.process.wait(30) == 0
    assert "Traceback" not in api.log.read_text()


def refuses_connections(api: ApiProcess) -> bool:
    """Whether nobody listens any more."""
    try:
        socket.create_connection(("127.0.0.1", api.port), timeout=2).close()
    except OSError:
        return True
    return False


def test_a_body_that_trickles_is_answered_408(api: ApiProcess) -> None:
    """A slow client loses its connection after the time for bodies, and others do not notice."""
    with socket.create_connection(("127.0.0.1", api.port)) as segment:
        head = "POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        segment.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        began = time.monotonic()
        with api.client() as client:
            assert client.post("/users", json=user(1)).status_code == 201
        segment.settimeout(20)
        answer = received(segment)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    assert 0.9 < time.monotonic() - began < 10


def test_a_client_that_leaves_is_no_failure(api: ApiProcess) -> None:
    """A connection that ends within a body leaves no trace but its line in the access log."""
    with socket.create_connection(("127.0.0.1", api.port)) as segment:
        segment.sendall(b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    until(lambda: "POST /users " in api.log.read_text())
    assert "Traceback" not in api.log.read_text()


def received(segment: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    while piece := segment.recv(10_000):
        found += piece
    return found


def test_an_endless_chunked_body_is_cut_off(api: ApiProcess) -> None:
    """413 as soon as the limit is passed, and the connection is closed."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 200_000_000:
            sent += 10_000
            yield b" " * 10_000

    with api.client() as client:
        try:
            answer = client.post("/users", content=endless())
        except httpx2.TransportError:  # closed while the client still wrote
            pass
        else:
            assert answer.status_code == 413
        assert sent < 50_000_000
        assert client.get("/health").status_code == 200
