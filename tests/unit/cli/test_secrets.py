"""Secrets never leave the settings: not in reports, not in errors of any library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.cli.terminal import redacted
from tests.support.command_line import Ingest

SECRETS = {
    "KAFKA_SASL_PASSWORD": "kafka-hunter2",
    "AWS_ACCESS_KEY_ID": "access-hunter2",
    "AWS_SECRET_ACCESS_KEY": "object-hunter2",
    "AWS_SESSION_TOKEN": "session-hunter2",
}
SERVERS = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISMS": "PLAIN",
    "KAFKA_SASL_USERNAME": "somebody",
    "LAKE_URL": "s3://bucket/master_dataset",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "PYICEBERG_CATALOG__LAKEHOUSE__URI": "postgresql+psycopg://u:p%40catalog-hunter2@127.0.0.1:1/c",
}


@pytest.fixture
def broken(bare: Ingest, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    """`ingest` whose servers are all out of reach, with secrets for each of them."""
    for name, value in (SECRETS | SERVERS).items():
        monkeypatch.setenv(name, value)
    return bare


@pytest.mark.parametrize(
    "arguments",
    [
        # Kafka's clients go on trying for as long as they may.
        pytest.param(("doctor",), marks=pytest.mark.slow),
        pytest.param(("doctor", "--json"), marks=pytest.mark.slow),
        pytest.param(("status",), marks=pytest.mark.slow),
        pytest.param(("run", "--all", "--json"), marks=pytest.mark.slow),
        ("verify", "--all"),
        ("query", "select * from bronze.service_events_raw"),
    ],
)
def test_nothing_tells_a_secret_when_servers_fail(
    broken: Ingest, arguments: tuple[str, ...]
) -> None:
    """Commands that cannot reach anything exit with 1, and tell no secret."""
    answer = broken(*arguments)
    assert answer.code == 1
    assert "hunter2" not in answer.out + answer.err
    assert "Traceback" not in answer.err


def test_rejected_property_is_reported_without_value(
    bare: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret put where a choice was expected is not repeated."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "hunter2")
    answer = bare("status")
    assert answer.code == 2
    assert "KAFKA_SECURITY_PROTOCOL" in answer.err
    assert "hunter2" not in answer.err


def test_an_unexpected_error_is_masked(bare: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that puts a password into its message does not get it printed."""

    def burst() -> None:
        raise ValueError("cannot log in with kafka-hunter2 here")

    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "kafka-hunter2")
    monkeypatch.setattr("ingestion_platform.streams.declared_streams", burst)
    answer = bare("status")
    assert "cannot log in with *** here" in answer.err


@given(
    secret=st.text(st.characters(codec="ascii", exclude_characters="\0*"), min_size=1).filter(
        lambda text: text.strip()
    ),
    before=st.text("xyz ", max_size=5),
)
def test_any_secret_is_masked_wherever_it_stands(secret: str, before: str) -> None:
    """Whatever a secret looks like, a message that holds it is masked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAFKA_SASL_PASSWORD", secret)
        masked = redacted(f"{before}{secret}{before}")
        assert secret not in masked
        assert "***" in masked
