"""Dagster resources: the platform, DuckDB with its tables, and S3; dbt's is in `dbt`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection


class PlatformResource(dg.ConfigurableResource[Platform]):
    """Gives assets, checks and sensors a `platform.Platform`; it has no settings of its own."""

    def create_resource(self, context: dg.InitResourceContext) -> Platform:
        """Return a platform with the current settings; connections open on first use."""
        return Platform(Settings.load())


class TablesResource(DuckDBResource):
    """DuckDB with the Iceberg tables of the catalog as namespace.table, for assets and checks."""

    database: str = ":memory:"

    @contextmanager
    def get_connection(self) -> Iterator[DuckDBPyConnection]:
        """Yield a DuckDB connection with all tables of the catalog.

        Raises:
            CatalogUnavailable: the catalog does not answer.
        """
        with self._connection(None) as connection:
            yield connection

    def query(self, sql: str) -> pa.Table:
        """Return the rows of a query; opens the tables that it names.

        Raises:
            CatalogUnavailable: the catalog does not answer.
        """
        with self._connection(sql) as connection:
            return connection.execute(sql).to_arrow_table()

    @contextmanager
    def _connection(self, sql: str | None) -> Iterator[DuckDBPyConnection]:
        from ingestion_platform.warehouse.reading import open_tables

        with super().get_connection() as connection:
            open_tables(connection, Settings.load(), sql)
            yield connection


def platform_resources() -> dict[str, Any]:
    """Return the resources of the code location: `s3` only where the lake is on S3."""
    resources: dict[str, Any] = {"platform": PlatformResource(), "duckdb": TablesResource()}
    settings = Settings.load()
    if settings.lake_url.startswith("s3://"):
        resources["s3"] = _s3(settings)
    return resources


def _s3(settings: Settings) -> Any:
    from dagster_aws.s3 import S3Resource

    given = settings.s3
    return S3Resource(
        endpoint_url=given.get("endpoint"),
        region_name=given["region"],
        aws_access_key_id=given.get("access_key_id"),
        aws_secret_access_key=given.get("secret_access_key"),
        aws_session_token=given.get("session_token"),
    )
