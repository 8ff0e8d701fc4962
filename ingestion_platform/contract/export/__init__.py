"""Contracts as documents for people and tools, one exporter per target format: text out, no I/O.

What a contract does not know (topic, sources, tables) is handed in as `Published`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from ingestion_platform.contract.model import Contract


class Format(StrEnum):
    """The target formats."""

    JSON_SCHEMA = "json-schema"
    ASYNCAPI = "asyncapi"
    MARKDOWN = "markdown"


@dataclass(frozen=True)
class Published:
    """A contract, and where its records go in and come out."""

    contract: Contract
    stream: str
    domain: str
    topic: str | None
    """None if it has no topic."""
    group_id: str
    partitions: int
    """Log partitions that are declared; 0 without a topic."""
    key: str | None
    """The field whose value is the Kafka key of what the platform's own sources send."""
    http_paths: tuple[str, ...]
    """Paths of the HTTP API: the first takes records in any form, the others one record."""
    drop_folder: str
    """Below DROP_URL."""
    drop_patterns: tuple[str, ...]
    """What its files are called; empty for every name that tells a known format."""
    drop_format: str | None
    """The format of its files, if their names do not tell it."""
    lake_folder: str
    """Below LAKE_URL, with a slash at its end."""
    bronze_table: str
    quarantine_table: str

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its records."""
        # Late, like the exporters: the command line imports this module for its formats.
        from ingestion_platform.contract.json_schema import json_schema

        return json_schema(self.contract)

    @property
    def example(self) -> dict[str, Any]:
        """A record that the contract accepts."""
        record: dict[str, Any] = self.schema["examples"][0]
        return record


def documents(form: Format, published: Sequence[Published], *, complete: bool) -> dict[str, str]:
    """The documents of these streams in a format, as text by the path that each has below a folder.

    `complete` says that these are all streams there are: then indexes are written too.
    """
    match form:
        case Format.JSON_SCHEMA:
            return {f"{p.stream}.schema.json": _json(p.schema) for p in published}
        case Format.ASYNCAPI:
            from ingestion_platform.contract.export.asyncapi import asyncapi

            return {"asyncapi.json": _json(asyncapi(published))}
        case Format.MARKDOWN:
            from ingestion_platform.contract.export import markdown

            pages = {f"streams/{p.stream}.md": markdown.page(p) for p in published}
            return pages | ({"streams/README.md": markdown.index(published)} if complete else {})


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
