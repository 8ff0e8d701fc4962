"""Dagster's home folder, made ready without importing Dagster (the command line calls this)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ingestion_platform.project import DAGSTER_CONFIG
from ingestion_platform.settings import Settings, export


def prepare_dagster_home(settings: Settings) -> Path:
    """Make DAGSTER_HOME exist with a dagster.yaml, name it to this process; gives the folder.

    The file is a link to the project's, so that it follows it; a file that somebody put there
    stays.
    """
    home = settings.dagster_home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    target = home / DAGSTER_CONFIG.name
    if target.is_symlink() and not target.exists():  # the project was moved
        target.unlink()
    if not target.exists():
        with suppress(FileExistsError):  # another process was quicker
            target.symlink_to(DAGSTER_CONFIG)
    export({"DAGSTER_HOME": str(home)})
    return home
