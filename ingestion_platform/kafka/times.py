"""Interpret Kafka timestamps: which are instants, and what the ingest date of a record is.

A Kafka timestamp is any 64-bit number, or absent. All other modules get dates and ages of records
from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import numpy.typing as npt

Stamp = tuple[int, int]
"""A record's timestamp type and its milliseconds since the epoch.

The type is NOT_AVAILABLE, create time or append time. The milliseconds may be any 64-bit number.
"""

NOT_AVAILABLE = 0
NO_TIMESTAMP = -1
"""The value that Kafka writes into a record without a timestamp."""
LATEST = 253_402_300_799_999
"""Milliseconds of the last instant of the year 9999.

Readers of the lake can represent no later time. The earliest accepted time is the epoch, since some
engines cannot read times before 1900.
"""
SKEW = 3600.0
"""Seconds that a producer's clock may be ahead of ours; a later time is an error."""
_DAY = 86_400_000
_EPOCH = date(1970, 1, 1)

Longs = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def as_days(day: date) -> int:
    """Return the number of days from the epoch to a date."""
    return (day - _EPOCH).days


def as_date(days: int) -> date:
    """Return the date that is this number of days after the epoch."""
    return _EPOCH + timedelta(days=days)


def unknown(stamps: Longs) -> Flags:
    """Return a mask of the stamps (rows of type and milliseconds) without a time."""
    none: Flags = (stamps[:, 0] == NOT_AVAILABLE) | (stamps[:, 1] == NO_TIMESTAMP)
    return none


def instants(stamps: Longs) -> Flags:
    """Return a mask of the stamps that are instants of the years 1970 to 9999."""
    kinds, millis = stamps.T
    found: Flags = (kinds != NOT_AVAILABLE) & (millis >= 0) & (millis <= LATEST)
    return found


def ingest_days(stamps: Longs, *, floor: int | None, first: int, today: int) -> Longs:
    """Return the ingest dates of consecutive records of a log partition, in days since the epoch.

    All arguments are in days since the epoch too. The ingest date is the UTC day of the timestamp,
    but not before the ingest date of the previous record (`floor` for the first record), not before
    `first`, the first day with a Dagster partition, and not after `today`. A record without a time
    has the ingest date of the previous record, or else today.
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
    """Return the ingest date of one record, as in `ingest_days`; None means no timestamp."""
    stamps = np.array([stamp or (NOT_AVAILABLE, NO_TIMESTAMP)], np.int64)
    before = None if floor is None else as_days(floor)
    days = ingest_days(stamps, floor=before, first=as_days(first), today=as_days(today))
    return as_date(int(days[0]))


def first_plausible(stamps: Iterable[Stamp], *, since: date, now: float) -> float | None:
    """Return the time of the first record with a plausible time, in seconds since the epoch.

    A plausible time is from midnight (UTC) of `since` to SKEW after `now`. Returns None if no
    record has one.
    """
    start = datetime.combine(since, time(), UTC).timestamp()
    for kind, millis in stamps:
        if kind != NOT_AVAILABLE and start <= millis / 1000 <= now + SKEW:
            return millis / 1000
    return None
