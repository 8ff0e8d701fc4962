"""The Kafka key of a record, for the HTTP API, the client, the loader and the simulators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ingestion_platform.streams import Stream

KeyOf = Callable[[bytes], bytes | None]
"""Function from a record's value to its key."""


def key_of(stream: Stream, field: str | None = None) -> KeyOf:
    """Return the function from a record's value to its key, the value of a field.

    The field is `field`, or else the stream's `key_field`. Text is used as it is, any other value
    as its JSON text. The key is None if the field is missing or null, or the record is no JSON
    object.

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
            raw = bytes(decode(value).key)
            if raw[:1] == b'"':
                return msgspec.json.decode(raw, type=str).encode()
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        return None if raw == b"null" else raw

    return key
