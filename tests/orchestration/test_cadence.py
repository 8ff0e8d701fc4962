"""Settings decide how often sensors tick."""

from __future__ import annotations

import pytest

from ingestion_platform.orchestration.cadence import cadence
from ingestion_platform.orchestration.sensors import stream_sensor
from ingestion_platform.streams import declared_streams


def test_settings_set_the_interval_of_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic's sensor has the seconds of its setting, and two without one."""
    stream = declared_streams()["pgr_events"]
    try:
        cadence.cache_clear()
        assert stream_sensor(stream, stream.first_date).minimum_interval_seconds == 2
        monkeypatch.setenv("SENSOR_TOPICS_SECONDS", "45")
        cadence.cache_clear()
        assert stream_sensor(stream, stream.first_date).minimum_interval_seconds == 45
    finally:
        cadence.cache_clear()
