"""Derive the OpenAPI description of the API from the contracts of its streams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ingestion_platform.contract.json_schema import json_schema
from ingestion_platform.http_api.media import EVENT, EVENTS, JSON, LINES
from ingestion_platform.http_api.problems import KINDS, MEDIA_TYPE
from ingestion_platform.settings import HttpApiSettings
from ingestion_platform.streams import HttpPaths, Stream

DESCRIPTION = """\
Takes records, validates them by their contract, and answers when all replicas of Kafka have them.

* A record that breaks the contract is not sent to Kafka: the answer names field and rule.
* 503 has `Retry-After`. With an `Idempotency-Key`, a retry (within its time, to the same process) \
gets the same answer, and its records are not sent twice.
* Bodies may be compressed (`Content-Encoding: gzip` or `zstd`).
* Every error is `application/problem+json` (RFC 9457).
"""

_REF = "#/components/schemas/"
_REJECTIONS = (400, 401, 406, 408, 413, 415, 422, 429, 503)
_RETRY = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
_EVENT = {"specversion": "1.0", "id": "1", "source": "/orders", "type": "org.example.sent"}


def record_schema(stream: Stream) -> dict[str, Any]:
    """Return the schema of a stream's records; its first example is a valid record."""
    schema = json_schema(stream.contract)
    # The dialect is OpenAPI 3.1's own, and an id would change what references mean.
    return {k: v for k, v in schema.items() if k not in ("$schema", "$id")}


def components(records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the schemas of records (by stream), answers and problems, and how keys are sent."""
    return {
        "schemas": {
            **records,
            "Problem": _PROBLEM,
            "Reason": _REASON,
            "Results": _RESULTS,
        },
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        },
    }


def records_operation(stream: Stream, sample: Any, limits: HttpApiSettings) -> dict[str, Any]:
    """Describe `POST /v1/streams/<stream>/records`; `sample` is a valid record."""
    record = {"$ref": f"{_REF}{stream.name}"}
    event = {"type": "object", "required": [*_EVENT, "data"], "properties": _attributes(record)}
    one_event = _EVENT | {"data": sample}
    several = {"minItems": 1, "maxItems": limits.max_records, "type": "array"}
    contents: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        JSON: (
            {"oneOf": [record, several | {"items": record}]},
            {"one record": sample, "several": [sample, sample]},
        ),
        LINES: (
            {"type": "string", "description": "A record in each line."},
            {"lines": f"{json.dumps(sample)}\n" * 2},
        ),
        EVENT: (event, {"one event": one_event}),
        EVENTS: (several | {"items": event}, {"events": [one_event]}),
    }
    results = {"content": {JSON: {"schema": {"$ref": f"{_REF}Results"}}}}
    return _operation(
        f"send_{stream.name}",
        f"Send records of {stream.name}",
        f"To the topic `{stream.topic}`. CloudEvents in binary mode come with `ce-` headers.",
        contents,
        {
            "201": {"description": "All records are in Kafka.", **results},
            "207": {
                "description": "Some records are in Kafka; the others are invalid.",
                **results,
            },
        },
        limits,
    )


def one_operation(
    stream: Stream,
    sample: Any,
    own: HttpPaths,
    summary: str,
    description: str,
    *,
    limits: HttpApiSettings,
    rejections: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Describe one of a stream's own paths, which take exactly one record.

    `rejections` are statuses that only this path answers.
    """
    contents = {JSON: ({"$ref": f"{_REF}{stream.name}"}, {"one record": sample})}
    accepted = {
        "description": "The record was taken.",
        "content": {JSON: {"schema": _accepted(stream, own)}},
    }
    name = "_".join(summary.lower().split())
    answers = {"201": accepted} | {str(status): _rejection(status) for status in rejections}
    return _operation(name, summary, description, contents, answers, limits)


def _accepted(stream: Stream, own: HttpPaths) -> dict[str, Any]:
    """Return the schema of the answer to an accepted record."""
    properties: dict[str, Any] = {"status": {"const": "accepted"}}
    if own.echo:
        properties[own.echo] = {"$ref": f"{_REF}{stream.name}/properties/{own.echo}"}
    return {"type": "object", "required": list(properties), "properties": properties}


def _operation(
    name: str,
    summary: str,
    description: str,
    contents: dict[str, tuple[dict[str, Any], dict[str, Any]]],
    answers: dict[str, Any],
    limits: HttpApiSettings,
) -> dict[str, Any]:
    bodies = {
        media: {"schema": schema, "examples": {k: {"value": v} for k, v in examples.items()}}
        for media, (schema, examples) in contents.items()
    }
    rejections = _REJECTIONS if limits.auth else tuple(s for s in _REJECTIONS if s != 401)
    return {
        "operationId": name,
        "summary": summary,
        "description": description,
        "requestBody": {"required": True, "content": bodies},
        "parameters": [_IDEMPOTENCY_KEY],
        "responses": answers | {str(status): _rejection(status) for status in rejections},
        "security": [{"bearer": []}, {"key": []}] if limits.auth else [],
    }


def _rejection(status: int) -> dict[str, Any]:
    titles = dict.fromkeys(title for code, title in KINDS.values() if code == status)
    return {
        "description": "; ".join(titles) + ".",
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"{_REF}Problem"}}},
        **({"headers": _RETRY} if status in (429, 503) else {}),
    }


def _attributes(record: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    return {
        "specversion": {"const": "1.0"},
        "id": text,
        "source": text | {"format": "uri-reference", "pattern": "^[!-~]+$"},
        "type": text,
        "time": {"type": "string", "format": "date-time"},
        "partitionkey": {"type": "string", "description": "The record's Kafka key."},
        "datacontenttype": {"const": JSON},
        "data": record,
    }


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same for each retry of a request; unique otherwise.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_REASON = {
    "type": "object",
    "required": ["pointer", "code", "field", "message", "value"],
    "properties": {
        "pointer": {"type": "string", "description": "JSON pointer to the field."},
        "field": {"type": ["string", "null"], "description": "null for a rule over the row."},
        "code": {"type": "string", "description": "What is wrong: required, type, enum, …"},
        "message": {"type": "string"},
        "value": {"type": ["string", "null"], "description": "What was found, cut short."},
    },
}
_RESULT = {
    "type": "object",
    "required": ["index", "status"],
    "properties": {
        "index": {"type": "integer", "description": "Position in the request, from 0."},
        "status": {"enum": ["accepted", "rejected", "failed"]},
        "partition": {"type": "integer"},
        "offset": {"type": "integer"},
        "errors": {"type": "array", "items": {"$ref": f"{_REF}Reason"}},
    },
}
_COUNTS = {name: {"type": "integer"} for name in ("accepted", "rejected", "failed")}
_RESULTS = {
    "type": "object",
    "required": ["stream", *_COUNTS, "results"],
    "properties": {
        "stream": {"type": "string"},
        **_COUNTS,
        "results": {"type": "array", "items": _RESULT},
    },
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "action": {"type": "string", "description": "What to do about it."},
        "errors": {"type": "array", "items": {"$ref": f"{_REF}Reason"}},
        **_COUNTS,
        "results": {"type": "array", "items": _RESULT},
    },
}
