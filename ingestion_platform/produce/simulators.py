"""Simulated records by stream name, for demos, tests and benchmarks.

A domain's simulators are a module here with `SIMULATORS` by stream, named in the registry below.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING

from ingestion_platform.errors import Permanent, UnknownStream
from ingestion_platform.produce.record import Record

if TYPE_CHECKING:
    from ingestion_platform.produce.simulators.common import Simulator

_MODULES = {
    "pgr_events": "pgr",
    "auth_events": "learning",
    "assessment_events": "learning",
    "video_events": "learning",
    "course_events": "learning",
    "profile_events": "learning",
    "notification_events": "learning",
    "sensor_readings": "telemetry",
    "app_logs": "telemetry",
    "recomart_users": "recomart",
    "recomart_products": "recomart",
    "recomart_transactions": "recomart",
    "tmdb_movie": "tmdb",
    "tmdb_tv_series": "tmdb",
    "tmdb_person": "tmdb",
}

DAYS = 3.0
"""How many days of events there are, unless told otherwise."""


def simulate(
    stream: str,
    count: int,
    *,
    seed: int = 0,
    bad_ratio: float = 0.0,
    start: datetime | None = None,
    days: float = DAYS,
) -> Iterator[Record]:
    """`count` records of the stream in order of arrival, the same for the same arguments.

    They arrive within [start, start + days]; `start` without a zone is UTC, and by default the
    span ends now. `round(count * bad_ratio)` of them are broken, each in the way that its `fault`
    names. A record's timestamp is its arrival: a topic keeps records of an old `start` only if
    its retention is long enough.

    Raises:
        UnknownStream: no simulator makes that stream; lists those there are.
        Permanent: an argument is out of range.
    """
    from ingestion_platform.produce.keys import key_of
    from ingestion_platform.produce.simulators.common import with_faults
    from ingestion_platform.streams import DOMAINS_FOLDER, declared_streams

    if stream not in _MODULES:
        raise UnknownStream(
            f"no simulator makes stream {stream!r}",
            action=f"use one of: {', '.join(sorted(_MODULES))}",
        )
    _check("count", count, count >= 0, "0 or more")
    _check("seed", seed, seed >= 0, "0 or more")
    _check("bad ratio", bad_ratio, 0 <= bad_ratio <= 1, "between 0 and 1")
    _check("days", days, 0.001 <= days <= 36_500, "between 0.001 and 36500")
    if start is None:
        start = datetime.now(UTC) - timedelta(days=days)
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    start = start.replace(microsecond=0)
    module = import_module(f"{__name__}.{_MODULES[stream]}")
    simulator: Simulator = module.SIMULATORS[stream]
    key = key_of(declared_streams(DOMAINS_FOLDER)[stream])
    good = simulator.records(count, seed, start, days)
    records = (record._replace(key=key(record.value)) for record in good)
    return with_faults(records, count, bad_ratio, seed, simulator.shape)


def _check(what: str, value: float, holds: bool, allowed: str) -> None:
    if not holds:
        raise Permanent(f"{what} is {value}", action=f"give a value {allowed}")
