"""Read everything behind the metrics, at a cost that does not grow with the stored data.

Each part is read again only when it may have changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ingestion_platform import failures
from ingestion_platform.each import for_each
from ingestion_platform.operations.metrics.sinks import SinkReader, SinkSamples
from ingestion_platform.operations.metrics.streams import StreamReader, StreamSamples
from ingestion_platform.operations.metrics.tables import TableReader, TableSamples
from ingestion_platform.platform import Platform
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.streams import Stream

EXAMINED = 4
"""Tables whose manifests one reading reads, at most."""
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Samples:
    """The result of a reading, its time in seconds since the epoch, and its duration in seconds."""

    streams: tuple[StreamSamples, ...] = ()
    models: tuple[TableSamples, ...] = ()
    sinks: tuple[SinkSamples, ...] = ()
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    read_at: float = 0.0
    seconds: float = 0.0


class Reader:
    """Reads streams, models and targets, and caches what has not changed.

    One reading at a time. A part that cannot be read is marked as down; the others are read.
    """

    def __init__(
        self,
        platform: Platform,
        streams: Sequence[Stream],
        deliveries: Iterable[Delivery] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._platform = platform
        self._clock = clock
        self._tables = TableReader(platform, sorted({stream.domain for stream in streams}), clock)
        self._streams = [StreamReader(platform, each, self._tables, clock) for each in streams]
        configured = [d for d in deliveries if d.configured(platform.settings)]
        self._sinks = [SinkReader(platform, delivery, clock) for delivery in configured]
        self._lock = threading.Lock()

    def read(self, *, thorough: bool = False) -> Samples:
        """Read everything; `thorough` reads the manifests of every changed table."""
        with self._lock:
            began, now = time.monotonic(), self._clock()
            catalog_up = self._tables.refresh()
            streams = [
                of.found or of.item.unreadable(of.error)
                for of in for_each(
                    lambda one: one.read(catalog_up), self._streams, at_once=_AT_ONCE
                )
            ]
            committed_by_partition = {
                of.name: of.bronze.committed_by_partition if of.bronze else {} for of in streams
            }
            sinks = [
                of.found or of.item.unreadable()
                for of in for_each(
                    lambda one: one.read(committed_by_partition), self._sinks, at_once=_AT_ONCE
                )
            ]
            models = self._tables.models()
            small = self._tables.count_small_files(
                len(self._tables.names) if thorough else EXAMINED
            )
            return Samples(
                streams=tuple(
                    replace(
                        each,
                        bronze=_with_small(each.bronze, small),
                        quarantine=_with_small(each.quarantine, small),
                    )
                    for each in streams
                ),
                models=tuple(replace(each, small_files=small.get(each.name)) for each in models),
                sinks=tuple(sinks),
                errors=failures.counts(self._platform.settings.home),
                read_at=now,
                seconds=time.monotonic() - began,
            )

    def close(self) -> None:
        """Close the logs."""
        for each in self._streams:
            each.close()


def _with_small(table: TableSamples | None, small: Mapping[str, int]) -> TableSamples | None:
    return None if table is None else replace(table, small_files=small.get(table.name))
