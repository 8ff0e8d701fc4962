"""Paths of the project's files that are not Python: the dbt project and Dagster's configuration.

In a checkout they are at the top level; in an installed wheel they are inside the package. This
module does not read them.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_PACKAGED = _PACKAGE / "_project"

IS_CHECKOUT = not _PACKAGED.exists()
"""Whether the platform runs from a checkout; an installed wheel must not be written to."""
ROOT = _PACKAGE.parent if IS_CHECKOUT else _PACKAGED
"""The folder that contains the files below."""
DBT_PROJECT = ROOT / "dbt_project"
DAGSTER_CONFIG = ROOT / "dagster.yaml"
"""The default configuration of the Dagster instance."""
WORKSPACE = ROOT / "workspace.yaml"


def how_to(target: str) -> str:
    """Return the command of a target that both make and `ingest` have, such as `dev`."""
    return f"make {target}" if IS_CHECKOUT else f"ingest {target}"
