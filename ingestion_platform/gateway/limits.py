"""Who may send, and how much: API keys by their hashes, and a rate per client."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from ingestion_platform.gateway.problems import Problem, later

_CLIENTS = 10_000  # whose rate is remembered
_BURST = 2.0  # seconds of the rate that may come at once


def new_key() -> tuple[str, str]:
    """A fresh API key, and its hash for the settings."""
    key = f"ik_{secrets.token_urlsafe(32)}"
    return key, key_hash(key)


def key_hash(key: str) -> str:
    """SHA-256 in hex. A key has 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def client_of(headers: Mapping[str, str], hashes: Mapping[str, str]) -> str:
    """The name of the client whose key the request carries.

    Raises:
        Problem: no key, or one that is not known.
    """
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    key = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
    presented = key_hash(key)
    found = None
    # All of them, always: how long it takes tells nothing about which one is near.
    for name, known in hashes.items():
        if hmac.compare_digest(presented, known):
            found = name
    if found is None or not key:
        raise Problem(
            "unauthorized",
            "the API key is not known" if key else "the request carries no API key",
            action="send it as `Authorization: Bearer <key>` or `X-API-Key: <key>`",
            headers={"WWW-Authenticate": 'Bearer realm="ingest"'},
        )
    return found


class Rate:
    """A bucket of `per_second` tokens for each client, with room for a burst; 0 is no limit."""

    def __init__(
        self, per_second: float, largest: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._clock = per_second, clock
        self._room = max(per_second * _BURST, largest)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, tokens: int) -> None:
        """Take tokens from the client's bucket.

        Raises:
            Problem: there are not enough; nothing was taken.
        """
        if not self._rate:
            return
        now = self._clock()
        level, at = self._buckets.pop(client, (self._room, now))
        level = min(self._room, level + (now - at) * self._rate)
        missing = tokens - level
        self._buckets[client] = (level if missing > 0 else level - tokens, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        if missing > 0:
            raise Problem(
                "too-many",
                f"a client may send {self._rate:,.0f} records per second",
                action="wait as Retry-After says, then send the same again",
                headers=later(missing / self._rate),
            )
