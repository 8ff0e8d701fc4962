"""A source process under clients that mean harm: raw bytes over sockets of the test's own."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from ingestion_platform.http_api.limits import key_hash
from ingestion_platform.settings import Settings
from tests.support.api_process import ApiProcess, api_process, until

FORGED = "forged-line"
BREAKS = ("\r\n", "\n", "\r", "\v", "\f", "\x1b[2J\n", "\x85", "\u2028", "\u2029", "\0", "\x9b")


def exchange(file_source: ApiProcess, request: bytes) -> bytes:
    """Send bytes, close the sending side, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", file_source.port), timeout=30) as segment:
        segment.sendall(request)
        segment.shutdown(socket.SHUT_WR)
        return received(segment)


def received(segment: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    while piece := segment.recv(65_536):
        found += piece
    return found


@pytest.fixture(params=["console", "json"])
def logging_door(
    request: pytest.FixtureRequest, embedded_settings: Settings, tmp_path: Path
) -> Iterator[ApiProcess]:
    """A source whose log has one of the two formats."""
    home = embedded_settings.home
    environment = {"PLATFORM_HOME": str(home), "LOG_FORMAT": request.param}
    with api_process(environment, tmp_path) as running:
        yield running


def test_no_request_forges_log_lines(logging_door: ApiProcess) -> None:
    """Line ends of any kind, in path, query, method, headers and request id."""
    texts = [f"{each}2026-11-20 10:00:00 INFO {FORGED}" for each in BREAKS]
    for text in texts:
        path = quote(f"/{text}")
        exchange(logging_door, f"GET {path}?{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        raw = text.encode()
        head = b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        for name in (b"X-Request-ID", b"Content-Type", b"X-Api-Key", b"Content-Encoding"):
            exchange(logging_door, head + name + b": a" + raw + b"\r\n\r\n{}")
        exchange(logging_door, b"G" + raw + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        exchange(logging_door, b"GET /\xff" + raw + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    exchange(logging_door, b"GET /the-end HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: "/the-end" in logging_door.log.read_text())
    written = logging_door.log.read_bytes()
    lines = written.decode().splitlines()
    assert lines == written.decode().rstrip("\n").split("\n")
    for line in lines:
        if line.startswith("{"):
            json.loads(line)
        else:
            assert not line.partition(" INFO ")[2].startswith(FORGED)
            assert not line.startswith(FORGED)
    assert FORGED in written.decode()


LIMITS = {
    "HTTP_API_ADDRESS_CONNECTIONS": "60",
    "HTTP_API_MAX_CONNECTIONS": "200",
    "HTTP_API_CLIENT_REQUESTS": "4",
    "HTTP_API_ADDRESS_REQUESTS": "6",
    "HTTP_API_WRITE_SECONDS": "1",
    "HTTP_API_RATE_ANONYMOUS": "100",
    # Slow bodies last as long as a test needs them, on a busy machine too.
    "HTTP_API_BODY_RATE": "0",
    "HTTP_API_BODY_SECONDS": "300",
    "HTTP_API_TRUSTED_PROXIES": "127.0.0.2",
}
SHOP, OTHER = "ik_shop", "ik_other"
USER = {"user_id": 1, "age": 30, "gender": "F", "device": "Tablet"}


@pytest.fixture(scope="module")
def limited_door(_embedded_home: Path, tmp_path_factory: Any) -> Iterator[ApiProcess]:
    """A source with two clients, and small shares."""
    keys = ",".join(f"{key[3:]}:{key_hash(key)}" for key in (SHOP, OTHER))
    environment = {
        "PLATFORM_HOME": str(_embedded_home),
        "HTTP_API_AUTH": "on",
        "HTTP_API_KEYS": keys,
        **LIMITS,
    }
    with api_process(environment, tmp_path_factory.mktemp("file_source")) as running:
        yield running


def connected(file_source: ApiProcess, source: str = "127.0.0.1", **how: int) -> socket.socket:
    """A connection from an address of this machine; `receive` bytes are buffered of answers."""
    segment = socket.socket()
    if "receive" in how:
        segment.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, how["receive"])
    segment.bind((source, 0))
    segment.settimeout(30)
    segment.connect(("127.0.0.1", file_source.port))
    return segment


def post_user(file_source: ApiProcess, key: str) -> int:
    """The status that a client gets for a good record, from an address of its own."""
    transport = httpx2.HTTPTransport(local_address="127.0.0.9")
    with httpx2.Client(transport=transport, timeout=30) as client:
        answer = client.post(f"{file_source.url}/users", json=USER, headers={"x-api-key": key})
        return int(answer.status_code)


def slow_body(file_source: ApiProcess, key: str, source: str, *more: str) -> socket.socket:
    """A request whose body has begun and does not go on."""
    segment = connected(file_source, source)
    lines = ("POST /users HTTP/1.1", "Host: x", f"X-API-Key: {key}", "Content-Length: 500", *more)
    segment.sendall("\r\n".join([*lines, "", "{"]).encode())
    return segment


def status_of(answer: bytes) -> int:
    """The status of an answer."""
    return int(answer.split(b" ", 2)[1])


def in_progress(file_source: ApiProcess) -> int:
    """Requests that hold a place."""
    return int(httpx2.get(f"{file_source.url}/readyz", timeout=30).json()["in_progress"])


MALFORMED = {
    "request line": (b"nonsense\r\n\r\n", 400),
    "version": (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "binary": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "header line": (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
    "header name": (b"GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                    b"Content-Length: 2\r\n\r\n{}", 400),
    "length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "coding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "endless header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 100_000, 431),
    "endless line": (b"GET /" + b"x" * 100_000, 431),
    "chunk": (b"POST /users HTTP/1.1\r\nHost: x\r\nX-API-Key: ik_shop\r\n"
              b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", 400),
    "late chunk": (b"POST /users HTTP/1.1\r\nHost: x\r\nX-API-Key: ik_shop\r\n"
                   b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_unreadable_requests_are_problems(limited_door: ApiProcess, name: str) -> None:
    """The parser's errors look like all others, with an id that the log has, too."""
    request, status = MALFORMED[name]
    head, _, body = exchange(limited_door, request).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert first.startswith(f"HTTP/1.1 {status} ")
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert json.loads(body)["status"] == status
    found = headers["x-request-id"]
    until(lambda: found in limited_door.log.read_text())
    (line,) = [each for each in limited_door.log.read_text().splitlines() if found in each]
    assert f"status={status}" in line or f" {status} " in line
    assert "Traceback" not in limited_door.log.read_text()


def test_slow_bodies_leave_places_to_others(limited_door: ApiProcess) -> None:
    """A client has its share of places and no more, however many requests it begins."""
    with ExitStack() as stack:
        slow = [
            stack.enter_context(slow_body(limited_door, SHOP, f"127.0.1.{n % 8}"))
            for n in range(20)
        ]
        until(lambda: in_progress(limited_door) == 4)
        assert post_user(limited_door, OTHER) == 201
        assert post_user(limited_door, SHOP) == 429
        rejected = [segment for segment in slow if _answered(segment)]
        assert len(rejected) == 16
    until(lambda: in_progress(limited_door) == 0)
    assert post_user(limited_door, SHOP) == 201


def _answered(segment: socket.socket) -> bool:
    """Whether an answer is there, which must be 429."""
    segment.settimeout(0.05)
    try:
        answer = segment.recv(10_000)
    except TimeoutError:
        return False
    assert status_of(answer) == 429
    return True


def test_address_has_share_of_all_keys(limited_door: ApiProcess) -> None:
    """Several keys at one address are not several shares of it."""
    with ExitStack() as stack:
        for key in (SHOP, OTHER) * 4:
            stack.enter_context(slow_body(limited_door, key, "127.0.2.1"))
        until(lambda: in_progress(limited_door) == 6)
        assert post_user(limited_door, OTHER) == 201
    until(lambda: in_progress(limited_door) == 0)


def test_trusted_proxy_names_addresses(limited_door: ApiProcess) -> None:
    """Behind it each client has shares of its own; from elsewhere the header is ignored."""
    forwarded = [f"X-Forwarded-For: 203.0.113.{n // 3}" for n in range(12)]
    for source, places in (("127.0.0.2", 8), ("127.0.0.3", 6)):
        with ExitStack() as stack:
            for n, header in enumerate(forwarded):
                segment = slow_body(limited_door, (SHOP, OTHER)[n % 2], source, header)
                stack.enter_context(segment)
            until(lambda wanted=places: in_progress(limited_door) == wanted)  # type: ignore[misc]
        until(lambda: in_progress(limited_door) == 0)


def test_connections_of_an_address_are_bounded(limited_door: ApiProcess) -> None:
    """What is above the share is answered 429 and closed; other addresses get in."""
    with ExitStack() as stack:
        segments = [
            stack.enter_context(connected(limited_door, "127.0.3.1"))
            for _ in range(int(LIMITS["HTTP_API_ADDRESS_CONNECTIONS"]) + 5)
        ]
        for segment in segments[-5:]:
            answer = received(segment)
            assert status_of(answer) == 429
            assert b"problem+json" in answer
        assert post_user(limited_door, SHOP) == 201


def test_readers_that_never_read_are_disconnected(limited_door: ApiProcess) -> None:
    """Pipelined requests for a large document, unread: the others are served meanwhile, and
    each connection ends."""
    request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        segments = [
            stack.enter_context(connected(limited_door, "127.0.4.1", receive=4096))
            for _ in range(50)
        ]
        for segment in segments:
            segment.sendall(request * 100)
        began = time.monotonic()
        assert post_user(limited_door, SHOP) == 201
        assert time.monotonic() - began < 30
        until(lambda: all(_reset(segment) for segment in segments), "a connection is still open")


def _reset(segment: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    segment.settimeout(0.01)
    try:
        segment.send(b"\r\n")
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def test_small_answers_unread_are_disconnected(limited_door: ApiProcess) -> None:
    """Answers that fit the server's own buffers hold no connection either."""
    with connected(limited_door, "127.0.5.1", receive=2048) as segment:
        segment.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        until(lambda: _reset(segment), "the connection is still open")


def test_requests_without_key_have_a_rate(limited_door: ApiProcess) -> None:
    """Above it they get 429 and lose what they have sent ahead; clients notice nothing."""
    request = b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    with connected(limited_door, "127.0.6.1") as segment:
        answer = b""
        # The connection ends while requests are unread: what was on the way may be lost.
        with suppress(ConnectionError):
            segment.sendall(request * 5000)
            while piece := segment.recv(100_000):
                answer += piece
    assert answer.count(b"HTTP/1.1 401 ") < 5000
    assert answer.count(b"HTTP/1.1 429 ") <= 1
    until(lambda: " 429" in limited_door.log.read_text())
    assert post_user(limited_door, SHOP) == 201


@pytest.mark.slow
def test_trickling_headers_are_given_up(limited_door: ApiProcess) -> None:
    """408 ten seconds after the connection, whatever comes meanwhile."""
    with connected(limited_door, "127.0.7.1") as segment:
        began = time.monotonic()
        segment.sendall(b"GET / HTTP/1.1\r\n")
        while time.monotonic() - began < 4:
            segment.sendall(b"X: y\r\n")
            time.sleep(0.5)
        answer = received(segment)
    assert status_of(answer) == 408
    assert b"slow-request" in answer
    assert 8 < time.monotonic() - began < 60
