"""Partitions: ingest dates, log partitions and slices as Dagster keys, and back to plain data.

A slice is (ingest date, log partition), its key reads `2026-11-20|3`, or `2026-11-20|files` for
what came in files."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from functools import cache

import dagster as dg

from ingestion_platform.lake.names import FILES, labelled_partition, partition_label
from ingestion_platform.streams import Stream

# Dagster orders the dimensions of a key by their names.
INGEST_DATE, LOG_PARTITION = "date", "partition"

Slice = tuple[date, int]
"""An ingest date and a log partition."""


@cache
def ingest_dates(start_date: str) -> dg.DailyPartitionsDefinition:
    """The UTC days from `start_date` up to and including today."""
    return dg.DailyPartitionsDefinition(start_date=start_date, end_offset=1)


def log_partitions(stream: Stream) -> dg.StaticPartitionsDefinition:
    """The log partitions that are declared for a stream, and the one of its files."""
    return dg.StaticPartitionsDefinition([partition_label(p) for p in all_partitions(stream)])


def all_partitions(stream: Stream) -> list[int]:
    """The log partitions of a stream in the order of their keys: its files come last."""
    return [*range(stream.partitions), FILES]


def slices(stream: Stream) -> dg.MultiPartitionsDefinition:
    """Ingest date x log partition."""
    return dg.MultiPartitionsDefinition(
        {INGEST_DATE: ingest_dates(stream.start_date), LOG_PARTITION: log_partitions(stream)}
    )


def slice_key(of: Slice) -> str:
    """The partition key of a slice."""
    return f"{of[0].isoformat()}|{partition_label(of[1])}"


def parse_slice(key: str) -> Slice:
    """The slice of a partition key."""
    ingest_date, _, partition = key.partition("|")
    return date.fromisoformat(ingest_date), labelled_partition(partition)


def requested_slices(context: dg.AssetExecutionContext) -> list[Slice]:
    """The slices that a run asks for, in order; none when it executes checks alone."""
    if not (context.has_partition_key or context.has_partition_key_range):
        return []
    return sorted(parse_slice(key) for key in context.partition_keys)


def is_declared(stream: Stream, of: Slice) -> bool:
    """Whether a slice has a partition key: an asset's event can be told of it."""
    return of[0] >= stream.first_date and of[1] in all_partitions(stream)


def declared(stream: Stream, found: Iterable[Slice]) -> list[Slice]:
    """Those of some slices that have a partition key, in order."""
    return sorted(of for of in set(found) if is_declared(stream, of))
