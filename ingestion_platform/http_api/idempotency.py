"""Answers by Idempotency-Key: a request sent again gets the same answer, and is not done twice.

They are held by one process, bounded in time and size: a retry that reaches another process, or
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
"""Client, path and key: clients do not share keys."""
Done = dict[int, Delivered]
"""Deliveries of a request that is not finished, by the record's index."""

_OVERHEAD = 500  # bytes of an entry without its answer, about
_PER_RECORD = 150  # bytes of a delivery, about


class Answer(NamedTuple):
    """An answer; `final` if a retry could not change it."""

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

    def current_size(self) -> int:
        body = len(self.answer.body) if self.answer else 0
        return _OVERHEAD + body + _PER_RECORD * len(self.done)


class AnswerCache:
    """Holds answers for `seconds`, `size` bytes of them at most. For one event loop."""

    def __init__(
        self, seconds: float, size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds, self._limit, self._clock = seconds, size, clock
        self._entries: OrderedDict[Name, _Entry] = OrderedDict()
        self._size = 0

    async def once(
        self, name: Name, fingerprint: bytes, work: Callable[[Done], Awaitable[Answer]]
    ) -> tuple[Answer, bool]:
        """Return the answer of `work`, and whether an earlier request has done it.

        `work` gets the deliveries of an earlier attempt, and adds its own. Of two requests at
        once, the second waits for the first. An answer that is not final is not stored: the next
        request delivers the rest.

        Raises:
            Problem: a request with another fingerprint had the same name.
        """
        self._evict()
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
            entry.work.add_done_callback(lambda task: self._finish(name, entry, task))
        # A client that disconnects must not cancel what others, or its own retry, wait for.
        return await asyncio.shield(entry.work), repeated

    def _finish(self, name: Name, entry: _Entry, task: asyncio.Task[Answer]) -> None:
        entry.work = None
        if not task.cancelled() and task.exception() is None and task.result().final:
            entry.answer = task.result()
            entry.done = {}
        if entry.answer is None and not entry.done:
            del self._entries[name]
            self._size -= entry.size
        else:
            self._size += entry.current_size() - entry.size
            entry.size = entry.current_size()

    def _evict(self) -> None:
        """Drop entries that are too old, and the oldest ones while all are too large."""
        while self._entries:
            name, oldest = next(iter(self._entries.items()))
            fresh = self._size <= self._limit and oldest.at > self._clock() - self._seconds
            if fresh or oldest.work is not None:
                return
            del self._entries[name]
            self._size -= oldest.size
