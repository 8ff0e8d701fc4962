"""All of Dagster: one module per concept, each turning declared streams into its definitions.

Nothing is computed here; assets, checks and sensors call the plain functions of the platform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingestion_platform.settings import keep_freed_memory

if TYPE_CHECKING:
    from ingestion_platform.orchestration.component import Delivery, Stream

__all__ = ["Delivery", "Stream"]

keep_freed_memory()  # Arrow loads with the first module from here


def __getattr__(name: str) -> Any:
    # Late, so that `instance` serves the command line without importing Dagster.
    if name in __all__:
        from ingestion_platform.orchestration import component

        return getattr(component, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
