"""Envelopes and foreign formats are rejected by name, unless the contract means them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.wire import likeness
from tests.support.every_kind import prop
from tests.support.reasons import reason_texts
from tests.support.testbed import PGR, new_stream

EVENT = {"specversion": "1.0", "id": "7", "source": "/a", "type": "t", "data": {"id": "1"}}
CHANGE = {"before": None, "after": {"id": "1"}, "source": {"db": "x"}, "op": "c", "ts_ms": 5}
CONNECT = {"schema": {"type": "struct"}, "payload": {"id": "1"}}


def parser(folder: Path, *fields: dict[str, Any]) -> Validator:
    """Of a contract with these fields, none of them required."""
    document = yaml.safe_load(PGR.read_text())
    document["schema"][0] |= {"quality": [], "properties": list(fields)}
    folder.mkdir(exist_ok=True)
    return Validator(new_stream(folder, contract=document).contract)


def outcomes(made: Validator, records: list[dict[str, Any]]) -> list[list[str]]:
    """The reasons against each record, none for one that is taken."""
    found = made.parse(pa.array([json.dumps(r).encode() for r in records], pa.binary()))
    reasons = dict(zip(found.rejected.to_pylist(), reason_texts(found.reasons), strict=True))
    return [reasons.get(place, []) for place in range(len(records))]


ID, NOTE = prop("id", "string"), prop("note", "string")
OBJECTS = [prop(name, "object", "json") for name in ("payload", "after", "source")]


@pytest.mark.parametrize("envelope", [EVENT, CHANGE, CONNECT], ids=["event", "change", "connect"])
@pytest.mark.parametrize("fields", [(ID,), (ID, NOTE), (NOTE,)], ids=["id", "both", "note"])
def test_envelopes_are_rejected(
    tmp_path: Path, envelope: dict[str, Any], fields: tuple[dict[str, Any], ...]
) -> None:
    """Alone, in any company, and where all that the contract declares stands in the envelope."""
    made = parser(tmp_path, *fields)
    good = {field["name"]: "x" for field in fields}
    for company in ([], [good], [good] * 9, [good, {"id": "2", "more": 1}, {"note": "z"}] * 3):
        records = [*company, envelope, *company]
        reasons = outcomes(made, records)[len(company)]
        assert len(reasons) == 1
        assert reasons[0].startswith("value: looks like a ")


def test_contracts_of_envelopes_are_meant(tmp_path: Path) -> None:
    """Who declares the keys of an envelope gets its records."""
    change = parser(tmp_path / "a", *OBJECTS, prop("op", "string"))
    event = parser(tmp_path / "b", ID, prop("source", "string"), prop("type", "string"))
    assert outcomes(change, [CHANGE, CONNECT]) == [[], []]
    assert outcomes(event, [EVENT]) == [[]]


def test_an_object_of_no_field_is_rejected(tmp_path: Path) -> None:
    """Also where nothing is required, and among records that lack most fields."""
    made = parser(tmp_path, ID, NOTE)
    for company in ([], [{"id": "1", "note": "x"}] * 9, [{"id": "1"}] * 9):
        for stranger in ({}, {"ID": "1"}, {"other": {"id": "1"}}):
            found = outcomes(made, [*company, stranger])
            assert found[-1] == ["value: has none of the contract's fields"]
            assert not any(found[:-1])


@settings(deadline=None, max_examples=300)
@given(value=st.binary(max_size=40) | st.tuples(st.sampled_from(
    [b"\0", b"\0\0\0\0\1", b"\xff\xfe", b"\x81", b"[", b'"', b"<", b"Obj\x01"]
), st.binary(max_size=20)).map(b"".join))  # fmt: skip
def test_likeness_takes_any_bytes(value: bytes) -> None:
    """It guesses, or gives no answer; it never raises."""
    assert likeness(value) is None or likeness(value)
