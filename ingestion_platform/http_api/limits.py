"""Limits by client: API keys (stored as hashes), rates, and concurrency."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from ingestion_platform.http_api.problems import Problem, retry_after

_CLIENTS = 10_000  # clients whose rate is held
_MAX_KEY = 512  # characters
_BURST = 2.0  # seconds of the rate that can be taken at once


def new_key() -> tuple[str, str]:
    """Return a new API key, and its hash for the settings."""
    key = f"ik_{secrets.token_urlsafe(32)}"
    return key, key_hash(key)


def key_hash(key: str) -> str:
    """Return SHA-256 in hex: a key has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def client_of(headers: Mapping[str, str], hashes: Mapping[str, str]) -> str:
    """Return the name of the client whose key the request has.

    Raises:
        Problem: the request has no key, or one that is not known.
    """
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    key = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
    presented = key_hash(key[:_MAX_KEY])
    found = None
    # Compare with all hashes, so that the time taken reveals nothing.
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


def network_of(address: str) -> str:
    """Return the network by which an address is limited: itself, or the /64 of an IPv6 address.

    A client with one IPv6 address usually has all of its /64. "unknown" stands for everything
    that is no address.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


class ConcurrencyLimit:
    """Slots in use at a time: at most `share` by one holder, and `total` by all.

    Networks of `exempt` are not limited to a share, since many clients are behind them.
    """

    def __init__(
        self, what: str, share: int, total: int | None = None, exempt: Iterable[str] = ()
    ) -> None:
        self._what, self._share, self._total = what, share, total
        self._exempt = [ipaddress.ip_network(each) for each in exempt]
        self._used: Counter[str] = Counter()
        self._used_by_all = 0

    def acquire(self, holder: str) -> None:
        """Acquire a slot for a client or a network.

        Raises:
            Problem: its share, or all slots, are in use.
        """
        if self._total is not None and self._used_by_all >= self._total:
            raise Problem(
                "unavailable",
                f"too many {self._what} of all clients",
                action="send the same again later",
                headers=retry_after(1),
            )
        if self._used[holder] >= self._share and not self._is_exempt(holder):
            raise Problem(
                "too-many",
                f"a client may have {self._share:,} {self._what}",
                action="wait for answers, then send the same again",
                headers=retry_after(1),
            )
        self._used[holder] += 1
        self._used_by_all += 1

    def release(self, holder: str) -> None:
        """Release a slot."""
        self._used_by_all -= 1
        self._used[holder] -= 1
        if not self._used[holder]:
            del self._used[holder]

    @contextmanager
    def slot(self, holder: str) -> Iterator[None]:
        """Hold a slot within the block.

        Raises:
            Problem: as `acquire`.
        """
        self.acquire(holder)
        try:
            yield
        finally:
            self.release(holder)

    def _is_exempt(self, holder: str) -> bool:
        if not self._exempt or holder == "unknown":
            return False
        first = ipaddress.ip_network(holder).network_address
        return any(first in each for each in self._exempt if each.version == first.version)


class RateLimit:
    """A token bucket for each client: `per_second` tokens, at most 2 s of them; 0 is no limit."""

    def __init__(
        self, what: str, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._rate, self._clock = what, per_second, clock
        self._room = per_second * _BURST
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def capacity(self) -> float:
        """The most tokens that can be taken at once."""
        return self._room or math.inf

    def take(self, client: str, tokens: int) -> None:
        """Take tokens from the client's bucket.

        Raises:
            Problem: the bucket has too few; none was taken.
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
                f"a client may send {self._rate:,.0f} {self._what} per second",
                action="wait as Retry-After says, then send the same again",
                headers=retry_after(missing / self._rate),
            )
