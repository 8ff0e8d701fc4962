"""A contract with every kind of field, top-level and nested, and a good record of it."""

from __future__ import annotations

import json
from typing import Any


def prop(name: str, kind: str, physical: str | None = None, **more: Any) -> dict[str, Any]:
    """A property of an ODCS schema."""
    found: dict[str, Any] = {"name": name, "logicalType": kind, **more}
    return found | ({"physicalType": physical} if physical else {})


EVERY_KIND: dict[str, Any] = {
    "apiVersion": "v3.2.0",
    "kind": "DataContract",
    "id": "rich",
    "name": "Every kind of field",
    "version": "1.0.0",
    "status": "active",
    "domain": "test",
    "schema": [
        {
            "name": "things",
            "physicalName": "things",
            "properties": [
                prop("id", "integer", required=True),
                prop("small", "integer", "int", logicalTypeOptions={"minimum": -5, "maximum": 5}),
                prop("ratio", "number", logicalTypeOptions={"exclusiveMinimum": 0}),
                prop("single", "number", "float"),
                prop("price", "number", "decimal(12,2)", logicalTypeOptions={"minimum": 0}),
                prop("amount", "number", "decimal(38,10)"),
                prop("flag", "boolean"),
                prop("day", "date"),
                prop("at", "timestamp"),
                prop("wall", "timestamp", logicalTypeOptions={"timezone": False}),
                prop("clock", "time"),
                prop(
                    "word",
                    "string",
                    logicalTypeOptions={"minLength": 2, "maxLength": 4, "pattern": "^[a-zäöü😀]+$"},
                ),
                prop("uuid", "string", logicalTypeOptions={"format": "uuid"}),
                prop("colour", "string", enum=[{"value": "red"}, {"value": "blue"}]),
                prop("open", "object", "json"),
                prop(
                    "tags",
                    "array",
                    items=prop("tag", "string"),
                    logicalTypeOptions={"uniqueItems": True, "maxItems": 4},
                ),
                prop(
                    "numbers",
                    "array",
                    items=prop("n", "integer", logicalTypeOptions={"minimum": 0}),
                ),
                prop(
                    "place",
                    "object",
                    properties=[
                        prop("name", "string", required=True),
                        prop("seats", "integer"),
                        prop("opened", "date"),
                        prop("since", "timestamp"),
                        prop("code", "string", logicalTypeOptions={"pattern": "^[A-Z]{2}$"}),
                        prop(
                            "halls",
                            "array",
                            items=prop("hall", "object", properties=[prop("n", "integer")]),
                        ),
                    ],
                ),
            ],
            "quality": [
                {
                    "type": "custom",
                    "name": "small_needs_ratio",
                    "engine": "ingestion-platform",
                    "implementation": "small IS NULL OR ratio IS NOT NULL",
                }
            ],
        }
    ],
}

GOOD: dict[str, Any] = {
    "id": 1,
    "small": -5,
    "ratio": 0.5,
    "single": 1.5,
    "price": 12.34,
    "amount": 1.5,
    "flag": True,
    "day": "2026-11-20",
    "at": "2026-11-20T10:00:00+02:00",
    "wall": "2026-11-20 10:00:00.5",
    "clock": "10:30:00",
    "word": "wört",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "colour": "red",
    "open": {"a": [1, {"b": None}]},
    "tags": ["x", "y"],
    "numbers": [0, 5],
    "place": {
        "name": "Town hall",
        "seats": 100,
        "opened": "1999-01-31",
        "since": "2026-11-20T10:00:00Z",
        "code": "AB",
        "halls": [{"n": 1}, {"n": None}],
    },
}


def text(**changes: Any) -> bytes:
    """The good record with changes; a value given as bytes is written as it is."""
    fields = GOOD | changes
    written = [
        json.dumps(name).encode()
        + b":"
        + (value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode())
        for name, value in fields.items()
    ]
    return b"{" + b",".join(written) + b"}"
