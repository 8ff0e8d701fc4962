"""What a record's Kafka key is: the declared field, or the one that leads the primary key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.errors import ContractError
from ingestion_platform.produce.keys import key_of
from ingestion_platform.streams import DOMAINS_FOLDER, Stream, declared_streams, stream_of

STREAMS = declared_streams()
CONTRACTS = DOMAINS_FOLDER / "telemetry"


def declared(folder: Path, name: str = "app_logs", **attributes: Any) -> Stream:
    """A stream with the contract of a declared one, and these attributes."""
    shutil.copy(CONTRACTS / f"{name}.odcs.yaml", folder)
    return stream_of({"name": name, "topic": "t", **attributes}, folder)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'{"service": "cart", "level": "INFO"}', b"cart"),
        (b'{"service": "caf\\u00e9 \\"x\\""}', 'café "x"'.encode()),
        (b'{"level": "INFO", "service": 17}', b"17"),
        (b'{"service": 12345678901234567890123}', b"12345678901234567890123"),
        (b'{"service": true}', b"true"),
        (b'{"service": "null"}', b"null"),
        (b'{"service": null}', None),
        (b'{"service": ""}', b""),
        (b'{"level": "INFO"}', None),
        (b'{"service": "cart"', None),
        (b'[{"service": "cart"}]', None),
        (b"", None),
        (b"\xff", None),
        (b'{"service": "\xff"}', None),
    ],
)
def test_key_is_value_of_field(tmp_path: Path, value: bytes, key: bytes | None) -> None:
    """Text as it is, other values as their JSON text, nothing where there is no value."""
    assert key_of(declared(tmp_path, key="service"))(value) == key


@given(value=st.binary())
def test_any_bytes_have_key_or_none(value: bytes) -> None:
    """Whatever somebody sends, deciding its key does not fail."""
    found = key_of(STREAMS["auth_events"])(value)
    assert found is None or isinstance(found, bytes)


def test_declared_streams_have_expected_keys() -> None:
    """Events of a student, a complaint, a user or a service stay in order, versions of a title."""
    assert {name: stream.key_field for name, stream in STREAMS.items()} == {
        "auth_events": "user_id",
        "assessment_events": "user_id",
        "video_events": "user_id",
        "course_events": "user_id",
        "profile_events": "user_id",
        "notification_events": "user_id",
        "pgr_events": "entity_id",
        "recomart_users": "user_id",
        "recomart_products": "item_id",
        "recomart_transactions": "user_id",
        "sensor_readings": "sensor_id",
        "app_logs": "service",
        "tmdb_movie": "tmdb_id",
        "tmdb_tv_series": "tmdb_id",
        "tmdb_person": "tmdb_id",
    }


def test_default_key_is_primary_key(tmp_path: Path) -> None:
    """The first field of the primary key, or nothing if there is none."""
    assert declared(tmp_path).key_field is None
    assert key_of(declared(tmp_path))(b'{"service": "cart"}') is None
    assert declared(tmp_path, "sensor_readings").key_field == "sensor_id"


def test_caller_may_choose_key_field(tmp_path: Path) -> None:
    """What is asked for wins over what is declared."""
    stream = declared(tmp_path, key="service")
    assert key_of(stream, "host")(b'{"service": "cart", "host": "h1"}') == b"h1"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("servise", "'servise' is no field of app_logs.odcs.yaml"),
        ("log_date", "'log_date' is derived or nested"),
        ("fields", "'fields' is derived or nested"),
    ],
)
def test_derived_or_nested_key_is_rejected(tmp_path: Path, key: str, problem: str) -> None:
    """The error names the file, the stream and what could be declared instead."""
    with pytest.raises(ContractError) as rejected:
        _ = declared(tmp_path, key=key).contract
    assert f"{tmp_path / 'defs.yaml'}: stream app_logs, key: {problem}" in str(rejected.value)
    assert "use one of: timestamp, level, service" in rejected.value.action
    assert "log_date" not in rejected.value.action


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [({"key": 7}, "no name of a field"), ({"key": "service", "topic": None, "files": {}}, "topic")],
)
def test_unusable_key_is_rejected(tmp_path: Path, attributes: dict[str, Any], problem: str) -> None:
    """A key is a name, and only a topic has keys."""
    with pytest.raises(ContractError, match=problem) as rejected:
        declared(tmp_path, **attributes)
    assert "key: user_id" in rejected.value.action
