"""What a contract may say of names that its fields had before, and of decimals inside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from datacontract.data_contract import DataContract

from ingestion_platform.contract.model import Field, Kind


def renamed(name: str, *names: Any, **more: Any) -> dict[str, Any]:
    """A string property that was called `names` before."""
    custom = {"property": "previousNames", "value": list(names)}
    return {"name": name, "logicalType": "string", "customProperties": [custom], **more}


def test_previous_names_are_read_at_any_depth(load):
    """Of columns, of fields inside objects, and of those inside an array's objects."""
    inner = renamed("b", "old_b")
    contract = load(
        renamed("a", "old_a", "older_a"),
        {"name": "o", "logicalType": "object", "properties": [inner]},
        {"name": "l", "logicalType": "array",
         "items": {"logicalType": "object", "properties": [inner]}},
    )  # fmt: skip
    a, o, items = contract.fields
    assert a.previous_names == ("old_a", "older_a")
    assert o.fields[0].previous_names == ("old_b",)
    assert items.item.fields[0].previous_names == ("old_b",)


def test_the_standards_own_tool_accepts_previous_names(odcs):
    """A contract with them passes `datacontract lint`."""
    file = odcs(renamed("a", "old_a"))
    assert DataContract(data_contract_file=str(file)).lint().result == "passed"


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ([renamed("a", "b"), {"name": "b", "logicalType": "string"}], "also a name of b"),
        ([renamed("a", "x"), renamed("b", "X")], "also a name of a"),
        ([renamed("a", "a")], "also a name of a"),
        ([renamed("a", "x y")], "not a plain name"),
        ([renamed("a", 1)], "not a plain name"),
        ([renamed("a")], "not a list of names"),
    ],
)
def test_a_previous_name_is_plain_and_nobody_elses(problems, properties, problem):
    """Whatever would make two columns of one name is rejected with the file's element."""
    (found,) = problems(*properties)
    assert problem in found.problem
    assert "customProperties[0].value" in found.element


def test_previous_names_change_the_fingerprint_only_where_there_are_some(load):
    """Old records are read otherwise then; contracts without them keep their fingerprints."""
    before = load({"name": "a", "logicalType": "string"})
    after = load(renamed("a", "old_a"))
    assert before.fingerprint != after.fingerprint
    bare = replace(after, fields=(Field("a", Kind.STRING),))
    assert bare.fingerprint == before.fingerprint


@pytest.mark.parametrize(
    "holder",
    [
        lambda inner: {"logicalType": "object", "properties": [{"name": "p", **inner}]},
        lambda inner: {"logicalType": "array", "items": inner},
    ],
    ids=["object", "array"],
)
def test_a_decimal_inside_is_rejected_with_a_way_out(problems, holder):
    """Nothing would check its scale, so it is not let in."""
    inner = {"logicalType": "number", "physicalType": "decimal(9,2)"}
    (found,) = problems({"name": "x", **holder(inner)})
    assert "decimal inside" in found.problem
    assert "top-level decimal" in found.action
