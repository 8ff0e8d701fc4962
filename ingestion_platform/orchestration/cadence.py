"""How often sensors tick: settings that must be known when Dagster loads the definitions."""

from __future__ import annotations

from functools import cache

from ingestion_platform.settings import SensorSettings, Settings


@cache
def cadence() -> SensorSettings:
    """Return the intervals of the code location, read once per process."""
    return Settings.load().sensors
