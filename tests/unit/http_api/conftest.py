"""HTTP APIs in this process, in front of the embedded broker, with topics of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ingestion_platform.http_api.app import build
from ingestion_platform.settings import Settings
from tests.support.api_lab import NAMES, Served, http_api_settings, own_streams


@pytest.fixture
def serve(embedded_settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts an API; keywords are fields of the HTTP API's settings."""
    with ExitStack() as stack:

        def start(settings: Settings = embedded_settings, **http_api: Any) -> Served:
            own = http_api_settings(settings, tmp_path, **http_api)
            streams = own_streams(*NAMES)
            app = build(own, streams)
            client = TestClient(app, raise_server_exceptions=False)
            return Served(stack.enter_context(client), app.state.api, own, streams)

        yield start


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """An API with the default limits."""
    return serve()
