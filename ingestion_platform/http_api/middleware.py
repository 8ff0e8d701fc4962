"""The outermost middleware: API keys, limits, and the access log.

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

from ingestion_platform.http_api import documents
from ingestion_platform.http_api.api import Api
from ingestion_platform.http_api.limits import client_of, network_of
from ingestion_platform.http_api.problems import Problem, retry_after
from ingestion_platform.logs import FIELDS

LOG = logging.getLogger("ingestion_platform.http_api")
ACCESS = logging.getLogger("ingestion_platform.http_api.access")
HEALTH = frozenset({"/health", "/healthz", "/readyz"})
OPEN = HEALTH | documents.PATHS
"""Paths that need no key, and are limited by network only."""
UNCOUNTED = OPEN | {"/metrics"}
"""Paths whose requests are not counted: they do not come from producers."""
NO_ROUTE = "none"
"""Counted as the path of requests that are answered before routing, or match no route."""

REQUEST_ID = "x-request-id"
"""Header of the request id, which answers and the log have."""
_HEAD = 64 * 1024  # bytes of a request's target and headers
SAFETY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Security headers of every answer. /docs replaces the policy by its own."""


class OuterMiddleware:
    """Checks keys and limits, adds headers, counts and logs each request."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self._app, self._api = app, api
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        request_id = state.setdefault("request", request_id_of(headers))
        state.update(client="", log_fields={})
        status, head_only = 0, scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer[REQUEST_ID] = request_id
                for name, value in SAFETY.items():
                    answer.setdefault(name, value)
            elif head_only:
                message = {**message, "body": b""}
            await send(message)

        began = time.perf_counter()
        # HEAD is GET without the body.
        inner = {**scope, "method": "GET"} if head_only else scope
        try:
            await self._admitted(inner, receive, sending, headers)
        except Exception as error:
            LOG.exception("request %s failed: %s", request_id, type(error).__name__)
            if status:
                raise  # the answer has begun: the server closes the connection
            # The message may hold secrets: it goes to the log only.
            problem = Problem("unexpected", f"{type(error).__name__}; see the log of the HTTP API")
            await problem.response()(scope, receive, sending)
        finally:
            # The protocol has answered if the body cannot be read.
            status = state.get("status") or status or 500
            if head_only:
                scope["route"] = inner.get("route")
            took = time.perf_counter() - began
            self._count(scope, status, took)
            _log(scope, state, status, request_id, took)

    def _count(self, scope: Scope, status: int, took: float) -> None:
        """Count the answer by its route: paths as sent would make a series each."""
        if scope["path"] not in UNCOUNTED:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._api.counters.answered(route, status, took)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        try:
            _check_head(scope)
            with self._admission(scope, headers):
                await self._app(scope, receive, send)
        except Problem as problem:
            # Raised before the application, which answers its own problems.
            await problem.response()(scope, receive, send)

    @contextmanager
    def _admission(self, scope: Scope, headers: Headers) -> Iterator[None]:
        """Check the key, and hold the slots of the request within the block.

        Raises:
            Problem: the key is missing or not known, or a limit is reached.
        """
        api, network = self._api, network_of(self._address(scope, headers))
        if scope["path"] in OPEN:
            self._count_anonymous(network)
            yield
            return
        try:
            client = self._client(network, headers)
        except Problem:
            self._count_anonymous(network)
            raise
        scope["state"]["client"] = client
        api.rate.take(client, 1)
        with (
            api.address_requests.slot(network),
            api.client_requests.slot(client),
            self._request_slot(),
        ):
            yield

    def _count_anonymous(self, network: str) -> None:
        try:
            self._api.anonymous_rate.take(network, 1)
        except Problem as problem:
            # Requests that the client has pipelined on this connection get no answer.
            problem.headers["Connection"] = "close"
            raise

    def _client(self, network: str, headers: Headers) -> str:
        http_api = self._api.settings.http_api
        return client_of(headers, http_api.api_keys) if http_api.auth else network

    def _address(self, scope: Scope, headers: Headers) -> str:
        trusted = self._api.settings.http_api.trusted_proxies
        if not trusted and not self._warned and "x-forwarded-for" in headers:
            self._warned = True
            LOG.warning(
                "a request has X-Forwarded-For, and no proxy is trusted: all clients behind one "
                "address share its limits; HTTP_API_TRUSTED_PROXIES names proxies"
            )
        return scope["client"][0] if scope.get("client") else ""

    @contextmanager
    def _request_slot(self) -> Iterator[None]:
        api = self._api
        if api.in_progress >= api.settings.http_api.max_requests:
            raise Problem(
                "unavailable",
                "too many requests are in progress",
                action="send the same again later",
                headers=retry_after(1),
            )
        api.in_progress += 1
        try:
            yield
        finally:
            api.in_progress -= 1


def _check_head(scope: Scope) -> None:
    if not scope["http_version"].startswith("1."):
        raise Problem(
            "unsupported-version", "the server speaks HTTP/1.1", headers={"Connection": "close"}
        )
    size = len(scope.get("raw_path", b"")) + len(scope["query_string"])
    size += sum(len(name) + len(value) for name, value in scope["headers"])
    if size > _HEAD:
        raise Problem(
            "head-too-large",
            f"request line and headers are longer than {_HEAD:,} bytes",
            action="send fewer or shorter headers",
            headers={"Connection": "close"},
        )


def request_id_of(headers: Headers) -> str:
    """Return the request id that the client sent, or a new one."""
    given = headers.get(REQUEST_ID, "")
    usable = 0 < len(given) <= 64 and given.isascii() and given.replace("-", "").isalnum()
    return given if usable else str(uuid.uuid4())


def _log(scope: Scope, state: dict[str, Any], status: int, request_id: str, took: float) -> None:
    level = logging.DEBUG if scope["path"] in HEALTH and status < 400 else logging.INFO
    if not ACCESS.isEnabledFor(level):
        return
    # As sent: a decoded path may have blanks, which separate the fields of the message.
    path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0][:200].decode("latin-1")
    fields = {
        "request": request_id,
        "client": state["client"] or None,
        "address": scope["client"][0] if scope.get("client") else None,
        "method": scope["method"],
        "path": path,
        "status": status,
        "ms": round(took * 1000, 1),
        **state["log_fields"],
    }
    ACCESS.log(level, "%s %s %s", scope["method"], path, status, extra={FIELDS: fields})


def log_unread(api: Api, client: tuple[str, int] | None, problem: Problem, request_id: str) -> None:
    """Count and log the answer to a malformed request."""
    api.counters.answered(NO_ROUTE, problem.status, 0.0)
    fields = {
        "request": request_id,
        "address": client[0] if client else None,
        "status": problem.status,
        "problem": problem.message,
    }
    ACCESS.info("no request: %s", problem.status, extra={FIELDS: fields})
