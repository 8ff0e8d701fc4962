"""`ingest env`: the settings for other programs that read the lake and the tables."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer


def env(
    export: Annotated[
        bool, typer.Option("--export", help='As shell commands: eval "$(ingest env --export)".')
    ] = False,
    spark: Annotated[
        bool, typer.Option("--spark", help="As Spark's properties file, for --properties-file.")
    ] = False,
) -> None:
    """Print the settings for other programs that read the tables, secrets included.

    PyIceberg, DuckDB, pandas, Trino and Spark work with them as they are, on
    the embedded default, the stack or a cluster: docs/reading-tables.md.
    """
    from ingestion_platform.operations import outside
    from ingestion_platform.settings import Settings

    if export and spark:
        raise typer.BadParameter("choose one of --export and --spark")
    settings = Settings.load()
    if spark:
        for name, value in outside.spark_properties(settings).items():
            typer.echo(f"{name}={value}".replace("\\", "\\\\"))
        return
    for name, value in outside.environment(settings).items():
        typer.echo(f"export {name}={shlex.quote(value)}" if export else f"{name}={value}")
