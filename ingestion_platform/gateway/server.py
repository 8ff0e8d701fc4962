"""Serving the door until SIGTERM or SIGINT: no new connections then, what was begun is finished,
what is queued is delivered, and the process ends well.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ingestion_platform import logs
from ingestion_platform.errors import Permanent, SettingError
from ingestion_platform.gateway.app import build
from ingestion_platform.gateway.door import Door
from ingestion_platform.settings import Settings
from ingestion_platform.streams import declared_streams

LOG = logging.getLogger("ingestion_platform.gateway")

_HEAD_SECONDS = 10.0  # for a request's line and headers to arrive
_GRACE = 10  # seconds beyond those that body and acknowledgement may take


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve every declared stream; returns after a signal, when all is delivered.

    Raises:
        SettingError: no API key is set, and keys are not switched off.
        Permanent: the address cannot be listened on.
    """
    gateway = settings.gateway
    if gateway.auth and not gateway.api_keys:
        raise SettingError(
            "GATEWAY_API_KEYS",
            "no key is set, so nobody could send (GATEWAY_AUTH=off lets everybody)",
            example="<what `ingest serve --new-key NAME` prints>",
        )
    logs.configure(settings, run=logs.this_process("door"))
    if not gateway.auth:
        LOG.warning("GATEWAY_AUTH=off: anybody who reaches %s:%d can send records", host, port)
    app = build(settings, declared_streams())
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # A header that anybody can set must not say whose limit is counted.
        proxy_headers=False,
        timeout_graceful_shutdown=gateway.body_seconds + gateway.ack_seconds + _GRACE,
    )
    server = Server(config, app.state.door)
    # The server gives a signal back after it has closed; by then it has been obeyed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        server.run()
    except SystemExit as end:
        raise Permanent(
            f"{host}:{port} cannot be listened on", action="see the lines above; take another port"
        ) from end


class Server(uvicorn.Server):
    """Uvicorn's server, which tells the door that it closes."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self._door = door

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Close, on a signal."""
        self._door.draining = True
        super().handle_exit(sig, frame)


class Protocol(H11Protocol):
    """Uvicorn's strict HTTP/1.1, which does not wait for ever for a request's headers."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the connection go."""
        super().connection_lost(exc)
        self._forget_deadline()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        if not self._idle():
            self._forget_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
