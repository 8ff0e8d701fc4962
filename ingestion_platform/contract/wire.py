"""Recognize values in another wire format, or in an envelope, instead of a record.

Only rejected values, and objects that lack fields, are examined. Nothing is unwrapped here.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass

import msgspec

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"Obj\x01", "an Avro object container file"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy"),
    (b"\x82SNAPPY\x00", "Snappy"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "a zip file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xc3\x01", "an Avro message of the single-object encoding"),
)
_ENCODINGS = ("utf-32-be", "utf-32-le", "utf-16-be", "utf-16-le")
_MARKS = ((b"\xff\xfe\x00\x00", 1), (b"\x00\x00\xfe\xff", 0), (b"\xff\xfe", 3), (b"\xfe\xff", 2))
_MARKUP = re.compile(rb"\s*<(\?xml|!|[A-Za-z])")
_FRAME = 5  # bytes: a zero byte and the schema id


def likeness(value: bytes) -> str | None:
    """Return in words what bytes that are not a JSON object look like; None if unknown."""
    if encoding := _wide(value):
        return f"JSON in {encoding}"
    for magic, name in _MAGIC:
        if value.startswith(magic):
            return name
    if value[:1] == b"\x00" and value[1:2] < b"\x80" and len(value) > _FRAME:
        return _framed(value)  # schema ids are positive 32-bit numbers
    if _MARKUP.match(value):
        return "XML or HTML"
    return _of_json(value) or _binary(value)


def _wide(value: bytes) -> str | None:
    """Return the encoding of a JSON text in UTF-16 or UTF-32; None for any other value."""
    known = next((_ENCODINGS[n] for mark, n in _MARKS if value.startswith(mark)), None)
    if known is None and value[:2].count(0) == 0:
        return None
    for encoding in [known] if known else _ENCODINGS:
        try:
            text = value.decode(encoding).lstrip("\ufeff \t\r\n")
        except UnicodeDecodeError:
            continue
        if text[:1] in ("{", "["):
            return encoding.upper()[:6]
    return None


def _framed(value: bytes) -> str:
    number = int.from_bytes(value[1:_FRAME])
    inside = "JSON" if value[_FRAME:].lstrip()[:1] in (b"{", b"[") else "Avro or Protobuf"
    return f"{inside} framed by a schema registry (schema id {number})"


def _of_json(value: bytes) -> str | None:
    try:
        found = msgspec.json.decode(value, type=list[msgspec.Raw] | str | None)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(found, list):
        return "an array of records" if found and bytes(found[0])[:1] == b"{" else None
    if isinstance(found, str) and found.lstrip()[:1] in ("{", "["):
        return "JSON inside a string (encoded twice)"
    return None


def _binary(value: bytes) -> str | None:
    if len(value) > _FRAME and int.from_bytes(value[:4], "little") == len(value) and value[-1] == 0:
        return "BSON"
    if value[:1] and (0x81 <= value[0] <= 0x8F or value[0] in (0xDE, 0xDF)):
        try:
            msgspec.msgpack.decode(value, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return "MessagePack"
    return None


@dataclass(frozen=True, slots=True)
class Envelope:
    """The keys that identify an envelope.

    An envelope has all keys of `every` and at least one of `either` (if any). `known` are all keys
    that it may have. A contract that declares one of `marks`, or all of `meant`, describes such
    envelopes itself.
    """

    name: str
    every: frozenset[str]
    marks: frozenset[str]
    known: frozenset[str]
    either: frozenset[str] = frozenset()
    meant: frozenset[str] = frozenset()
    only: bool = False
    """Whether the envelope has no keys other than those of `every`."""

    def is_like(self, keys: Set[str]) -> bool:
        """Return whether an object with these keys is such an envelope."""
        whole = self.every == keys if self.only else self.every <= keys
        return whole and bool(not self.either or self.either & keys)

    def is_meant(self, declared: Set[str]) -> bool:
        """Return whether a contract with these fields describes such envelopes."""
        return bool(self.marks & declared) or bool(self.meant and self.meant <= declared)


_CHANGE = Envelope(
    "a Debezium change event",
    every=frozenset({"op", "source"}),
    either=frozenset({"before", "after"}),
    marks=frozenset({"op", "before", "after"}),
    known=frozenset({"before", "after", "source", "op", "ts_ms", "ts_us", "ts_ns", "transaction"}),
)
_CONNECT = Envelope(
    "a Kafka Connect record with its schema",
    every=frozenset({"schema", "payload"}),
    marks=frozenset({"schema", "payload"}),
    known=frozenset({"schema", "payload"}),
    only=True,
)
_EVENT = Envelope(
    "a structured CloudEvent",
    every=frozenset({"specversion", "id", "source", "type"}),
    marks=frozenset({"specversion"}),
    meant=frozenset({"id", "source", "type"}),
    known=frozenset(
        {
            *("specversion", "id", "source", "type", "data", "data_base64", "datacontenttype"),
            *("dataschema", "subject", "time"),
        }
    ),
)
_ENVELOPES = (_EVENT, _CHANGE, _CONNECT)


def envelope_of(keys: Set[str], declared: Set[str]) -> Envelope | None:
    """Return the envelope that an object with these keys is; None if it is none.

    `declared` are the fields of the contract, which may describe envelopes itself.
    """
    for envelope in _ENVELOPES:
        if envelope.is_like(keys) and not envelope.is_meant(declared):
            return envelope
    return None


def may_be_envelope(declared: Set[str]) -> bool:
    """Return whether an envelope's own keys may include every field that a contract declares."""
    return any(declared <= e.known and not e.is_meant(declared) for e in _ENVELOPES)


def described(envelope: Envelope, value: bytes) -> str:
    """Return in words what an envelope is and what it holds."""
    if envelope is not _CONNECT:
        return envelope.name
    payload = msgspec.json.decode(value, type=dict[str, msgspec.Raw])["payload"]
    try:
        inner = set(msgspec.json.decode(payload, type=dict[str, msgspec.Raw]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return envelope.name
    return f"{_CHANGE.name} with its schema" if _CHANGE.is_like(inner) else envelope.name
