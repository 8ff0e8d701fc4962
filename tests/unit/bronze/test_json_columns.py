"""JSON columns hold the tokens that were sent, minified; verification reads them a second way."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_platform.bronze.tokens import as_sent, with_json
from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract import exact
from ingestion_platform.contract.model import Contract, Kind
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream
from tests.support.every_kind import EVERY_KIND, prop, text
from tests.support.grievances import GOOD
from tests.support.lake_files import put, segment_of
from tests.support.testbed import new_stream

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def open_inside(document: dict[str, Any]) -> None:
    """With open JSON in an object, and in the objects of an array."""
    document["schema"][0]["properties"] += [
        prop("box", "object", properties=[prop("any", "object", "json"), prop("n", "integer")]),
        prop(
            "boxes", "array", items=prop("b", "object", properties=[prop("any", "array", "json")])
        ),
    ]


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """Every kind of field, JSON at the top level only."""
    return new_stream(tmp_path_factory.mktemp("flat"), contract=deepcopy(EVERY_KIND)).contract


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """The same with open JSON in nested fields."""
    folder = tmp_path_factory.mktemp("inside")
    return new_stream(folder, contract=deepcopy(EVERY_KIND), edit=open_inside).contract


@pytest.fixture(scope="module")
def parser(contract: Contract) -> Validator:
    """Made once, for all examples."""
    return Validator(contract)


def stored(parser: Validator, *values: bytes) -> list[dict[str, Any] | None]:
    """The rows of records, None for a rejected one."""
    found = parser.parse(pa.array(values, pa.binary()))
    rows = dict(zip(found.valid.to_pylist(), found.rows.to_pylist(), strict=True))
    return [rows.get(place) for place in range(len(values))]


def everywhere(parser: Validator, value: bytes) -> dict[str, Any] | None:
    """A record's row, which is the same alone, among good ones, and among ones that lack fields."""
    (alone,) = stored(parser, value)
    _, among, _ = stored(parser, text(), value, text(id=3))
    *_, behind = stored(parser, b'{"id":2}', b'{"id":3}', b'{"id":4,"id":5}', value)
    assert alone == among == behind
    return alone


SENT = {
    b'{"a":10.10,"b":1e2,"c":0.1234567890123456789}': None,
    b'{"n":[1E+5,-0,-0.0,1e999,12345678901234567890123,1.0]}': None,
    b'{"a":1,"a":2,"b":{"c":1,"c":1}}': None,
    b'{"z":1,"a":2,"\\u0061":3}': None,
    b'{"t":"\\u00e9\\/\\n\\u0000\\ud83d\\ude00 , : x"}': None,
    '{"é":"ü😀\u2028"}'.encode(): None,
    b"[]": None,
    b"{}": None,
    b'{"":{"":[null,true,false]}}': None,
    b'{ "a" : 10.10 ,\r\n\t"b c" : [ 1 , { } , [ ] ] }': b'{"a":10.10,"b c":[1,{},[]]}',
    b'[ " [ 1 , 2 ] " , "\\" : " ]': b'[" [ 1 , 2 ] ","\\" : "]',
}


@pytest.mark.parametrize("sent", SENT)
def test_json_keeps_its_tokens(parser: Validator, sent: bytes) -> None:
    """As an object or array, and as text in a string, from which white space is removed alike."""
    expected = (SENT[sent] or sent).decode()
    for value in (text(open=sent), text(open=sent.decode()), text(open=f" {sent.decode()}\n")):
        row = everywhere(parser, value)
        assert row is not None
        assert row["open"] == expected


# From the test suite of a public JSON parsing survey: what no parser may accept.
BROKEN = [
    *(b"[1,]", b"[,1]", b"[1,,2]", b"[1 2]", b'["a" "b"]', b"[1", b"[1]]", b"[a]", b"[1:2]"),
    *(b'{"a":1,}', b'{"a":1,,"b":2}', b'{"a" 1}', b'{"a"}', b"{:1}", b"{a:1}", b"{'a':1}"),
    *(b"{1:1}", b'{"a":1}}', b'{"a":1 "b":2}', b'{"a":', b'{"a":1', b'{,"a":1}', b"[}", b"{]"),
    *(b"[01]", b"[-01]", b"[-]", b"[+1]", b"[.5]", b"[1.]", b"[1.e1]", b"[1e]", b"[1e+]", b"[0x1]"),
    *(b"[1e1.5]", b"[--1]", b"[1-]", b"[1a]", b"[1.2.3]", b"[NaN]", b"[Infinity]", b"[-Infinity]"),
    *(b"[nul]", b"[True]", b"[nulll]", b'["\\x00"]', b'["\\u12"]', b'["\\u00zz"]', b'["\\"]'),
    *(b'["\\ud800"]', b'["\\udc00"]', b'["\\ud800\\u0041"]', b'["\t"]', b'["\n"]', b'["\x00"]'),
    *(b"[1/**/]", b"[1//x\n]", b"[\x0c1]", b"[\xc2\xa01]", b'["\xff"]', b'["\xed\xa0\x80"]'),
]


@pytest.mark.parametrize("sent", BROKEN)
def test_broken_json_is_rejected(parser: Validator, sent: bytes) -> None:
    """In a JSON column, in a field that nobody declared, and in the text of a string."""
    assert everywhere(parser, text(open=sent)) is None
    assert everywhere(parser, text(zz=sent)) is None
    if not re.search(rb"[\x80-\xff]", sent):
        assert everywhere(parser, text(open=sent.decode())) is None


blank = st.sampled_from(["", "", " ", "\n", "\t", " \r\n "])
number = st.sampled_from(
    ["0", "-0", "10.10", "1e2", "1E-7", "0.1234567890123456789", "1e999", "98765432109876543210"]
)
string = st.sampled_from(
    ['""', '" a : b , "', '"\\u00e9\\/"', '"\\\\"', '"\\" : [ "', '"é😀"', '"{ } , \\u0000"']
)


def array(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """An array with blanks between its tokens."""
    parts = st.lists(st.tuples(blank, inner, blank).map("".join), max_size=3)
    return st.tuples(parts, blank).map(lambda p: f"[{','.join(p[0]) or p[1]}]")


def obj(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """An object with blanks between its tokens, and keys that may repeat."""
    member = st.tuples(blank, string, blank, st.just(":"), blank, inner, blank).map("".join)
    return st.tuples(st.lists(member, max_size=3), blank).map(
        lambda p: f"{{{','.join(p[0]) or p[1]}}}"
    )


words = st.sampled_from(["null", "true", "false"])
anything = st.recursive(number | string | words, lambda inner: array(inner) | obj(inner))
documents = st.one_of(array(anything), obj(anything))
TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


@quick
@given(sent=documents, as_text=st.booleans())
def test_generated_json_keeps_its_tokens(parser: Validator, sent: str, as_text: bool) -> None:
    """The stored text is the sent one without what is white space outside of strings."""
    row = everywhere(parser, text(open=sent if as_text else sent.encode()))
    assert row is not None
    assert row["open"] == TOKEN.sub(lambda m: m[1] or "", sent)


@pytest.mark.slow
@quick
@given(sent=documents)
def test_json_inside_keeps_its_tokens(inside: Contract, sent: str) -> None:
    """Open JSON in objects, and in the objects of arrays, is stored like that of columns."""
    listed = f'[{{"any":{sent}}},{{"any":null}},null]'
    value = text(box=f'{{"any":{sent},"n":1}}'.encode(), boxes=listed.encode())
    (row,) = stored(Validator(inside), value)
    assert row is not None
    expected = TOKEN.sub(lambda m: m[1] or "", sent)
    assert row["box"] == {"any": expected, "n": 1}
    assert row["boxes"] == [{"any": expected}, {"any": None}, None]
    assert as_sent(with_json(inside.fields), value, row)


def test_json_inside_must_be_json(inside: Contract) -> None:
    """A scalar is none, nor is text in a string there."""
    for wrong in (b"1", b'"{}"', b"true"):
        assert stored(Validator(inside), text(box=b'{"any":' + wrong + b"}")) == [None]


def test_decimals_keep_all_digits(parser: Validator) -> None:
    """What a double would round is noticed, whichever way a record takes."""
    assert everywhere(parser, text(price=b"1.00000000000000000001")) is None
    assert everywhere(parser, text(price=b"0.1e400")) is None
    row = everywhere(parser, text(price=b"1.10000000000000000000"))
    assert row is not None
    assert str(row["price"]) == "1.10"


CHANGED = {
    b'{"a":10.10}': '{"a":10.1}',
    b'{"a":1,"a":2}': '{"a":2}',
    b'{"a":1,"b":2}': '{"b":2,"a":1}',
    b'{"a":"\\u00e9"}': '{"a":"é"}',
    b'{"a": 1}': '{"a": 1}',
    b'"{\\"a\\":1e2}"': '{"a":100.0}',
    b"null": "{}",
    b"{}": None,
    b"[1]": "[1,1]",
}


@pytest.mark.parametrize("sent", CHANGED)
def test_second_reading_notices_a_token(contract: Contract, sent: bytes) -> None:
    """A number written otherwise, a key fewer, another order, an escape, white space."""
    fields = with_json(contract.fields)
    assert [f.name for f in fields] == ["open"]
    assert not as_sent(fields, text(open=sent), {"open": CHANGED[sent]})
    (row,) = stored(Validator(contract), text(open=sent))
    assert row is not None
    assert as_sent(fields, text(open=sent), row)


def test_verify_notices_what_the_parser_rewrites(
    platform: Platform, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and expectation come of one parser; tokens are read again."""
    record = json.loads(GOOD) | {"attributes_json": {}}
    value = json.dumps(record).replace('"attributes_json": {}', '"attributes_json": {"x": 1e2}')

    def rewritten(texts: list[bytes]) -> list[bytes]:
        return [json.dumps(json.loads(text), separators=(",", ":")).encode() for text in texts]

    broken = replace(exact.KINDS[Kind.JSON], plain=rewritten)
    monkeypatch.setitem(exact.KINDS, Kind.JSON, broken)
    put(platform.store, segment_of(stream.topic, 0, 2), [GOOD, value.encode()])
    load_stream(platform, stream, partitions=[0])
    found = verify_stream(platform, stream)
    assert (found.ok, found.mismatched) == (False, 1)
    assert "partition 0, offset 1 (topic=" in found.differences[0]
