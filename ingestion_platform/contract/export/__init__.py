"""Export contracts as documents for people and tools: one exporter per format, no I/O.

`Published` adds what a contract does not contain: topic, sources and tables.
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
    """The formats of exported documents."""

    JSON_SCHEMA = "json-schema"
    ASYNCAPI = "asyncapi"
    MARKDOWN = "markdown"


@dataclass(frozen=True)
class Published:
    """A contract with the sources and the tables of its stream."""

    contract: Contract
    stream: str
    domain: str
    topic: str | None
    """None for a stream without a topic."""
    group_id: str
    partitions: int
    """The number of declared log partitions; 0 without a topic."""
    key: str | None
    """The field whose value the platform's own sources send as the Kafka key."""
    http_paths: tuple[str, ...]
    """Paths of the HTTP API. The first accepts records in any form, the others one record."""
    drop_folder: str
    """The folder of its files, below DROP_URL."""
    drop_patterns: tuple[str, ...]
    """Patterns of its file names; empty for all names with a known format's extension."""
    drop_format: str | None
    """The declared format of its files; None if the file names show it."""
    lake_folder: str
    """The folder below LAKE_URL, with a trailing slash."""
    bronze_table: str
    quarantine_table: str

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its records."""
        # Imported late, like the exporters: the command line imports this module for `Format`.
        from ingestion_platform.contract.json_schema import json_schema

        return json_schema(self.contract)

    @property
    def example(self) -> dict[str, Any]:
        """A record that the contract accepts."""
        record: dict[str, Any] = self.schema["examples"][0]
        return record


def documents(form: Format, published: Sequence[Published], *, complete: bool) -> dict[str, str]:
    """Return the documents of streams in a format: texts by path below the output folder.

    `complete` means that `published` has all streams; the result then includes indexes.
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
