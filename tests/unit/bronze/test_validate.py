"""Validating records: each kind of invalid record gets its reasons; valid ones are not affected."""

from __future__ import annotations

import json
import math
import random
import re
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.produce.simulators import simulate
from tests.support.every_kind import EVERY_KIND, GOOD, text
from tests.support.oracle import JsonText, same, validate_pgr
from tests.support.reasons import reason_texts
from tests.support.testbed import PGR, new_stream


def narrow(document: dict[str, Any]) -> None:
    """Without the wide decimal, for which every record is looked at one by one."""
    fields = document["schema"][0]["properties"]
    document["schema"][0]["properties"] = [f for f in fields if f["name"] != "amount"]


def contract_of(**how: Any) -> Contract:
    """The contract with every kind of field."""
    with tempfile.TemporaryDirectory() as folder:
        return new_stream(Path(folder), contract=deepcopy(EVERY_KIND), **how).contract


CAREFUL, QUICK = contract_of(), contract_of(edit=narrow)
PGR_CONTRACT = load_contract(PGR)


@dataclass
class ValidationResult:
    """What became of a record: its row, or the reasons against it."""

    row: dict[str, Any] | None
    reasons: tuple[str, ...] = ()


def validate(contract: Contract, values: list[bytes | None]) -> list[ValidationResult]:
    """The results of the contract's parser, in the order of the records."""
    return validated_by(parser_of(contract), values)


PARSERS: dict[str, Validator] = {}


def parser_of(contract: Contract) -> Validator:
    """Made once: it takes longer than the validating."""
    if contract.fingerprint not in PARSERS:
        PARSERS[contract.fingerprint] = Validator(contract)
    return PARSERS[contract.fingerprint]


def validated_by(parser: Validator, values: list[bytes | None]) -> list[ValidationResult]:
    """The results of a parser, in the order of the records."""
    found = parser.parse(pa.array(values, pa.binary()))
    results: dict[int, ValidationResult] = {}
    for place, row in zip(found.valid.to_pylist(), found.rows.to_pylist(), strict=True):
        results[place] = ValidationResult(row)
    for place, reasons in zip(found.rejected.to_pylist(), reason_texts(found.reasons), strict=True):
        assert place not in results
        results[place] = ValidationResult(None, tuple(reasons))
    return [results[place] for place in range(len(values))]


AT = {"at": b'"9999-12-31T23:59:59-05:00"'}
DEEP = 400

GOOD_RECORDS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "as it is": (text(), {}),
    "pretty-printed": (json.dumps(GOOD, indent=4).encode(), {}),
    "blanks around": (b" \r\n\t" + text() + b"\n", {}),
    "escaped key": (text().replace(b'"id"', b'"\\u0069d"'), {"id": 1}),
    "unknown field": (text(zz={"a": 1}), {}),
    "unknown field twice": (text()[:-1] + b',"zz":1,"zz":2}', {}),
    "no optional field": (b'{"id":7}', {"id": 7, "ratio": None, "tags": None, "place": None}),
    "all optional null": (
        json.dumps(dict.fromkeys(GOOD) | {"id": 7}).encode(),
        {"id": 7, "tags": None, "numbers": None, "open": None, "place": None},
    ),
    "minus zero": (text(id=b"-0", ratio=b"1E2"), {"id": 0, "ratio": 100.0}),
    "largest integer": (text(id=2**63 - 1), {"id": 2**63 - 1}),
    "smallest integer": (text(id=-(2**63)), {"id": -(2**63)}),
    "integer for number": (text(ratio=b"3"), {"ratio": 3.0}),
    "smallest number": (text(ratio=b"5e-324"), {"ratio": 5e-324}),
    "decimal with a power": (text(price=b"1E2"), {"price": Decimal("100.00")}),
    "decimal with noughts": (text(price=b"1.50000"), {"price": Decimal("1.50")}),
    "largest price": (text(price=b"9999999999.99"), {"price": Decimal("9999999999.99")}),
    "first day": (text(day="0001-01-01"), {"day": date(1, 1, 1)}),
    "last day": (text(day="9999-12-31"), {"day": date(9999, 12, 31)}),
    "leap day": (text(day="2024-02-29"), {"day": date(2024, 2, 29)}),
    "timestamp without zone": (
        text(at="2026-11-20 10:00:00", wall="2026-11-20T10:00:00+05:30"),
        {"at": datetime(2026, 11, 20, 10, tzinfo=UTC), "wall": datetime(2026, 11, 20, 4, 30)},
    ),
    "microseconds": (
        text(at="2026-11-20T10:00:00.123456Z", clock="23:59:59.999999"),
        {
            "at": datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC),
            "clock": time(23, 59, 59, 999999),
        },
    ),
    "other forms of times": (
        text(at="20261120T110000,5+01", wall="2026-11-20t10:00z", clock="1030", day="20261120"),
        {
            "at": datetime(2026, 11, 20, 10, 0, 0, 500_000, tzinfo=UTC),
            "wall": datetime(2026, 11, 20, 10),
            "clock": time(10, 30),
            "day": date(2026, 11, 20),
        },
    ),
    "leap second": (
        text(at="2026-12-31T23:59:60Z"),
        {"at": datetime(2027, 1, 1, tzinfo=UTC)},
    ),
    "last instant": (
        text(at="9999-12-31T23:59:59.999999Z"),
        {"at": datetime.max.replace(tzinfo=UTC)},
    ),
    "characters, not bytes": (text(word="😀😀😀😀"), {"word": "😀😀😀😀"}),
    "surrogate pair": (text(word=b'"\\ud83d\\ude00a"'), {"word": "😀a"}),
    "JSON as text": (text(open='{"a": [1, 2]}'), {"open": JsonText({"a": [1, 2]})}),
    "JSON array": (text(open=[1, {"a": None}]), {"open": JsonText([1, {"a": None}])}),
    "JSON with blanks": (text(open=b'{ "a" : "x y" }'), {"open": JsonText({"a": "x y"})}),
    "JSON with a key twice": (text(open=b'{"a":1,"a":2}'), {}),
    "JSON with escaped NUL": (text(open=b'{"a":"\\u0000"}'), {"open": JsonText({"a": "\0"})}),
    "large integer in JSON": (text(open={"a": 10**30}), {"open": JsonText({"a": 10**30})}),
    "deep JSON": (text(open=b"[" * DEEP + b"]" * DEEP), {"open": "[" * DEEP + "]" * DEEP}),
    "5 MB of JSON": (text(open={"a": "x" * 5_000_000}), {"open": JsonText({"a": "x" * 5_000_000})}),
    "empty arrays": (text(tags=[], numbers=[]), {"tags": [], "numbers": []}),
    "nulls in arrays": (
        text(tags=[None, "x"], numbers=[None, None, 1]),
        {"tags": [None, "x"], "numbers": [None, None, 1]},
    ),
    "text with NUL in an array": (text(tags=b'["a\\u0000"]'), {"tags": ["a\0"]}),
    "nested, little given": (
        text(place={"name": "x"}),
        {"place": {"name": "x"} | dict.fromkeys(("seats", "opened", "since", "code", "halls"))},
    ),
    "nested, unknown field": (text(place={"name": "x", "zz": 1}), {}),
}


@pytest.mark.parametrize("contract", [CAREFUL, QUICK], ids=["careful", "quick"])
@pytest.mark.parametrize("name", GOOD_RECORDS)
def test_what_is_unusual_but_good(contract: Contract, name: str) -> None:
    """Legal JSON that keeps the contract is taken, with its exact values."""
    value, expected = GOOD_RECORDS[name]
    (result,) = validate(contract, [value])
    assert result.row is not None, result.reasons
    for field, wanted in expected.items():
        assert same(wanted, result.row[field]), f"{field}: {result.row[field]!r}"


BAD_RECORDS: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, "value: is null (a tombstone)"),
    "empty": (b"", "value: is empty"),
    "blank": (b" \n\t", "value: is empty"),
    "truncated": (text()[:-9], "value: is not valid JSON"),
    "half a text": (b'{"id', "value: is not valid JSON"),
    "bad UTF-8": (text().replace(b"Town", b"T\xffwn"), "value: is not valid UTF-8 (is at byte"),
    "bad UTF-8 in an unknown field": (text(zz=b'"\xc0\xaf"'), "value: is not valid UTF-8 (is at"),
    "another encoding": (
        '{"id":1,"word":"äöü"}'.encode("latin-1"),
        "not valid UTF-8 (is at byte 16",
    ),
    "UTF-16": (
        text().decode().encode("utf-16"),
        "value: is not valid UTF-8; looks like JSON in UTF-16",
    ),
    "byte order mark": (b"\xef\xbb\xbf" + text(), "value: starts with a byte order mark"),
    "NUL": (b"\x00", "value: is not valid JSON"),
    "NUL behind": (text() + b"\x00", "value: is not valid JSON: trailing characters"),
    "control character": (text(word=b'"a\x01b"'), "value: is not valid JSON: invalid character"),
    "NaN": (text(ratio=b"NaN"), "value: is not valid JSON: invalid character"),
    "NaN in JSON": (text(open=b'{"a":NaN}'), "value: is not valid JSON: invalid character"),
    "Infinity": (text(ratio=b"-Infinity"), "value: is not valid JSON"),
    "single quotes": (b"{'id': 1}", "value: is not valid JSON: object keys must be strings"),
    "trailing comma": (text()[:-1] + b",}", "value: is not valid JSON: trailing comma"),
    "comment": (text() + b"// x", "value: is not valid JSON: trailing characters"),
    "two values": (text() + text(), "value: is not valid JSON: trailing characters"),
    "two lines": (text() + b"\n" + text(), "value: is not valid JSON: trailing characters"),
    "lone surrogate": (text(word=b'"\\ud800"'), "value: is not valid JSON"),
    "lone surrogate in JSON": (text(open=b'{"a":"\\udc00"}'), "value: is not valid JSON"),
    "an array": (
        b"[" + text() + b"]",
        "value: must be a JSON object; looks like an array of records (is [{",
    ),
    "a string": (b'"x"', 'value: must be a JSON object (is "x")'),
    "a number": (b"12", "value: must be a JSON object (is 12)"),
    "null": (b"null", "value: must be a JSON object (is null)"),
    "10,000 deep": (text(open=b"[" * 10_000 + b"]" * 10_000), "value: is nested too deeply"),
    "10,000 deep, unknown": (text(z=b'{"a":' * 10_000 + b"1" + b"}" * 10_000), "nested too deeply"),
    "600 deep": (text(open=b"[" * 600 + b"]" * 600), "value: is nested too deeply"),
    "600 deep as text": (text(open="[" * 600 + "]" * 600), "open: is nested too deeply (is [["),
    "key twice": (text()[:-1] + b',"id":2}', "id: the key stands twice in the object"),
    "escaped key twice": (text()[:-1] + b',"\\u0069d":2}', "id: the key stands twice"),
    "nothing in it": (b"{}", "id: is required, but missing or null"),
    "required is null": (text(id=None), "id: is required, but missing or null"),
    "1e400": (text(ratio=b"1e400"), "ratio: number out of range (is 1e400)"),
    "integer overflow": (text(id=2**63), "id: expected integer <= 9223372036854775807"),
    "32 bits overflow": (text(small=2**31), "small: expected integer <= 2147483647"),
    "single overflow": (text(single=b"1e39"), "single: expected number <= 3.4"),
    "1E2 for an integer": (text(id=b"1E2"), "id: expected integer, got number (is 1E2)"),
    "1.0 for an integer": (text(id=b"1.0"), "id: expected integer, got number (is 1.0)"),
    "integer as text": (text(id="1"), 'id: expected integer, got string (is "1")'),
    "number as text": (text(ratio="1.5"), 'ratio: expected number, got string (is "1.5")'),
    "decimal as text": (text(price="1.5"), 'price: expected number, got string (is "1.5")'),
    "boolean as text": (text(flag="true"), 'flag: expected boolean, got string (is "true")'),
    "boolean as number": (text(flag=1), "flag: expected boolean, got integer (is 1)"),
    "text as number": (text(word=12), "word: expected string, got integer (is 12)"),
    "boolean for a number": (text(ratio=True), "ratio: expected number, got boolean (is true)"),
    "exclusive bound": (text(ratio=0), "ratio: must be above 0"),
    "bound": (text(small=6), "small: must be at most 5 (is 6)"),
    "bound of a decimal": (text(price=b"-0.01"), "price: must be at least 0 (is -0.01)"),
    "scale": (text(price=b"1.005"), "price: does not fit decimal(12,2) (is 1.005)"),
    "precision": (text(price=b"10000000000"), "price: does not fit decimal(12,2)"),
    "30 February": (text(day="2026-02-30"), "day: is not an ISO 8601 date: day is out of range"),
    "not a leap year": (text(day="2026-02-29"), "day: is not an ISO 8601 date"),
    "year 0": (text(day="0000-01-01"), "day: is not an ISO 8601 date"),
    "year 10000": (text(day="10000-01-01"), "day: is not an ISO 8601 date"),
    "date with time": (text(day="2026-11-20T00:00:00"), "day: is not an ISO 8601 date"),
    "date without a dash": (text(day="2026-1120"), "day: is not an ISO 8601 date"),
    "date in words": (text(day="epoch"), "day: is not an ISO 8601 date"),
    "date as number": (text(day=20261120), "day: expected date, got integer"),
    "24:00": (text(at="2026-11-20T24:00:00Z"), "at: is not an ISO 8601 timestamp"),
    "no leap second": (text(at="2026-06-30T22:59:60Z"), "at: is not an ISO 8601 timestamp"),
    "nanoseconds": (text(at="2026-06-30T22:59:59.123456789Z"), "at: has more than six digits"),
    "nanoseconds of a time": (text(clock="22:59:59.1234567"), "clock: has more than six digits"),
    "date for a timestamp": (text(at="2026-11-20"), "at: is not an ISO 8601 timestamp"),
    "impossible zone": (text(at="2026-11-20T10:00:00+25:00"), "at: is not an ISO 8601 timestamp"),
    "zone by name": (text(at="2026-11-20T10:00:00 CET"), "at: is not an ISO 8601 timestamp"),
    "timestamp as number": (text(at=1700000000), "at: expected timestamp, got integer"),
    "infinity": (text(at="infinity"), "at: is not an ISO 8601 timestamp"),
    "year 10000 in UTC": (text(**AT), 'at: must be of the years 1 to 9999 in UTC (is "9999'),
    "year 0 in UTC": (text(wall="0001-01-01T00:00:00+05:00"), "wall: must be of the years 1 to"),
    "24:00 o'clock": (text(clock="24:00:00"), "clock: is not an ISO 8601 time"),
    "time with zone": (text(clock="10:00:00Z"), "clock: is not an ISO 8601 time: a time of"),
    "too short": (text(word="a"), "word: must have at least 2 characters (is a)"),
    "too long": (text(word="äöüäö"), "word: must have at most 4 characters (is äöüäö)"),
    "5 MB too long": (text(word="a" * 5_000_000), "word: must have at most 4 characters (is aaa"),
    "pattern": (text(word="AB"), "word: must match"),
    "newline at the end": (text(word="ab\n"), "word: must match"),
    "NUL in a text": (text(word="ab\0"), "word: must match"),
    "format": (text(uuid="123e4567"), "uuid: must be a valid uuid (is 123e4567)"),
    "not allowed": (text(colour="RED"), "colour: must be one of red, blue (is RED)"),
    "not JSON": (text(open="{"), "open: is not valid JSON text"),
    "JSON and more": (text(open='{"a":1} x'), "open: is not valid JSON text"),
    "JSON of a number": (text(open="1"), "open: must be a JSON object or array, or its text"),
    "number for JSON": (text(open=5), "open: expected string or object or array, got integer"),
    "item twice": (text(tags=["x", "y", "x"]), "tags: must not repeat an item"),
    "null twice": (text(tags=[None, None]), "tags: must not repeat an item"),
    "too many items": (text(tags=list("abcde")), "tags: expected array of length <= 4"),
    "wrong item": (text(numbers=[1, "2"]), "numbers: expected integer, got string at [] (is [1"),
    "item out of bounds": (text(numbers=[-1]), "numbers: expected integer >= 0 at [] (is [-1"),
    "not an array": (text(tags="x"), "tags: expected array, got string"),
    "nested missing": (text(place={"seats": 1}), "place: object missing required field name"),
    "nested type": (text(place={"name": "x", "seats": 1.5}), "place: expected integer, got numb"),
    "nested date": (text(place={"name": "x", "opened": "x"}), "place: is not an ISO 8601 date at"),
    "nested pattern": (text(place={"name": "x", "code": "AB\n"}), "place: expected string matchin"),
    "nested key twice": (text(place=b'{"name":"a","name":"b"}'), "place: the key name stands twi"),
    "nested in UTC": (
        text(place={"name": "x", "since": "0001-01-01T00:00:00+05:00"}),
        "place: must be of the years 1 to 9999 in UTC at since",
    ),
    "item key twice": (
        text(place=b'{"name":"a","halls":[{"n":1,"n":2}]}'),
        "place: the key n stands twice",
    ),
    "rule": (text(ratio=None), "rule small_needs_ratio: is broken"),
}


@pytest.mark.parametrize("contract", [CAREFUL, QUICK], ids=["careful", "quick"])
@pytest.mark.parametrize("name", BAD_RECORDS)
def test_poison_is_rejected_with_a_reason_and_hurts_nobody(contract: Contract, name: str) -> None:
    """Between good neighbours, on whichever path: the same result, and theirs is untouched."""
    value, reason = BAD_RECORDS[name]
    neighbours = [text(), b'{"id":2}', text(id=3)]
    alone, *_ = validate(contract, [value])
    assert alone.row is None, alone.row
    assert any(reason in said for said in alone.reasons), alone.reasons
    regular = validate(contract, [text(), value, text(id=3)])
    mixed = validate(contract, [neighbours[1], value, *neighbours])
    assert regular[1] == mixed[1] == alone
    assert regular[0].row == mixed[2].row == validate(contract, [text()])[0].row
    assert [v.row and v.row["id"] for v in mixed] == [2, None, 1, 2, 3]


def test_every_reason_is_given() -> None:
    """A record with many faults tells them all."""
    value = text(id="x", day="x", word="a", colour="x", tags=["x", "x"])
    (result,) = validate(QUICK, [value])
    named = [reason.partition(":")[0] for reason in result.reasons]
    assert sorted(named) == ["colour", "day", "id", "tags", "word"]


def test_wide_decimals_are_exact() -> None:
    """All 38 digits, and none too many."""
    fine = ["1234567890123456789012345678.0123456789", "1e27", "-0.0000000001", "1E-10"]
    for digits in fine:
        (result,) = validate(CAREFUL, [text(amount=digits.encode())])
        assert result.row is not None, result.reasons
        assert result.row["amount"] == Decimal(digits)
    for digits in ["0.12345678901", "1e28", "1.00000000000000000000000000001", "1e-11"]:
        (result,) = validate(CAREFUL, [text(amount=digits.encode())])
        assert result.reasons == (f"amount: does not fit decimal(38,10) (is {digits})",)


def breaking_rule(document: dict[str, Any]) -> None:
    """A rule that the engine cannot compute for some records, nor for a row of nulls."""
    narrow(document)
    document["schema"][0]["quality"][0]["implementation"] = (
        "CAST(coalesce(word, 'zz') AS INTEGER) < 1000"
    )


def test_a_record_that_a_rule_cannot_be_computed_for_is_rejected_alone() -> None:
    """The engine's words are its reason; the others are validated."""
    contract = contract_of(edit=lambda d: (breaking_rule(d), free_word(d)))
    values: list[bytes | None] = [text(word=str(n)) for n in range(10, 40)]
    values[7], values[21] = text(word="ab"), text(word=None)
    results = validate(contract, values)
    assert [n for n, v in enumerate(results) if v.row is None] == [7, 21]
    assert (
        results[7]
        .reasons[0]
        .startswith("value: cannot be validated by the query engine (is Conversion Error")
    )


def free_word(document: dict[str, Any]) -> None:
    """Any word will do."""
    for field in document["schema"][0]["properties"]:
        if field["name"] == "word":
            del field["logicalTypeOptions"]


POOL = [
    *(value for value, _ in GOOD_RECORDS.values() if len(value) < 10_000),
    *(value for value, _ in BAD_RECORDS.values() if value is None or len(value) < 10_000),
]
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.slow
@pytest.mark.parametrize("contract", [CAREFUL, QUICK], ids=["careful", "quick"])
@quick
@given(places=st.lists(st.integers(0, len(POOL) - 1), max_size=30), seed=st.integers(0, 9))
def test_results_do_not_depend_on_company(contract: Contract, places: list[int], seed: int) -> None:
    """Alone, in any batch, in any order, after any other batch: a record's result is its own."""
    values = [POOL[place] for place in places]
    parser = Validator(contract)
    together = validated_by(parser, values)
    order = list(range(len(values)))
    random.Random(seed).shuffle(order)
    shuffled = validated_by(parser, [values[i] for i in order])
    assert [together[i] for i in order] == shuffled
    alone = [validated_by(parser, [value])[0] for value in values]
    assert together == alone


fields = st.fixed_dictionaries(
    {"id": st.integers(-(2**63), 2**63 - 1)},
    optional={
        "small": st.none() | st.integers(-8, 8),
        "ratio": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "single": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "price": st.none() | st.decimals(-10, 10**10, places=3, allow_nan=False),
        "flag": st.none() | st.booleans(),
        "day": st.none() | st.dates().map(str) | st.text(max_size=8),
        "at": st.none() | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        "wall": st.none() | st.datetimes().map(datetime.isoformat),
        "clock": st.none() | st.times().map(time.isoformat),
        "word": st.none() | st.text("aäz😀A\n", max_size=6),
        "colour": st.none() | st.sampled_from(["red", "blue", "green"]),
        "tags": st.none() | st.lists(st.none() | st.text(max_size=2), max_size=5),
        "numbers": st.none() | st.lists(st.none() | st.integers(-2, 2**40), max_size=4),
    },
)


def expected(record: dict[str, Any]) -> dict[str, Any] | None:
    """The row that a record of `fields` makes, None when it breaks the contract; by hand."""
    r = {name: record.get(name) for name in (*GOOD, "amount")}
    holds = [
        r["small"] is None or (-5 <= r["small"] <= 5 and r["ratio"] is not None),
        r["ratio"] is None or r["ratio"] > 0,
        r["price"] is None or (0 <= r["price"] < 10**10 and r["price"] == round(r["price"], 2)),
        r["word"] is None
        or (2 <= len(r["word"]) <= 4 and re.fullmatch("[a-zäöü😀]+", r["word"]) is not None),
        r["colour"] in (None, "red", "blue"),
        r["tags"] is None or (len(r["tags"]) <= 4 and len(set(r["tags"])) == len(r["tags"])),
        r["numbers"] is None or all(n is None or n >= 0 for n in r["numbers"]),
    ]
    try:
        r["day"] = None if r["day"] is None else _date(r["day"])
    except ValueError:
        return None
    for name, read in (("at", datetime), ("wall", datetime), ("clock", time)):
        r[name] = None if r[name] is None else read.fromisoformat(r[name])
    if r["price"] is not None:
        r["price"] = Decimal(r["price"])
    return r if all(holds) else None


def _date(given: str) -> date:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", given, re.ASCII):
        raise ValueError(given)
    return date.fromisoformat(given)


def written(record: dict[str, Any]) -> bytes:
    """A record as JSON; decimals as numbers."""
    pieces = [
        f"{json.dumps(name)}:{value if isinstance(value, Decimal) else json.dumps(value)}"
        for name, value in record.items()
    ]
    return ("{" + ",".join(pieces) + "}").encode()


@quick
@given(st.lists(fields, min_size=1, max_size=20))
@example([{"id": 1, "ratio": 1e308, "single": 3.4028234663852886e38}])
def test_generated_records_are_validated_as_by_hand(records: list[dict[str, Any]]) -> None:
    """Whatever the values: result and typed row are those of rules written in plain Python."""
    results = validate(QUICK, [written(record) for record in records])
    for record, result in zip(records, results, strict=True):
        row = expected(record)
        assert (result.row is None) == (row is None), (record, result)
        for name, value in (result.row or {}).items():
            assert row is not None
            wanted = row[name]
            if isinstance(wanted, float):
                assert math.isclose(wanted, value, rel_tol=1e-6 if name == "single" else 0)
            else:
                assert wanted == value, (name, record, result)


def test_every_fault_of_the_simulator_is_found() -> None:
    """All that it breaks is rejected, all else is taken with the oracle's values."""
    records = list(simulate("pgr_events", 6_000, seed=5, bad_ratio=0.3))
    results = validate(PGR_CONTRACT, [record.value for record in records])
    for record, result in zip(records, results, strict=True):
        assert (result.row is None) == (record.fault is not None), (record, result)
        row = validate_pgr(record.value)
        assert (row is None) == (result.row is None)
        for name, value in (result.row or {}).items():
            assert row is not None
            assert same(row[name], value), (name, record, value)
        assert all(result.reasons)
        assert bool(result.reasons) == (result.row is None)


@quick
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_get_a_result(value: bytes) -> None:
    """Nothing raises, whatever a producer sends; no such bytes happen to be a record."""
    first, *_ = validate(PGR_CONTRACT, [value, b"{}", value])
    assert first.row is None
    assert first.reasons


@pytest.mark.slow
@quick
@given(data=st.data())
def test_a_byte_changed_anywhere_spoils_no_neighbour(data: st.DataObject) -> None:
    """And the result is the oracle's, wherever the oracle can tell."""
    value = bytearray(next(simulate("pgr_events", 1, seed=data.draw(st.integers(0, 50)))).value)
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] = data.draw(st.integers(0, 255))
    good = next(simulate("pgr_events", 1)).value
    results = validate(PGR_CONTRACT, [good, bytes(value), good])
    assert results[0] == results[2]
    assert results[0].row is not None
    row = validate_pgr(bytes(value))
    assert (row is None) == (results[1].row is None), (bytes(value), results[1])
    for name, found in (results[1].row or {}).items():
        assert row is not None
        assert same(row[name], found), (name, found)
