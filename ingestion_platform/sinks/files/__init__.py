"""Files: a folder of Parquet or CSV parts on a disk or an object store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingestion_platform.sinks.registry import Sink

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings
    from ingestion_platform.sinks.files.target import FilesTarget

SETTING = "SINK_FILES_URL"
FORMATS = ("parquet", "csv")
PARTS = 16
_FOLDER = re.compile(r"[\w.-]+(/[\w.-]+)*")


@dataclass(frozen=True)
class Options:
    """The folder of a delivery, below SINK_FILES_URL, and what is in it."""

    folder: str
    format: str = "parquet"
    parts: int = PARTS

    @property
    def label(self) -> str:
        """Name of the target within its sink."""
        return self.folder


def _parse(given: Mapping[str, Any], default_schema: str, default_table: str) -> Options:
    folder = given.get("folder", f"{default_schema}/{default_table}")
    if not (isinstance(folder, str) and _FOLDER.fullmatch(folder)) or ".." in folder:
        raise ValueError(f"folder: {folder!r} is not a valid path; write `folder: shop/users`")
    kind, parts = given.get("format", "parquet"), given.get("parts", PARTS)
    if kind not in FORMATS:
        raise ValueError(f"format: is not one of {', '.join(FORMATS)}")
    if not (isinstance(parts, int) and 1 <= parts <= 9999):
        raise ValueError("parts: is not a number from 1 to 9999")
    return Options(folder, kind, parts)


def _open(settings: Settings, options: Options) -> FilesTarget:
    from ingestion_platform.lake.store import store_at
    from ingestion_platform.sinks.files.target import FilesTarget

    return FilesTarget(store_at(settings.sinks.files_url, settings.s3, setting=SETTING), options)


SINK = Sink(
    options=("folder", "format", "parts"),
    setting=SETTING,
    example="s3://bucket/prefix",
    parse=_parse,
    configured=lambda settings: bool(settings.sinks.files_url),
    open=_open,
)
