"""Kafka, files and HTTP in; a raw lake, typed Iceberg tables and dbt models out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingestion_platform.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    # Late: the command line imports this package too, and must answer at once.
    if name == "Client":
        from ingestion_platform.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
