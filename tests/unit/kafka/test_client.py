"""Reaching Kafka: which servers, which properties, and errors that name the setting."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer

from ingestion_platform.errors import Permanent, SettingError, SourceUnavailable
from ingestion_platform.kafka import client
from ingestion_platform.kafka.client import (
    bootstrap_servers,
    checked,
    client_config,
    ensure_topic,
)
from ingestion_platform.settings import Settings

NOWHERE = "127.0.0.1:1"


def settings_of(folder: Path, **variables: str) -> Settings:
    """Settings from these variables alone."""
    return Settings.load({"PLATFORM_HOME": str(folder), **variables}, root=folder)


def test_without_a_broker_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    """The embedded broker is never started behind the user's back."""
    with pytest.raises(SourceUnavailable) as raised:
        bootstrap_servers(settings_of(tmp_path))
    assert "ingest broker" in raised.value.action


def test_configured_servers_win_over_the_embedded_broker(tmp_path: Path) -> None:
    """KAFKA_BOOTSTRAP_SERVERS is what clients connect to."""
    settings = settings_of(tmp_path, KAFKA_BOOTSTRAP_SERVERS="kafka:9092")
    assert client_config(settings)["bootstrap.servers"] == "kafka:9092"


def test_overrides_win_over_settings_and_settings_over_defaults(tmp_path: Path) -> None:
    """What the code relies on cannot be configured away; anything else can."""
    settings = settings_of(
        tmp_path, KAFKA_BOOTSTRAP_SERVERS=NOWHERE, KAFKA_ACKS="0", KAFKA_CLIENT_ID="me"
    )
    config = client_config(settings, acks="all")
    assert (config["acks"], config["client.id"]) == ("all", "me")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KAFKA_SECURTY_PROTOCOL", "ssl", "no property"),
        ("KAFKA_SECURITY_PROTOCOL", "tls-please", "refuses"),
        ("KAFKA_LINGER_MS", "soon", "refuses"),
        ("KAFKA_ACKS", "most", "refuses"),
        ("KAFKA_SSL_KEY_PEM", "s3cr3t", "refuses"),
    ],
)
def test_a_wrong_property_is_named_as_its_variable(
    tmp_path: Path, name: str, value: str, says: str
) -> None:
    """The user learns which variable to mend, and never sees its value."""
    settings = settings_of(
        tmp_path,
        **{"KAFKA_BOOTSTRAP_SERVERS": NOWHERE, "KAFKA_SECURITY_PROTOCOL": "ssl", name: value},
    )
    with pytest.raises(SettingError, match=says) as raised:
        checked(lambda: Producer(client_config(settings)))
    assert raised.value.name == name
    assert raised.value.action
    assert value not in str(raised.value).replace(name, "")
    assert raised.value.__cause__ is None


def test_a_client_without_broker_writes_nothing_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """librdkafka's log lines go to logging, which is silent until somebody configures it."""
    errors: list[KafkaError] = []
    settings = settings_of(tmp_path, KAFKA_BOOTSTRAP_SERVERS=NOWHERE)
    producer = Producer({**client_config(settings), "error_cb": errors.append})
    deadline = time.monotonic() + 10
    while not any(e.code() == KafkaError._ALL_BROKERS_DOWN for e in errors):
        assert time.monotonic() < deadline
        producer.poll(0.05)
    assert capfd.readouterr().err == ""


def test_a_topic_of_the_embedded_broker_has_four_partitions(embedded: Settings) -> None:
    """Asked for again, the topic stays as it is."""
    assert ensure_topic(embedded, "four") == 4
    assert ensure_topic(embedded, "four") == 4


def test_the_embedded_broker_is_not_asked_for_what_it_cannot_do(embedded: Settings) -> None:
    """Another number of partitions is an error, not four silently."""
    with pytest.raises(Permanent, match="4 partitions"):
        ensure_topic(embedded, "six", partitions=6)


def test_a_topic_on_unreachable_brokers_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers that do not answer are worth another try, later."""
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    settings = settings_of(tmp_path, KAFKA_BOOTSTRAP_SERVERS=NOWHERE)
    with pytest.raises(SourceUnavailable, match="topic events") as raised:
        ensure_topic(settings, "events")
    assert "KAFKA_BOOTSTRAP_SERVERS" in raised.value.action
