"""A request's body, within limits: of time, of size (as sent and decompressed) and of depth."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from ingestion_platform.http_api.problems import Problem

_CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
_START = 5.0  # seconds in which no rate is demanded
_CLOSE = {"Connection": "close"}
# An unterminated string ends with the body, so that matching is linear.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


async def read_body(
    chunks: AsyncIterator[bytes],
    *,
    length: str | None,
    limit: int,
    seconds: float,
    rate: float = 0,
) -> bytes:
    """Return the body as it was sent, holding at most `limit` bytes of it.

    It has to arrive within `seconds` and, after the first 5 s, at `rate` bytes per second on
    average; 0 is any rate.

    Raises:
        Problem: it is longer than `limit` (by its Content-Length, or as it arrives), or too slow.
    """
    if length is not None and length.isdecimal() and int(length) > limit:
        raise _too_long(limit)
    body = bytearray()
    began = asyncio.get_running_loop().time()

    def due() -> float:
        return began + min(seconds, _START + len(body) / rate if rate else seconds)

    try:
        async with asyncio.timeout_at(due()) as deadline:
            async for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    raise _too_long(limit)
                deadline.reschedule(due())
    except TimeoutError:
        said = f"the body did not arrive within {seconds:g} s"
        if rate:
            said = f"{said}, at {rate:,.0f} bytes per second or more"
        raise Problem("slow-request", said, headers=_CLOSE) from None
    return bytes(body)


def decompressed(body: bytes, coding: str, limit: int) -> bytes:
    """Return a body decompressed by its Content-Encoding; stop at more than `limit` bytes.

    Raises:
        Problem: the coding is not known, the body is damaged, or its content too long.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _CODINGS:
        raise Problem(
            "unsupported-media-type",
            f"Content-Encoding {coding} is not known",
            action="use gzip or zstd, once, or none",
            headers={"Accept-Encoding": "gzip, zstd, identity"},
        )
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(pa.BufferReader(body), _CODINGS[coding]) as stream:
            content: bytes = stream.read(limit + 1)
    except OSError:
        raise Problem("malformed", f"the body is not valid {coding}") from None
    if len(content) > limit:
        raise _too_long(limit, "decompressed ")
    return content


def check_depth(body: bytes, limit: int) -> None:
    """Check that objects and arrays are nested at most `limit` deep.

    Raises:
        Problem: they are nested deeper.
    """
    brackets = _STRING.sub(b"", body).translate(None, _OTHERS).translate(_BRACKETS)
    if len(brackets) <= limit:
        return
    # Each pass removes the innermost pairs. Unbalanced brackets are no JSON, and stay.
    for _ in range(limit):
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    if b"[]" in brackets or len(brackets) > limit:
        raise Problem(
            "too-large", f"objects and arrays are nested deeper than {limit}", action="flatten them"
        )


def _too_long(limit: int, how: str = "") -> Problem:
    return Problem(
        "too-large",
        f"the {how}body is longer than {limit:,} bytes",
        action="send fewer records per request",
        headers=_CLOSE,
    )
