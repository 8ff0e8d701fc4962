"""The project's files that are not Python: the dbt project, Dagster's configuration.

In a checkout they lie at its top level, in an installed wheel inside of the package. What these
files say is not known here.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_PACKAGED = _PACKAGE / "_project"

IS_CHECKOUT = not _PACKAGED.exists()
"""Whether the platform runs from a checkout; an installed wheel may not be written to."""
ROOT = _PACKAGE.parent if IS_CHECKOUT else _PACKAGED
"""The folder of the files below."""
DBT_PROJECT = ROOT / "dbt_project"
DAGSTER_CONFIG = ROOT / "dagster.yaml"
"""The configuration of Dagster's instance, as the project ships it."""
WORKSPACE = ROOT / "workspace.yaml"


def how_to(target: str) -> str:
    """Return the command for a target that Makefile and `ingest` both have, such as `dev`."""
    return f"make {target}" if IS_CHECKOUT else f"ingest {target}"
