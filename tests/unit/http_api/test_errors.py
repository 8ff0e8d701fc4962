"""Reasons as errors of the HTTP API: each code that a contract can give."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
import yaml

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.contract.reasons import RECORD, Code, Reason, reasons_of
from ingestion_platform.http_api.problems import error_of

FIELDS: list[dict[str, Any]] = [
    {"name": "id", "logicalType": "integer", "required": True},
    {"name": "low", "logicalType": "integer", "logicalTypeOptions": {"minimum": 1, "maximum": 5}},
    {
        "name": "open",
        "logicalType": "number",
        "logicalTypeOptions": {"exclusiveMinimum": 0, "exclusiveMaximum": 9},
    },
    {
        "name": "text",
        "logicalType": "string",
        "logicalTypeOptions": {"minLength": 2, "maxLength": 4},
    },
    {"name": "code", "logicalType": "string", "logicalTypeOptions": {"pattern": "[A-Z]+"}},
    {"name": "mail", "logicalType": "string", "logicalTypeOptions": {"format": "email"}},
    {"name": "price", "logicalType": "number", "physicalType": "decimal(5,2)"},
    {"name": "day", "logicalType": "date"},
    {"name": "kind", "logicalType": "string", "enum": [{"value": "a"}, {"value": "b"}]},
    {
        "name": "tags",
        "logicalType": "array",
        "logicalTypeOptions": {"uniqueItems": True, "minItems": 1, "maxItems": 3},
        "items": {"logicalType": "string"},
    },
    {"name": "more", "logicalType": "object", "physicalType": "json"},
]
RULE = {
    "type": "custom",
    "engine": "ingestion-platform",
    "name": "low_is_not_id",
    "description": "They differ.",
    "implementation": "low <> id",
}


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Validator:
    """A contract with every kind of constraint."""
    file = tmp_path_factory.mktemp("contract") / "things.odcs.yaml"
    schema = {"name": "things", "logicalType": "object", "properties": FIELDS, "quality": [RULE]}
    document = {
        "apiVersion": "v3.2.0",
        "kind": "DataContract",
        "id": "things",
        "domain": "test",
        "version": "1.0.0",
        "status": "active",
        "schema": [schema],
    }
    file.write_text(yaml.safe_dump(document))
    return Validator(load_contract(file))


@pytest.mark.parametrize(
    ("value", "field", "code"),
    [
        ({"low": 1}, "id", "required"),
        ({"specversion": "1.0", "id": "1", "source": "s", "type": "t"}, "value", "envelope"),
        ({"id": None}, "id", "required"),
        ({"id": "1"}, "id", "type"),
        ({"id": 1.5}, "id", "type"),
        ({"id": 2**70}, "id", "type"),
        ({"id": 9, "low": 0}, "low", "minimum"),
        ({"id": 9, "low": 6}, "low", "maximum"),
        ({"id": 9, "open": 0}, "open", "exclusiveMinimum"),
        ({"id": 9, "open": 9}, "open", "exclusiveMaximum"),
        ({"id": 9, "text": "a"}, "text", "minLength"),
        ({"id": 9, "text": "abcde"}, "text", "maxLength"),
        ({"id": 9, "code": "a"}, "code", "pattern"),
        ({"id": 9, "mail": "a"}, "mail", "format"),
        ({"id": 9, "price": 1.255}, "price", "precision"),
        ({"id": 9, "day": "2026-02-30"}, "day", "type"),
        ({"id": 9, "kind": "c"}, "kind", "enum"),
        ({"id": 9, "tags": ["x", "x"]}, "tags", "uniqueItems"),
        ({"id": 9, "tags": list("abcd")}, "tags", "maxItems"),
        ({"id": 9, "tags": []}, "tags", "minItems"),
        ({"id": 9, "tags": "x"}, "tags", "type"),
        ({"id": 9, "more": 5}, "more", "type"),
        ({"id": 1, "low": 1}, None, "rule.low_is_not_id"),
        ([], "value", "type"),
        ('{"id": 1', "value", "json"),
        ('{"id": 1, "id": 2}', "id", "uniqueKeys"),
        (" ", "value", "json"),
    ],
)
def test_each_fault_has_its_code(
    parser: Validator, value: Any, field: str | None, code: str
) -> None:
    """The only reason against the record has field, code and message."""
    sent = value if isinstance(value, str) else json.dumps(value)
    validated = parser.parse(pa.array([sent.encode()], pa.binary()))
    ((reason,),) = map(reasons_of, validated.reasons.to_pylist())
    assert (reason.field, reason.code) == (field, code)
    assert reason.message


def test_a_pointer_escapes_the_field_name() -> None:
    """RFC 6901: `~` and `/` in names are not taken for structure."""
    assert error_of(Reason(Code.PATTERN, "a/b~c", "must match x"))["pointer"] == "#/a~1b~0c"
    assert error_of(Reason(Code.JSON, RECORD, "is empty"))["pointer"] == "#"
