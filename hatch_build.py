"""What a wheel holds beside the package: the project's files that are not Python.

An editable install has none of this: there `ingestion_platform.project` finds the checkout's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = ("dagster.yaml", "workspace.yaml")
FOLDER = "ingestion_platform/_project"


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Add the files of the checkout's top level to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Place them below FOLDER; `version` is `standard` or `editable`."""
        if version == "standard":
            for name in FILES:
                build_data["force_include"][str(Path(self.root) / name)] = f"{FOLDER}/{name}"
