"""Limits: nobody sends more, deeper, faster or slower than the settings allow."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import thread_time
from typing import Any

import pyarrow as pa
import pytest
from httpx2 import Response
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.http_api import body as body_module
from ingestion_platform.http_api.body import check_depth, decompressed, read_body
from ingestion_platform.http_api.limits import ConcurrencyLimit, RateLimit, network_of
from ingestion_platform.http_api.problems import Problem
from tests.support.api_lab import USER, Served

Serve = Callable[..., Served]
ONE = json.dumps(USER)


def is_problem(answer: Response, status: int) -> dict[str, Any]:
    """The problem that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    return problem


def pieces(size: int, count: int) -> Iterator[bytes]:
    """A body of which nobody says beforehand how long it is."""
    for _ in range(count):
        yield b" " * size


def test_body_above_limit_is_rejected(serve: Serve) -> None:
    """By its Content-Length, and as it arrives when it has none."""
    served = serve(max_body_bytes=1000)
    is_problem(served.records("recomart_users", " " * 1001), 413)
    is_problem(served.records("recomart_users", pieces(100, 1000)), 413)
    assert served.records("recomart_users", ONE).status_code == 201
    assert len(served.sent("recomart_users")) == 1


def test_oversize_body_is_not_read_to_end() -> None:
    """What is held is bounded, however much a client is willing to send."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 100

    with pytest.raises(Problem) as caught:
        asyncio.run(read_body(endless(), length=None, limit=1000, seconds=5))
    assert caught.value.status == 413
    assert read == 11


def test_slow_body_is_rejected() -> None:
    """A body that trickles in does not keep its place for ever."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    with pytest.raises(Problem) as caught:
        asyncio.run(read_body(slow(), length=None, limit=1000, seconds=0.05))
    assert caught.value.status == 408
    assert caught.value.headers == {"Connection": "close"}


def test_too_many_records_are_rejected(serve: Serve) -> None:
    """A batch above the limit is rejected as a whole."""
    served = serve(max_records=3)
    is_problem(served.records("recomart_users", f"[{','.join([ONE] * 4)}]"), 413)
    assert served.records("recomart_users", f"[{','.join([ONE] * 3)}]").status_code == 201
    assert len(served.sent("recomart_users")) == 3


def test_record_above_kafka_limit_is_rejected_alone(serve: Serve) -> None:
    """It can never be delivered: the answer says so, instead of asking to try again."""
    served = serve()
    large = json.dumps(USER | {"more": "x" * 1_100_000})
    answer = served.records("recomart_users", f"[{ONE},{large}]")
    assert answer.status_code == 207
    told = answer.json()
    assert [r["status"] for r in told["results"]] == ["accepted", "rejected"]
    assert (told["accepted"], told["rejected"], told["failed"]) == (1, 1, 0)
    is_problem(served.records("recomart_users", large), 413)
    user = served.http.post("/users", content=large, headers={"content-type": "application/json"})
    is_problem(user, 413)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_compressed_bodies(served: Served, coding: str) -> None:
    """The record arrives as it was before compression."""
    pack = gzip.compress(ONE.encode()) if coding == "gzip" else zstd(ONE.encode())
    answer = served.records("recomart_users", pack, content_encoding=coding)
    assert answer.status_code == 201
    (message,) = served.sent("recomart_users")
    assert message.value() == ONE.encode()


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_decompression_bomb_is_rejected(serve: Serve, coding: str) -> None:
    """A small body of enormous content stops at the limit."""
    served = serve(max_body_bytes=1_000_000)
    content = b" " * 300_000_000
    bomb = gzip.compress(content) if coding == "gzip" else zstd(content)
    assert len(bomb) < 1_000_000
    is_problem(served.records("recomart_users", bomb, content_encoding=coding), 413)


def test_decompression_stops_at_the_limit() -> None:
    """AnswerCache grows with the limit, not with the bomb."""
    bomb = gzip.compress(b"\0" * 200_000_000)
    before = pa.total_allocated_bytes()
    with pytest.raises(Problem):
        decompressed(bomb, "gzip", 1000)
    assert pa.total_allocated_bytes() - before < 10_000_000


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (b"plain", "gzip", 400),
        (b"plain", "zstd", 400),
        (gzip.compress(b"{}" * 1000, mtime=0)[:-9], "gzip", 400),
        (b"{}", "br", 415),
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "gzip, gzip", 415),
    ],
)
def test_damaged_or_unknown_codings(served: Served, body: bytes, coding: str, status: int) -> None:
    """A body that cannot be decompressed is a problem, not a failure."""
    is_problem(served.records("recomart_users", body, content_encoding=coding), status)


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        "[" * 33 + "]" * 33,
    ],
)
def test_deep_nesting_is_rejected(served: Served, body: str) -> None:
    """A body of many levels is rejected before anything tries to read it."""
    is_problem(served.records("recomart_users", body), 413)


json_values = st.recursive(
    st.none() | st.integers() | st.text('[]{}"\\a', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def depth(value: Any) -> int:
    """Levels of objects and arrays."""
    if isinstance(value, dict | list):
        members = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, members), default=0)
    return 0


@given(json_values, st.integers(1, 5))
def test_depth_equals_nesting(value: Any, limit: int) -> None:
    """Brackets in strings do not count, however strings are escaped."""
    body = json.dumps(value, ensure_ascii=False).encode()
    if depth(value) > limit:
        with pytest.raises(Problem):
            check_depth(body, limit)
    else:
        check_depth(body, limit)


@pytest.mark.parametrize(("start", "repeated"), [(b'"', b'\\"'), (b"", b'""'), (b"", b"[]")])
def test_checking_depth_takes_linear_time(start: bytes, repeated: bytes) -> None:
    """Strings that never end, or end often: ten times the body takes about ten times as long."""

    def seconds(count: int) -> float:
        began = thread_time()
        check_depth(start + repeated * count, 32)
        return thread_time() - began

    assert seconds(4_000_000) < 40 * max(seconds(400_000), 0.005)


def test_client_rate_is_limited(serve: Serve) -> None:
    """429 with Retry-After once its records are used up; nothing of the batch is sent."""
    served = serve(rate_records=10, max_records=20)
    assert served.records("recomart_users", f"[{','.join([ONE] * 20)}]").status_code == 201
    answer = served.records("recomart_users", f"[{','.join([ONE] * 20)}]")
    is_problem(answer, 429)
    assert 1 <= int(answer.headers["retry-after"]) <= 3
    assert len(served.sent("recomart_users")) == 20
    assert served.http.get("/health").status_code == 200


def test_rate_refills_with_time() -> None:
    """Tokens come back at the rate, up to the burst, for each client apart."""
    now = 0.0
    rate = RateLimit("records", 10, clock=lambda: now)
    rate.take("a", 20)
    with pytest.raises(Problem) as caught:
        rate.take("a", 5)
    assert caught.value.headers == {"Retry-After": "1"}
    rate.take("b", 20)
    now = 0.5
    rate.take("a", 5)
    with pytest.raises(Problem):
        rate.take("a", 1)
    now = 1000.0
    rate.take("a", 20)
    with pytest.raises(Problem):
        rate.take("a", 1)


def test_rate_allows_two_seconds_at_once(serve: Serve) -> None:
    """As HTTP_API_RATE_RECORDS says, whatever a request may hold; more can never pass: 413."""
    served = serve(rate_records=10, max_records=5000)
    assert served.records("recomart_users", f"[{','.join([ONE] * 20)}]").status_code == 201
    is_problem(served.records("recomart_users", f"[{','.join([ONE] * 20)}]"), 429)
    other = serve(rate_records=10, max_records=5000)
    is_problem(other.records("recomart_users", f"[{','.join([ONE] * 21)}]"), 413)
    assert other.sent("recomart_users") == []


def test_body_has_minimum_rate() -> None:
    """It is given up when it falls behind, long before its time is over."""

    async def crawling() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.02)

    async def read() -> float:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Problem) as caught:
            await read_body(crawling(), length=None, limit=10**6, seconds=60, rate=1e9)
        assert caught.value.status == 408
        return asyncio.get_running_loop().time() - began

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_module, "_START", 0.1)
        assert asyncio.run(read()) < 10


def test_slots_are_limited_and_released() -> None:
    """A holder has its share, all have the total, and exempt networks only the total."""
    shares = ConcurrencyLimit("connections", 2, total=4, exempt=["10.0.0.0/8"])
    for holder in ("192.0.2.1", "192.0.2.1"):
        shares.acquire(holder)
    with pytest.raises(Problem) as caught:
        shares.acquire("192.0.2.1")
    assert caught.value.status == 429
    shares.release("192.0.2.1")
    for _ in range(3):
        shares.acquire("10.1.2.3")
    with pytest.raises(Problem) as caught:
        shares.acquire("192.0.2.2")
    assert caught.value.status == 503
    shares.release("10.1.2.3")
    with shares.slot("192.0.2.2"), pytest.raises(Problem):
        shares.acquire("192.0.2.3")
    shares.acquire("192.0.2.3")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "unknown"),
        ("", "unknown"),
    ],
)
def test_slots_are_counted_by_network(address: str, network: str) -> None:
    """An IPv6 address counts as its /64 network."""
    assert network_of(address) == network


def test_zero_is_no_rate_limit() -> None:
    """A rate of 0 lets everything pass."""
    rate = RateLimit("records", 0)
    for _ in range(1000):
        rate.take("a", 1000)


def test_requests_in_progress_are_limited(serve: Serve) -> None:
    """Those beyond the limit are told to come again, and health is answered all the same."""
    served = serve(max_requests=2)
    waiting, go = [], asyncio.Event()
    validator = served.api.validate

    async def held(*arguments: Any) -> Any:
        waiting.append(1)
        await go.wait()
        return await validator(*arguments)

    served.api.validate = held  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        first = [pool.submit(served.records, "recomart_users", ONE) for _ in range(2)]
        while len(waiting) < 2:
            assert not any(future.done() for future in first)
        rejected = served.records("recomart_users", ONE)
        health = served.http.get("/readyz")
        assert served.http.portal is not None
        served.http.portal.call(go.set)
        assert [future.result().status_code for future in first] == [201, 201]
    is_problem(rejected, 503)
    assert int(rejected.headers["retry-after"]) >= 1
    assert health.json()["in_progress"] == 2
    assert served.records("recomart_users", ONE).status_code == 201


def zstd(content: bytes) -> bytes:
    """Compressed in one frame."""
    return bytes(pa.compress(content, "zstd", asbytes=True))
