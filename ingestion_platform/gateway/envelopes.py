"""What a body holds: one record, an array, lines, or CloudEvents; each record as its own bytes.

Records are cut out, not decoded, so that Kafka gets them exactly as they were sent.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from ingestion_platform.gateway.problems import Problem
from ingestion_platform.gateway.refusals import Finding

JSON, LINES = "application/json", "application/x-ndjson"
EVENT, EVENTS = "application/cloudevents+json", "application/cloudevents-batch+json"
_LINES = {LINES, "application/jsonl", "application/x-jsonlines", "application/jsonlines"}

_REQUIRED = ("specversion", "id", "source", "type")
_ATTRIBUTE = re.compile(r"[a-z0-9]+")
_HEADER = "ce-"

Headers = tuple[tuple[str, bytes], ...]


class Envelope(NamedTuple):
    """A record as it came: its bytes, what goes along as Kafka headers and key, and what is wrong
    with its envelope already."""

    value: bytes
    headers: Headers = ()
    key: str | None = None
    findings: tuple[Finding, ...] = ()


def split(body: bytes, content_type: str, headers: Mapping[str, str]) -> list[Envelope]:
    """The records of a request, in their order.

    Raises:
        Problem: the content type is not known, or the body cannot be cut into records.
    """
    media, _, parameters = content_type.lower().partition(";")
    media = media.strip()
    _check_charset(parameters)
    if media == EVENTS:
        return [_event(_attributes(raw)) for raw in _array(body)]
    if media == EVENT:
        return [_event(_attributes(body))]
    if f"{_HEADER}specversion" in headers:
        return [_binary_event(body, media, headers)]
    if media in _LINES:
        lines = (line.removesuffix(b"\r") for line in body.split(b"\n"))
        return [Envelope(line) for line in lines if line.strip()]
    if media in (JSON, ""):
        whole = body.strip(b" \t\r\n")
        return [Envelope(raw) for raw in _array(body)] if whole[:1] == b"[" else one(whole)
    raise Problem(
        "unsupported-media-type",
        f"Content-Type {media} is not known",
        action=f"use {JSON}, {LINES}, {EVENT} or {EVENTS}",
        headers={"Accept-Post": ", ".join((JSON, LINES, EVENT, EVENTS))},
    )


def one(body: bytes) -> list[Envelope]:
    """The body as the only record; none if it is empty."""
    return [Envelope(body)] if body else []


def _check_charset(parameters: str) -> None:
    found = re.search(r"charset\s*=\s*\"?([\w-]+)", parameters)
    if found and found[1] not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(
            "unsupported-media-type", f"charset {found[1]} is not known", action="send UTF-8"
        )


def _array(body: bytes) -> list[bytes]:
    try:
        return [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(
            "malformed",
            f"the body is not a JSON array: {error}",
            action="nothing of it was taken; mend it, or send lines (application/x-ndjson)",
        ) from None


def _attributes(event: bytes) -> dict[str, Any] | Envelope:
    """A structured event's members, `data` left as it came; an envelope if it is not one."""
    try:
        members = msgspec.json.decode(event, type=dict[str, msgspec.Raw])
        data = members.pop("data", None)
        attributes: dict[str, Any] = {
            name: msgspec.json.decode(value) for name, value in members.items()
        }
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Envelope(event, findings=(Finding("value", "json", f"is no CloudEvent: {error}"),))
    if data is not None:
        attributes["data"] = bytes(data)
    return attributes


def _event(attributes: dict[str, Any] | Envelope) -> Envelope:
    """A structured event as a record: its data, with its attributes as headers."""
    if isinstance(attributes, Envelope):
        return attributes
    data, encoded = attributes.pop("data", None), attributes.pop("data_base64", None)
    findings = []
    if data is not None and encoded is not None:
        findings.append(Finding("data_base64", "exclusive", "must not stand beside data"))
    elif encoded is not None:
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            findings.append(Finding("data_base64", "format", "must be base64"))
    elif data is None:
        findings.append(Finding("data", "required", "is required: it is the record"))
    return _checked(data or b"", attributes, findings)


def _binary_event(body: bytes, media: str, headers: Mapping[str, str]) -> Envelope:
    """An event whose attributes are HTTP headers, and whose body is the record."""
    attributes: dict[str, Any] = {
        name.removeprefix(_HEADER): unquote(value)
        for name, value in headers.items()
        if name.startswith(_HEADER)
    }
    if media:
        attributes["datacontenttype"] = media
    return _checked(body, attributes, [])


def _checked(data: bytes, attributes: dict[str, Any], findings: list[Finding]) -> Envelope:
    findings += [
        Finding(name, "required", "is required, as a string that is not empty")
        for name in _REQUIRED
        if not isinstance(attributes.get(name), str) or not attributes[name]
    ]
    if isinstance(version := attributes.get("specversion"), str) and version not in ("", "1.0"):
        findings.append(Finding("specversion", "enum", f"must be 1.0 (is {version[:20]})"))
    for name, value in attributes.items():
        if not _ATTRIBUTE.fullmatch(name):
            findings.append(Finding(name, "pattern", "must be of lower-case letters and digits"))
        elif value is not None and not isinstance(value, str | bool | int):
            findings.append(Finding(name, "type", "must be a string, an integer or a boolean"))
    media = attributes.get("datacontenttype")
    if isinstance(media, str) and not _is_json(media):
        findings.append(Finding("datacontenttype", "enum", f"must be JSON (is {media[:40]})"))
    key = attributes.get("partitionkey")
    return Envelope(
        data,
        _kafka_headers(attributes) if not findings else (),
        key if isinstance(key, str) else None,
        tuple(findings),
    )


def _is_json(media: str) -> bool:
    media = media.lower().partition(";")[0].strip()
    return media == JSON or media.endswith("+json")


_TEXT: dict[type, Callable[[Any], str]] = {bool: lambda b: "true" if b else "false"}


def _kafka_headers(attributes: dict[str, Any]) -> Headers:
    """Attributes as the Kafka protocol binding of CloudEvents names them."""
    return tuple(
        (
            "content-type" if name == "datacontenttype" else f"ce_{name}",
            _TEXT.get(type(value), str)(value).encode(),
        )
        for name, value in attributes.items()
        if value is not None
    )
