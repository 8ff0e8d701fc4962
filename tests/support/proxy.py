"""A TCP proxy that breaks what passes through it, by a script: between the platform and a server.

Requests are told apart (HTTP by its framing with lengths, anything else by what is sent at once),
and the first rule that fits a request says what becomes of it. Nothing is random in here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

CHUNK = 65_536
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Answer:
    """The proxy answers an HTTP request itself; the server never sees it."""

    status: int = 503
    code: str = "SlowDown"
    """What S3 calls the error."""


@dataclass(frozen=True, slots=True)
class CutRequest:
    """So many bytes of the request go on, then both sides see the connection reset."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class CutReply:
    """The server gets the whole request, the client so many bytes of the reply.

    Nothing is cut before the server has replied, so what was asked for is done. The client sees
    a reset, or (`reset=False`) an ordinary end of the stream.
    """

    after: int = 0
    reset: bool = True


@dataclass(frozen=True, slots=True)
class Slow:
    """A request goes on after `latency` seconds, its reply at so many bytes a second (0: all)."""

    latency: float = 0.0
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Swallow:
    """The request goes nowhere, and neither does what follows it on the connection, which stays
    open until the client gives it up or all are cut."""


Fault = Answer | CutRequest | CutReply | Slow | Swallow
Chooser = Callable[[bytes, bytes], Fault | None]


@dataclass
class Rule:
    """A fault for the requests that `match` (a regular expression, searched in the request's
    first bytes): after `skip` of them, the next `times` (None: all). `behind`, if given, must be
    found in the request ahead of it on its connection."""

    match: bytes
    fault: Fault
    times: int | None = 1
    skip: int = 0
    behind: bytes = b""
    hits: int = 0
    """How many requests had the fault."""
    _seen: int = field(default=0, repr=False)

    def applies(self, request: bytes, ahead: bytes) -> bool:
        """Whether this request has the fault; counts it."""
        if not (re.search(self.match, request) and re.search(self.behind, ahead)):
            return False
        self._seen += 1
        if self._seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


class Proxy:
    """Listens on a free port of its own (or on `at`) and passes all on to `port`; a context
    manager.

    `http` says that requests are to be told apart by HTTP's framing. Safe to use from any thread.
    """

    def __init__(self, port: int, *, http: bool = False, at: int = 0) -> None:
        self._target = port
        self._http = http
        self._rules: list[Rule] = []
        self._segments: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = at
        self.connections = 0
        """How many there have been."""

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def script(self, *rules: Rule) -> None:
        """From now on the first of these rules that fits decides; none: all passes."""
        self._do(self._script(rules))

    def calm(self) -> None:
        """From now on all passes."""
        self.script()

    def cut(self) -> None:
        """Reset every connection there is."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones as a port without a server does."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Listen (again), on the same port."""
        self._do(self._accept())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _script(self, rules: tuple[Rule, ...]) -> None:
        self._rules = list(rules)

    async def _cut(self) -> None:
        for segment in list(self._segments):
            segment.reset()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _close(self) -> None:
        await self._refuse()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, LOOPBACK, self.port, limit=CHUNK, reuse_address=True
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there = await asyncio.open_connection(LOOPBACK, self._target, limit=CHUNK)
        except OSError:  # the server is away: the client sees what it would see without us
            _abort(writer)
            return
        segment = _Link(reader, writer, *there)
        self._segments.add(segment)
        try:
            await segment.run(self._rule, http=self._http)
        finally:
            self._segments.discard(segment)

    def _rule(self, request: bytes, ahead: bytes) -> Fault | None:
        return next((rule.fault for rule in self._rules if rule.applies(request, ahead)), None)


class _Link:
    """One connection: two streams, and what is to become of the reply that is due."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._from_server, self._to_server = from_server, to_server
        self._reply: CutReply | Slow | None = None
        self._left = 0

    async def run(self, rule: Chooser, *, http: bool) -> None:
        """Pass on until both sides are done, or a fault ends it."""
        try:
            tasks = [
                asyncio.create_task(self._requests(rule, http=http)),
                asyncio.create_task(self._replies()),
            ]
            done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended = all(task.exception() is None and not task.result() for task in done)
            for task in waiting:
                if not ended:
                    task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            for writer in (self._writer, self._to_server):
                with contextlib.suppress(OSError):
                    writer.close()

    def reset(self) -> None:
        """Both sides see a reset."""
        _abort(self._writer)
        _abort(self._to_server)

    async def _requests(self, rule: Chooser, *, http: bool) -> bool:
        """Client to server; True when the connection is over, False at the client's end of it."""
        request = b""
        while True:
            ahead = request
            request, body = await self._next(http=http)
            if not request:
                with contextlib.suppress(OSError):
                    self._to_server.write_eof()
                return False
            fault = rule(request, ahead)
            self._reply = None
            if isinstance(fault, Answer):
                await self._answer(fault, request, body)
                return True
            if isinstance(fault, CutRequest):
                await self._send(self._to_server, request[: fault.after])
                await self._pass_body(min(body, max(0, fault.after - len(request))))
                self.reset()
                return True
            if isinstance(fault, Swallow):
                while await self._reader.read(CHUNK):
                    pass
                self.reset()
                return True
            if isinstance(fault, Slow):
                await asyncio.sleep(fault.latency)
            if fault is not None:
                self._reply, self._left = fault, getattr(fault, "after", 0)
            await self._send(self._to_server, request)
            await self._pass_body(body)

    async def _next(self, *, http: bool) -> tuple[bytes, int]:
        """The next request's head and the length of what follows it; empty at the end."""
        if not http:
            return await self._reader.read(CHUNK), 0
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b"", 0
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return head, int(length[1]) if length else 0

    async def _pass_body(self, length: int) -> None:
        async for part in self._body(length):
            await self._send(self._to_server, part)

    async def _body(self, length: int) -> AsyncIterator[bytes]:
        while length:
            part = await self._reader.read(min(CHUNK, length))
            if not part:
                return
            length -= len(part)
            yield part

    async def _answer(self, fault: Answer, request: bytes, body: int) -> None:
        if b"100-continue" not in request.lower():
            async for _ in self._body(body):  # an unread body would turn the answer into a reset
                pass
        text = f"<Error><Code>{fault.code}</Code><Message>the proxy says so</Message></Error>"
        if request.startswith(b"HEAD"):
            text = ""
        head = f"HTTP/1.1 {fault.status} {fault.code}\r\nContent-Type: application/xml\r\n"
        head += f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        await self._send(self._writer, (head + text).encode())
        self._writer.close()

    async def _replies(self) -> bool:
        """Server to client; True when a fault ended the connection."""
        while part := await self._from_server.read(CHUNK):
            due = self._reply
            if isinstance(due, CutReply):
                await self._send(self._writer, part[: self._left])
                self._left -= len(part)
                if self._left <= 0:
                    self._end(due)
                    return True
                continue
            if isinstance(due, Slow) and due.rate:
                await self._trickle(part, due.rate)
                continue
            await self._send(self._writer, part)
        with contextlib.suppress(OSError):
            self._writer.write_eof()
        return False

    def _end(self, due: CutReply) -> None:
        if due.reset:
            self.reset()
        else:
            self._writer.close()
            _abort(self._to_server)

    async def _trickle(self, part: bytes, rate: int) -> None:
        step = max(1, rate // 20)
        for start in range(0, len(part), step):
            await self._send(self._writer, part[start : start + step])
            await asyncio.sleep(step / rate)

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, part: bytes) -> None:
        if part:
            writer.write(part)
            await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
