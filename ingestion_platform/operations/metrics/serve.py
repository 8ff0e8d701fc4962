"""The endpoint that Prometheus scrapes: `ingest metrics` serves it, in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server
from prometheus_client.registry import CollectorRegistry

from ingestion_platform.errors import Permanent
from ingestion_platform.operations.metrics.api_counts import all_api_counts
from ingestion_platform.operations.metrics.exposition import (
    ApiCollector,
    Latest,
    PlatformCollector,
    exposition,
)
from ingestion_platform.operations.metrics.read import Reader
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import readable_deliveries
from ingestion_platform.streams import declared_streams

PORT = 9464


def reader_of(settings: Settings) -> Reader:
    """A reader of every declared stream and delivery."""
    streams = list(declared_streams().values())
    return Reader(Platform(settings), streams, readable_deliveries()[0].values())


def text(settings: Settings, reader: Reader) -> bytes:
    """All metrics once, every table examined."""
    facts = reader.read(thorough=True)
    sources = ApiCollector(lambda: all_api_counts(settings.home))
    return exposition(PlatformCollector(lambda: facts), sources)


@contextmanager
def serving(settings: Settings, reader: Reader, host: str, port: int) -> Iterator[None]:
    """Answer GET /metrics within this block.

    Raises:
        Permanent: the address cannot be listened on.
    """
    registry = CollectorRegistry()
    registry.register(PlatformCollector(Latest(reader)))
    registry.register(ApiCollector(lambda: all_api_counts(settings.home)))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise Permanent(
            f"{host}:{port} cannot be listened on: {error.strerror}", action="take another port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        reader.close()


def serve(settings: Settings, host: str, port: int, stop: threading.Event) -> None:
    """Serve until `stop` is set; raises as `serving`."""
    with serving(settings, reader_of(settings), host, port):
        stop.wait()
