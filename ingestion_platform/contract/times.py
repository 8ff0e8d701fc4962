"""Dates and times as text, and epoch numbers: one function per kind, its text in, its value out.

What bounds and examples of a contract mean, and values of records from any source, is decided here.
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
"""The default zone of a field that takes no time without a zone."""
EPOCHS = {"epoch_seconds": 1_000_000, "epoch_millis": 1_000, "epoch_micros": 1}
"""Formats of numbers that count since 1970 in UTC, with the microseconds of one."""

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
    """The pattern without groups, as JSON Schema's dialect (ECMA 262) has it."""
    return re.sub(r"\((?!\?)", "(?:", pattern)


def pattern(kind: str, *, zone_needed: bool = False) -> str:
    """Return the form of a `date`, `time` or `timestamp` as a regular expression of JSON Schema.

    It takes all that is read, and impossible days, hours and leap seconds too.
    """
    forms = {"date": _DATES, "time": _TIMES, "timestamp": _TIMESTAMPS}[kind]
    texts = [form.pattern for form in forms]
    if zone_needed:
        texts = [text.removesuffix("?") for text in texts]
    return f"^(?:{'|'.join(map(_open, texts))})$"


def read_date(text: str) -> date:
    """Return the day of an ISO 8601 calendar date: 2026-11-20 or 20261120.

    Raises:
        InvalidValue: it is none; says why.
    """
    found = _match(_DATES, text, "date")
    year, month, day = map(int, found.groups())
    return _checked(lambda: date(year, month, day), "date")


def read_time(text: str) -> time:
    """Return the time of day of 10:30, 10:30:00, 103000, with up to six digits of a second.

    Raises:
        InvalidValue: it is none, or has more digits, or a zone; says why.
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
    """Return the instant, in UTC, of an RFC 3339 time or one of the ISO 8601 forms beside it.

    `zone` is what a text without a zone means: UTC, a zone of the tz database, or NO_ZONE. A local
    time that occurs twice is its first occurrence. The second 60, which UTC has at 23:59 only, is
    the one that follows.

    Raises:
        InvalidValue: it is none, or has more than six digits of a second, or does not exist in its
            zone, or lies outside of the years 1 to 9999; says why.
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
    """Return the microseconds since 1970 of a JSON number in a unit of EPOCHS.

    Milliseconds and microseconds are integers; seconds may have up to six digits behind the dot.

    Raises:
        InvalidValue: it is no such number, or lies outside of the years 1 to 9999; says why.
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
_LONG = 30  # digits: far beyond all years


def _scaled(token: str, unit: int) -> Decimal:
    sign, digits, exponent = Decimal(token).as_tuple()
    assert isinstance(exponent, int)
    return Decimal((sign, digits, exponent + len(str(unit)) - 1))


def instant_of(micros: int) -> datetime:
    """Return the instant of microseconds since 1970 in UTC."""
    return _EPOCH_TIME + timedelta(microseconds=micros)


def micros_of(instant: datetime) -> int:
    """Return the microseconds since 1970; an instant without a zone is in UTC."""
    return (instant.replace(tzinfo=instant.tzinfo or UTC) - _EPOCH_TIME) // timedelta(
        microseconds=1
    )


@cache
def is_zone(name: str) -> bool:
    """Whether the tz database has a zone of that name."""
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
