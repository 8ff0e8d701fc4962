"""ODCS documents for tests, as small as they can be."""

from __future__ import annotations

from typing import Any


def document(*properties: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An ODCS document with these properties; `quality` goes to the schema, None removes a key."""
    table = {"name": "things", "properties": [*properties]}
    if "quality" in changes:
        table["quality"] = changes.pop("quality")
    head = {
        "apiVersion": "v3.2.0",
        "kind": "DataContract",
        "id": "things-1",
        "version": "1.0.0",
        "status": "active",
        "domain": "test",
        "schema": [table],
    }
    return {key: value for key, value in (head | changes).items() if value is not None}
