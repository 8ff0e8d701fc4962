"""What every request passes first: keys, limits on how many and how often, and the access log.

The log has a message per request: never a body, a header, a query or a key.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_platform.gateway.door import Door
from ingestion_platform.gateway.limits import client_of
from ingestion_platform.gateway.problems import Problem, later
from ingestion_platform.logs import FIELDS

ACCESS = logging.getLogger("ingestion_platform.gateway.access")
HEALTH = frozenset({"/health", "/healthz", "/readyz"})
OPEN = HEALTH | {"/docs", "/docs/oauth2-redirect", "/openapi.json"}
"""Paths that need no key and count for no limit."""
UNCOUNTED = OPEN | {"/metrics"}
"""Paths whose answers tell nothing of how the door serves producers."""
NO_ROUTE = "none"
"""The path of what was answered ahead of the application, or is no path of it."""

_REQUEST_ID = "x-request-id"


class Front:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state.update(client="", noted={})
        request_id = _request_id(headers)
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[_REQUEST_ID] = request_id
            await send(message)

        began = time.perf_counter()
        try:
            await self._admitted(scope, receive, sending, headers)
        finally:
            took = time.perf_counter() - began
            self._count(scope, status, took)
            _log(scope, state, status, request_id, took)

    def _count(self, scope: Scope, status: int, took: float) -> None:
        """Count the answer by its declared path: any other would make a series of its own."""
        if scope["path"] not in UNCOUNTED:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._door.counters.answered(route, status, took)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        if scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            scope["state"]["client"] = self._client(scope, headers)
            with self._place():
                await self._app(scope, receive, send)
        except Problem as problem:
            # Before the application: one inside it was answered there.
            await problem.response()(scope, receive, send)

    def _client(self, scope: Scope, headers: Headers) -> str:
        gateway = self._door.settings.gateway
        if gateway.auth:
            client = client_of(headers, gateway.api_keys)
        else:
            client = scope["client"][0] if scope.get("client") else "unknown"
        self._door.rate.take(client, 1)
        return client

    @contextmanager
    def _place(self) -> Iterator[None]:
        door = self._door
        if door.in_progress >= door.settings.gateway.max_requests:
            raise Problem(
                "unavailable",
                "too many requests are in progress",
                action="send the same again later",
                headers=later(1),
            )
        door.in_progress += 1
        try:
            yield
        finally:
            door.in_progress -= 1


def _request_id(headers: Headers) -> str:
    given = headers.get(_REQUEST_ID, "")
    usable = 0 < len(given) <= 64 and given.isascii() and given.replace("-", "").isalnum()
    return given if usable else str(uuid.uuid4())


def _log(scope: Scope, state: dict[str, Any], status: int, request_id: str, took: float) -> None:
    level = logging.DEBUG if scope["path"] in HEALTH and status < 400 else logging.INFO
    if not ACCESS.isEnabledFor(level):
        return
    # As it was sent: a decoded path may hold blanks, which would end it for a reader.
    path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0][:200].decode("latin-1")
    fields = {
        "request": request_id,
        "client": state["client"] or None,
        "address": scope["client"][0] if scope.get("client") else None,
        "method": scope["method"],
        "path": path,
        "status": status,
        "ms": round(took * 1000, 1),
        **state["noted"],
    }
    ACCESS.log(level, "%s %s %s", scope["method"], path, status, extra={FIELDS: fields})
