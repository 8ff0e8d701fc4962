"""Convert ingest dates, log partitions and slices to Dagster partition keys and back.

A slice is (ingest date, log partition). Its key is `2026-11-20|3`, or `2026-11-20|files` for
records that came from files.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import cache

import dagster as dg

from ingestion_platform.each import for_each
from ingestion_platform.lake.names import FILES, labelled_partition, partition_label
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream

# Dagster orders the dimensions of a key by name.
INGEST_DATE, LOG_PARTITION = "date", "partition"

LOOKBACK = timedelta(days=7)
"""Kafka's default retention: without landed records, a topic's records are not older."""

_AT_ONCE = 16

Slice = tuple[date, int]
"""An ingest date and a log partition."""


def first_dates(platform: Platform, streams: Iterable[Stream]) -> dict[str, date]:
    """Return the first ingest date that has partitions, by domain.

    It is the earliest date that a stream of the domain declares or has in the lake, or LOOKBACK
    before today if there is none. All streams of a domain share it, since models join them by day.
    If the store does not answer, it is the earliest date that a record can have.
    """
    today = datetime.now(UTC).date()
    declared = list(streams)
    found: dict[str, date] = {}
    for of in for_each(lambda each: _first_date(platform, each), declared, at_once=_AT_ONCE):
        first = of.item.first_date if of.error is not None else of.found
        if first is not None:
            found[of.item.domain] = min(first, found.get(of.item.domain, first))
    return {s.domain: found.get(s.domain, today - LOOKBACK) for s in declared}


def _first_date(platform: Platform, stream: Stream) -> date | None:
    from ingestion_platform.lake.segments import SegmentLog

    if stream.start_date is not None:
        return stream.first_date
    landed = SegmentLog(platform.store, stream.topic).ingest_dates()
    return landed[0] if landed else None


@cache
def ingest_dates(start: date) -> dg.DailyPartitionsDefinition:
    """Return the UTC days from `start` up to and including today."""
    return dg.DailyPartitionsDefinition(start_date=start.isoformat(), end_offset=1)


def log_partitions(stream: Stream) -> dg.StaticPartitionsDefinition:
    """Return the declared log partitions of a stream and the one of its files, as keys."""
    return dg.StaticPartitionsDefinition([partition_label(p) for p in all_partitions(stream)])


def all_partitions(stream: Stream) -> list[int]:
    """Return the log partitions of a stream in the order of their keys; FILES is last."""
    return [*range(stream.partitions), FILES]


def slices(stream: Stream, start: date) -> dg.MultiPartitionsDefinition:
    """Return the slices of a stream from an ingest date on: ingest date x log partition."""
    return dg.MultiPartitionsDefinition(
        {INGEST_DATE: ingest_dates(start), LOG_PARTITION: log_partitions(stream)}
    )


def slice_key(of: Slice) -> str:
    """Return the partition key of a slice."""
    return f"{of[0].isoformat()}|{partition_label(of[1])}"


def parse_slice(key: str) -> Slice:
    """Return the slice of a partition key."""
    ingest_date, _, partition = key.partition("|")
    return date.fromisoformat(ingest_date), labelled_partition(partition)


def requested_slices(context: dg.AssetExecutionContext) -> list[Slice]:
    """Return the slices of a run, sorted; [] if it executes checks only."""
    if not (context.has_partition_key or context.has_partition_key_range):
        return []
    return sorted(parse_slice(key) for key in context.partition_keys)


def is_declared(stream: Stream, of: Slice) -> bool:
    """Return whether a slice has a partition key, now or after definitions are reloaded."""
    return of[0] >= stream.first_date and of[1] in all_partitions(stream)


def declared(stream: Stream, slices: Iterable[Slice]) -> list[Slice]:
    """Return the slices that have a partition key, sorted."""
    return sorted(of for of in set(slices) if is_declared(stream, of))
