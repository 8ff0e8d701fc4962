"""Media types by RFC 9110: parse Content-Type, and match Accept."""

from __future__ import annotations

import re
from typing import NamedTuple

from ingestion_platform.http_api.problems import Problem

JSON, LINES = "application/json", "application/x-ndjson"
EVENT, EVENTS = "application/cloudevents+json", "application/cloudevents-batch+json"
LINE_TYPES = frozenset(
    {LINES, "application/ndjson", "application/jsonl", "application/jsonlines"}
    | {"application/x-jsonlines"}
)
RECORDS = (JSON, LINES, EVENT, EVENTS)
"""Content types of records, listed by answers."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*(?:({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*"))?', re.DOTALL)
_TYPE = re.compile(rf"[ \t]*({_TOKEN}/{_TOKEN})")
_UTF_8 = {"utf-8", "utf8", "us-ascii"}


class MediaType(NamedTuple):
    """A media type in lower case, and its parameters by their names in lower case."""

    essence: str
    parameters: dict[str, str]


def parse(text: str) -> MediaType | None:
    """Parse the media type of a header; return None if it is malformed."""
    found = _TYPE.match(text)
    if found is None:
        return None
    at, parameters = found.end(), dict[str, str]()
    while each := _PARAMETER.match(text, at):
        at = each.end()
        if each[1] is not None:
            parameters.setdefault(each[1].lower(), _unquoted(each[2]))
    if text[at:].strip(" \t"):
        return None
    return MediaType(found[1].lower(), parameters)


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) if value[:1] == '"' else value


def is_json(essence: str) -> bool:
    """Return whether a media type is JSON."""
    return essence == JSON or essence.endswith("+json")


def content_type(text: str) -> str:
    """Return the essence of a request's Content-Type, empty if it has none.

    Raises:
        Problem: it is malformed, or its charset is not UTF-8.
    """
    if not text.strip():
        return ""
    found = parse(text)
    if found is None:
        raise unsupported("Content-Type is no media type")
    charset = found.parameters.get("charset", "utf-8").lower()
    if charset not in _UTF_8:
        raise unsupported(f"charset {charset[:40]} is not supported", "send UTF-8")
    return found.essence


def unsupported(detail: str, action: str = "") -> Problem:
    """Return the problem of a content type that holds no records."""
    return Problem(
        "unsupported-media-type",
        detail,
        action=action or f"use {', '.join(RECORDS[:-1])} or {RECORDS[-1]}",
        headers={"Accept-Post": ", ".join(RECORDS)},
    )


def accepts(accept: str, essence: str) -> bool:
    """Return whether an Accept header allows a media type; a malformed one allows all."""
    best = (-1, 1.0)
    for each in re.split(r",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", accept):
        if not each.strip():
            continue
        found = parse(each)
        if found is None:
            return True
        try:
            quality = float(found.parameters.get("q", "1"))
        except ValueError:
            return True
        rank = {essence: 2, f"{essence.partition('/')[0]}/*": 1, "*/*": 0}.get(found.essence, -1)
        if rank >= 0:
            best = max(best, (rank, quality))
        elif best[0] < 0:
            best = (-1, 0.0)
    return best[1] > 0


def accepts_coding(header: str, coding: str) -> bool:
    """Return whether an Accept-Encoding header names a coding."""
    name = rf"(?:^|,)[ \t]*{coding}[ \t]*(?:;[ \t]*q=([0-9.]+))?[ \t]*(?:,|$)"
    found = re.search(name, header, re.IGNORECASE)
    return found is not None and (found[1] is None or found[1].strip("0.") != "")


def check_accepts(accept: str | None, essence: str) -> None:
    """Check that an Accept header allows the answer's media type.

    Raises:
        Problem: it does not.
    """
    if accept and not accepts(accept, essence):
        raise Problem(
            "not-acceptable",
            f"the answer is {essence}, which the Accept header excludes",
            action=f"send Accept: {essence}, or none",
        )
