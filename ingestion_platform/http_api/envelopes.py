"""Split a body (one record, an array, lines, CloudEvents) into the bytes of its records.

Records are not decoded, so that Kafka gets the bytes that were sent. The readers of files read
arrays and lines: the same bytes give the same records and reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from ingestion_platform.contract.reasons import Reason
from ingestion_platform.files.json_files import read_array, read_lines
from ingestion_platform.files.reading import (
    InMemory,
    Records,
    UnreadableFile,
    marked_encoding,
    utf8_chunks,
)
from ingestion_platform.http_api import media
from ingestion_platform.http_api.problems import Problem

_NAME = "the body"  # in the readers' messages

Headers = tuple[tuple[str, bytes], ...]


class Envelope(NamedTuple):
    """A record's bytes, its Kafka headers and key, and what is invalid about its envelope."""

    value: bytes
    headers: Headers = ()
    key: str | None = None
    reasons: tuple[Reason, ...] = ()


def split(
    body: bytes, content_type: str, headers: Iterable[tuple[str, str]], *, arrays: bool = True
) -> list[Envelope]:
    """Return the records of a request in order; without `arrays`, a JSON array is one record.

    `headers` are pairs of lower-case names and values, repeated names included.

    Raises:
        Problem: the content type is not known, or the body cannot be split into records.
    """
    from ingestion_platform.http_api import cloudevents

    essence = media.content_type(content_type)
    attributes = [(name, value) for name, value in headers if name.startswith(cloudevents.HEADER)]
    if essence == media.EVENTS:
        return cloudevents.batch(array(unmarked(body)))
    if essence == media.EVENT:
        return [cloudevents.structured(unmarked(body))]
    if attributes and not essence.startswith("application/cloudevents"):
        return [cloudevents.binary(body, content_type.strip(), attributes)]
    if essence in media.LINE_TYPES:
        return _read(read_lines(_NAME, InMemory(body)))
    if essence == "" or (media.is_json(essence) and not essence.startswith("application/cloud")):
        whole = unmarked(body).strip(b" \t\r\n")
        if arrays and whole[:1] == b"[":
            return _read(read_array(_NAME, InMemory(body)))
        return [Envelope(whole)] if whole else []
    raise media.unsupported(f"Content-Type {essence[:100]} is not supported")


def _read(batches: Iterator[Records]) -> list[Envelope]:
    """Return the records that a reader yields; why it cannot take a record becomes its reasons.

    Raises:
        Problem: the reader cannot find the records.
    """
    found: list[Envelope] = []
    try:
        for batch in batches:
            for place, value in enumerate(batch.values.to_pylist()):
                found.append(Envelope(value, reasons=tuple(batch.reasons.get(place, ()))))
    except UnreadableFile as error:
        raise _malformed(error) from None
    return found


def unmarked(body: bytes) -> bytes:
    """Return a body in UTF-8, without a byte order mark.

    Raises:
        Problem: the body is not in the encoding of its byte order mark.
    """
    if marked_encoding(InMemory(body)) is None:
        return body
    try:
        return b"".join(utf8_chunks(_NAME, InMemory(body)))
    except UnreadableFile as error:
        raise _malformed(error) from None


def _malformed(error: UnreadableFile) -> Problem:
    return Problem(
        "malformed",
        f"the body cannot be cut into records: {error.problem}",
        action="nothing of it was taken; mend it, or send lines (application/x-ndjson)",
    )


def array(body: bytes) -> list[bytes]:
    """Return the bytes of each item of a JSON array.

    Raises:
        Problem: the body is no JSON array.
    """
    try:
        return [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(
            "malformed",
            f"the body is not a JSON array: {error}",
            action="nothing of it was taken; mend it, or send lines (application/x-ndjson)",
        ) from None
