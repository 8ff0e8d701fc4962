"""A running embedded broker, and settings that lead to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_platform.kafka import broker
from ingestion_platform.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home without a broker; one that a test starts is ended afterwards."""
    yield tmp_path / "home"
    broker.stop(tmp_path / "home")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of an embedded broker that runs as long as the tests do."""
    folder = tmp_path_factory.mktemp("embedded")
    broker.start(folder)
    yield Settings.load({"PLATFORM_HOME": str(folder)}, root=folder)
    broker.stop(folder)
