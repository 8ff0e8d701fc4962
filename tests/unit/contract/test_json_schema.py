"""JSON Schema of contracts: valid, with examples that the contract accepts, and never stricter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.json_schema import example, field_schema, json_schema
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.streams import Stream, declared_streams
from tests.formats import json_cases
from tests.formats.case import FormatCase

STREAMS = declared_streams()


def prop(name: str, kind: str, **more: Any) -> dict[str, Any]:
    """A property of an ODCS document."""
    return {"name": name, "logicalType": kind, **more}


def accepted(contract: Contract, values: list[bytes]) -> set[int]:
    """The places of the records that the contract accepts."""
    return set(Validator(contract).parse(pa.array(values, pa.binary())).valid.to_pylist())


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_schema_and_example_of_each_declared_contract(stream: Stream) -> None:
    """The schema is one by its own dialect; the example fits it, and the contract accepts it."""
    schema = json_schema(stream.contract)
    Draft202012Validator.check_schema(schema)
    (shown,) = schema["examples"]
    Draft202012Validator(schema).validate(shown)
    assert accepted(stream.contract, [json.dumps(shown).encode()]) == {0}


def test_what_the_contract_accepts_fits_the_schema() -> None:
    """Nobody who validates by the schema first loses a record that bronze would take."""
    contract = STREAMS["pgr_events"].contract
    values = [r.value for r in simulate("pgr_events", 500, seed=3, bad_ratio=0.2)]
    validator = Draft202012Validator(json_schema(contract))
    good = accepted(contract, values)
    assert len(good) > 300
    for place in good:
        validator.validate(json.loads(values[place]))


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (Field("a", Kind.INTEGER, bits=32), [0, None, 2**31 - 1], [2**31, 1.5, "1", True]),
        (Field("a", Kind.INTEGER, required=True, exclusive_minimum=0), [1], [0, None]),
        (Field("a", Kind.NUMBER, minimum=0, maximum=5), [0, 4.5], [-1, 5.1, "x"]),
        (Field("a", Kind.DECIMAL, precision=5, scale=2), [1.25, -999.99], [1000, 1.255]),
        (Field("a", Kind.STRING, min_length=2, max_length=3), ["ab"], ["a", "abcd", 5]),
        (Field("a", Kind.STRING, pattern="a|b+"), ["a", "bb"], ["ab", "xa"]),
        (Field("a", Kind.STRING, allowed=("x", "y")), ["x", None], ["z"]),
        (Field("a", Kind.BOOLEAN, required=True), [True], [1, None, "true"]),
        (Field("a", Kind.DATE), ["2026-11-20"], ["20.11.2026", "2026-11-20T10:00:00Z"]),
        (
            Field("a", Kind.TIMESTAMP),
            ["2026-11-20 10:00:00", "2026-11-20T10:00:00.123+02:00"],
            ["2026-11-20", "now", 5],
        ),
        (Field("a", Kind.TIME), ["10:00:00"], ["10", "25"]),
        (Field("a", Kind.JSON), [{"b": 1}, [1], '{"b": 1}', None], [5, True]),
        (
            Field("a", Kind.OBJECT, fields=(Field("b", Kind.INTEGER, required=True),)),
            [{"b": 1, "c": 2}],
            [{}, {"b": None}, []],
        ),
        (
            Field("a", Kind.ARRAY, max_length=2, item=Field("i", Kind.STRING, required=True)),
            [[], ["x"]],
            [[1], ["x", "y", "z"], [None], {}],
        ),
    ],
)
def test_fields(field: Field, good: list[Any], bad: list[Any]) -> None:
    """Each kind and constraint says what it allows, null where the field is optional."""
    validator = Draft202012Validator(field_schema(field))
    assert [value for value in good if not validator.is_valid(value)] == []
    assert [value for value in bad if validator.is_valid(value)] == []


def test_derived_fields_are_not_asked_for(load: Callable[..., Contract]) -> None:
    """Producers do not send what the platform derives."""
    contract = load(
        prop("a", "string", required=True, examples=["x"]),
        prop("b", "string", required=True, transformLogic="a || a"),
    )
    schema = json_schema(contract)
    assert list(schema["properties"]) == ["a"]
    assert schema["required"] == ["a"]
    assert example(contract) == {"a": "x"}


def test_an_example_leaves_out_what_would_break_a_rule(load: Callable[..., Contract]) -> None:
    """Optional fields that exclude each other do not stand in one example."""
    rule = {
        "type": "custom",
        "engine": "ingestion-platform",
        "name": "one_of_both",
        "implementation": "b IS NULL OR c IS NULL",
    }
    contract = load(
        prop("a", "integer", required=True),
        prop("b", "integer", examples=[1]),
        prop("c", "integer", examples=[2]),
        quality=[rule],
    )
    assert example(contract) == {"a": 1, "c": 2}


TIMES = load_contract(Path(json_cases.__file__).with_name("json_contract.yaml"))


@pytest.mark.parametrize("case", json_cases.CASES, ids=lambda case: case.title)
def test_schema_takes_what_is_read(case: FormatCase) -> None:
    """Never stricter than the parser, and no looser for the form of a time."""
    if case.outcome == "read":
        Draft202012Validator(json_schema(TIMES)).validate(json.loads(case.given))
    elif case.section == json_cases.TIMES and b"+24" not in case.given:
        taken = Draft202012Validator(json_schema(TIMES)).is_valid(json.loads(case.given))
        formed = ("0..23", "range for month", "six digits", "does not exist", "years")
        assert taken == any(part in case.result for part in formed)
