"""Read targets of deliveries for the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ingestion_platform.operations.metrics.lake import RECOUNT
from ingestion_platform.operations.metrics.streams import POLL
from ingestion_platform.platform import Platform
from ingestion_platform.sinks import ranges
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.sinks.deliver import COUNTED, is_current
from ingestion_platform.warehouse.committed import CommittedRanges
from ingestion_platform.warehouse.tables import load_or_none


@dataclass(frozen=True, slots=True)
class SinkSamples:
    """A target; `lag`, `ends` (by log partition) and `rejected` are None when it did not answer."""

    sink: str
    target: str
    source: str
    up: bool
    lag: int | None = None
    rejected: int | None = None
    ends: Mapping[int, int] = field(default_factory=dict)


class SinkReader:
    """Reads one target of a delivery, at most every POLL seconds."""

    def __init__(self, platform: Platform, delivery: Delivery, clock: Callable[[], float]) -> None:
        self._platform = platform
        self._delivery = delivery
        self._clock = clock
        self._asked = float("-inf")
        self._position: str | None = None
        self._rejected = 0
        self._counted = float("-inf")

    def read(
        self, committed_by_partition: Mapping[str, Mapping[int, CommittedRanges]]
    ) -> SinkSamples:
        """Return the target's state compared with the present bronze table."""
        now = self._clock()
        if now - self._asked > POLL:
            self._read_target(now)
        return self._compare(committed_by_partition, replace(self.unreadable(), up=True))

    def unreadable(self) -> SinkSamples:
        """Return the samples of a target that does not answer."""
        delivery = self._delivery
        return SinkSamples(delivery.sink, delivery.label, delivery.source, up=False)

    def _read_target(self, now: float) -> None:
        with self._delivery.open(self._platform.settings) as target:
            position = target.position()
            if position != self._position or now - self._counted > RECOUNT:
                self._rejected, self._counted = len(target.rejections(COUNTED)), now
        self._position, self._asked = position, now

    def _compare(
        self,
        committed_by_partition: Mapping[str, Mapping[int, CommittedRanges]],
        samples: SinkSamples,
    ) -> SinkSamples:
        position = self._position or ""
        if self._delivery.stream is None:
            table = load_or_none(self._platform.catalog, self._delivery.table)
            empty = table is None or table.current_snapshot() is None
            current = table is None or empty or is_current(table, self._delivery, position)
            return replace(samples, lag=int(not current), rejected=self._rejected)
        try:
            delivered = ranges.parse(position)
        except ValueError:  # a model was delivered there before
            delivered = {}
        table_committed = committed_by_partition.get(self._delivery.source, {})
        work = ranges.differences(table_committed, delivered)
        ends = {
            p: at.offset
            for p, committed in delivered.items()
            if (at := committed.position) is not None
        }
        lag = sum(each.span.end - each.span.start for each in work)
        return replace(samples, lag=lag, rejected=self._rejected, ends=ends)
