"""CloudEvents 1.0.2 over HTTP in structured, batched and binary mode, checked by its specification.

An event's data is the record; its attributes become Kafka headers, named by the Kafka binding.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from ingestion_platform.contract.reasons import SHOWN, Code, Reason
from ingestion_platform.http_api import media
from ingestion_platform.http_api.envelopes import Envelope, Headers

HEADER = "ce-"
"""Prefix of the HTTP headers of an event in binary mode."""

_REQUIRED = ("specversion", "id", "source", "type")
_TEXTS = (*_REQUIRED, "subject", "time", "datacontenttype", "dataschema", "partitionkey")
_NAME = re.compile(r"[a-z0-9]+")
# A String has no control characters, surrogates or noncharacters.
_NO_TEXT = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr((plane << 16) + last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
_PART = r"(?:[A-Za-z0-9\-._~:/?@!$&'()*+,;=\[\]]|%[0-9A-Fa-f]{2})*"
_URI_REFERENCE = re.compile(rf"(?!$|:){_PART}(?:\#{_PART})?")
_URI = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*:{_PART}(?:\#{_PART})?")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|[+-](\d\d):(\d\d))", re.ASCII
)
_INTEGERS = range(-(2**31), 2**31)

Attributes = dict[str, Any]


def structured(event: bytes) -> Envelope:
    """Return the record of an event in the JSON format."""
    try:
        members = msgspec.json.decode(event, type=dict[str, msgspec.Raw])
        data = members.pop("data", None)
        attributes: Attributes = {n: msgspec.json.decode(raw) for n, raw in members.items()}
        repeated = _repeated_members(event)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Envelope(event, reasons=(Reason(Code.JSON, "value", f"is no CloudEvent: {error}"),))
    reasons = [_unique(name) for name in repeated]
    encoded = attributes.pop("data_base64", None)
    value = b"" if data is None else bytes(data)
    if data is not None and encoded is not None:
        reasons.append(Reason(Code.EXCLUSIVE, "data_base64", "must not stand beside data"))
    elif encoded is not None:
        try:
            value = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            reasons.append(Reason(Code.FORMAT, "data_base64", "must be base64"))
    elif data is None:
        reasons.append(Reason(Code.REQUIRED, "data", "is required: it is the record"))
    # An attribute that is null is not set.
    return _checked(value, {n: v for n, v in attributes.items() if v is not None}, reasons)


def batch(events: Iterable[bytes]) -> list[Envelope]:
    """Return the records of a batch; reject an event that repeats source and id of another.

    The specification demands that source and id together are unique for each event.
    """
    found: list[Envelope] = []
    seen: dict[tuple[bytes, bytes], int] = {}
    for place, event in enumerate(events):
        envelope = structured(event)
        if not envelope.reasons:
            headers = dict(envelope.headers)
            first = seen.setdefault((headers["ce_source"], headers["ce_id"]), place)
            if first != place:
                repeats = f"source and id are those of event {first} of this batch"
                envelope = envelope._replace(reasons=(Reason(Code.UNIQUE, "id", repeats),))
        found.append(envelope)
    return found


def binary(body: bytes, content_type: str, headers: Iterable[tuple[str, str]]) -> Envelope:
    """Return the record of an event whose attributes are HTTP headers, its data the body."""
    attributes: Attributes = {}
    reasons: list[Reason] = []
    for header, text in headers:
        name = header.removeprefix(HEADER)
        if name in attributes:
            reasons.append(_unique(name))
        if name == "datacontenttype":
            reasons.append(Reason(Code.EXCLUSIVE, name, "is the Content-Type in binary mode"))
            continue
        try:
            attributes[name] = _decoded(text)
        except ValueError:
            attributes[name] = "?"
            reasons.append(Reason(Code.FORMAT, name, "must be ASCII, or percent-encoded UTF-8"))
    if content_type:
        attributes["datacontenttype"] = content_type
    return _checked(body, attributes, reasons)


def _decoded(value: str) -> str:
    """Return a header's value by the HTTP binding: unquoted, then percent-decoded once.

    Raises:
        ValueError: it is not ASCII, or decodes to no UTF-8.
    """
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    value.encode("ascii")
    return unquote_to_bytes(value).decode()


def _repeated_members(event: bytes) -> list[str]:
    """Return the members that a JSON object has more than once, at its top level."""
    names: list[str] = []

    def record_names(pairs: list[tuple[str, Any]]) -> None:
        names[:] = [name for name, _ in pairs]  # the hook's last call is for the outermost object

    json.loads(event, object_pairs_hook=record_names, parse_int=str, parse_float=str)
    return [name for name, times in Counter(names).items() if times > 1]


def _checked(data: bytes, attributes: Attributes, reasons: list[Reason]) -> Envelope:
    wrong = {reason.field for reason in reasons}
    reasons += [
        Reason(Code.REQUIRED, name, "is required, as a string that is not empty")
        for name in _REQUIRED
        if not isinstance(attributes.get(name), str) or not attributes[name]
    ]
    wrong |= {reason.field for reason in reasons}
    for name, value in attributes.items():
        if name not in wrong and (reason := _invalid(name, value)) is not None:
            reasons.append(reason)
    if reasons:
        return Envelope(data, reasons=tuple(reasons))
    return Envelope(data, _kafka_headers(attributes), attributes.get("partitionkey"))


def _invalid(name: str, value: Any) -> Reason | None:
    """Return why an attribute is invalid; None if it is valid."""
    if name == "data" or not _NAME.fullmatch(name):
        return Reason(Code.PATTERN, name, "must be of lower-case letters and digits")
    if name in _TEXTS and not (isinstance(value, str) and value):
        return Reason(Code.TYPE, name, "must be a string that is not empty")
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        if value in _INTEGERS:
            return None
        return Reason(Code.MAXIMUM, name, "must be an integer of 32 bits")
    if not isinstance(value, str):
        return Reason(Code.TYPE, name, "must be a string, an integer or a boolean")
    if _NO_TEXT.search(value):
        return Reason(Code.PATTERN, name, "must have no control characters")
    if name not in _FORMATS or (of := _FORMATS[name])[1](value):
        return None
    code, _, message = of
    return Reason(code, name, message, value[:SHOWN])


def _is_time(text: str) -> bool:
    """Return whether a text is a time by RFC 3339; a leap second's 60 is valid."""
    found = _TIME.fullmatch(text)
    if found is None:
        return False
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    try:
        datetime(year, month, day, hour, minute, min(second, 59))
    except ValueError:
        return False
    return second <= 60 and int(found[7] or 0) < 24 and int(found[8] or 0) < 60


def _is_json(text: str) -> bool:
    found = media.parse(text)
    return found is not None and media.is_json(found.essence)


_FORMATS: dict[str, tuple[Code, Callable[[str], Any], str]] = {
    "specversion": (Code.ENUM, lambda text: text == "1.0", "must be 1.0"),
    "source": (Code.FORMAT, _URI_REFERENCE.fullmatch, "must be a URI reference"),
    "dataschema": (Code.FORMAT, _URI.fullmatch, "must be a URI with a scheme"),
    "time": (Code.FORMAT, _is_time, "must be a time by RFC 3339"),
    "datacontenttype": (Code.ENUM, _is_json, "must be JSON"),
}


def _unique(name: str) -> Reason:
    return Reason(Code.UNIQUE, name, "stands more than once")


def _kafka_headers(attributes: Attributes) -> Headers:
    """Return attributes as Kafka headers, named by the Kafka binding of CloudEvents."""
    return tuple(
        ("content-type" if name == "datacontenttype" else f"ce_{name}", _text(value).encode())
        for name, value in attributes.items()
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
