"""Translate samples into Prometheus metrics. An unknown value has no series, not a zero."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import chain
from time import time
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from ingestion_platform import __version__
from ingestion_platform.failures import KINDS
from ingestion_platform.lake.names import partition_label
from ingestion_platform.operations.metrics import catalogue as m
from ingestion_platform.operations.metrics.api_counts import OUTCOMES, ApiCounts
from ingestion_platform.operations.metrics.read import Reader, Samples
from ingestion_platform.warehouse.totals import BOUNDS, Histogram

if TYPE_CHECKING:
    from ingestion_platform.operations.metrics.sinks import SinkSamples
    from ingestion_platform.operations.metrics.streams import StreamSamples
    from ingestion_platform.operations.metrics.tables import TableSamples

LOG = logging.getLogger("ingestion_platform.operations.metrics")

FRESH = 2.0
"""Seconds for which scrapes get the same reading."""
PATIENCE = 8.0
"""Seconds that a scrape waits for a reading before it gets the last one; Prometheus waits ten."""

Sample = tuple[Sequence[str], float]


class Latest:
    """Gives scrapes the latest reading; concurrent scrapes share one, and none waits long."""

    def __init__(self, reader: Reader, *, patience: float = PATIENCE) -> None:
        self._reader = reader
        self._patience = patience
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="metrics-read")
        self._reading: Future[Samples] | None = None
        self._samples = Samples()

    def __call__(self) -> Samples:
        """Return a fresh reading, or the last one if reading takes long."""
        with self._lock:
            if time() - self._samples.read_at < FRESH:
                return self._samples
            if self._reading is None:
                self._reading = self._pool.submit(self._reader.read)
            reading = self._reading
        wait([reading], timeout=self._patience)
        with self._lock:
            if reading.done() and self._reading is reading:
                self._reading = None
                error = reading.exception()
                if error is None:
                    self._samples = reading.result()
                else:
                    LOG.error("metrics could not be read", exc_info=error)
            return self._samples


class PlatformCollector(Collector):
    """The metrics of streams, tables and targets."""

    def __init__(self, read: Callable[[], Samples]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        samples = self._read()
        for metric, values in _by_metric(samples).items():
            yield _family(metric, values)
        tables = _tables(samples)
        for metric, of in ((m.COMMITS, "commits"), (m.FLUSHES, "flushes")):
            yield _histograms(
                metric, {(each.stream, each.layer): getattr(each.totals, of) for each in tables}
            )


class ApiCollector(Collector):
    """The metrics of HTTP APIs."""

    def __init__(self, counts: Callable[[], ApiCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        counts = self._counts()
        yield _family(
            m.API_RECORDS,
            [
                ((stream, outcome), counts.records[stream, outcome])
                for stream in counts.streams
                for outcome in OUTCOMES
            ],
        )
        yield _histograms(m.API_REQUESTS, counts.requests)


def exposition(*collectors: Collector) -> bytes:
    """Return metrics in Prometheus's text format."""
    from prometheus_client import generate_latest

    registry = CollectorRegistry()
    for each in collectors:
        registry.register(each)
    return generate_latest(registry)


def _by_metric(samples: Samples) -> dict[m.Metric, list[Sample]]:
    """Return labels and values of all metrics except histograms."""
    samples_by_metric: dict[m.Metric, list[Sample]] = {
        each: [] for each in m.PLATFORM if each.kind != "histogram"
    }
    tables = (*_tables(samples), *samples.models)
    for metric, labels, value in chain(
        *(_of_stream(stream, samples.errors) for stream in samples.streams),
        *(_of_table(table) for table in tables),
        *(_of_sink(sink) for sink in samples.sinks),
        _of_reading(samples),
    ):
        if value is not None:
            samples_by_metric[metric].append((labels, value))
    return samples_by_metric


Value = tuple[m.Metric, Sequence[str], float | None]


def _tables(samples: Samples) -> list[TableSamples]:
    """Return the tables of all streams."""
    return [each for s in samples.streams for each in (s.bronze, s.quarantine) if each]


def _of_reading(samples: Samples) -> Iterator[Value]:
    declared = {stream.name for stream in samples.streams}
    for of, count in samples.errors.items():
        if of[0] not in declared:  # a model's delivery, or a removed stream
            yield m.ERRORS, of, count
    yield m.READ_AT, (), samples.read_at or None  # 0: before the first reading
    yield m.READ_SECONDS, (), samples.seconds
    yield m.BUILD, (__version__,), 1


def _of_stream(of: StreamSamples, errors: Mapping[tuple[str, str], int]) -> Iterator[Value]:
    name = (of.name,)
    for metric, table in ((m.ROWS, of.bronze), (m.REJECTED, of.quarantine)):
        # Without a table the count is 0, unless the catalog did not answer.
        known = 0 if of.up["tables"] else None
        yield metric, name, known if table is None else table.totals.rows
    for kind in KINDS:
        yield m.ERRORS, (of.name, kind), errors.get((of.name, kind), 0)
    yield m.OLDEST_WAIT, name, of.oldest_wait
    yield m.QUARANTINE_LIMIT, name, of.quarantine_ratio
    yield m.FRESHNESS_LIMIT, name, of.freshness_seconds
    yield m.LAST_COMMIT, name, of.bronze.committed_at if of.bronze else None
    for partition, (end, at, lag) in of.ends().items():
        labels = (of.name, partition_label(partition))
        yield m.LOG_END, labels, end
        yield m.BRONZE_END, labels, at
        yield m.LAG, labels, lag
    if of.quarantine is not None:
        open_rows = max(0, of.quarantine.rows - of.discarded)
        yield m.QUARANTINE_ROWS, (of.name, "open"), open_rows
        yield m.QUARANTINE_ROWS, (of.name, "discarded"), of.discarded
    for part, up in of.up.items():
        yield m.UP, (of.name, part), up
    yield from _of_lake(of)


def _of_lake(of: StreamSamples) -> Iterator[Value]:
    name, lake = (of.name,), of.lake
    if lake is None:
        return
    yield m.LOST, name, lake.lost
    yield m.RECREATED, name, lake.recreated
    yield m.NEWEST_EVENT, name, lake.newest
    yield m.WAITING_FILES, name, lake.waiting_files
    yield m.LAKE_BYTES, name, lake.bytes
    yield m.LAKE_FILES, name, lake.files
    yield m.LAKE_SMALL, name, lake.small_files
    for partition, end in sorted(lake.ends.items()):
        yield m.LAKE_END, (of.name, partition_label(partition)), end.offset


def _of_table(table: TableSamples) -> Iterator[Value]:
    labels = (table.name, table.layer, table.domain, table.stream)
    yield m.TABLE_ROWS, labels, table.rows
    yield m.TABLE_BYTES, labels, table.bytes
    yield m.TABLE_FILES, labels, table.files
    yield m.TABLE_DELETES, labels, table.delete_files
    yield m.TABLE_SNAPSHOTS, labels, table.snapshots
    yield m.TABLE_SMALL, labels, table.small_files


def _of_sink(sink: SinkSamples) -> Iterator[Value]:
    labels = (sink.sink, sink.target, sink.source)
    yield m.SINK_UP, labels, sink.up
    yield m.SINK_LAG, labels, sink.lag
    yield m.SINK_REJECTED, labels, sink.rejected
    for partition, end in sorted(sink.ends.items()):
        yield m.SINK_END, (*labels, partition_label(partition)), end


def _family(metric: m.Metric, samples: Iterable[Sample]) -> Metric:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family


def _histograms(metric: m.Metric, of: Mapping[tuple[str, str], Histogram]) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    names = [*(repr(bound) for bound in BOUNDS), "+Inf"]
    for labels, histogram in of.items():
        total, buckets = 0, []
        for name, count in zip(names, histogram.counts, strict=True):
            total += count
            buckets.append((name, total))
        family.add_metric(labels, buckets, histogram.seconds)
    return family
