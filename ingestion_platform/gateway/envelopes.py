"""What a body holds: one record, an array, lines, or CloudEvents; each record as its own bytes.

Records are cut out, not decoded, so that Kafka gets them exactly as they were sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ingestion_platform.gateway import media
from ingestion_platform.gateway.problems import Problem
from ingestion_platform.gateway.refusals import Finding

Headers = tuple[tuple[str, bytes], ...]


class Envelope(NamedTuple):
    """A record as it came: its bytes, what goes along as Kafka headers and key, and what is wrong
    with its envelope already."""

    value: bytes
    headers: Headers = ()
    key: str | None = None
    findings: tuple[Finding, ...] = ()


def split(
    body: bytes, content_type: str, headers: Iterable[tuple[str, str]], *, arrays: bool = True
) -> list[Envelope]:
    """Return the records of a request, in their order; without `arrays` a JSON array is one.

    `headers` are pairs of lower-case names and values, repeated ones included.

    Raises:
        Problem: the content type is not known, or the body cannot be cut into records.
    """
    from ingestion_platform.gateway import cloudevents

    essence = media.content_type(content_type)
    attributes = [(name, value) for name, value in headers if name.startswith(cloudevents.HEADER)]
    if essence == media.EVENTS:
        return cloudevents.batch(array(body))
    if essence == media.EVENT:
        return [cloudevents.structured(body)]
    if attributes and not essence.startswith("application/cloudevents"):
        return [cloudevents.binary(body, content_type.strip(), attributes)]
    if essence in media.LINE_TYPES:
        lines = (line.removesuffix(b"\r") for line in body.split(b"\n"))
        return [Envelope(line) for line in lines if line.strip()]
    if essence == "" or (media.is_json(essence) and not essence.startswith("application/cloud")):
        whole = body.strip(b" \t\r\n")
        if arrays and whole[:1] == b"[":
            return [Envelope(raw) for raw in array(body)]
        return [Envelope(whole)] if whole else []
    raise media.unsupported(f"Content-Type {essence[:100]} is not supported")


def array(body: bytes) -> list[bytes]:
    """Return the items of a JSON array as they are written.

    Raises:
        Problem: it is not one.
    """
    try:
        return [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(
            "malformed",
            f"the body is not a JSON array: {error}",
            action="nothing of it was taken; mend it, or send lines (application/x-ndjson)",
        ) from None
