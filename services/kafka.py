"""Apache Kafka: one broker that is its own controller (KRaft), reached without encryption.

Topics beyond the automatic ones, and clients, are the platform's business.
"""

import base64
import os
import re
import secrets
import shutil
import socket
import struct
from pathlib import Path

from services.java import jars, java
from services.net import LOOPBACK
from services.processes import Identity
from services.service import Service, run_tool

_KAFKA = "4.1.2"
_LOG4J = "2.25.1"
_ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{_KAFKA}",
    f"org.apache.kafka:kafka-tools:{_KAFKA}",
    f"org.apache.logging.log4j:log4j-slf4j-impl:{_LOG4J}",
)

# log.dirs is relative to the service's folder: an absolute path with a comma would be split.
# A killed broker may only come back after its session: the default keeps it out for 9 s. What
# retention and compaction do, a test cannot wait minutes for.
_PROPERTIES = """process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller},DETOUR://{host}:{detour}
advertised.listeners=PLAINTEXT://{host}:{broker},DETOUR://{host}:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,DETOUR:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{host}:{controller}
log.dirs=data
auto.create.topics.enable=true
num.partitions=4
min.insync.replicas=1
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
log.initial.task.delay.ms=500
log.retention.check.interval.ms=1000
log.cleaner.backoff.ms=500
"""

_LOGGING = """rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
"""


class Kafka(Service):
    """One Kafka broker; the heap is SERVICES_KAFKA_HEAP (default 512m)."""

    name = "kafka"
    # A broker tells its clients where it is. Whoever comes by `detour` is told `proxy`, where
    # nobody listens but a proxy that passes on to `detour`.
    port_names = ("broker", "controller", "detour", "proxy")

    def install(self) -> None:
        """Copy Kafka's jars into the cache; Unavailable without Java 17 or, the first time, mvn."""
        java(self.name)
        _jars()

    def start(self) -> Identity:
        """Format the log folder the first time and start the broker.

        Raises ServiceError when the heap setting is malformed or formatting fails.
        """
        heap = os.environ.get("SERVICES_KAFKA_HEAP", "512m")
        if not re.fullmatch(r"\d+[kmgKMG]?", heap):
            raise self.error(
                f"SERVICES_KAFKA_HEAP={heap!r} is not a size", "set it to a size such as 512m"
            )
        self._write_configuration()
        self._format_once()
        jvm = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
        return self.spawn([*self._java_command(jvm), "kafka.Kafka", "server.properties"])

    def ready(self) -> bool:
        """Say whether the broker answers an ApiVersions request and is a member of its cluster."""
        try:
            with socket.create_connection((LOOPBACK, self.record.ports["broker"]), 2) as segment:
                return _speaks_kafka(segment) and _has_broker(segment)
        except (OSError, struct.error):
            return False

    def settings(self, running: frozenset[str]) -> dict[str, str]:
        """Return the bootstrap address."""
        return {"KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{self.record.ports['broker']}"}

    def _write_configuration(self) -> None:
        properties = _PROPERTIES.format(host=LOOPBACK, **self.record.ports)
        (self.folder / "server.properties").write_text(properties, encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")

    def _format_once(self) -> None:
        done = self.folder / "formatted"
        if done.exists():
            return
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        run_tool(
            self.name,
            [
                *self._java_command(["-XX:TieredStopAtLevel=1"]),
                *("kafka.tools.StorageTool", "format", "--config", "server.properties"),
                *("--cluster-id", _new_cluster_id()),
            ],
            "read the lines below, then `down --purge kafka` and `up kafka`",
            folder=self.folder,
        )
        done.touch()

    def _java_command(self, jvm: list[str]) -> list[str]:
        logging = "-Dlog4j2.configurationFile=log4j2.properties"
        return [java(self.name), *jvm, logging, "-cp", f"{_jars()}{os.sep}*"]


def _jars() -> Path:
    return jars(Kafka.name, f"kafka-{_KAFKA}", _ARTIFACTS)


def _new_cluster_id() -> str:
    # A leading "-" would be read as an option.
    return "k" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")[1:]


def _speaks_kafka(segment: socket.socket) -> bool:
    answer = _ask(segment, api_key=18, version=0, body=b"")
    (error,) = struct.unpack_from(">h", answer)
    return bool(error == 0)


def _has_broker(segment: socket.socket) -> bool:
    """Say whether the metadata lists a broker: one that is still fenced is not listed."""
    no_topics = struct.pack(">i", 0)
    answer = _ask(segment, api_key=3, version=1, body=no_topics)
    (brokers,) = struct.unpack_from(">i", answer)
    return bool(brokers > 0)


def _ask(segment: socket.socket, api_key: int, version: int, body: bytes) -> bytes:
    client = b"readiness"
    header = struct.pack(">hhih", api_key, version, 1, len(client)) + client
    segment.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
    (size,) = struct.unpack(">i", _receive(segment, 4))
    return _receive(segment, size)[4:]


def _receive(segment: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = segment.recv(size - len(received))
        if not part:
            raise ConnectionResetError("the broker closed the connection")
        received += part
    return received
