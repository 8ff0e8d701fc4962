"""The stores that settings name: lake, drop zones, Iceberg catalog and topics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ingestion_platform.kafka.topic_log import Log
from ingestion_platform.lake.file_source import FileLanding
from ingestion_platform.lake.store import Store, open_drop, open_store
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import open_catalog

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog


@dataclass
class Platform:
    """Opens each store on first use and keeps it."""

    settings: Settings

    @cached_property
    def store(self) -> Store:
        """The lake's object store (LAKE_URL)."""
        return open_store(self.settings)

    @cached_property
    def drop(self) -> Store:
        """The store of the drop zones (DROP_URL)."""
        return open_drop(self.settings)

    @cached_property
    def catalog(self) -> Catalog:
        """The Iceberg catalog."""
        return open_catalog(self.settings)

    @contextmanager
    def log(self, stream: Stream) -> Iterator[Log]:
        """Open the stream's topic for reading."""
        with Log(self.settings, stream.topic, stream.group_id) as log:
            yield log

    def file_source(self, stream: Stream) -> FileLanding:
        """Return the stream's file source."""
        spool = self.settings.home / "spool"
        return FileLanding(self.store, self.drop, stream, spool, self.settings.files)
