"""Limits of integers inside arrays and objects, which the gate validates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from ingestion_platform.bronze.validate import Validator
from tests.support.reasons import reason_texts
from tests.support.testbed import PGR, new_stream


@pytest.mark.parametrize(
    ("limits", "good", "bad"),
    [
        ({}, [-(2**63), 2**63 - 1], [2**63, -(2**63) - 1]),
        ({"minimum": 0}, [0, 2**63 - 1], [-1, 2**63]),
        ({"maximum": 10}, [-(2**63), 10], [11, -(2**63) - 1]),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 3}, [1, 2], [0, 3]),
        ({"minimum": 0, "maximum": 3}, [0, 3], [-1, 4]),
        ({"minimum": 0, "format": "i32"}, [0, 2**31 - 1], [-1, 2**31]),
    ],
)
def test_limits_hold_inside(
    tmp_path: Path, limits: dict[str, Any], good: list[int], bad: list[int]
) -> None:
    """The narrower of what the contract says and what the bits hold, on both sides."""
    number = {"logicalType": "integer", "logicalTypeOptions": limits}
    document = yaml.safe_load(PGR.read_text())
    document["schema"][0] |= {
        "quality": [],
        "properties": [
            {"name": "listed", "logicalType": "array", "items": number},
            {"name": "inner", "logicalType": "object", "properties": [{"name": "n"} | number]},
        ],
    }
    parser = Validator(new_stream(tmp_path, contract=document).contract)
    for values, fine in ((good, True), (bad, False)):
        texts = [b'{"listed":[%d],"inner":null}' % value for value in values]
        texts += [b'{"listed":null,"inner":{"n":%d}}' % value for value in values]
        parsed = parser.parse(pa.array(texts, pa.binary()))
        assert len(parsed.valid) == (len(texts) if fine else 0), reason_texts(parsed.reasons)
