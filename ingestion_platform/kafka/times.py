"""Kafka timestamps: any 64-bit number, or none. Which of them are instants, and what a record's
ingest date is. Every other module gets dates and ages of records from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import numpy.typing as npt

Stamp = tuple[int, int]
"""A record's timestamp type (NOT_AVAILABLE, or create or append time) and its milliseconds since
the epoch; the latter may be any 64-bit number."""

NOT_AVAILABLE = 0
NO_TIMESTAMP = -1
"""What Kafka itself writes into a record that has no timestamp."""
LATEST = 253_402_300_799_999
"""Milliseconds of the last instant of the year 9999: what readers of the lake can represent ends
there, and begins at the epoch, since some engines refuse to read times before 1900."""
SKEW = 3600.0
"""Seconds that a producer's clock may be ahead of ours; a later time is a mistake."""
_DAY = 86_400_000
_EPOCH = date(1970, 1, 1)

Longs = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def as_days(day: date) -> int:
    """Return the days from the epoch to a day."""
    return (day - _EPOCH).days


def as_date(days: int) -> date:
    """Return the day that is so many days after the epoch."""
    return _EPOCH + timedelta(days=days)


def unknown(stamps: Longs) -> Flags:
    """Tell which stamps (rows of type and milliseconds) have no time."""
    none: Flags = (stamps[:, 0] == NOT_AVAILABLE) | (stamps[:, 1] == NO_TIMESTAMP)
    return none


def instants(stamps: Longs) -> Flags:
    """Tell which stamps are instants of the years 1970 to 9999."""
    kinds, millis = stamps.T
    found: Flags = (kinds != NOT_AVAILABLE) & (millis >= 0) & (millis <= LATEST)
    return found


def ingest_days(stamps: Longs, *, floor: int | None, first: int, today: int) -> Longs:
    """Return the ingest date of consecutive records of a log partition; all days since the epoch.

    It is the UTC day of the timestamp, but never before that of the record ahead (`floor` for the
    first one), before `first`, the first day that Dagster has a partition for, or after `today`.
    A record without a time has the date of the record ahead of it, or else today.
    """
    first = min(first, today)
    none = unknown(stamps)
    days = np.clip(stamps[:, 1] // _DAY, first, today)
    days[none] = first
    if floor is None and len(none) and none[0]:
        days[0] = today
    found: Longs = np.maximum.accumulate(np.maximum(days, first if floor is None else floor))
    return found


def ingest_date(stamp: Stamp | None, *, floor: date | None, first: date, today: date) -> date:
    """Return the ingest date of one record as `ingest_days` has it; None is no timestamp."""
    stamps = np.array([stamp or (NOT_AVAILABLE, NO_TIMESTAMP)], np.int64)
    before = None if floor is None else as_days(floor)
    days = ingest_days(stamps, floor=before, first=as_days(first), today=as_days(today))
    return as_date(int(days[0]))


def first_plausible(stamps: Iterable[Stamp], *, since: date, now: float) -> float | None:
    """Return the time of the first record that has a plausible one, in seconds since the epoch.

    Plausible is from midnight of `since` until SKEW after `now`; None if no record has such a time.
    """
    start = datetime.combine(since, time(), UTC).timestamp()
    for kind, millis in stamps:
        if kind != NOT_AVAILABLE and start <= millis / 1000 <= now + SKEW:
            return millis / 1000
    return None
