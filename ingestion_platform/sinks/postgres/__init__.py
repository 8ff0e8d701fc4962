"""PostgreSQL: a table per delivery; rows, position and quarantine move in one transaction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingestion_platform.sinks.registry import Sink

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings
    from ingestion_platform.sinks.postgres.target import PostgresTarget

POSITIONS, REJECTED = "ingestion_positions", "ingestion_rejected"
"""Tables of positions and of rejected rows, in the schema of the delivered table."""
LONGEST_NAME = 63
"""Bytes; PostgreSQL cuts off the rest."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


@dataclass(frozen=True)
class Options:
    """The table of a delivery."""

    schema: str
    table: str

    @property
    def label(self) -> str:
        """Name of the target within its sink."""
        return f"{self.schema}.{self.table}"


def _parse(given: Mapping[str, Any], default_schema: str, default_table: str) -> Options:
    name = given.get("table", default_table)
    if not isinstance(name, str):
        raise ValueError("table: is not a name; write `table: schema.name`")
    schema, _, table = name.rpartition(".")
    schema = schema or default_schema
    for part in (schema, table):
        if not _NAME.fullmatch(part) or len(part) >= LONGEST_NAME:
            raise ValueError(f"table: {part!r} is not a valid name; use letters, digits and _")
    if table in (POSITIONS, REJECTED):
        raise ValueError(f"table: {table} belongs to the sink; choose another name")
    return Options(schema, table)


def _open(settings: Settings, options: Options) -> PostgresTarget:
    from ingestion_platform.sinks.postgres.target import PostgresTarget

    url = settings.sinks.postgres_url
    assert url is not None, "the caller has checked"
    return PostgresTarget(url.get_secret_value(), options)


SINK = Sink(
    options=("table",),
    setting="SINK_POSTGRES_URL",
    example="postgresql://user:password@host:5432/database",
    parse=_parse,
    configured=lambda settings: settings.sinks.postgres_url is not None,
    open=_open,
)
