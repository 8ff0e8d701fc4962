"""The documented cases of JSON hold, alone and beside records of other shapes."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.odcs import load_contract
from tests.formats import json_cases
from tests.formats.case import FormatCase
from tests.support.reasons import reason_texts

FILE = Path(json_cases.__file__).with_name("json_contract.yaml")
NAMES = [f.name for f in load_contract(FILE).fields]
FULL = json.dumps(dict.fromkeys(NAMES) | {"id": 7, "open": {"a": 1}, "price": 1.5}).encode()


@pytest.fixture(scope="module")
def parser() -> Validator:
    """Of the contract that the cases speak of."""
    return Validator(load_contract(FILE))


def outcome(parser: Validator, *values: bytes, at: int) -> tuple[dict[str, Any] | None, list[str]]:
    """The row of one of some records, or the reasons against it."""
    found = parser.parse(pa.array(values, pa.binary()))
    rows = dict(zip(found.valid.to_pylist(), found.rows.to_pylist(), strict=True))
    reasons = dict(zip(found.rejected.to_pylist(), reason_texts(found.reasons), strict=True))
    return rows.get(at), reasons.get(at, [])


def shown(value: Any) -> str:
    """A stored value as the page shows it."""
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)


@pytest.mark.parametrize("case", json_cases.CASES, ids=lambda c: c.title)
def test_documented_case_holds(parser: Validator, case: FormatCase) -> None:
    """The stored value or the reason, on whichever way the record takes."""
    ways = [
        outcome(parser, case.given, at=0),
        outcome(parser, FULL, case.given, FULL, at=1),
        outcome(parser, *[b'{"id":1}'] * 4, case.given, at=4),
    ]
    assert ways[0] == ways[1] == ways[2]
    row, reasons = ways[0]
    if case.outcome == "rejected":
        assert any(case.result in reason for reason in reasons), reasons
        return
    assert row is not None, reasons
    field, _, value = case.result.partition(": ")
    assert shown(row[field]) == value
