"""The module that Dagster loads; what it finds here is made in `orchestration.definitions`."""

from ingestion_platform.orchestration.definitions import defs

__all__ = ["defs"]
