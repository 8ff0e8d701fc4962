"""Fill the contract's defaults into records of the HTTP API and the Python client.

Records from topics and files stay as they were sent.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ingestion_platform.contract.model import Contract


def completer(contract: Contract) -> Callable[[bytes], bytes]:
    """Return a function that fills a contract's defaults into the bytes of a record.

    A record with all fields stays the same bytes. So does one that is no JSON object or has a
    field twice: the contract rejects it.
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
