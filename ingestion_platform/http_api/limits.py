"""Who may send, and how much: API keys by their hashes, rates, and shares of what is limited."""

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

from ingestion_platform.http_api.problems import Problem, later

_CLIENTS = 10_000  # whose rate is remembered
_LONGEST = 512  # characters of a key
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
    presented = key_hash(key[:_LONGEST])
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


def network_of(address: str) -> str:
    """Return the network whose shares an address has: itself, or the /64 of an IPv6 address.

    Whoever has one IPv6 address has as many more as the network holds. "unknown" stands for
    everything that is no address.
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


class Shares:
    """Places that are held for a while: no more than `share` by one holder, `total` by all.

    Networks of `exempt` have no share of their own, since many clients stand behind them.
    """

    def __init__(
        self, what: str, share: int, total: int | None = None, exempt: Iterable[str] = ()
    ) -> None:
        self._what, self._share, self._total = what, share, total
        self._exempt = [ipaddress.ip_network(each) for each in exempt]
        self._held: Counter[str] = Counter()
        self._all = 0

    def take(self, holder: str) -> None:
        """Take a place for a client, or a network.

        Raises:
            Problem: it has its share already, or all places are taken.
        """
        if self._total is not None and self._all >= self._total:
            raise Problem(
                "unavailable",
                f"too many {self._what} of all clients",
                action="send the same again later",
                headers=later(1),
            )
        if self._held[holder] >= self._share and not self._is_exempt(holder):
            raise Problem(
                "too-many",
                f"a client may have {self._share:,} {self._what}",
                action="wait for answers, then send the same again",
                headers=later(1),
            )
        self._held[holder] += 1
        self._all += 1

    def give_back(self, holder: str) -> None:
        """Give a taken place back."""
        self._all -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]

    @contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """Hold a place within the block.

        Raises:
            Problem: see `take`.
        """
        self.take(holder)
        try:
            yield
        finally:
            self.give_back(holder)

    def _is_exempt(self, holder: str) -> bool:
        if not self._exempt or holder == "unknown":
            return False
        first = ipaddress.ip_network(holder).network_address
        return any(first in each for each in self._exempt if each.version == first.version)


class Rate:
    """A bucket of `per_second` tokens for each client, with room for two seconds; 0 is no limit."""

    def __init__(
        self, what: str, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._rate, self._clock = what, per_second, clock
        self._room = per_second * _BURST
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def most(self) -> float:
        """How many tokens can be taken at once; more than that never can."""
        return self._room or math.inf

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
                f"a client may send {self._rate:,.0f} {self._what} per second",
                action="wait as Retry-After says, then send the same again",
                headers=later(missing / self._rate),
            )
