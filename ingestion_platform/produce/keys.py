"""The Kafka key of a record: every source and simulator that gives one decides it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ingestion_platform.streams import Stream

KeyOf = Callable[[bytes], bytes | None]
"""From a record's value to its key."""


def key_of(stream: Stream, field: str | None = None) -> KeyOf:
    """How the stream's records are keyed: by `field`, or else by the stream's own `key_field`.

    The key is the field's value: text as it is, anything else as its JSON text. It is None where
    there is no such field, or it is null, or the record is no JSON object.

    Raises:
        ContractError: the stream's contract, or its `key`, cannot be used.
    """
    import msgspec

    name = field or stream.key_field
    if name is None:
        return lambda _: None
    fields = [("key", msgspec.Raw, msgspec.Raw(b"null"))]
    shape: Any = msgspec.defstruct("Keyed", fields, rename={"key": name})
    decode = msgspec.json.Decoder(shape).decode

    def key(value: bytes) -> bytes | None:
        try:
            found = bytes(decode(value).key)
            if found[:1] == b'"':
                return msgspec.json.decode(found, type=str).encode()
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        return None if found == b"null" else found

    return key
