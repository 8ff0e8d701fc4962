"""Times mean the same wherever they stand: columns, objects, arrays, text formats, any batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_platform.bronze.text import TextReader
from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.model import Contract, Field
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.contract.times import read_epoch
from ingestion_platform.contract.values import read_text
from tests.formats import json_cases
from tests.support.reasons import reason_texts

CONTRACT: Contract = load_contract(Path(json_cases.__file__).with_name("json_contract.yaml"))
PARSER, TEXT = Validator(CONTRACT), TextReader(CONTRACT)
INNER = {f.name: f for f in CONTRACT.column("inner").fields}
WHOLE = dict.fromkeys(f.name for f in CONTRACT.fields) | {"id": 1}

quick = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
days = st.sampled_from(["2026-11-20", "2026-03-29", "2026-10-25", "20261120", "2026-02-29"])
edges = st.sampled_from(["0001-01-01", "9999-12-31", "0000-01-01", "1969-12-31", "2026-12-31"])
clocks = st.sampled_from(
    ["10:00:00", "02:30:00", "23:59:60", "24:00:00", "00:00", "100000", "10:00:60", "23:59:59"]
)
fractions = st.sampled_from(["", ".5", ",5", ".123456", ".1234567", ".123456000", ".9999999", "."])
zones = st.sampled_from(
    ["", "Z", "z", "+01:00", "-0500", "+01", "-00:00", "+24:00", " Z", "+23:59"]
)
joined = st.tuples(days | edges, st.sampled_from("Tt ") | st.just("_"), clocks, fractions, zones)
texts = joined.map("".join) | days | edges | st.tuples(clocks, fractions, zones).map("".join)
numbers = st.sampled_from(
    ["0", "-1", "1795168800", "1795168800.5", "1.1234567", "1e3", "253402300799999999", "9" * 30]
) | st.integers(-(10**17), 10**18).map(str)


def rows_of(values: list[bytes], at: int) -> tuple[dict[str, Any] | None, list[str]]:
    """The row of one of some records, and the reasons against it."""
    found = PARSER.parse(pa.array(values, pa.binary()))
    rows = dict(zip(found.valid.to_pylist(), found.rows.to_pylist(), strict=True))
    reasons = dict(zip(found.rejected.to_pylist(), reason_texts(found.reasons), strict=True))
    return rows.get(at), reasons.get(at, [])


def everywhere(record: dict[str, Any], raw: str = "") -> dict[str, Any] | None:
    """A record's row: the same alone, with every field, and among others of either kind."""
    few = json.dumps({"id": 1} | record).replace('"@"', raw).encode()
    many = json.dumps(WHOLE | record).replace('"@"', raw).encode()
    whole = json.dumps(WHOLE).encode()
    ways = [
        rows_of([few], 0),
        rows_of([many], 0),
        rows_of([whole, many, whole], 1),
        rows_of([whole, few, whole, whole, whole, whole], 1),
        rows_of([b'{"id":2}', few, b'{"id":3}'], 1),
    ]
    assert all(way == ways[0] for way in ways), ways
    return ways[0][0]


def expected(read: Callable[[], Any]) -> Any:
    """What a reading gives, None when it refuses."""
    try:
        return read()
    except ValueError:
        return None


def check(field: Field, text: str, row: dict[str, Any] | None, value: Callable[[Any], Any]) -> None:
    """A row has the value that the text means, or there is none."""
    wanted = expected(lambda: read_text(field, text))
    assert (row is None) == (wanted is None), (field.name, text)
    if row is not None:
        assert value(row) == wanted, (field.name, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["at", "wall", "berlin", "zoned", "day", "clock"])
@quick
@given(text=texts)
def test_columns_agree_with_the_reading(name: str, text: str) -> None:
    """On every path."""
    check(CONTRACT.column(name), text, everywhere({name: text}), lambda row: row[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(INNER))
@quick
@given(text=texts)
def test_objects_agree_with_the_reading(name: str, text: str) -> None:
    """Nested fields too."""
    row = everywhere({"inner": {name: text}})
    check(INNER[name], text, row, lambda row: row["inner"][name])


@quick
@given(text=texts)
def test_arrays_agree_with_the_reading(text: str) -> None:
    """And items."""
    item = CONTRACT.column("times").item
    assert item is not None
    row = everywhere({"times": ["2026-11-20T10:00:00Z", None, text]})
    first = datetime(2026, 11, 20, 10, tzinfo=UTC)
    wanted = expected(lambda: [first, None, read_text(item, text)])
    assert (row and row["times"]) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seconds", "millis", "micros"])
@quick
@given(number=numbers)
def test_epochs_agree_with_the_reading(name: str, number: str) -> None:
    """A number has one meaning, in every batch, and as text of a CSV cell."""
    field = CONTRACT.column(name)
    micros = expected(lambda: read_epoch(number, str(field.format)))
    row = everywhere({name: "@"}, number)
    assert (row is None) == (micros is None)
    if row is not None:
        stored = row[name].replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        assert stored.days * 86_400_000_000 + stored.seconds * 10**6 + stored.microseconds == micros
    cell = json.dumps({"id": "1", name: number}).encode()
    typed = TEXT.typed(pa.array([cell], pa.binary())).to_pylist()
    assert rows_of(typed, 0)[0] == row


@quick
@given(text=texts)
def test_text_formats_agree_with_json(text: str) -> None:
    """A cell of text is what the string would be in JSON."""
    cell = json.dumps({"at": text}).encode()
    typed = TEXT.typed(pa.array([cell], pa.binary())).to_pylist()
    assert rows_of(typed, 0) == rows_of([cell], 0)
