"""Partitions: windows, log partitions and slices as Dagster keys, and back to plain data.

A slice is (window, log partition), its key reads `2026-11-20|3`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from functools import cache

import dagster as dg

from ingestion_platform.streams import Stream

# Dagster orders the dimensions of a key by their names.
WINDOW, LOG_PARTITION = "date", "partition"

Slice = tuple[date, int]
"""A window and a log partition."""


@cache
def windows(start_date: str) -> dg.DailyPartitionsDefinition:
    """The UTC days from `start_date` up to and including today."""
    return dg.DailyPartitionsDefinition(start_date=start_date, end_offset=1)


def log_partitions(stream: Stream) -> dg.StaticPartitionsDefinition:
    """The log partitions that are declared for a stream."""
    return dg.StaticPartitionsDefinition([str(p) for p in range(stream.partitions)])


def slices(stream: Stream) -> dg.MultiPartitionsDefinition:
    """Window x log partition."""
    return dg.MultiPartitionsDefinition(
        {WINDOW: windows(stream.start_date), LOG_PARTITION: log_partitions(stream)}
    )


def slice_key(of: Slice) -> str:
    """The partition key of a slice."""
    return f"{of[0].isoformat()}|{of[1]}"


def parse_slice(key: str) -> Slice:
    """The slice of a partition key."""
    window, _, partition = key.partition("|")
    return date.fromisoformat(window), int(partition)


def requested_slices(context: dg.AssetExecutionContext) -> list[Slice]:
    """The slices that a run asks for, in order; none when it executes checks alone."""
    if not (context.has_partition_key or context.has_partition_key_range):
        return []
    return sorted(parse_slice(key) for key in context.partition_keys)


def is_declared(stream: Stream, of: Slice) -> bool:
    """Whether a slice has a partition key: an asset's event can be told of it."""
    return of[0] >= date.fromisoformat(stream.start_date) and 0 <= of[1] < stream.partitions


def declared(stream: Stream, found: Iterable[Slice]) -> list[Slice]:
    """Those of some slices that have a partition key, in order."""
    return sorted(of for of in set(found) if is_declared(stream, of))
