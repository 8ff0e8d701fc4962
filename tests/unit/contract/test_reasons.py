"""Reasons: their vocabulary is documented, and JSON gives back what it was given."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.contract.reasons import MEANINGS, RULE, Code, Reason, label_sql

PAGE = Path(__file__).parents[3] / "docs" / "quarantine.md"
REASONS = st.builds(
    Reason,
    code=st.sampled_from([*map(str, Code), f"{RULE}x"]),
    field=st.none() | st.text(min_size=1),
    message=st.text(),
    value=st.none() | st.text(),
)


def test_every_code_is_documented() -> None:
    """The page of the quarantine has each code with its meaning, and no other."""
    documented = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert documented == {str(code): meaning for code, meaning in MEANINGS.items()}
    assert set(documented) == {*map(str, Code), f"{RULE}<name>"}


@given(REASONS)
def test_json_keeps_a_reason(reason: Reason) -> None:
    """Any text survives."""
    assert Reason.from_json(reason.to_json()) == reason


@pytest.mark.parametrize(
    "reason",
    [
        Reason(Code.MINIMUM, "amount", "must be at least 0", "-1"),
        Reason(f"{RULE}paid_is_dated", None, "paid orders have a date"),
    ],
)
def test_sql_labels_like_python(reason: Reason) -> None:
    """Counting by SQL and by Python gives the same names."""
    query = f"SELECT {label_sql('r')} FROM (SELECT $reason::STRUCT(code VARCHAR, field VARCHAR, message VARCHAR, value VARCHAR) AS r)"  # noqa: E501
    with duckdb.connect() as connection:
        assert connection.execute(query, {"reason": reason.as_dict()}).fetchall() == [
            (reason.label,)
        ]
