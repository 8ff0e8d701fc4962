"""Idempotency-Key: the same request sent again is answered again, and not done twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ingestion_platform.http_api.idempotency import Answer, AnswerCache, Done
from ingestion_platform.http_api.problems import Problem
from ingestion_platform.http_api.publish import Delivered, Failed, Outcome
from tests.support.api_lab import USER, Served

NAME = ("shop", "/users", "key")
BATCH = json.dumps([USER | {"user_id": i} for i in range(10)])


def answer(status: int = 201, *, final: bool = True, body: bytes = b"{}") -> Answer:
    """An answer of work."""
    return Answer(status, body, "application/json", {}, final)


def test_retry_repeats_answer_and_sends_nothing(served: Served) -> None:
    """Status and body are equal, the answer says it is a replay, and the topic has one batch."""
    first = served.records("recomart_users", BATCH, idempotency_key="k-1")
    again = served.records("recomart_users", BATCH, idempotency_key="k-1")
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    messages = served.sent("recomart_users")
    assert len(messages) == 10
    assert {dict(m.headers() or [])["idempotency-key"] for m in messages} == {b"k-1"}
    other = served.records("recomart_users", BATCH, idempotency_key="k-2")
    assert other.status_code == 201
    assert len(served.sent("recomart_users")) == 20


def test_rejection_is_repeated(served: Served) -> None:
    """The same bad record under the same key is counted once."""
    bad = json.dumps(USER | {"age": -1})
    answers = [served.records("recomart_users", bad, idempotency_key="k") for _ in range(3)]
    assert {a.status_code for a in answers} == {422}
    assert served.api.counters.by_outcome()["rejected"]["recomart_users"] == 1


def test_key_with_another_body_is_rejected(served: Served) -> None:
    """422: the key belongs to another request; what came first stays as it is."""
    served.records("recomart_users", BATCH, idempotency_key="k")
    for body, kind in ((BATCH + " ", "application/json"), (BATCH, "application/jsonl")):
        wrong = served.records("recomart_users", body, kind, idempotency_key="k")
        assert wrong.status_code == 422
        assert wrong.json()["type"].endswith("key-reused")
    assert len(served.sent("recomart_users")) == 10


def test_paths_do_not_share_keys(served: Served) -> None:
    """The same key on another stream is another request."""
    one = json.dumps(USER)
    assert served.records("recomart_users", one, idempotency_key="k").status_code == 201
    user = served.http.post("/users", content=one, headers={"idempotency-key": "k"})
    assert user.status_code == 201
    assert len(served.sent("recomart_users")) == 2


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_malformed_key_is_rejected(served: Served, key: str) -> None:
    """400, and nothing is sent."""
    assert served.records("recomart_users", BATCH, idempotency_key=key).status_code == 400
    assert served.sent("recomart_users") == []


def test_retry_sends_unacknowledged_records_only(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a batch that was acknowledged in part, the rest is sent, once."""
    publisher = served.api.publisher
    send = publisher.send

    async def losing(topic: str, records: Any) -> list[Outcome]:
        outcomes = await send(topic, records[:6])
        return [*outcomes, *[Failed("timed out")] * (len(records) - 6)]

    monkeypatch.setattr(publisher, "send", losing)
    first = served.records("recomart_users", BATCH, idempotency_key="k")
    assert first.status_code == 503
    assert int(first.headers["retry-after"]) >= 1
    statuses = [r["status"] for r in first.json()["results"]]
    assert statuses == ["accepted"] * 6 + ["failed"] * 4
    monkeypatch.setattr(publisher, "send", send)
    again = served.records("recomart_users", BATCH, idempotency_key="k")
    assert again.status_code == 201
    assert again.json()["results"][:6] == first.json()["results"][:6]
    users = [json.loads(m.value())["user_id"] for m in served.sent("recomart_users")]
    assert sorted(users) == list(range(10))
    assert served.api.counters.by_outcome()["accepted"]["recomart_users"] == 10


def test_concurrent_requests_do_work_once() -> None:
    """The second waits for the first, and a client that leaves does not undo it."""

    async def run() -> None:
        memory, go, calls = AnswerCache(60, 10_000), asyncio.Event(), 0

        async def work(_: Done) -> Answer:
            nonlocal calls
            calls += 1
            await go.wait()
            return answer()

        first = asyncio.ensure_future(memory.once(NAME, b"f", work))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(memory.once(NAME, b"f", work))
        await asyncio.sleep(0)
        first.cancel()
        go.set()
        assert await second == (answer(), True)
        assert await memory.once(NAME, b"f", work) == (answer(), True)
        assert calls == 1

    asyncio.run(run())


def test_transient_answer_is_not_stored() -> None:
    """What could not be done is done by the next request, with what was delivered before."""

    async def run() -> None:
        memory, seen = AnswerCache(60, 10_000), []

        async def work(done: Done) -> Answer:
            seen.append(dict(done))
            done[len(seen)] = Delivered(0, len(seen))
            return answer(503, final=False) if len(seen) < 3 else answer()

        statuses = [(await memory.once(NAME, b"f", work))[0].status for _ in range(4)]
        assert statuses == [503, 503, 201, 201]
        assert [sorted(done) for done in seen] == [[], [1], [1, 2]]

    asyncio.run(run())


def test_error_is_not_stored() -> None:
    """A request that failed as a whole may come again under its key."""

    async def run() -> None:
        memory = AnswerCache(60, 10_000)

        async def failing(_: Done) -> Answer:
            raise Problem("unavailable", "away")

        async def work(_: Done) -> Answer:
            return answer()

        with pytest.raises(Problem):
            await memory.once(NAME, b"f", failing)
        assert await memory.once(NAME, b"other", work) == (answer(), False)

    asyncio.run(run())


def test_answers_are_bounded_in_time_and_size() -> None:
    """Answers are forgotten when they are old, and the oldest first when there are too many."""

    async def run() -> None:
        now = 0.0
        memory, done = AnswerCache(10, 100_000, clock=lambda: now), 0

        async def work(_: Done) -> Answer:
            nonlocal done
            done += 1
            return answer(body=b"x" * 1000)

        async def once(key: int) -> bool:
            return (await memory.once(("a", "/", str(key)), b"f", work))[1]

        for key in range(1000):
            assert not await once(key)
        assert await once(999)
        assert not await once(0)
        now = 11.0
        assert not await once(999)

    asyncio.run(run())
