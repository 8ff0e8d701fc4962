"""A stream without a broker: its lake is put by hand, its tables are in an SQLite catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream


@pytest.fixture
def platform(local_settings: Settings) -> Platform:
    """The embedded size, without a broker."""
    return Platform(local_settings)


@pytest.fixture
def stream(make_stream: Callable[..., Stream], tmp_path: Path) -> Stream:
    """A stream of grievance events."""
    return make_stream()
