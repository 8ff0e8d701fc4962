"""Maintenance of a stream (its lake and its two tables) and of the models of a domain, as the
command line and the assets do it; how each part works is written where the part lives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import PlatformError
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream

if TYPE_CHECKING:
    from ingestion_platform.lake.merge import Merged
    from ingestion_platform.warehouse.maintenance.table import Condition, TableMaintenance

LAYERS = ("silver", "gold")
"""The namespaces of the models, whose tables are named <layer>_<domain>_…"""


@dataclass(frozen=True)
class MaintenanceResult:
    """What maintenance did for a stream or for the models of a domain."""

    name: str
    lake: list[Merged]
    tables: list[TableMaintenance]

    @property
    def idle(self) -> bool:
        """Whether nothing was changed."""
        return not self.lake and all(table.idle for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        lake = [asdict(merged) for merged in self.lake]
        return {"name": self.name, "lake": lake, "tables": [t.as_dict() for t in self.tables]}


def tables_of(stream: Stream) -> list[str]:
    """The tables of a stream, as namespace.name."""
    return [stream.bronze_table, stream.quarantine_table]


def models_of(platform: Platform, domain: str) -> list[str]:
    """The tables that the models of a domain have made, as namespace.name.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    from pyiceberg.exceptions import NoSuchNamespaceError

    from ingestion_platform.warehouse.catalog import answering

    found = []
    for layer in LAYERS:
        try:
            with answering():
                names = [name for *_, name in platform.catalog.list_tables(layer)]
        except NoSuchNamespaceError:
            continue
        found += [f"{layer}.{name}" for name in names if name.startswith(f"{layer}_{domain}_")]
    return sorted(found)


def maintain_stream(
    platform: Platform,
    stream: Stream,
    *,
    thorough: bool = True,
    since: date | None = None,
    dry_run: bool = False,
    on_table: Callable[[TableMaintenance], None] = lambda _: None,
) -> MaintenanceResult:
    """Merge the lake's closed ingest dates, and do what bronze and quarantine need.

    `thorough` looks after the lake and for orphans as well, which take a listing of all files; of
    the lake's ingest dates at those from `since` on. With `dry_run` nothing is changed, and the
    lake is not looked at.

    Raises:
        FilesMissing, Differing: something is wrong with the data; names the files.
        StoreUnavailable, CatalogUnavailable: some of it may be done; run it again.
    """
    from ingestion_platform.lake.merge import merge_closed

    merged: list[Merged] = []
    if thorough and not dry_run:
        today = datetime.now(UTC).date()
        merged = merge_closed(platform.store, stream.topic, today=today, since=since)
    names = tables_of(stream)
    return MaintenanceResult(
        stream.name, merged, list(_maintenance(platform, names, thorough, dry_run, on_table))
    )


def maintain_models(
    platform: Platform,
    domain: str,
    *,
    thorough: bool = True,
    dry_run: bool = False,
    on_table: Callable[[TableMaintenance], None] = lambda _: None,
) -> MaintenanceResult:
    """Do what the tables of a domain's models need; `thorough` looks for orphans as well.

    Raises:
        FilesMissing: a table's files are not all there.
        StoreUnavailable, CatalogUnavailable: some of it may be done; run it again.
    """
    names = models_of(platform, domain)
    return MaintenanceResult(
        domain, [], list(_maintenance(platform, names, thorough, dry_run, on_table))
    )


def conditions(platform: Platform, names: Iterable[str]) -> Iterator[Condition]:
    """What condition tables are in, those that exist.

    Raises:
        StoreUnavailable, CatalogUnavailable: try again.
    """
    from ingestion_platform.warehouse.maintenance.table import condition

    target = platform.settings.maintenance.target_file_mb * 1024 * 1024
    for name in names:
        found = condition(platform.catalog, name, target=target)
        if found is not None:
            yield found


def _maintenance(
    platform: Platform,
    names: Iterable[str],
    thorough: bool,
    dry_run: bool,
    on_table: Callable[[TableMaintenance], None],
) -> Iterator[TableMaintenance]:
    """Maintenance of tables, one after the other; an error waits until the others are done."""
    from ingestion_platform.warehouse.maintenance.table import maintenance

    settings = platform.settings.maintenance
    failed: PlatformError | None = None
    for name in names:
        try:
            done = maintenance(
                platform.catalog,
                name,
                target=settings.target_file_mb * 1024 * 1024,
                orphan_wait=timedelta(hours=settings.orphan_hours) if thorough else None,
                dry_run=dry_run,
                trino=platform.settings.trino,
            )
        except PlatformError as error:
            failed = error
            continue
        if done is not None:
            on_table(done)
            yield done
    if failed is not None:
        raise failed
