"""Connect to Kafka: client configuration from settings, and topics created on demand.

Other modules produce and read.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ingestion_platform.errors import Permanent, SettingError, SourceUnavailable
from ingestion_platform.kafka.broker import PARTITIONS, address
from ingestion_platform.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

T = TypeVar("T")

TIMEOUT = 10.0

# librdkafka's log lines go to Python's logging, never directly to stderr.
LOG = logging.getLogger("ingestion_platform.kafka")
LOG.addHandler(logging.NullHandler())

_PROPERTY = re.compile(
    r'onfiguration property:? "([^"]+)"|`([a-z.]+)` must|([a-z]+\.[a-z.]+) (?:failed|and)'
)
# A user may have put a secret into a property that takes one of a few choices.
_VALUE = re.compile(r' "[^"]*"(?= for configuration property)')
_UNKNOWN = "No such configuration property"
# librdkafka reports some properties under older names than those that users set.
_ALIASES = {"request.required.acks": "acks", "queue.buffering.max.ms": "linger.ms"}
_EXAMPLES = {
    "acks": "all",
    "compression.type": "zstd",
    "enable.idempotence": "true",
    "linger.ms": "20",
    "max.in.flight": "5",
    "sasl.mechanisms": "SCRAM-SHA-512",
    "security.protocol": "SASL_SSL",
    "ssl.ca.location": "/etc/ssl/certs/ca-certificates.crt",
}


def bootstrap_servers(settings: Settings) -> str:
    """Return Kafka's servers as `host:port,...`: the configured ones, or the embedded broker's.

    Raises:
        SourceUnavailable: no servers are configured, and the embedded broker does not run.
    """
    if settings.bootstrap_servers is not None:
        return settings.bootstrap_servers
    broker = address(settings.home)
    if broker is None:
        raise SourceUnavailable(
            f"no embedded broker runs in {settings.home}",
            action="start it with `ingest broker`, or set KAFKA_BOOTSTRAP_SERVERS",
        )
    return broker.bootstrap_servers


def client_config(settings: Settings, **overrides: str | int | float) -> dict[str, Any]:
    """Return the librdkafka configuration of any client.

    `overrides` (by dotted name) take precedence over settings. Build the client within `checked`,
    so that an invalid property raises `SettingError`.

    Raises:
        SourceUnavailable: no servers are configured, and the embedded broker does not run.
    """
    return {
        "client.id": "ingestion-platform",
        "logger": LOG,
        **settings.kafka,
        "bootstrap.servers": bootstrap_servers(settings),
        **overrides,
    }


def checked(build: Callable[[], T]) -> T:
    """Return the client that `build` creates.

    Raises:
        SettingError: librdkafka rejects a property. The error names it as KAFKA_<PROPERTY>, without
            its value.
    """
    from confluent_kafka import KafkaException

    try:
        return build()
    except KafkaException as error:
        # Drop the cause: librdkafka's text may repeat a value, and values may be secret.
        raise _setting_error(error.args[0].str()) from None


def topics(settings: Settings, timeout: float = TIMEOUT) -> dict[str, int]:
    """Return the partition count of each existing topic, without creating any.

    Raises:
        SourceUnavailable: the brokers do not answer within `timeout` seconds.
        SettingError: librdkafka rejects a KAFKA_<PROPERTY>.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin: AdminClient = checked(lambda: AdminClient(client_config(settings)))
    try:
        found = admin.list_topics(timeout=timeout).topics
    except KafkaException as error:
        raise rejected(bootstrap_servers(settings), error) from error
    return {name: len(topic.partitions) for name, topic in found.items()}


def ensure_topic(
    settings: Settings, topic: str, partitions: int = PARTITIONS, **config: str | int
) -> int:
    """Create a topic if it is absent, wait until it is writable, and return its partition count.

    `config` holds topic properties by dotted name. An existing topic keeps its own properties, and
    the embedded broker supports none.

    Raises:
        SourceUnavailable: the brokers do not answer, or the topic has no leaders in time.
        Permanent: the brokers refuse to create the topic, or the broker is the embedded one and
            `partitions` is not four.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin: AdminClient = checked(lambda: AdminClient(client_config(settings)))
    if settings.embedded and partitions != PARTITIONS:
        raise Permanent(
            f"topic {topic}: the embedded broker gives every topic {PARTITIONS} partitions",
            action=f"ask for {PARTITIONS}, or set KAFKA_BOOTSTRAP_SERVERS to a real Kafka",
        )
    try:
        if not settings.embedded and topic not in admin.list_topics(timeout=TIMEOUT).topics:
            _create(admin, topic, partitions, {k: str(v) for k, v in config.items()})
        # Asking the embedded broker for a topic's metadata creates it.
        return _ready(admin, topic)
    except KafkaException as error:
        raise rejected(f"topic {topic}", error) from error


def rejected(what: str, error: KafkaException) -> Permanent | SourceUnavailable:
    """Return the platform's error for a broker's error: transient if a retry may help."""
    reason: KafkaError = error.args[0]
    message = f"{what}: {reason.name()}: {reason.str()}"
    if reason.retriable() or reason.code() < 0:
        return SourceUnavailable(message, action="check KAFKA_BOOTSTRAP_SERVERS and the brokers")
    return Permanent(message, action="see the broker's answer; mend the topic or the grants")


def _create(admin: AdminClient, topic: str, partitions: int, config: dict[str, str]) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=config)
    try:
        admin.create_topics([new], request_timeout=TIMEOUT)[topic].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def _ready(admin: AdminClient, topic: str) -> int:
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = admin.list_topics(topic, timeout=TIMEOUT).topics[topic]
        leaders = [p.leader for p in found.partitions.values()]
        if found.error is None and leaders and min(leaders) >= 0:
            return len(leaders)
        if time.monotonic() > deadline:
            problem = f": {found.error.name()}" if found.error else ", a partition has no leader"
            raise SourceUnavailable(
                f"topic {topic}: not ready after {TIMEOUT:.0f} s{problem}",
                action="see whether the brokers are up",
            )
        time.sleep(0.05)


def _setting_error(text: str) -> SettingError:
    found = _PROPERTY.search(text)
    name = next(filter(None, found.groups()), "") if found else ""
    name = "sasl.mechanisms" if "SASL mechanism" in text else _ALIASES.get(name, name)
    setting = "KAFKA_" + (name.upper().replace(".", "_") if name else "<PROPERTY>")
    if text.startswith(_UNKNOWN):
        error = SettingError(setting, f"librdkafka has no property {name!r}", example="")
        error.action = "correct its name, or remove it: librdkafka's CONFIGURATION.md lists them"
        return error
    problem = f"librdkafka refuses it: {_VALUE.sub('', text).strip()}"
    return SettingError(setting, problem, example=_EXAMPLES.get(name, "<a value it accepts>"))
