"""The peer: Kafka Connect with Iceberg's own sink, from a topic into a table like our bronze table,
measured from outside. It keeps no raw copy, validates nothing, and writes no positions into rows.
"""

from __future__ import annotations

import json
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.platform import Platform
from ingestion_platform.settings import CATALOG, Settings, process_environment
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.tables import ensure_bronze
from services import ServiceError
from services.files import tail
from services.java import jars, java
from services.net import LOOPBACK, free_port, http_ok, wait_until
from services.processes import Identity, alive, end, spawn

if TYPE_CHECKING:
    from pyiceberg.table.snapshots import Snapshot

NAME = "kafka connect"
_KAFKA, _ICEBERG, _HADOOP, _POSTGRES, _LOG4J = "4.1.2", "1.11.0", "3.4.2", "42.7.8", "2.25.1"
_RUNTIME = (
    f"org.apache.kafka:connect-runtime:{_KAFKA}",
    f"org.apache.kafka:connect-json:{_KAFKA}",
    f"org.apache.logging.log4j:log4j-slf4j-impl:{_LOG4J}",
)
_SINK = (
    f"org.apache.iceberg:iceberg-kafka-connect:{_ICEBERG}",
    f"org.apache.iceberg:iceberg-aws:{_ICEBERG}",
    f"org.apache.iceberg:iceberg-aws-bundle:{_ICEBERG}",
    f"org.apache.iceberg:iceberg-parquet:{_ICEBERG}",
    f"org.apache.iceberg:iceberg-orc:{_ICEBERG}",
    f"org.apache.hadoop:hadoop-client-api:{_HADOOP}",
    f"org.apache.hadoop:hadoop-client-runtime:{_HADOOP}",
    f"org.postgresql:postgresql:{_POSTGRES}",
)
_JVM = ("-Xms1g", "-Xmx2g", "-XX:+UseParallelGC", "-XX:+ExitOnOutOfMemoryError")
_MAIN = "org.apache.kafka.connect.cli.ConnectStandalone"
_WORKER, _LOG = "worker.properties", "connect.log"

_TASKS = 2
# The last rows wait for the next commit. A shorter interval measures less of that waiting, but
# makes more and smaller files.
_COMMIT_EVERY_MS = 2000
# At the end of a topic a task only looks for requests to commit when it would flush offsets.
_LOOK_EVERY_MS = 250
# A task that comes too late for a commit is not waited for longer: its rows come with the next.
_COMMIT_PATIENCE_MS = 10_000

_START_SECONDS, _STOP_SECONDS = 120.0, 30.0
_POLL = 0.5
_PATIENCE = 180.0  # without a new row, in seconds

_LOGGING = """rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{UNIX_MILLIS} %p %m (%c{1})%n
"""


@dataclass(frozen=True)
class Took:
    """Seconds until the table held all records, by the clock of its last snapshot."""

    since_asked: float
    """Since the connector was submitted: starting its tasks and joining the group included."""
    since_first_read: float
    """Since the first task knew where to read, and had read nothing."""
    steady: float
    """What it would be at the rate between the first commit and the last but one: without the
    beginning, and without what the last rows wait for their commit."""
    commits: int


@dataclass(frozen=True)
class Connect:
    """A Connect worker that runs and takes connectors."""

    folder: Path
    port: int
    process: Identity
    startup: float
    """Seconds from starting the JVM until it took connectors."""

    def load(self, platform: Platform, stream: Stream, records: int) -> Took:
        """Write a topic that holds so many records, all of them valid, into the stream's bronze
        table, whose platform columns stay null.

        Raises:
            ServiceError: the worker ended, a task failed, or no more rows came.
        """
        ensure_bronze(platform.catalog, stream.bronze_table, stream.contract)
        control = f"{stream.group_id}-control"
        ensure_topic(platform.settings, control, 1)
        name, config = stream.group_id, _connector(platform.settings, stream, control)
        began = time.time()
        self._ask("PUT", f"/connectors/{name}/config", config)
        snapshots = self._until_complete(platform, stream, records)
        self._ask("DELETE", f"/connectors/{name}")
        ended = snapshots[-1].timestamp_ms / 1000
        since_first_read = ended - self._first_read(stream)
        steady = _steady(snapshots, records) if len(snapshots) > 2 else since_first_read
        return Took(ended - began, since_first_read, steady, len(snapshots))

    def peak_mib(self) -> float:
        """The most memory that the process had, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def ready(self) -> bool:
        """Whether it takes connectors; ServiceError when it has ended."""
        if not alive(self.process):
            self._give_up("ended")
        return http_ok(self.port, "/connectors")

    def _until_complete(self, platform: Platform, stream: Stream, records: int) -> list[Snapshot]:
        """The table's snapshots once it holds all records."""
        held, deadline = 0, time.monotonic() + _PATIENCE
        while True:
            table = platform.catalog.load_table(stream.bronze_table)
            snapshots: list[Snapshot] = table.metadata.snapshots
            rows = _rows(snapshots[-1]) if snapshots else 0
            if rows == records:
                return snapshots
            if rows > held:
                held, deadline = rows, time.monotonic() + _PATIENCE
            if rows > records or time.monotonic() > deadline:
                self._give_up(f"wrote {rows:,} rows of {records:,} records")
            self._check_tasks(stream.group_id)
            time.sleep(_POLL)

    def _check_tasks(self, name: str) -> None:
        if not alive(self.process):
            self._give_up("ended")
        status = self._ask("GET", f"/connectors/{name}/status")
        for part in [status["connector"], *status["tasks"]]:
            if part["state"] == "FAILED":
                self._give_up("failed", part["trace"])

    def _first_read(self, stream: Stream) -> float:
        """When a task of the stream's first knew where to read, in seconds since 1970."""
        line = rf"^(\d+) .*groupId=connect-{stream.group_id}\].* Resetting offset for partition "
        told = re.search(line, self._log().read_text(), re.MULTILINE)
        if told is None:
            self._give_up("does not tell in its log when it began to read")
        return int(told[1]) / 1000

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
        segment = HTTPConnection(LOOPBACK, self.port, timeout=60)
        try:
            content = None if body is None else json.dumps(body)
            segment.request(method, path, content, {"Content-Type": "application/json"})
            answer = segment.getresponse()
            text = answer.read().decode()
        finally:
            segment.close()
        if answer.status >= 300:
            self._give_up(f"answered {method} {path} with {answer.status}", text)
        return json.loads(text) if text else None

    def _give_up(self, problem: str, detail: str | None = None) -> NoReturn:
        action = "read the lines below, or measure without it"
        raise ServiceError(NAME, problem, action, detail=detail or tail(self._log()))

    def _log(self) -> Path:
        return self.folder / _LOG


def install() -> None:
    """Bring Connect and the sink into the cache.

    Raises:
        ServiceError: there is no Java, no Maven to fetch them, or Maven cannot fetch them.
    """
    java(NAME)
    _runtime()
    _sink()


@contextmanager
def running(settings: Settings) -> Iterator[Connect]:
    """A worker in a session of its own beside the settings' Kafka, ended on leaving.

    Raises:
        ServiceError: it does not come up.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        _configure(folder, settings, port)
        logging = "-Dlog4j2.configurationFile=log4j2.properties"
        command = [java(NAME), *_JVM, logging, "-cp", f"{_runtime()}/*", _MAIN, _WORKER]
        began = time.monotonic()
        process = spawn(command, log=folder / _LOG, folder=folder, env=process_environment())
        try:
            connect = Connect(folder, port, process, startup=0)
            if not wait_until(connect.ready, _START_SECONDS):
                connect._give_up(f"takes no connectors after {_START_SECONDS:.0f} s")
            yield replace(connect, startup=time.monotonic() - began)
        finally:
            end(process, signal.SIGTERM, _STOP_SECONDS)


def _rows(snapshot: Snapshot) -> int:
    assert snapshot.summary is not None, "Iceberg's writers summarize"
    return int(snapshot.summary["total-records"])


def _steady(snapshots: list[Snapshot], records: int) -> float:
    first, last = snapshots[0], snapshots[-2]
    seconds: float = (last.timestamp_ms - first.timestamp_ms) / 1000
    return seconds * records / (_rows(last) - _rows(first))


def _runtime() -> Path:
    return jars(NAME, f"kafka-connect-{_KAFKA}", _RUNTIME)


def _sink() -> Path:
    return jars(NAME, f"iceberg-sink-{_ICEBERG}", _SINK)


def _configure(folder: Path, settings: Settings, port: int) -> None:
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "iceberg").symlink_to(_sink())
    (folder / "log4j2.properties").write_text(_LOGGING)
    lines = (f"{name}={value}\n" for name, value in _worker(settings, plugins, port).items())
    (folder / _WORKER).write_text("".join(lines))


def _worker(settings: Settings, plugins: Path, port: int) -> dict[str, str | int]:
    assert settings.bootstrap_servers is not None, "a real Kafka is needed"
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "listeners": f"http://{LOOPBACK}:{port}",
        "plugin.path": str(plugins),
        "plugin.discovery": "service_load",
        "offset.storage.file.filename": "offsets",
        "offset.flush.interval.ms": _LOOK_EVERY_MS,
        "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "consumer.max.poll.records": 2_000,
        "consumer.fetch.min.bytes": 1 << 20,
        "consumer.fetch.max.wait.ms": 100,
        "consumer.fetch.max.bytes": 64 << 20,
        "consumer.max.partition.fetch.bytes": 16 << 20,
        "consumer.receive.buffer.bytes": 1 << 20,
        # If one task joins first, it hears of the other at once.
        "consumer.heartbeat.interval.ms": 200,
    }


def _connector(settings: Settings, stream: Stream, control: str) -> dict[str, str]:
    return {
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
        "tasks.max": str(_TASKS),
        "topics": stream.topic,
        "iceberg.tables": stream.bronze_table,
        "iceberg.control.topic": control,
        "iceberg.control.commit.interval-ms": str(_COMMIT_EVERY_MS),
        "iceberg.control.commit.timeout-ms": str(_COMMIT_PATIENCE_MS),
        "iceberg.catalog": CATALOG,
        **{f"iceberg.catalog.{name}": value for name, value in _catalog(settings).items()},
    }


def _catalog(settings: Settings) -> dict[str, str]:
    """The catalog of the settings, as Iceberg's Java names its properties."""
    from sqlalchemy import make_url

    known = settings.catalog
    url = make_url(known["uri"])
    return {
        "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        "uri": f"jdbc:postgresql://{url.host}:{url.port}/{url.database}",
        "jdbc.user": url.username or "",
        "jdbc.password": url.password or "",
        "jdbc.schema-version": "V1",
        "warehouse": known["warehouse"],
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "s3.endpoint": known["s3.endpoint"],
        "s3.path-style-access": "true",
        "s3.access-key-id": known["s3.access-key-id"],
        "s3.secret-access-key": known["s3.secret-access-key"],
        "client.region": known["s3.region"],
    }
