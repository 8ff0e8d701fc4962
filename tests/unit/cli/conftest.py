"""`ingest` in an environment of the test's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingestion_platform.settings import Settings
from tests.support.command_line import Ingest, in_this_process

OURS = (
    "KAFKA_",
    "LAKE_",
    "AWS_",
    "PYICEBERG_",
    "DAGSTER_",
    "PLATFORM_",
    "HTTP_API_",
    "DROP_",
    "SINK_",
    "LOG_",
    "ALARM_",
)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ingest:
    """`ingest` without settings, in an empty folder: the embedded default, and no broker."""
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return in_this_process


@pytest.fixture
def ingest(bare: Ingest, monkeypatch: pytest.MonkeyPatch, embedded_settings: Settings) -> Ingest:
    """`ingest` on a running embedded broker, with an empty lake and catalog."""
    monkeypatch.setenv("PLATFORM_HOME", str(embedded_settings.home))
    monkeypatch.setenv("LAKE_URL", embedded_settings.lake_url)
    for name in ("uri", "warehouse"):
        value = embedded_settings.catalog[name]
        monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKEHOUSE__{name.upper()}", value)
    return bare
