"""The event schema specification: the envelope that all topics share, then the fields of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from ingestion_platform.contract.export import Published
from ingestion_platform.contract.export.text import code, document, fields_table, table
from ingestion_platform.contract.model import Field

_INTRODUCTION = """\
Events of students are JSON objects in UTF-8, one per Kafka message. Every event has the envelope; \
each topic adds fields of its own. The contracts of the streams are the source of this page, and \
validate every event: one that breaks them goes to quarantine with all reasons."""


def pages(streams: Sequence[Published]) -> dict[str, str]:
    """Return the pages of the domain, as Markdown by file name; `streams` are all it has."""
    return {"event-schema-specification.md": _specification(streams)}


def _specification(streams: Sequence[Published]) -> str:
    names = _common(streams)
    envelope = [_shared(f, streams) for f in streams[0].contract.fields if f.name in names]
    topics = [
        (code(p.topic or ""), f"[{p.stream}](streams/{p.stream}.md)", _events(p)) for p in streams
    ]
    return document(
        "# Event schema specification",
        _INTRODUCTION,
        table(("Topic", "Stream", "Events"), topics),
        "## Envelope",
        fields_table(envelope),
        *(block for p in streams for block in _topic(p, envelope)),
    )


def _common(streams: Sequence[Published]) -> set[str]:
    """Return the names of the fields that all streams have, with the same type."""
    kinds = [{(f.name, f.kind) for f in p.contract.fields} for p in streams]
    return {name for name, _ in set.intersection(*kinds)}


def _shared(field: Field, streams: Sequence[Published]) -> Field:
    """Return a field of the envelope, with what all streams say of it.

    It is required if all require it, and has allowed values if all allow the same.
    """
    fields = [p.contract.column(field.name) for p in streams]
    same = all(f.allowed == field.allowed for f in fields)
    return replace(
        field,
        required=all(f.required for f in fields),
        allowed=field.allowed if same else (),
    )


def _events(p: Published) -> str:
    names = (f for f in p.contract.fields if f.name == "event_type")
    return ", ".join(code(str(value)) for f in names for value in f.allowed)


def _topic(p: Published, envelope: Sequence[Field]) -> list[str]:
    shared = {f.name: f for f in envelope}
    own = [f for f in p.contract.fields if f.name not in shared]
    stricter = [
        code(f.name)
        for f in p.contract.fields
        if f.name in shared and f.required and not shared[f.name].required
    ]
    rules = [f"- {r.description or code(r.expression)}" for r in p.contract.rules]
    return [
        f"## {p.topic or p.stream}",
        p.contract.description,
        f"Of the envelope, also required here: {', '.join(stricter)}." if stricter else "",
        fields_table(own),
        "\n".join(["Rules over rows:", "", *rules]) if rules else "",
        f"```json\n{json.dumps(p.example, indent=2, ensure_ascii=False)}\n```",
    ]
