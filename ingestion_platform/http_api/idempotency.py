"""The memory behind Idempotency-Key: a request sent again is answered, not done, again.

It lives in one process and is bounded in time and size: a retry that reaches another process, or
comes after a restart, is a new request.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ingestion_platform.http_api.problems import Problem
from ingestion_platform.http_api.publish import Delivered

Name = tuple[str, str, str]
"""Client, path and key: one client cannot see, or spoil, another's."""
Done = dict[int, Delivered]
"""The records of a request that Kafka has, by their index."""

_OVERHEAD = 500  # bytes that an entry takes beside its answer, about
_PER_RECORD = 150  # bytes that a remembered delivery takes, about


class Answer(NamedTuple):
    """What was answered; `final` when doing the same again could not change it."""

    status: int
    body: bytes
    media_type: str
    headers: dict[str, str]
    final: bool


@dataclass
class _Entry:
    fingerprint: bytes
    at: float
    done: Done = field(default_factory=dict)
    answer: Answer | None = None
    work: asyncio.Task[Answer] | None = None
    size: int = _OVERHEAD

    def measured(self) -> int:
        body = len(self.answer.body) if self.answer else 0
        return _OVERHEAD + body + _PER_RECORD * len(self.done)


class Memory:
    """Remembers answers for `seconds`, and no more than `size` bytes of them. For one loop."""

    def __init__(
        self, seconds: float, size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds, self._limit, self._clock = seconds, size, clock
        self._entries: OrderedDict[Name, _Entry] = OrderedDict()
        self._size = 0

    async def once(
        self, name: Name, fingerprint: bytes, work: Callable[[Done], Awaitable[Answer]]
    ) -> tuple[Answer, bool]:
        """The answer of `work`, done now or before; and whether it was before.

        `work` is given what an earlier attempt has delivered, and adds what it delivers. Of two
        requests at once, the second waits for the first. An answer that is not final is not
        kept: the next request does what is left.

        Raises:
            Problem: another request had the same name.
        """
        self._forget()
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(fingerprint, self._clock())
            self._size += entry.size
        if entry.fingerprint != fingerprint:
            raise Problem(
                "key-reused",
                "this Idempotency-Key came before, with another body or content type",
                action="use a new key for each new request",
            )
        if entry.answer is not None:
            return entry.answer, True
        repeated = entry.work is not None
        if entry.work is None:
            entry.work = asyncio.ensure_future(work(entry.done))
            entry.work.add_done_callback(lambda task: self._settle(name, entry, task))
        # A client that leaves must not undo what others, or its own retry, wait for.
        return await asyncio.shield(entry.work), repeated

    def _settle(self, name: Name, entry: _Entry, task: asyncio.Task[Answer]) -> None:
        entry.work = None
        if not task.cancelled() and task.exception() is None and task.result().final:
            entry.answer = task.result()
            entry.done = {}
        if entry.answer is None and not entry.done:
            del self._entries[name]
            self._size -= entry.size
        else:
            self._size += entry.measured() - entry.size
            entry.size = entry.measured()

    def _forget(self) -> None:
        """Drop what is too old; and the oldest, while there is too much."""
        while self._entries:
            name, oldest = next(iter(self._entries.items()))
            fresh = self._size <= self._limit and oldest.at > self._clock() - self._seconds
            if fresh or oldest.work is not None:
                return
            del self._entries[name]
            self._size -= oldest.size
