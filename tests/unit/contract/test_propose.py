"""Contracts proposed from samples: they load, and refuse nothing of their own sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_platform.bronze.text import TextReader
from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.lint import Severity, lint
from ingestion_platform.contract.model import Contract, Kind
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.contract.propose import PLACEHOLDER, propose
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.streams import declared_streams
from tests.support.reasons import reason_texts

START = datetime(2026, 3, 1, 6, tzinfo=UTC)

NAMES = st.sampled_from(
    ["id", "order_id", "a", "A", "timestamp", "event_date", "select", "element", "_own", "x y", "é"]
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["new", "paid", "true", "null", "2026-01-01", "007"]),
    st.uuids().map(str),
    st.emails(),
    st.dates().map(str),
    st.datetimes().map(datetime.isoformat),
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(NAMES | TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)
# Records that are alike (each field with values of one kind) and records that are not.
ALIKE = st.dictionaries(
    NAMES,
    st.sampled_from(
        [
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.uuids().map(str),
            st.dates().map(str),
            st.datetimes().map(datetime.isoformat),
            st.sampled_from(["new", "paid"]),
            st.lists(st.integers(-5, 5) | st.none(), max_size=3),
            st.fixed_dictionaries({"a": st.integers()}, optional={"b": st.dates().map(str)}),
        ]
    ),
    min_size=1,
).flatmap(lambda fields: st.lists(st.fixed_dictionaries({}, optional=fields), max_size=30))
UNLIKE = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=6)
CSV = st.lists(NAMES, min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.lists(
        st.fixed_dictionaries(
            {
                name: st.none() | TEXTS.filter(bool) | st.integers().map(str) | st.floats().map(str)
                for name in names
            }
        ),
        max_size=8,
    )
)


def proposed(
    folder: Path, records: Sequence[Mapping[str, Any]], *, text: bool = False, name: str = "orders"
) -> Contract:
    """The contract proposed for these records, as it is read back from its file."""
    document = propose(name, "shop", records, text=text).document
    file = folder / f"{name}.odcs.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return load_contract(file)


def rejections(
    contract: Contract, records: Sequence[Mapping[str, Any]], *, text: bool = False
) -> list[list[str]]:
    """The reasons that the contract has against these records."""
    values = pa.array([json.dumps(r).encode() for r in records], pa.binary())
    if text:
        values = TextReader(contract).typed(values)
    return reason_texts(Validator(contract).parse(values).reasons)


def fields(contract: Contract) -> dict[str, Kind]:
    """The kinds of a contract's fields."""
    return {field.name: field.kind for field in contract.fields}


quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.slow
@quick
@given(records=st.one_of(ALIKE, UNLIKE))
def test_any_json_sample_is_valid_by_its_own_contract(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Whatever objects a sample holds, the proposal loads and rejects none with its fields."""
    try:
        contract = proposed(tmp_path, records)
    except ValueError:
        assert not any(_declarable(record) for record in records)
        return
    ours = [record for record in records if fields(contract).keys() & record.keys()]
    assert rejections(contract, ours) == []


def _declarable(record: Mapping[str, Any]) -> bool:
    """Whether a field of the record alone can be declared without doubt."""
    return len(record) == 1 and record.keys() <= {"id", "order_id"} and not any(record.values())


@pytest.mark.slow
@quick
@given(records=CSV)
def test_any_sample_of_text_is_valid_by_its_own_contract(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Cells of a CSV file are read as the proposed types, and none is rejected."""
    try:
        contract = proposed(tmp_path, records, text=True)
    except ValueError:
        return
    assert rejections(contract, records, text=True) == []


@pytest.mark.parametrize("stream", declared_streams())
def test_the_records_of_a_declared_stream_suit_the_contract_proposed_for_them(
    stream: str, tmp_path: Path
) -> None:
    """Realistic records give a contract without errors, a key and a date to partition by."""
    records = [json.loads(r.value) for r in simulate(stream, 120, seed=3, start=START)]
    contract = proposed(tmp_path, records, name=stream)
    assert rejections(contract, records) == []
    findings = lint([Path(contract.file)])
    assert [f for f in findings if f.severity is Severity.ERROR] == []
    assert any("placeholder" in f.problem for f in findings)


def test_types_come_from_all_values(tmp_path: Path) -> None:
    """Each kind is recognised; one value of another kind widens it or leaves the field out."""
    common = {
        "order_id": "3f2c9a5e-7d14-4b7a-8c1e-0a9b6d5f4e2",
        "email": "a@b.org",
        "at": "2026-03-01T10:00:00+05:30",
        "birth_date": "1990-01-01",
        "paid": True,
        "code": "007",
        "address": {"city": "Pune", "zip": "411001"},
        "lines": [{"sku": "a", "count": 1}],
    }
    varied = [
        common
        | {
            "order_id": common["order_id"] + str(n),  # type: ignore[operator]
            "amount": n if n else 0.5,
            "status": ["new", "paid"][n % 2],
            "mixed": n if n else "none",
            "extra": {f"key_{n}_{i}": i for i in range(3)},
        }
        for n in range(10)
    ]
    proposal = propose("orders", "shop", varied)
    assert list(proposal.left_out) == ["mixed"]
    contract = proposed(tmp_path, varied)
    assert fields(contract) == {
        "order_id": Kind.STRING,
        "email": Kind.STRING,
        "at": Kind.TIMESTAMP,
        "event_date": Kind.DATE,
        "birth_date": Kind.DATE,
        "paid": Kind.BOOLEAN,
        "code": Kind.STRING,
        "address": Kind.OBJECT,
        "lines": Kind.ARRAY,
        "amount": Kind.NUMBER,
        "status": Kind.STRING,
        "extra": Kind.JSON,
    }
    assert contract.column("order_id").format == "uuid"
    assert contract.column("email").format == "email"
    assert contract.column("status").allowed == ("new", "paid")
    assert (contract.primary_key, contract.partition_by) == (("order_id",), ("event_date",))
    assert contract.quarantine_share == 0.05
    assert contract.table == "shop_orders"
    assert rejections(contract, [varied[0] | {"status": "lost"}])


def test_text_spells_types(tmp_path: Path) -> None:
    """Cells become numbers and booleans where all spell one; a zero ahead makes a code."""
    rows = [
        {"id": str(n), "price": f"{n}.50", "ok": "True", "zip": f"0{n}", "day": "2026-03-01"}
        for n in range(3)
    ]
    contract = proposed(tmp_path, rows, text=True)
    assert fields(contract) == {
        "id": Kind.INTEGER,
        "price": Kind.NUMBER,
        "ok": Kind.BOOLEAN,
        "zip": Kind.STRING,
        "day": Kind.DATE,
    }
    assert (contract.primary_key, contract.partition_by) == (("id",), ("day",))
    assert rejections(contract, rows, text=True) == []


def test_required_is_what_is_never_missing(tmp_path: Path) -> None:
    """A field that is absent or null once is optional, inside objects too."""
    records = [{"a": 1, "b": 1, "c": {"d": 1, "e": 1}}, {"a": 2, "b": None, "c": {"d": 2}}]
    contract = proposed(tmp_path, records)
    assert {f.name: f.required for f in contract.fields} == {"a": True, "b": False, "c": True}
    inner = {f.name: f.required for f in contract.column("c").fields}
    assert inner == {"d": True, "e": False}


def test_nothing_can_be_proposed_from_nothing() -> None:
    """A sample without records, or without a field that can be a column, is rejected."""
    for records in ([], [{}], [{"_a": 1}]):
        with pytest.raises(ValueError, match="no"):
            propose("orders", "shop", records)


def test_placeholders_are_told_until_they_are_filled(tmp_path: Path) -> None:
    """Lint warns about each description that nobody has written, and no longer afterwards."""
    contract = proposed(tmp_path, [{"a": 1}])
    file = Path(contract.file)
    warned = [f.element for f in lint([file]) if "placeholder" in f.problem]
    assert warned == ["description.purpose", "schema[0].properties[0] (a)"]
    file.write_text(file.read_text().replace(PLACEHOLDER, "It is"))
    assert not any("placeholder" in f.problem for f in lint([file]))
