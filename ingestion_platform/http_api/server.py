"""Serving the API until SIGTERM or SIGINT: no new connections then, what was begun is finished,
what is queued is delivered, and the process ends well.
"""

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

_CHECK = 1.0  # seconds between two looks at the deadlines of connections
_GRACE = 10  # seconds beyond those that body and acknowledgement may take


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve every declared stream; returns after a signal, when all is delivered.

    Raises:
        SettingError: no API key is set, and keys are not switched off.
        Permanent: the address cannot be listened on.
    """
    http_api = settings.http_api
    if http_api.auth and not http_api.api_keys:
        raise SettingError(
            "HTTP_API_KEYS",
            "no key is set, so nobody could send (HTTP_API_AUTH=off lets everybody)",
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
        # A header that anybody can set must not say whose limit is counted.
        proxy_headers=bool(http_api.trusted_proxies),
        forwarded_allow_ips=list(http_api.trusted_proxies),
        timeout_graceful_shutdown=http_api.body_seconds + http_api.ack_seconds + _GRACE,
    )
    server = Server(config, app.state.api)
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
    """Uvicorn's server, which tells the API that it closes."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api = api

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and hold the connections to their deadlines, until the process ends."""
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
                    except Exception:  # one connection must not stop the deadlines of others
                        LOG.exception("the deadlines of a connection cannot be checked")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Close, on a signal."""
        self._api.draining = True
        super().handle_exit(sig, frame)
