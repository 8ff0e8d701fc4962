"""A stream whose contract cannot be read: its paths answer 503, others are served."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ingestion_platform.http_api.app import build
from ingestion_platform.settings import Settings
from tests.support.api_lab import USER, http_api_settings, own_streams


def test_unreadable_contract_affects_its_stream_only(
    local_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both kinds of paths of the stream say 503; another stream validates; the log has the file."""
    streams = own_streams("recomart_users", "pgr_events")
    broken = tmp_path / "broken.odcs.yaml"
    broken.write_text("kind: [")
    streams["recomart_users"] = replace(streams["recomart_users"], contract_file=broken)
    with caplog.at_level(logging.ERROR):
        app = build(http_api_settings(local_settings, tmp_path), streams)
    assert "recomart_users takes no records" in caplog.text
    assert "broken.odcs.yaml" in caplog.text
    with TestClient(app) as client:
        for path in ("/v1/streams/recomart_users/records", "/users", "/internal/ingest-user"):
            answer = client.post(path, json=USER)
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert "its contract cannot be read" in answer.json()["detail"]
            assert path not in client.get("/openapi.json").json()["paths"]
        assert client.post("/v1/streams/pgr_events/records", json={"a": 1}).status_code == 422
