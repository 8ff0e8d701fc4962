"""Produce records to topics: in order per key, without duplicates, with every failure reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ingestion_platform.kafka.client import checked, client_config
from ingestion_platform.produce.record import Record
from ingestion_platform.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

# Any of these may be overridden by KAFKA_<PROPERTY>.
_TUNING: dict[str, str | int] = {
    "linger.ms": 20,
    "batch.num.messages": 100_000,
    "queue.buffering.max.messages": 200_000,
    "queue.buffering.max.kbytes": 262_144,
    # No expiry: a record that expires alone would be overtaken by later ones of its key.
    "message.timeout.ms": 0,
}
# librdkafka retries in order and without duplicates.
_GUARANTEES: dict[str, str | int] = {"enable.idempotence": "true", "acks": "all"}

_CHUNK = 1000  # records sent between two polls
_TICK = 0.02  # seconds of a rate that are sent at once
_BACKLOG = 0.5  # seconds of delay that are caught up at most


@dataclass(frozen=True, slots=True)
class Failure:
    """A record that was not acknowledged, and the reason."""

    record: Record
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of `produce`, for the records that it took from its input."""

    sent: int
    delivered: int
    """Acknowledged by all in-sync replicas."""
    failed: list[Failure]
    seconds: float


def produce(
    settings: Settings,
    topic: str,
    records: Iterable[Record],
    *,
    rate: float | None = None,
    on_progress: Callable[[int], None] | None = None,
    patience: float = 120.0,
) -> Report:
    """Send the records and wait until each is acknowledged by all replicas, or has failed.

    They go to `topic`, unless they have a topic of their own. Transient failures are retried as
    long as other records are acknowledged; records of one key are never reordered. If nothing is
    acknowledged for `patience` seconds, all outstanding records fail and no further one is taken
    from the input. `rate` is in records per second, evenly spaced. `on_progress` gets the number
    delivered so far, a few times a second.

    Raises:
        SourceUnavailable: the embedded broker is needed, and does not run.
        SettingError: librdkafka rejects a KAFKA_<PROPERTY>.
    """
    began = time.monotonic()
    delivery = _Delivery(settings, topic, on_progress, patience)
    try:
        source = iter(records)
        for size in _turns(rate, delivery.serve):
            if not delivery.send(islice(source, size)):
                break
            delivery.serve(0)
            if delivery.given_up:
                break
    finally:
        # Deliver what was sent before, also if the input raises.
        delivery.finish()
    return Report(
        sent=delivery.sent,
        delivered=delivery.sent - len(delivery.failed),
        failed=delivery.failed,
        seconds=time.monotonic() - began,
    )


def _turns(rate: float | None, wait: Callable[[float], None]) -> Iterator[int]:
    """Yield how many records to send next, at the pace of `rate`; call `wait` in between."""
    size = _CHUNK if rate is None else min(_CHUNK, max(1, int(rate * _TICK)))
    due = time.monotonic()
    while True:
        yield size
        if rate is not None:
            due = max(due, time.monotonic() - _BACKLOG) + size / rate
            while (early := due - time.monotonic()) > 0:
                wait(early)


@dataclass
class _Delivery:
    """The state of one `produce`: librdkafka's producer, and its reports so far."""

    settings: Settings
    topic: str
    on_progress: Callable[[int], None] | None
    patience: float
    sent: int = 0
    failed: list[Failure] = field(default_factory=list)
    given_up: str = ""
    """Why nothing more can be sent; empty as long as records can be sent."""
    _producer: Producer = field(init=False)
    _last_error: str = "no broker answered"
    _settled: int = 0
    _settled_at: float = field(default_factory=time.monotonic)
    _reported_at: float = 0.0

    def __post_init__(self) -> None:
        from confluent_kafka import Producer

        config: dict[str, Any] = {
            **_TUNING,
            # A Kafka server validates lz4 at half the cost. The embedded broker validates
            # nothing, and holds thirteen times the records in zstd.
            "compression.type": "zstd" if self.settings.embedded else "lz4",
            **client_config(self.settings, **_GUARANTEES),
            "error_cb": self._on_error,
            "on_delivery": self._on_report,
            # Only failures are reported, for speed: a record that left the queue without a
            # report is acknowledged.
            "delivery.report.only.error": True,
        }
        self._producer = checked(lambda: Producer(config))

    def send(self, records: Iterable[Record]) -> int:
        """Queue the records, waiting while the queue is full; return their number."""
        from confluent_kafka import KafkaException

        before = self.sent
        for record in records:
            try:
                self._enqueue(record)
            except (BufferError, KafkaException) as error:
                self._enqueue_later(record, error)
            self.sent += 1
        return self.sent - before

    def serve(self, timeout: float) -> None:
        """Poll delivery reports for at most `timeout` seconds; detect a stall; report progress."""
        self._producer.poll(timeout)
        now = time.monotonic()
        outstanding = len(self._producer)
        settled = self.sent - outstanding
        if settled != self._settled or not outstanding:
            self._settled, self._settled_at = settled, now
        elif now - self._settled_at > self.patience:
            waited = f"nothing was acknowledged for {self.patience:.0f} s"
            self.given_up = self.given_up or f"{waited}: {self._last_error}"
        if self.on_progress is not None and now - self._reported_at > 0.2:
            self._reported_at = now
            self.on_progress(settled - len(self.failed))

    def finish(self) -> None:
        """Wait for what is queued, or give it up if it cannot be delivered."""
        while len(self._producer) and not self.given_up:
            self.serve(0.2)
        if self.given_up:
            self._producer.purge()
            self._producer.flush()
        if self.on_progress is not None:
            self.on_progress(self.sent - len(self.failed))

    def _enqueue(self, record: Record) -> None:
        key, value, headers, stamp, _, topic = record
        if headers:
            # The message in a delivery report has no headers: pass the record itself.
            on_delivery = partial(self._on_failure, record)
            self._producer.produce(
                topic or self.topic,
                value,
                key,
                on_delivery=on_delivery,
                timestamp=stamp or 0,
                headers=list(headers),
            )
        else:
            self._producer.produce(topic or self.topic, value, key, timestamp=stamp or 0)

    def _enqueue_later(self, record: Record, error: Exception) -> None:
        """Retry while the queue is full; any other error is the record's failure."""
        from confluent_kafka import KafkaException

        while isinstance(error, BufferError) and not self.given_up:
            self.serve(0.1)
            try:
                return self._enqueue(record)
            except (BufferError, KafkaException) as again:
                error = again
        self.failed.append(Failure(record, self.given_up or error.args[0].str()))
        return None

    def _on_report(self, error: KafkaError | None, message: Message) -> None:
        _, stamp = message.timestamp()
        topic = message.topic() if message.topic() != self.topic else None
        record = Record(message.key(), message.value() or b"", (), stamp or None, None, topic)
        self._on_failure(record, error, message)

    def _on_failure(self, record: Record, error: KafkaError | None, _: Message) -> None:
        from confluent_kafka import KafkaError

        if error is None:
            return
        reason = error.str()
        if error.code() == KafkaError._PURGE_QUEUE:
            reason = self.given_up
        elif error.code() == KafkaError._PURGE_INFLIGHT:
            reason = f"{self.given_up}; it was sent, and may have arrived"
        self.failed.append(Failure(record, reason))

    def _on_error(self, error: KafkaError) -> None:
        self._last_error = error.str()
        if error.fatal():
            self.given_up = f"the producer cannot go on: {error.str()}"
