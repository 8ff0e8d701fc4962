"""Read tables for the metrics: each again only when its metadata have changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingestion_platform.each import attempt, for_each, results
from ingestion_platform.errors import PlatformError
from ingestion_platform.operations.maintenance import LAYERS, models_of
from ingestion_platform.platform import Platform
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges
from ingestion_platform.warehouse.retention import summary_of
from ingestion_platform.warehouse.tables import load_or_none
from ingestion_platform.warehouse.totals import Totals, read_totals

if TYPE_CHECKING:
    from pyiceberg.table import Table

EXAMINE = 300.0
"""Minimum seconds between two readings of a table's manifests."""


@dataclass(frozen=True, slots=True)
class TableSamples:
    """A table by its metadata; `small_files` is None until its manifests were read."""

    name: str
    layer: str
    domain: str
    stream: str
    rows: int
    bytes: int
    files: int
    delete_files: int
    snapshots: int
    committed_at: float | None
    """Time of the newest snapshot in seconds since the epoch; None without a snapshot."""
    small_files: int | None = None
    totals: Totals = field(default_factory=Totals)
    committed_by_partition: Mapping[int, CommittedRanges] = field(default_factory=dict)


@dataclass
class _Known:
    """A table at its last reading, and the location of its metadata."""

    location: str
    samples: TableSamples
    table: Table


class TableReader:
    """Reads the tables of the catalog, each again when its metadata location has changed."""

    def __init__(self, platform: Platform, domains: Sequence[str], clock: Callable[[], float]):
        self._platform = platform
        self._domains = domains
        self._clock = clock
        self._locations: dict[str, str] | None = None
        self._known: dict[str, _Known] = {}
        self._small: dict[str, tuple[str, float, int]] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The names of the tables that were read."""
        return list(self._known)

    def refresh(self) -> bool:
        """Read all metadata locations (one query of a SQL catalog); return whether it answers."""
        try:
            with answering():
                self._locations = _locations(self._platform)
        except PlatformError:
            return False
        return True

    def location(self, name: str) -> str:
        """Return the metadata location of a table; "" if it is missing or unknown."""
        known = self._known.get(name)
        return (self._locations or {}).get(name) or (known.location if known else "")

    def read(self, name: str, layer: str, domain: str, stream: str = "") -> TableSamples | None:
        """Read a table; return None if it does not exist.

        Raises:
            CatalogUnavailable, StoreUnavailable: one of them does not answer.
        """
        known = self._known.get(name)
        if self._locations is not None:
            location = self._locations.get(name)
            if location is None:
                with self._lock:
                    self._known.pop(name, None)
                return None
            if known is not None and known.location == location:
                return known.samples
        table = load_or_none(self._platform.catalog, name)
        if table is None:
            return None
        if known is None or known.location != table.metadata_location:
            samples = _table_samples(table, name, layer, domain, stream)
            known = _Known(table.metadata_location, samples, table)
            with self._lock:
                self._known[name] = known
        return known.samples

    def models(self) -> list[TableSamples]:
        """Return the tables of the models; from the last reading if the catalog does not answer."""
        named = list(for_each(self._models_of, self._domains))
        if any(of.error for of in named):
            return [known.samples for known in self._known.values() if not known.samples.stream]
        models = [(name, of.item) for of in named for name in of.result]
        read = for_each(lambda m: self.read(m[0], m[0].partition(".")[0], m[1]), models)
        return [samples for samples in results(read) if samples is not None]

    def _models_of(self, domain: str) -> list[str]:
        if self._locations is None:
            return models_of(self._platform, domain)
        prefixes = tuple(f"{layer}.{layer}_{domain}_" for layer in LAYERS)
        return sorted(name for name in self._locations if name.startswith(prefixes))

    def count_small_files(self, limit: int) -> dict[str, int]:
        """Return small files by table, after reading the manifests of `limit` overdue tables."""
        now = self._clock()
        due = [
            (self._small.get(name, ("", 0.0, 0))[1], name)
            for name, known in self._known.items()
            if self._small.get(name, ("",))[0] != known.location
            and now - self._small.get(name, ("", 0.0))[1] > EXAMINE
        ]
        for _, name in sorted(due)[:limit]:
            self._examine(name, now)
        return {name: small for name, (_, _, small) in self._small.items() if name in self._known}

    def _examine(self, name: str, now: float) -> None:
        from ingestion_platform.warehouse.maintenance.table import condition

        target = self._platform.settings.maintenance.target_file_mb * 1024 * 1024
        catalog = self._platform.catalog
        found = attempt(lambda of: condition(catalog, of, target=target), name).found
        if found is not None:
            self._small[name] = (self._known[name].location, now, found.small_files)


def _locations(platform: Platform) -> dict[str, str] | None:
    """Return the metadata location of each table (namespace.name).

    None if the catalog cannot list all locations at once.
    """
    from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
    from sqlalchemy import select

    catalog = platform.catalog
    if not isinstance(catalog, SqlCatalog):
        return None
    t = IcebergTables
    query = select(t.table_namespace, t.table_name, t.metadata_location).where(
        t.catalog_name == catalog.name
    )
    with catalog.engine.connect() as connection:
        rows = connection.execute(query).all()
    return {f"{namespace}.{name}": location or "" for namespace, name, location in rows}


def _table_samples(table: Table, name: str, layer: str, domain: str, stream: str) -> TableSamples:
    snapshot = table.current_snapshot()
    summary = summary_of(snapshot) if snapshot is not None else {}

    def total(name: str) -> int:
        return int(summary.get(f"total-{name}", 0))

    return TableSamples(
        name=name,
        layer=layer,
        domain=domain,
        stream=stream,
        rows=total("records") - total("position-deletes"),
        bytes=total("files-size"),
        files=total("data-files"),
        delete_files=total("delete-files"),
        snapshots=len(table.metadata.snapshots),
        committed_at=None if snapshot is None else snapshot.timestamp_ms / 1000,
        totals=read_totals(table),
        committed_by_partition=read_committed(table) if stream else {},
    )
