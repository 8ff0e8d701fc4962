"""HTTP/1.1 on a connection: Uvicorn's h11 protocol, with deadlines, limits and problem details.

Uvicorn alone waits for ever for a client that does not read, and answers malformed requests in
plain text.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from contextlib import suppress
from typing import Any

import h11
from starlette.datastructures import Headers
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from ingestion_platform.escaping import visible
from ingestion_platform.http_api.api import Api
from ingestion_platform.http_api.limits import network_of
from ingestion_platform.http_api.middleware import REQUEST_ID, SAFETY, log_unread, request_id_of
from ingestion_platform.http_api.problems import MEDIA_TYPE, Problem

HEAD_SECONDS = 10.0
"""Time for a request's line and headers, from the connection or the previous answer on."""
_MIN_RATE = 1000  # bytes per second that a client has to read while an answer waits
_KINDS = {431: "head-too-large", 501: "not-implemented"}


class Protocol(H11Protocol):
    """One connection. The server calls `check` every second."""

    _has_slot = False
    _unsent = 0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._api: Api = self.config.app.state.api  # type: ignore[union-attr]
        # Its warnings are of malformed requests, which the access log has.
        self.logger = logging.getLogger("ingestion_platform.http_api.protocol")
        self.logger.setLevel(logging.ERROR)
        self._idle_since = self._checked = self._read_at = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it if its network has too many."""
        super().connection_made(transport)
        self._network = network_of(self.client[0] if self.client else "")
        try:
            self._api.connections.acquire(self._network)
            self._has_slot = True
        except Problem as problem:
            self._reject(problem)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection's slot."""
        super().connection_lost(exc)
        if self._has_slot:
            self._has_slot = False
            self._api.connections.release(self._network)

    def data_received(self, data: bytes) -> None:
        """Handle received bytes, unless the connection was refused."""
        if not self.transport.is_closing():
            super().data_received(data)

    def on_response_complete(self) -> None:
        """Restart the deadline for the next request."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request; called while h11's error is handled."""
        error = sys.exc_info()[1]
        kind = _KINDS.get(getattr(error, "error_status_hint", 400), "malformed")
        self._reject(Problem(kind, visible(str(error) if error else msg)[:200]))

    def check(self, now: float) -> None:
        """Close the connection if the client sends no request, or does not read its answers."""
        unsent = self.transport.get_write_buffer_size()
        due = _MIN_RATE * (now - self._checked)
        if not unsent or unsent > self._unsent or self._unsent - unsent >= due:
            self._read_at = now
        self._unsent, self._checked = unsent, now
        if now - self._read_at > self._api.settings.http_api.write_seconds:
            self.transport.abort()  # close() would wait for the client to read
        elif self._is_waiting() and now - self._idle_since > HEAD_SECONDS:
            self._close_idle()

    def _is_waiting(self) -> bool:
        """Return whether the connection waits for a request."""
        idle = self.cycle is None or self.cycle.response_complete
        return idle and not self.transport.is_closing()

    def _close_idle(self) -> None:
        begun = self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE
        if begun:
            said = f"the request's line and headers did not arrive within {HEAD_SECONDS:g} s"
            self._reject(Problem("slow-request", said))
        else:
            self.transport.close()

    def _reject(self, problem: Problem) -> None:
        """Answer a problem without the application, and close the connection."""
        running = self.cycle is not None and not self.cycle.response_complete
        if running:
            # The application logs the request once its body has ended.
            state = self.scope["state"]
            headers = Headers(raw=self.headers)
            request_id = state.setdefault("request", request_id_of(headers))
            state["status"] = problem.status
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            request_id = str(uuid.uuid4())
            log_unread(self._api, self.client, problem, request_id)
        # If an answer has begun, closing the connection is all that is left.
        with suppress(h11.LocalProtocolError):
            self._write(problem, request_id)
        self.transport.close()

    def _write(self, problem: Problem, request_id: str) -> None:
        body = problem.body()
        headers = {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "connection": "close",
            REQUEST_ID: request_id,
            **SAFETY,
            **{name.lower(): value for name, value in problem.headers.items()},
        }
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        start = h11.Response(
            status_code=problem.status,
            headers=self.server_state.default_headers + pairs,
            reason=STATUS_PHRASES[problem.status],
        )
        for event in (start, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
