"""Defaults that sources fill in: the present time, where a record says nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.produce.defaults import completer
from ingestion_platform.streams import declared_streams

STREAMS = declared_streams()
VIEW = {"user_id": 1001, "item_id": 501, "view_mode": "purchase", "amount": 1.50}
COMPLETE = completer(STREAMS["recomart_transactions"].contract)


@pytest.mark.parametrize("said", [{}, {"timestamp": None}])
def test_present_time_is_filled_in(said: dict[str, Any]) -> None:
    """A field that is missing or null gets it, all else stays."""
    before = datetime.now(UTC)
    record = json.loads(COMPLETE(json.dumps(VIEW | said).encode()))
    time = datetime.fromisoformat(record.pop("timestamp"))
    assert record == VIEW
    assert before - timedelta(seconds=1) <= time <= datetime.now(UTC)


@pytest.mark.parametrize(
    "value",
    [
        b' {"timestamp": "2026-11-20T10:00:00+02:00", "user_id":1,\n"x": [1.50]} ',
        b'{"timestamp": ""}',
        b'{"timestamp": 0}',
        b'{"user_id": 1, "user_id": 2}',
        b'{"user_id": 1',
        b"[1]",
        b"",
        b"\xff",
    ],
)
def test_complete_and_malformed_records_stay(value: bytes) -> None:
    """Byte for byte, for the contract to validate."""
    assert COMPLETE(value) == value


@given(value=st.binary())
def test_any_bytes_can_be_completed(value: bytes) -> None:
    """Whatever somebody sends, completing it does not fail."""
    assert isinstance(COMPLETE(value), bytes)


def test_streams_without_default_stay() -> None:
    """A record of another stream that lacks its time is not repaired."""
    for name, stream in STREAMS.items():
        empty = completer(stream.contract)(b"{}")
        assert (empty == b"{}") is (name != "recomart_transactions"), name


def test_default_changes_no_result() -> None:
    """Bronze need not be made again when a source's default is declared or removed."""
    contract = STREAMS["recomart_transactions"].contract
    without = tuple(replace(field, default=None) for field in contract.fields)
    assert without != contract.fields
    assert replace(contract, fields=without).fingerprint == contract.fingerprint
