"""SQL by a real Trino, on the lake and the catalog that a test has to itself."""

from __future__ import annotations

from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trino

from ingestion_platform.settings import CATALOG, Settings, TrinoSettings
from services import Services


class Trino:
    """A catalog of Trino's for the settings of a test; a context manager that drops it."""

    def __init__(self, services: Services, settings: Settings) -> None:
        env = services.env()
        self.host, self.port = env["TRINO_HOST"], int(env["TRINO_PORT"])
        self.user = env["TRINO_USER"]
        self._connection = trino.dbapi.connect(host=self.host, port=self.port, user=self.user)
        login = urlsplit(settings.catalog["uri"])
        # What `testbed.separate_environment` made: -csearch_path=<schema>
        self._name = parse_qs(login.query)["options"][0].rpartition("=")[2]
        database = f"jdbc:postgresql://{login.hostname}:{login.port}{login.path}"
        self._create(f"{database}?currentSchema={self._name}", login.username or "", settings)

    def _create(self, database: str, user: str, settings: Settings) -> None:
        properties = {
            "iceberg.catalog.type": "jdbc",
            "iceberg.jdbc-catalog.driver-class": "org.postgresql.Driver",
            "iceberg.jdbc-catalog.connection-url": database,
            "iceberg.jdbc-catalog.connection-user": user,
            "iceberg.jdbc-catalog.connection-password": "${ENV:CATALOG_PASSWORD}",
            "iceberg.jdbc-catalog.catalog-name": CATALOG,
            "iceberg.jdbc-catalog.schema-version": "V1",
            "iceberg.jdbc-catalog.default-warehouse-dir": settings.catalog["warehouse"],
            "fs.native-s3.enabled": "true",
            "s3.endpoint": settings.catalog["s3.endpoint"],
            "s3.region": settings.catalog["s3.region"],
            "s3.path-style-access": "true",
            "s3.aws-access-key": "${ENV:AWS_ACCESS_KEY_ID}",
            "s3.aws-secret-key": "${ENV:AWS_SECRET_ACCESS_KEY}",
        }
        named = ", ".join(f"\"{name}\" = '{value}'" for name, value in properties.items())
        self.run(f"CREATE CATALOG {self._name} USING iceberg WITH ({named})")
        self.run(f"USE {self._name}.bronze")

    @property
    def settings(self) -> TrinoSettings:
        """Where the platform finds it."""
        return TrinoSettings(host=self.host, port=self.port, user=self.user, catalog=self._name)

    def run(self, sql: str) -> list[Any]:
        """The rows that a statement gives; tables are named namespace.table."""
        cursor = self._connection.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall())

    def property(self, name: str) -> str:
        """The full name of a session property of the catalog."""
        return f"{self._name}.{name}"

    def __enter__(self) -> Trino:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run(f"DROP CATALOG {self._name}")
        self._connection.close()
