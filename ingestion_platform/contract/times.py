"""Read dates and times from text, and epoch numbers: one function per kind.

Bounds and examples of contracts, and values of records from all sources, are read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import TypeVar
from zoneinfo import ZoneInfo

from ingestion_platform.contract.reasons import Code, InvalidValue

_T = TypeVar("_T")

NO_ZONE = "none"
"""The default zone of a field that rejects times without a zone."""
EPOCHS = {"epoch_seconds": 1_000_000, "epoch_millis": 1_000, "epoch_micros": 1}
"""Formats of numbers that count from 1970 in UTC, with the microseconds of one unit."""

_EXTENDED = r"(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?"
_BASIC = r"(\d\d)(\d\d)(?:(\d\d)(?:[.,](\d+))?)?"
_OFFSET = r"(?:([Zz])|([+-])(\d\d)(?::?(\d\d))?)"
_DATES = tuple(re.compile(p, re.ASCII) for p in (r"(\d{4})-(\d\d)-(\d\d)", r"(\d{4})(\d\d)(\d\d)"))
_TIMES = tuple(re.compile(p, re.ASCII) for p in (_EXTENDED, _BASIC))
_TIMESTAMPS = tuple(
    re.compile(rf"{day.pattern}[Tt ]{clock.pattern}{_OFFSET}?", re.ASCII)
    for day, clock in zip(_DATES, _TIMES, strict=True)
)
_EPOCH_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = (
    (end.replace(tzinfo=UTC) - _EPOCH_TIME) // timedelta(microseconds=1)
    for end in (datetime.min, datetime.max)
)
_YEARS = "must be of the years 1 to 9999 in UTC"


def _open(pattern: str) -> str:
    """Return the pattern with non-capturing groups, for JSON Schema's dialect (ECMA 262)."""
    return re.sub(r"\((?!\?)", "(?:", pattern)


def pattern(kind: str, *, zone_needed: bool = False) -> str:
    """Return the pattern of a `date`, `time` or `timestamp` for JSON Schema.

    It matches every accepted text, and also impossible days, hours and leap seconds.
    """
    forms = {"date": _DATES, "time": _TIMES, "timestamp": _TIMESTAMPS}[kind]
    texts = [form.pattern for form in forms]
    if zone_needed:
        texts = [text.removesuffix("?") for text in texts]
    return f"^(?:{'|'.join(map(_open, texts))})$"


def read_date(text: str) -> date:
    """Return the date of an ISO 8601 calendar date: 2026-11-20 or 20261120.

    Raises:
        InvalidValue: the text is not such a date; the message says why.
    """
    found = _match(_DATES, text, "date")
    year, month, day = map(int, found.groups())
    return _checked(lambda: date(year, month, day), "date")


def read_time(text: str) -> time:
    """Return the time of day of 10:30, 10:30:00 or 103000, with up to six digits of a second.

    Raises:
        InvalidValue: the text is not such a time, has more digits, or has a zone; the message
            says why.
    """
    if re.search(_OFFSET + "$", text):
        raise InvalidValue("is not an ISO 8601 time: a time of day has no zone")
    found = _match(_TIMES, text, "time")
    hour, minute, second = (int(part or 0) for part in found.groups()[:3])
    micros = _micros(found[4])
    if second == 60:
        raise InvalidValue("is not an ISO 8601 time: a leap second needs a date")
    return _checked(lambda: time(hour, minute, second, micros), "time")


def read_timestamp(text: str, zone: str = "UTC") -> datetime:
    """Return the instant, in UTC, of a timestamp in RFC 3339 or another accepted ISO 8601 form.

    `zone` applies to a text without a zone: UTC, a zone of the tz database, or NO_ZONE, which
    rejects such a text. A local time that occurs twice means its first occurrence. Second 60, which
    UTC has only at 23:59, means the following second.

    Raises:
        InvalidValue: the text is not a timestamp, lacks a zone that it needs, has more than six
            digits of a second, does not exist in its zone, or lies outside the years 1 to 9999;
            the message says why.
    """
    found = _match(_TIMESTAMPS, text, "timestamp")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    micros = _micros(found[7])
    leap = second == 60
    local = _checked(
        lambda: datetime(year, month, day, hour, minute, second - leap, micros), "timestamp"
    )
    try:
        if found[8] or found[9]:
            instant = _with_offset(local, found[9], found[10], found[11])
        else:
            instant = _in_zone(local, zone)
        if leap and (instant.hour, instant.minute) != (23, 59):
            raise InvalidValue("is not an ISO 8601 timestamp: no leap second is there")
        return instant + timedelta(seconds=leap)
    except OverflowError:
        raise InvalidValue(_YEARS) from None


def read_epoch(token: str, form: str) -> int:
    """Return the microseconds since 1970 of a JSON number in the unit `form` of EPOCHS.

    Milliseconds and microseconds are integers. Seconds may have up to six digits after the dot.

    Raises:
        InvalidValue: the token is not such a number, or lies outside the years 1 to 9999; the
            message says why.
    """
    unit = EPOCHS[form]
    if _INTEGER.fullmatch(token):
        micros = Decimal(int(token) * unit) if len(token) < _LONG else Decimal("Infinity")
    elif form == "epoch_seconds" and _NUMBER.fullmatch(token):
        micros = _scaled(token, unit)
    else:
        wanted = "a number" if form == "epoch_seconds" else "an integer"
        raise InvalidValue(f"must be {wanted} ({form})")
    if not _FIRST <= micros <= _LAST:
        raise InvalidValue(f"{_YEARS} ({form})")
    if micros != int(micros):
        raise InvalidValue("has more than six digits of a second", Code.PRECISION)
    return int(micros)


_INTEGER = re.compile(r"-?\d+", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,6})?", re.ASCII)
_LONG = 30  # digits: a number this long is far beyond the year 9999


def _scaled(token: str, unit: int) -> Decimal:
    sign, digits, exponent = Decimal(token).as_tuple()
    assert isinstance(exponent, int)
    return Decimal((sign, digits, exponent + len(str(unit)) - 1))


def instant_of(micros: int) -> datetime:
    """Return the instant, in UTC, of microseconds since 1970."""
    return _EPOCH_TIME + timedelta(microseconds=micros)


def micros_of(instant: datetime) -> int:
    """Return the microseconds since 1970 of an instant; without a zone it is in UTC."""
    return (instant.replace(tzinfo=instant.tzinfo or UTC) - _EPOCH_TIME) // timedelta(
        microseconds=1
    )


@cache
def is_zone(name: str) -> bool:
    """Return whether the tz database has a zone of that name."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    return True


def _match(forms: tuple[re.Pattern[str], ...], text: str, kind: str) -> re.Match[str]:
    for form in forms:
        if found := form.fullmatch(text):
            return found
    raise InvalidValue(f"is not an ISO 8601 {kind}")


def _micros(fraction: str | None) -> int:
    digits = (fraction or "").rstrip("0")
    if len(digits) > 6:
        raise InvalidValue("has more than six digits of a second", Code.PRECISION)
    return int(digits.ljust(6, "0"))


def _checked(make: Callable[[], _T], kind: str) -> _T:
    try:
        return make()
    except ValueError as error:
        raise InvalidValue(f"is not an ISO 8601 {kind}: {error}") from None


def _with_offset(local: datetime, sign: str | None, hours: str, minutes: str | None) -> datetime:
    if sign is None:
        return local.replace(tzinfo=UTC)
    ahead = timedelta(hours=int(hours), minutes=int(minutes or 0))
    if int(hours) > 23 or int(minutes or 0) > 59:
        raise InvalidValue("is not an ISO 8601 timestamp: no zone is that far from UTC")
    return (local + ahead if sign == "-" else local - ahead).replace(tzinfo=UTC)


def _in_zone(local: datetime, zone: str) -> datetime:
    if zone == NO_ZONE:
        raise InvalidValue("has no zone, and the contract gives it none")
    if zone == "UTC":
        return local.replace(tzinfo=UTC)
    named = ZoneInfo(zone)
    instant = local.replace(tzinfo=named).astimezone(UTC)
    if instant.astimezone(named).replace(tzinfo=None) != local:
        raise InvalidValue(f"does not exist in {zone}: clocks were put forward over it")
    return instant
