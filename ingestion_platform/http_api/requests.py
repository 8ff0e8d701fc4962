"""Read a request's records within limits, and respond once per Idempotency-Key."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ingestion_platform.http_api.api import Api
from ingestion_platform.http_api.body import check_depth, decompressed, read_body
from ingestion_platform.http_api.envelopes import Envelope, split, unmarked
from ingestion_platform.http_api.idempotency import Answer, Done
from ingestion_platform.http_api.media import EVENTS, JSON, check_accepts, content_type
from ingestion_platform.http_api.problems import Problem

IDEMPOTENCY_KEY = "idempotency-key"
REPLAYED = "Idempotency-Replayed"

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_LARGE = 128 * 1024  # bytes of a body that is split in a thread

Work = Callable[[Done], Awaitable[Answer]]


async def read_envelopes(api: Api, request: Request, *, single: bool = False) -> list[Envelope]:
    """Read the request's records: at least one, exactly one if `single`.

    A batch of CloudEvents may be empty, by its specification.

    Raises:
        Problem: a limit is exceeded, or the body cannot be read.
    """
    limits = api.settings.http_api
    headers = request.headers
    check_accepts(headers.get("accept"), JSON)
    kind = headers.get("content-type", "")
    body = await read_body(
        request.stream(),
        length=headers.get("content-length"),
        limit=limits.max_body_bytes,
        seconds=limits.body_seconds,
        rate=limits.body_rate,
    )
    request.state.fingerprint = _fingerprint(request, body)
    coding = headers.get("content-encoding", "")

    def split_body() -> list[Envelope]:
        content = decompressed(body, coding, limits.max_body_bytes)
        check_depth(unmarked(content), limits.max_json_depth)
        return split(content, kind, headers.items(), arrays=not single)

    envelopes = (
        await asyncio.to_thread(split_body) if len(body) > _LARGE or coding else split_body()
    )
    if single and len(envelopes) > 1:
        action = "send them to /v1/streams/…/records"
        raise Problem("malformed", "the path takes exactly one record", action=action)
    if not envelopes and (single or content_type(kind) != EVENTS):
        raise Problem("malformed", "the request has no record", action="send at least one")
    most = min(limits.max_records, api.rate.capacity)
    if len(envelopes) > most:
        raise Problem(
            "too-large",
            f"{len(envelopes):,} records are more than the {most:,.0f} of one request",
            action="send fewer records per request",
        )
    api.rate.take(request.state.client, len(envelopes) - 1)  # one was taken on arrival
    return envelopes


def _fingerprint(request: Request, body: bytes) -> bytes:
    """Return a hash that is equal for equal requests: of body and content headers."""
    digest = hashlib.sha256(body)
    for name, value in sorted(request.headers.items()):
        if name in ("content-type", "content-encoding") or name.startswith("ce-"):
            digest.update(f"\n{name}: {value}".encode())
    return digest.digest()


def kafka_headers(request: Request) -> dict[str, bytes]:
    """Return the Kafka headers that all records of the request get."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    return {} if key is None else {IDEMPOTENCY_KEY: key.encode()}


async def respond(api: Api, request: Request, work: Work) -> Response:
    """Do the work and return its answer; do it once if the request has an Idempotency-Key.

    Raises:
        Problem: the key is malformed, or was used by another request.
    """
    key, replayed = request.headers.get(IDEMPOTENCY_KEY), False
    if key is None:
        answer = await work({})
    elif not _KEY.fullmatch(key):
        raise Problem(
            "malformed",
            "the Idempotency-Key is not 1 to 255 visible ASCII characters",
            action="use a UUID, for example",
        )
    else:
        name = (request.state.client, request.url.path, key)
        answer, replayed = await api.answers.once(name, request.state.fingerprint, work)
    headers = answer.headers | ({REPLAYED: "true"} if replayed else {})
    return Response(answer.body, answer.status, headers, media_type=answer.media_type)


def log_fields(request: Request, **what: Any) -> None:
    """Add fields to the request's message in the access log."""
    request.state.log_fields.update(what)
