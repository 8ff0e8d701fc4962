"""`ingest query`: SQL over the Iceberg tables."""

from __future__ import annotations

from typing import Annotated

import typer

from ingestion_platform.cli.options import Json
from ingestion_platform.cli.terminal import Terminal, count, rows_table

_LIMIT = 100


def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT, in DuckDB's dialect.")],
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"Rows to show; {_LIMIT} unless --json.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Query the Iceberg tables (namespace.table) with SQL.

    [dim]Examples:[/]
      ingest query "show all tables"
      ingest query "select status, count(*) from bronze.service_events_raw group by 1"
      ingest query "select _reasons from quarantine.service_events_raw" --json --limit 5
    """
    from ingestion_platform.settings import Settings
    from ingestion_platform.warehouse.reading import QueryError
    from ingestion_platform.warehouse.reading import query as ask

    terminal: Terminal = ctx.obj
    try:
        result = ask(Settings.load(), sql)
    except QueryError as error:
        terminal.error(error)
        raise typer.Exit(2) from error
    most = limit or (result.num_rows if as_json else _LIMIT)
    shown = result.slice(0, most)
    if as_json:
        terminal.json(shown.to_pylist())
        return
    rows = zip(*(column.to_pylist() for column in shown.columns), strict=True)
    terminal.table(rows_table(result.column_names, list(rows)))
    if shown.num_rows < result.num_rows:
        terminal.say(f"{count(shown.num_rows)} of {count(result.num_rows)} rows; --limit for more")
