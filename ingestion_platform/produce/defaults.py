"""What the HTTP and Python sources fill into a record where its producer said nothing.

What comes by the topic or in files is kept as it was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ingestion_platform.contract.model import Contract


def completer(contract: Contract) -> Callable[[bytes], bytes]:
    """How to fill the defaults of a contract into a record: the bytes with, or without, them.

    A record that lacks nothing stays as it is, byte for byte; so does one that is no JSON object
    or names a field twice, for the contract to refuse.
    """
    names = [field.name for field in contract.fields if field.default is not None]
    if not names:
        return lambda value: value
    import msgspec

    from ingestion_platform.contract.json_text import object_keys

    fields = [(f"f{i}", Any, None) for i in range(len(names))]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    shape = msgspec.defstruct("Defaulted", fields, rename=rename)
    given = msgspec.json.Decoder(shape)
    members = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def complete(value: bytes) -> bytes:
        try:
            missing = [
                name
                for name, found in zip(
                    names, msgspec.structs.astuple(given.decode(value)), strict=True
                )
                if found is None
            ]
            if not missing:
                return value
            record = members.decode(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return value
        if len(object_keys(value)) != len(record):
            return value
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record |= dict.fromkeys(missing, msgspec.Raw(msgspec.json.encode(now)))
        return msgspec.json.encode(record)

    return complete
