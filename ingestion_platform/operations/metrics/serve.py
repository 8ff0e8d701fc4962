"""Serve the endpoint that Prometheus scrapes, in the process of `ingest metrics`."""

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
    """Return a reader of every declared stream and delivery."""
    streams = list(declared_streams().values())
    return Reader(Platform(settings), streams, readable_deliveries()[0].values())


def text(settings: Settings, reader: Reader) -> bytes:
    """Return all metrics, after reading the manifests of every table."""
    samples = reader.read(thorough=True)
    sources = ApiCollector(lambda: all_api_counts(settings.home))
    return exposition(PlatformCollector(lambda: samples), sources)


@contextmanager
def serving(settings: Settings, reader: Reader, host: str, port: int) -> Iterator[None]:
    """Answer GET /metrics within this block.

    Raises:
        Permanent: the address is not available.
    """
    registry = CollectorRegistry()
    registry.register(PlatformCollector(Latest(reader)))
    registry.register(ApiCollector(lambda: all_api_counts(settings.home)))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise Permanent(
            f"cannot listen on {host}:{port}: {error.strerror}", action="use another port"
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
