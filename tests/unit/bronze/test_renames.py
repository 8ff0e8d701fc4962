"""Old records under a contract with renamed fields: keys as they are called now, values alike."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.bronze.renames import Renames
from ingestion_platform.contract.model import Contract, Field, Kind

INSIDE = (Field("town", Kind.STRING, previous_names=("city", "place")), Field("n", Kind.INTEGER))
CONTRACT = Contract(
    id="x", name="x", version="1", domain="d", stream="x", table="x",
    fields=(
        Field("area", Kind.STRING, previous_names=("ward",)),
        Field("where", Kind.OBJECT, fields=INSIDE),
        Field("stops", Kind.ARRAY, item=Field("element", Kind.OBJECT, fields=INSIDE)),
    ),
)  # fmt: skip


def applied(*values: bytes | None) -> list[bytes | None]:
    """The records as they are validated."""
    return Renames(CONTRACT).applied(pa.array(values, pa.binary())).to_pylist()


def test_keys_are_renamed_at_any_depth_and_values_kept() -> None:
    """Also where an object is inside of an array, and whatever its values look like."""
    record = {
        "ward": 'a "ward" \n',
        "where": {"city": "c", "n": 1e300},
        "stops": [{"place": "p"}, None, {"city": "x", "place": "y"}],
        "other": {"ward": 1},
    }
    (found,) = applied(json.dumps(record).encode())
    assert json.loads(found or b"") == {
        "area": 'a "ward" \n',
        "where": {"town": "c", "n": 1e300},
        "stops": [{"town": "p"}, None, {"town": "x", "place": "y"}],
        "other": {"ward": 1},
    }


def test_what_has_the_present_name_or_is_no_record_stays_as_it_is() -> None:
    """Byte by byte: poison is validated by what was sent."""
    same = [
        b'{"area":"new","ward":"old"}',
        b'{"ward":1,"ward":2}',
        b'{"ward":',
        b'"ward"',
        b'{"ward":"\xff"}',
        b"",
        None,
    ]
    assert applied(*same) == same


def test_nothing_renamed_costs_nothing() -> None:
    """Without previous names the very array comes back."""
    plain = Contract(
        id="x", name="x", version="1", domain="d", stream="x", table="x",
        fields=(Field("area", Kind.STRING),),
    )  # fmt: skip
    values = pa.array([b'{"ward":1}'], pa.binary())
    assert Renames(plain).applied(values) is values


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["ward", "area", "where", "stops", "x"]), st.integers())
        | st.integers(),
        max_size=5,
    )
)
def test_values_are_never_lost_or_invented(records: list[Any]) -> None:
    """Each record keeps its values in their order, and becomes one that has no old name alone."""
    found = applied(*(json.dumps(record).encode() for record in records))
    for before, after in zip(records, map(json.loads, found), strict=True):
        if isinstance(before, dict):
            assert list(before.values()) == list(after.values())
            assert "area" in after or "ward" not in after
        else:
            assert before == after
