"""Trino: one node with the platform's Iceberg catalog, reached without encryption or password.

Tables and what is asked of them are the platform's business.
"""

import http.client
import json
import logging
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from services.files import cached, write_private
from services.java import java, unpack
from services.net import LOOPBACK
from services.processes import Identity
from services.service import Service

logger = logging.getLogger(__name__)

_TRINO = "476"
_JAVA = 24
_MAIN = "io.trino.server.TrinoServer"
_USER = "ingestion"
_CATALOG = "lakehouse"
_PYICEBERG = "PYICEBERG_CATALOG__LAKEHOUSE__"

# Modules and accesses that Trino's own launcher grants. What is asked of it here is small: that it
# starts quickly matters more than that it is quick after an hour.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-OmitStackTraceInFastThrow",
    "-Dfile.encoding=UTF-8",
    "-Djdk.attach.allowAttachSelf=true",
    "-Djol.skipHotspotSAAttach=true",
    "--add-modules=jdk.incubator.vector",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)

# Catalogs may be added while it runs: by whoever has a schema of the database to himself.
_CONFIG = """coordinator=true
node-scheduler.include-coordinator=true
http-server.http.port={port}
discovery.uri=http://{host}:{port}
catalog.management=dynamic
catalog.store=file
query.max-memory=512MB
query.max-memory-per-node=512MB
memory.heap-headroom-per-node=256MB
task.concurrency=2
task.max-worker-threads=4
log.enable-console=true
"""

_NODE = """node.environment=services
node.id=services
node.bind-ip={host}
node.internal-address={host}
plugin.dir={plugins}
"""

# By the names that PyIceberg's catalog has, so that each sees the other's tables; secrets come
# from the server's environment.
_LAKEHOUSE = """connector.name=iceberg
iceberg.catalog.type=jdbc
iceberg.jdbc-catalog.driver-class=org.postgresql.Driver
iceberg.jdbc-catalog.connection-url=jdbc:postgresql://{database}
iceberg.jdbc-catalog.connection-user={user}
iceberg.jdbc-catalog.connection-password=${{ENV:CATALOG_PASSWORD}}
iceberg.jdbc-catalog.catalog-name={catalog}
iceberg.jdbc-catalog.schema-version=V1
iceberg.jdbc-catalog.default-warehouse-dir={warehouse}
fs.native-s3.enabled=true
s3.endpoint={endpoint}
s3.region={region}
s3.path-style-access=true
s3.aws-access-key=${{ENV:AWS_ACCESS_KEY_ID}}
s3.aws-secret-key=${{ENV:AWS_SECRET_ACCESS_KEY}}
"""

_LEVELS = """io.trino=INFO
io.airlift=WARN
Bootstrap=WARN
"""


class Trino(Service):
    """One Trino server, coordinator and worker; the heap is SERVICES_TRINO_HEAP (default 1g)."""

    name = "trino"
    port_names = ("http",)
    needs = ("minio", "postgres")
    start_timeout_s = 300

    def install(self) -> None:
        """Unpack Trino into the cache; Unavailable without Java 24 or, the first time, mvn."""
        java(self.name, _JAVA)
        _home()

    def start(self) -> Identity:
        """Write the configuration and start the server; ServiceError for a malformed heap."""
        heap = os.environ.get("SERVICES_TRINO_HEAP", "1g")
        if not re.fullmatch(r"\d+[kmgKMG]?", heap):
            raise self.error(
                f"SERVICES_TRINO_HEAP={heap!r} is not a size", "set it to a size such as 1g"
            )
        login = urlsplit(self.around[f"{_PYICEBERG}URI"])
        self._write_configuration(
            login.username or "", f"{login.hostname}:{login.port}{login.path}"
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAVA_TOOL")}
        environment |= {k: v for k, v in self.around.items() if k.startswith("AWS_")}
        environment["CATALOG_PASSWORD"] = login.password or ""
        return self.spawn(
            [
                *(java(self.name, _JAVA), f"-Xmx{heap}", *_JVM),
                *("-Dconfig=config.properties", "-Dlog.levels-file=log.properties"),
                *("-cp", f"{_home()}{os.sep}lib{os.sep}*", _MAIN),
            ],
            env=environment,
        )

    def ready(self) -> bool:
        """Say whether the server has started."""
        connection = http.client.HTTPConnection(LOOPBACK, self.record.ports["http"], timeout=2)
        try:
            connection.request("GET", "/v1/info")
            return json.load(connection.getresponse())["starting"] is False
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        finally:
            connection.close()

    def settings(self, running: frozenset[str]) -> dict[str, str]:
        """Return where clients find it, by the names that they use."""
        port = str(self.record.ports["http"])
        return {"TRINO_HOST": LOOPBACK, "TRINO_PORT": port, "TRINO_USER": _USER}

    def _write_configuration(self, user: str, database: str) -> None:
        port = self.record.ports["http"]
        node = _NODE.format(host=LOOPBACK, plugins=_home() / "plugin")
        config = node + _CONFIG.format(host=LOOPBACK, port=port)
        (self.folder / "config.properties").write_text(config, encoding="utf-8")
        (self.folder / "log.properties").write_text(_LEVELS, encoding="utf-8")
        catalogs = self.folder / "etc" / "catalog"
        # Those that were added while it ran do not outlive it.
        shutil.rmtree(catalogs, ignore_errors=True)
        catalogs.mkdir(parents=True)
        lakehouse = _LAKEHOUSE.format(
            database=database,
            user=user,
            catalog=_CATALOG,
            warehouse=self.around[f"{_PYICEBERG}WAREHOUSE"],
            endpoint=self.around["AWS_ENDPOINT_URL"],
            region=self.around["AWS_REGION"],
        )
        write_private(catalogs / f"{_CATALOG}.properties", lakehouse)


def _home() -> Path:
    return cached(f"trino-{_TRINO}", _unpack) / f"trino-server-core-{_TRINO}"


def _unpack(target: Path) -> None:
    """Trino without plugins for other sources; the one for Iceberg is an archive of its own."""
    logger.info("trino: fetching %s, this once; it is half a gigabyte", _TRINO)
    unpack("trino", f"io.trino:trino-server-core:{_TRINO}:tar.gz", target)
    plugins = target / f"trino-server-core-{_TRINO}" / "plugin"
    unpack("trino", f"io.trino:trino-iceberg:{_TRINO}:zip", plugins)
    (plugins / f"trino-iceberg-{_TRINO}").rename(plugins / "iceberg")
