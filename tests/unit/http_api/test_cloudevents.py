"""CloudEvents 1.0.2: the specification's own examples, its types, and its three modes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.http_api.cloudevents import batch, binary, structured
from ingestion_platform.http_api.envelopes import Envelope, split
from tests.support.api_lab import USER, Served

EVENT, EVENTS = "application/cloudevents+json", "application/cloudevents-batch+json"
LEAST = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {}}


def fields(envelope: Envelope) -> list[tuple[str | None, str]]:
    """Which attributes are rejected, and by which code."""
    return [(reason.field, reason.code) for reason in envelope.reasons]


def of(**attributes: Any) -> Envelope:
    """A structured event with these attributes."""
    return structured(json.dumps(LEAST | attributes).encode())


# From the JSON format (3.2) and the core specification; data that is no JSON is rejected here.
SPECIFIED = """{
    "specversion" : "1.0",
    "type" : "com.example.someevent",
    "source" : "/mycontext",
    "subject": null,
    "id" : "C234-1234-1234",
    "time" : "2018-04-05T17:31:00Z",
    "comexampleextension1" : "value",
    "comexampleothervalue" : 5,
    "datacontenttype" : "application/json",
    "data" : {
        "appinfoA" : "abc",
        "appinfoB" : 123,
        "appinfoC" : true
    }
}"""


def test_specification_example_is_read() -> None:
    """Attributes with their types; null is not set; the data's bytes as they stand."""
    found = structured(SPECIFIED.encode())
    assert found.reasons == ()
    assert json.loads(found.value) == {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True}
    assert dict(found.headers) == {
        "ce_specversion": b"1.0",
        "ce_type": b"com.example.someevent",
        "ce_source": b"/mycontext",
        "ce_id": b"C234-1234-1234",
        "ce_time": b"2018-04-05T17:31:00Z",
        "ce_comexampleextension1": b"value",
        "ce_comexampleothervalue": b"5",
        "content-type": b"application/json",
    }


@pytest.mark.parametrize(
    "source",
    [
        *("https://github.com/cloudevents", "mailto:cncf-wg-serverless@lists.cncf.io"),
        *("urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "cloudevents/spec/pull/123"),
        *("/sensors/tn-1234567/alerts", "1-555-123-4567"),
    ],
)
def test_specified_sources_are_valid(source: str) -> None:
    """The examples of the attribute `source`."""
    assert of(source=source).reasons == ()


@pytest.mark.parametrize(
    "given_value",
    [
        *({"time": "2018-04-05T17:31:00Z"}, {"time": "1990-12-31T23:59:60Z"}),
        *({"time": "1996-12-19t16:39:57.123456789-08:00"}, {"flag": True}, {"n": -(2**31)}),
        *({"dataschema": "https://example.com/s#1"}, {"subject": "mynewfile.jpg"}),
        *({"datacontenttype": "application/vnd.a+json; v=1"}, {"sampledrate": 2**31 - 1}),
    ],
)
def test_valid_attributes(given_value: dict[str, Any]) -> None:
    """Times by RFC 3339, leap seconds too; all types that an extension may have."""
    assert of(**given_value).reasons == ()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        *(("id", "", "required"), ("id", 1, "required"), ("source", "", "required")),
        *(
            ("type", None, "required"),
            ("specversion", "0.3", "enum"),
            ("specversion", 1, "required"),
        ),
        *(("source", "a b", "format"), ("source", "a#b#c", "format"), ("source", "%zz", "format")),
        *(("source", ":a", "format"), ("source", "/ü", "format"), ("id", "a\nb", "pattern")),
        *(("time", "2018-04-05", "format"), ("time", "2018-04-05T17:31:00", "format")),
        *(("time", "2018-02-30T00:00:00Z", "format"), ("time", "2018-04-05T24:00:00Z", "format")),
        *(
            ("time", "2018-04-05T10:00:00+24:00", "format"),
            ("time", "", "type"),
            ("time", 5, "type"),
        ),
        *(("dataschema", "/relative", "format"), ("subject", "", "type"), ("subject", 1, "type")),
        *(("datacontenttype", "text/xml", "enum"), ("datacontenttype", "json", "enum")),
        *(
            ("ext", 1.5, "type"),
            ("ext", {}, "type"),
            ("ext", [1], "type"),
            ("ext", 2**31, "maximum"),
        ),
        *(("ext", "\u0085", "pattern"), ("ext", "\ufffe", "pattern"), ("partitionkey", 7, "type")),
        *(("Ext", "a", "pattern"), ("my_ext", "a", "pattern"), ("ext-a", "a", "pattern")),
        ("data_base64", "e30=", "exclusive"),
    ],
)
def test_invalid_attributes(name: str, value: Any, code: str) -> None:
    """Each is rejected by itself, under its name."""
    assert fields(of(**{name: value})) == [(name, code)]


def test_repeated_members_are_rejected() -> None:
    """A repeated attribute is ambiguous; one within the data is the record's affair."""
    text = json.dumps(LEAST)[:-1] + ', "id": "2"}'
    assert fields(structured(text.encode())) == [("id", "unique")]
    assert structured(json.dumps(LEAST | {"data": 0})[:-2].encode() + b'{"a":1,"a":2}}') == (
        Envelope(b'{"a":1,"a":2}', structured(json.dumps(LEAST).encode()).headers)
    )


def test_batch_rejects_repeated_source_and_id() -> None:
    """Distinct events differ in one of the two."""
    events = [LEAST, LEAST | {"source": "/t"}, LEAST | {"id": "2"}, LEAST | {"type": "u"}]
    found = batch(json.dumps(event).encode() for event in events)
    assert [fields(each) for each in found] == [[], [], [], [("id", "unique")]]


def test_empty_batch_is_accepted(served: Served) -> None:
    """The format allows it."""
    answer = served.records("recomart_users", "[]", EVENTS)
    assert (answer.status_code, answer.json()["results"]) == (201, [])


BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}


@pytest.mark.parametrize(
    ("sent", "decoded"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),  # the HTTP binding's own (3.1.3.2)
        ("%2525", "%25"),
        ('"a \\"b\\" c"', 'a "b" c'),
        ("a+b", "a+b"),
    ],
)
def test_binary_values_are_decoded(sent: str, decoded: str) -> None:
    """Unquoted, then percent-decoded once."""
    found = binary(b"{}", "application/json", [*BINARY.items(), ("ce-subject", sent)])
    assert found.reasons == ()
    assert dict(found.headers)["ce_subject"].decode() == decoded


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1))
def test_binary_values_survive_encoding(text: str) -> None:
    """What a sender encodes as the binding says comes out as it was."""
    encoded = "".join(
        c if "!" <= c <= "~" and c not in '"%' else "".join(f"%{b:02X}" for b in c.encode())
        for c in text
    )
    found = binary(b"{}", "", [*BINARY.items(), ("ce-subject", encoded)])
    assert dict(found.headers)["ce_subject"].decode() == text


@pytest.mark.parametrize("missing", list(BINARY))
def test_binary_mode_requires_attributes(served: Served, missing: str) -> None:
    """Any ce- header makes an event, which then must have all that are required."""
    headers = {name: value for name, value in BINARY.items() if name != missing}
    answer = served.records("recomart_users", json.dumps(USER), **headers)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["code"]) == (missing.removeprefix("ce-"), "required")


@pytest.mark.parametrize(
    ("header", "field", "code"),
    [
        (("ce-id", "2"), "id", "unique"),
        (("ce-datacontenttype", "application/json"), "datacontenttype", "exclusive"),
        (("ce-time", "yesterday"), "time", "format"),
        (("ce-subject", "%ff"), "subject", "format"),
        (("ce-subject", "\xfc"), "subject", "format"),
        (("ce-subject", "%00"), "subject", "pattern"),
        (("ce-my-ext", "x"), "my-ext", "pattern"),
    ],
)
def test_binary_mode_rejects(header: tuple[str, str], field: str, code: str) -> None:
    """Repeated headers, a second content type, and values that are no text."""
    found = binary(b"{}", "application/json", [*BINARY.items(), header])
    assert fields(found) == [(field, code)]


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace")))
def test_any_event_is_read_or_rejected(body: bytes) -> None:
    """Whatever a body holds, there is an envelope and no exception."""
    assert len(split(body, EVENT, [])) == 1


@given(st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_attributes_are_read_or_rejected(attributes: dict[str, Any]) -> None:
    """Accepted ones become Kafka headers that can be encoded."""
    found = structured(json.dumps(LEAST | attributes).encode())
    assert found.reasons or all(isinstance(value, bytes) for _, value in found.headers)
