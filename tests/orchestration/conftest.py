"""Fixtures: a stream of the test's own on the embedded broker, run by Dagster in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from ingestion_platform.kafka import broker
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from tests.support.dagster_lab import Lab


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def alone_settings(local_settings: Settings) -> Iterator[Settings]:
    """An embedded broker of the test's own, for declared streams: others use their topics too."""
    broker.start(local_settings.home)
    yield local_settings
    broker.stop(local_settings.home)


@pytest.fixture
def lab(
    embedded_settings: Settings, make_stream: Callable[..., Stream], instance: dg.DagsterInstance
) -> Lab:
    """A stream with an empty topic."""
    return Lab(make_stream(embedded_settings), embedded_settings, instance)
