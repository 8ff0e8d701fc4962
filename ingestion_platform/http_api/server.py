"""Serve the API until SIGTERM or SIGINT; then finish requests and deliver queued records."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn

from ingestion_platform import logs
from ingestion_platform.errors import Permanent, SettingError
from ingestion_platform.http_api.api import Api
from ingestion_platform.http_api.app import build
from ingestion_platform.http_api.protocol import Protocol
from ingestion_platform.settings import Settings
from ingestion_platform.streams import declared_streams

LOG = logging.getLogger("ingestion_platform.http_api")

_CHECK = 1.0  # seconds between two checks of the deadlines of connections
_GRACE = 10  # seconds beyond the timeouts of body and acknowledgement


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve every declared stream; return after a signal, when all records are delivered.

    Raises:
        SettingError: no API key is set, and keys are not switched off.
        Permanent: the address cannot be bound.
    """
    http_api = settings.http_api
    if http_api.auth and not http_api.api_keys:
        raise SettingError(
            "HTTP_API_KEYS",
            "no key is set, so every request would be rejected (HTTP_API_AUTH=off accepts all)",
            example="<what `ingest serve --new-key NAME` prints>",
        )
    logs.configure(settings, run=logs.this_process("api"))
    if not http_api.auth:
        LOG.warning("HTTP_API_AUTH=off: anybody who reaches %s:%d can send records", host, port)
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
        # Clients must not choose by a header whose limits apply to them.
        proxy_headers=bool(http_api.trusted_proxies),
        forwarded_allow_ips=list(http_api.trusted_proxies),
        timeout_graceful_shutdown=http_api.body_seconds + http_api.ack_seconds + _GRACE,
    )
    server = Server(config, app.state.api)
    # Uvicorn raises the signal again after it has closed; ignore it then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        server.run()
    except SystemExit as end:
        raise Permanent(
            f"{host}:{port} cannot be listened on", action="see the lines above; take another port"
        ) from end


class Server(uvicorn.Server):
    """Uvicorn's server; marks the API as draining, and checks deadlines of connections."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api = api

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and checking the deadlines of connections."""
        await super().startup(sockets)
        self._checking = asyncio.create_task(self._check_connections())

    async def _check_connections(self) -> None:
        while True:
            await asyncio.sleep(_CHECK)
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    try:
                        connection.check(now)
                    except Exception:  # one connection must not stop the checks of others
                        LOG.exception("the deadline of a connection cannot be checked")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start closing on a signal."""
        self._api.draining = True
        super().handle_exit(sig, frame)
