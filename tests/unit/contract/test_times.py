"""Dates, times, timestamps and epoch numbers, text by text, right to the microsecond."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_platform.contract.times import (
    EPOCHS,
    NO_ZONE,
    instant_of,
    micros_of,
    pattern,
    read_date,
    read_epoch,
    read_time,
    read_timestamp,
)

TEN = datetime(2026, 11, 20, 10, tzinfo=UTC)
TIMESTAMPS = {
    "2026-11-20T10:00:00Z": TEN,
    "2026-11-20t10:00:00z": TEN,
    "2026-11-20 10:00:00": TEN,
    "2026-11-20T10:00Z": TEN,
    "2026-11-20T10:00": TEN,
    "2026-11-20T11:00:00+01": TEN,
    "2026-11-20T11:00:00+0100": TEN,
    "2026-11-20T11:00+01:00": TEN,
    "2026-11-20T10:00:00-00:00": TEN,
    "20261120T100000Z": TEN,
    "20261120T1000Z": TEN,
    "20261120T050000-0500": TEN,
    "2026-11-20T10:00:00,5Z": TEN + timedelta(milliseconds=500),
    "2026-11-20T10:00:00.1Z": TEN + timedelta(milliseconds=100),
    "2026-11-20T10:00:00.123456Z": TEN + timedelta(microseconds=123456),
    "2026-11-20T10:00:00.123456000000Z": TEN + timedelta(microseconds=123456),
    "2026-12-31T23:59:60Z": datetime(2027, 1, 1, tzinfo=UTC),
    "2026-12-31T15:59:60.25-08:00": datetime(2027, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC),
    "0001-01-01T00:00:00Z": datetime.min.replace(tzinfo=UTC),
    "9999-12-31T23:59:59.999999Z": datetime.max.replace(tzinfo=UTC),
}
NO_TIMESTAMPS = {
    "2026-11-20T24:00:00Z": "hour must be in 0..23",
    "2026-02-29T00:00:00Z": "day is out of range for month",
    "2026-13-01T00:00:00Z": "month must be in 1..12",
    "0000-01-01T00:00:00Z": "year 0 is out of range",
    "2026-11-20T10:60:00Z": "minute must be in 0..59",
    "2026-11-20T10:00:61Z": "second must be in 0..59",
    "2026-11-20T10:00:60Z": "no leap second is there",
    "2026-11-20T10:00:00+24:00": "no zone is that far",
    "2026-11-20T10:00:00+01:60": "no zone is that far",
    "2026-11-20T10:00:00.1234567Z": "has more than six digits of a second",
    "9999-12-31T23:59:59-05:00": "must be of the years 1 to 9999 in UTC",
    "9999-12-31T23:59:60Z": "must be of the years 1 to 9999 in UTC",
    "0001-01-01T00:00:00+05:00": "must be of the years 1 to 9999 in UTC",
    **dict.fromkeys(
        (
            *("2026-11-20", "2026-11-20T10Z", "2026-11-20T100000Z", "20261120T10:00:00Z", "now"),
            *("2026-11-20T10:00:00.Z", "2026-11-20T10:00:00 Z", "2026-11-20  10:00:00", "epoch"),
            *("2026-11-20T10:00:00Z\n", " 2026-11-20T10:00:00Z", "infinity", "2026-W47-5T10:00Z"),
            *("+2026-11-20T10:00:00Z", "2026-1-2T10:00:00Z", "２０２６-11-20T10:00:00Z", ""),
            *("2026-11-20T10:00:00+1", "2026-11-20T10:00:00+01:0", "2026-11-20T10:00:00CET"),
        ),
        "is not an ISO 8601 timestamp",
    ),
}


@pytest.mark.parametrize("text", TIMESTAMPS)
def test_timestamp_forms(text: str) -> None:
    """RFC 3339 as it stands, and the ISO 8601 forms beside it."""
    assert read_timestamp(text) == TIMESTAMPS[text]
    assert re.fullmatch(pattern("timestamp"), text)


@pytest.mark.parametrize("text", NO_TIMESTAMPS)
def test_what_is_no_timestamp(text: str) -> None:
    """The reason says which part is wrong."""
    with pytest.raises(ValueError, match=re.escape(NO_TIMESTAMPS[text])):
        read_timestamp(text)


def test_local_times() -> None:
    """A gap is rejected, what occurs twice is the first, an offset counts."""
    assert read_timestamp("2026-11-20 11:00:00", "Europe/Berlin") == TEN
    assert read_timestamp("2026-11-20T10:00:00Z", "Europe/Berlin") == TEN
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert read_timestamp("2026-10-25 02:30:00", "Europe/Berlin") == first
    with pytest.raises(ValueError, match="does not exist in Europe/Berlin"):
        read_timestamp("2026-03-29T02:30:00", "Europe/Berlin")
    with pytest.raises(ValueError, match="years 1 to 9999"):
        read_timestamp("0001-01-01T00:00:00", "Asia/Tokyo")
    with pytest.raises(ValueError, match="has no zone"):
        read_timestamp("2026-11-20T10:00:00", NO_ZONE)
    assert read_timestamp("2026-11-20T10:00:00Z", NO_ZONE) == TEN
    assert not re.fullmatch(pattern("timestamp", zone_needed=True), "2026-11-20T10:00:00")


def test_dates_and_times_of_day() -> None:
    """Extended and basic forms; no zone, no leap second, no seventh digit."""
    assert read_date("2024-02-29") == read_date("20240229") == date(2024, 2, 29)
    assert (
        read_time("10:30") == read_time("1030") == read_time("10:30:00.000000000") == time(10, 30)
    )
    assert read_time("235959,999999") == time(23, 59, 59, 999999)
    for text in ("2026-02-29", "2026-1-2", "0000-01-01", "2026-11-20T00:00:00", "202611"):
        with pytest.raises(ValueError, match="is not an ISO 8601 date"):
            read_date(text)
    for text in ("24:00:00", "10:00:00Z", "10:00:00+01:00", "10", "10:30:60", "10:3"):
        with pytest.raises(ValueError, match="is not an ISO 8601 time"):
            read_time(text)
    with pytest.raises(ValueError, match="more than six digits"):
        read_time("10:00:00.1234567")


moments = st.datetimes(timezones=st.just(UTC))


@settings(deadline=None)
@given(
    moment=st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),
    ahead=st.integers(-23 * 60 - 59, 23 * 60 + 59),
    form=st.sampled_from(["{0:%z}", "{1}"]),
    separator=st.sampled_from(" Tt"),
)
def test_timestamps_agree_with_python(
    moment: datetime, ahead: int, form: str, separator: str
) -> None:
    """Whatever Python writes is read as Python reads it."""
    there = moment.replace(tzinfo=timezone(timedelta(minutes=ahead)))
    text = moment.isoformat(separator) + form.format(there, there.isoformat()[-6:])
    assert read_timestamp(text) == datetime.fromisoformat(text.replace("t", "T"))
    assert read_timestamp(moment.isoformat()) == moment.replace(tzinfo=UTC)
    assert read_time(moment.time().isoformat()) == moment.time()
    assert read_date(moment.date().isoformat()) == moment.date()


@given(moment=moments, form=st.sampled_from(sorted(EPOCHS)))
def test_epochs_agree_with_python(moment: datetime, form: str) -> None:
    """Each unit gives the instant back that it was made of."""
    micros = micros_of(moment)
    assert instant_of(micros) == moment
    unit = EPOCHS[form]
    whole = micros // unit
    assert read_epoch(str(whole), form) == whole * unit
    assert read_epoch(str(Decimal(micros) / 1_000_000), "epoch_seconds") == micros


NO_EPOCHS = [
    ("epoch_millis", "1.5", "must be an integer"),
    ("epoch_millis", "1e3", "must be an integer"),
    ("epoch_micros", '"1"', "must be an integer"),
    ("epoch_seconds", "true", "must be a number"),
    ("epoch_seconds", "1.1234567", "more than six digits"),
    ("epoch_seconds", "1e-7", "more than six digits"),
    ("epoch_seconds", "1e-999999", "more than six digits"),
    ("epoch_seconds", "1795168800000", "years 1 to 9999"),
    ("epoch_seconds", "1e999999", "years 1 to 9999"),
    ("epoch_millis", "9" * 5000, "years 1 to 9999"),
    ("epoch_micros", "253402300800000000", "years 1 to 9999"),
    ("epoch_millis", "-62135596800001", "years 1 to 9999"),
]


@pytest.mark.parametrize(("form", "token", "reason"), NO_EPOCHS)
def test_what_is_no_epoch(form: str, token: str, reason: str) -> None:
    """Of another type, too fine, or beyond the years that there are."""
    with pytest.raises(ValueError, match=reason):
        read_epoch(token, form)


def test_epoch_edges() -> None:
    """The first and the last microsecond, and seconds written with a power."""
    assert instant_of(read_epoch("253402300799999999", "epoch_micros")).year == 9999
    assert instant_of(read_epoch("-62135596800000", "epoch_millis")).year == 1
    assert read_epoch("1.7951688E9", "epoch_seconds") == 1_795_168_800_000_000
    assert read_epoch("0.100000000", "epoch_seconds") == 100_000
