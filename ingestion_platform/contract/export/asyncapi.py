"""Export streams as one AsyncAPI 3.0 document: a channel per topic, a message per contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ingestion_platform.contract.export import Published

VERSION = "3.0.0"
_BINDING = "0.5.0"  # version of AsyncAPI's Kafka bindings
_DESCRIPTION = (
    "The topics that the ingestion platform reads, and what it accepts in them. A record that "
    "breaks its contract goes to quarantine with all reasons."
)


def asyncapi(published: Sequence[Published]) -> dict[str, Any]:
    """Return the document. Streams without a topic are left out."""
    streams = [p for p in published if p.topic is not None]
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Ingestion platform: streams",
            "version": "1.0.0",
            "description": _DESCRIPTION,
        },
        "defaultContentType": "application/json",
        "channels": {p.stream: _channel(p) for p in streams},
        "operations": {f"receive_{p.stream}": _operation(p) for p in streams},
        "components": {
            "messages": {p.stream: _message(p) for p in streams},
            "schemas": {p.stream: _payload(p) for p in streams},
        },
    }


def _channel(p: Published) -> dict[str, Any]:
    return {
        "address": p.topic,
        "title": p.contract.name,
        "description": p.contract.description,
        "messages": {p.stream: {"$ref": f"#/components/messages/{p.stream}"}},
        "tags": [{"name": tag} for tag in dict.fromkeys((p.domain, *p.contract.tags))],
        "bindings": {"kafka": {"topic": p.topic, "bindingVersion": _BINDING}},
    }


def _operation(p: Published) -> dict[str, Any]:
    group = {"type": "string", "enum": [p.group_id]}
    return {
        "action": "receive",
        "summary": f"Into {p.bronze_table}; what the contract rejects into {p.quarantine_table}.",
        "channel": {"$ref": f"#/channels/{p.stream}"},
        "messages": [{"$ref": f"#/channels/{p.stream}/messages/{p.stream}"}],
        "bindings": {"kafka": {"groupId": group, "bindingVersion": _BINDING}},
    }


def _message(p: Published) -> dict[str, Any]:
    return {
        "name": p.contract.id,
        "title": p.contract.name,
        "summary": f"Contract {p.contract.id}, version {p.contract.version}.",
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{p.stream}"},
        "examples": [{"name": "example", "payload": p.example}],
        "bindings": {"kafka": {"key": _key(p), "bindingVersion": _BINDING}},
    }


def _key(p: Published) -> dict[str, Any]:
    ours = f" The platform's own sources send the value of `{p.key}`." if p.key else ""
    return {
        "type": ["string", "null"],
        "description": f"The producer's choice, kept as it is and not validated.{ours}",
    }


def _payload(p: Published) -> dict[str, Any]:
    # AsyncAPI sets its own dialect, and an `$id` would change how references resolve.
    return {k: v for k, v in p.schema.items() if k not in ("$schema", "$id")}
