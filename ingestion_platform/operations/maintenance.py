"""Maintain a stream (lake, bronze, quarantine), and the models of a domain.

`lake.merge` and `warehouse.maintenance` do the work.
"""

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
"""Namespaces of the models; their tables are named <layer>_<domain>_…"""


@dataclass(frozen=True)
class MaintenanceResult:
    """The result of maintaining a stream, or the models of a domain."""

    name: str
    lake: list[Merged]
    tables: list[TableMaintenance]

    @property
    def idle(self) -> bool:
        """Whether nothing was changed."""
        return not self.lake and all(table.idle for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data."""
        lake = [asdict(merged) for merged in self.lake]
        return {"name": self.name, "lake": lake, "tables": [t.as_dict() for t in self.tables]}


def tables_of(stream: Stream) -> list[str]:
    """Return the tables of a stream as namespace.name."""
    return [stream.bronze_table, stream.quarantine_table]


def models_of(platform: Platform, domain: str) -> list[str]:
    """Return the existing tables of a domain's models as namespace.name.

    Raises:
        CatalogUnavailable: the catalog does not answer.
    """
    from pyiceberg.exceptions import NoSuchNamespaceError

    from ingestion_platform.warehouse.catalog import answering

    tables = []
    for layer in LAYERS:
        try:
            with answering():
                names = [name for *_, name in platform.catalog.list_tables(layer)]
        except NoSuchNamespaceError:
            continue
        tables += [f"{layer}.{name}" for name in names if name.startswith(f"{layer}_{domain}_")]
    return sorted(tables)


def maintain_stream(
    platform: Platform,
    stream: Stream,
    *,
    thorough: bool = True,
    since: date | None = None,
    dry_run: bool = False,
    on_table: Callable[[TableMaintenance], None] = lambda _: None,
) -> MaintenanceResult:
    """Maintain bronze and quarantine, and merge the lake's closed ingest dates.

    Only `thorough` maintenance lists all files, to merge the lake (ingest dates from `since` on)
    and to delete orphans. With `dry_run` nothing is changed, and the lake is skipped.

    Raises:
        FilesMissing, Differing: data files are missing or differ; the message names them.
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
    """Maintain the tables of a domain's models; `thorough` maintenance deletes orphans, too.

    Raises:
        FilesMissing: referenced files of a table are missing.
        StoreUnavailable, CatalogUnavailable: some of it may be done; run it again.
    """
    names = models_of(platform, domain)
    return MaintenanceResult(
        domain, [], list(_maintenance(platform, names, thorough, dry_run, on_table))
    )


def conditions(platform: Platform, names: Iterable[str]) -> Iterator[Condition]:
    """Yield the condition of each table that exists.

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
    """Maintain tables one after the other; raise the last error at the end."""
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
