"""Elasticsearch: a versioned index per delivery, behind an alias that searches use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingestion_platform.sinks.registry import Sink

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings
    from ingestion_platform.sinks.elasticsearch.target import ElasticsearchTarget

POSITIONS = "ingestion-positions"
"""Index with one document for each target of the cluster."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,180}")
_RESERVED = re.compile(r"-rejected$|-\d{6}$|\.(write|reject)-")


@dataclass(frozen=True)
class Options:
    """The index of a delivery: an alias."""

    index: str

    @property
    def label(self) -> str:
        """Name of the target within its sink."""
        return self.index


def _parse(given: Mapping[str, Any], default_schema: str, default_table: str) -> Options:
    name = given.get("index", f"{default_schema}-{default_table}".lower())
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"index: {name!r} is not a valid name; use small letters, digits, . _ -")
    if name == POSITIONS or _RESERVED.search(name):
        raise ValueError(f"index: {name} is reserved for the sink; choose another name")
    return Options(name)


def _open(settings: Settings, options: Options) -> ElasticsearchTarget:
    from ingestion_platform.sinks.elasticsearch.target import ElasticsearchTarget

    return ElasticsearchTarget(settings.sinks, options)


SINK = Sink(
    options=("index",),
    setting="ELASTICSEARCH_URL",
    example="https://search.example.org:9200",
    parse=_parse,
    configured=lambda settings: bool(settings.sinks.elasticsearch_urls),
    open=_open,
)
