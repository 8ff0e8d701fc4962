"""Producing records to a topic: fast, in order per key, without duplicates, every failure told.

What the records are is their maker's business (a simulator, a file loader, the HTTP API).
"""

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
    # Time is kept here: a record that expired alone would let later ones of its key overtake it.
    "message.timeout.ms": 0,
}
# Retries then happen inside librdkafka, in order and without duplicates.
_GUARANTEES: dict[str, str | int] = {"enable.idempotence": "true", "acks": "all"}

_CHUNK = 1000  # records sent between two looks at callbacks and clock
_TICK = 0.02  # seconds of records sent at once when there is a rate
_BACKLOG = 0.5  # seconds of delay that a rate may make up for


@dataclass(frozen=True, slots=True)
class Failure:
    """A record that was not acknowledged, and why."""

    record: Record
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the records that were taken from the input."""

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

    They go to `topic`, but for those that name one of their own. Deliveries that fail in passing
    are retried for as long as anything gets through; records of one key are never reordered. When
    nothing is acknowledged for `patience` seconds, everything outstanding is given up and no
    further record is taken: the report then has failures, and fewer sent than there were. `rate` is
    in records per second, evenly spaced. `on_progress` gets the number delivered so far, a few
    times a second.

    Raises:
        SourceUnavailable: the embedded broker is meant, and does not run.
        SettingError: a KAFKA_<PROPERTY> that librdkafka refuses.
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
        # Also when the input raises: what was taken from it before is delivered.
        delivery.finish()
    return Report(
        sent=delivery.sent,
        delivered=delivery.sent - len(delivery.failed),
        failed=delivery.failed,
        seconds=time.monotonic() - began,
    )


def _turns(rate: float | None, wait: Callable[[float], None]) -> Iterator[int]:
    """How many records to send now, again and again; `wait`s until it is their turn."""
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
    """The state of one `produce`: librdkafka's producer and what it has told so far."""

    settings: Settings
    topic: str
    on_progress: Callable[[int], None] | None
    patience: float
    sent: int = 0
    failed: list[Failure] = field(default_factory=list)
    given_up: str = ""
    """Why nothing more can be sent; empty while it can."""
    _producer: Producer = field(init=False)
    _last_error: str = "no broker answered"
    _settled: int = 0
    _settled_at: float = field(default_factory=time.monotonic)
    _told_at: float = 0.0

    def __post_init__(self) -> None:
        from confluent_kafka import Producer

        config: dict[str, Any] = {
            **_TUNING,
            # A Kafka server checks lz4 at half the cost; the embedded broker checks nothing, and
            # in zstd it keeps thirteen times the records.
            "compression.type": "zstd" if self.settings.embedded else "lz4",
            **client_config(self.settings, **_GUARANTEES),
            "error_cb": self._on_error,
            "on_delivery": self._on_report,
            # A call into Python for each success would cost much of the speed; a record that
            # left the queue without a failure report is acknowledged.
            "delivery.report.only.error": True,
        }
        self._producer = checked(lambda: Producer(config))

    def send(self, records: Iterable[Record]) -> int:
        """Queue the records, waiting while the queue is full; how many there were."""
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
        """Take delivery reports for at most `timeout` seconds; notice a stall; tell progress."""
        self._producer.poll(timeout)
        now = time.monotonic()
        outstanding = len(self._producer)
        settled = self.sent - outstanding
        if settled != self._settled or not outstanding:
            self._settled, self._settled_at = settled, now
        elif now - self._settled_at > self.patience:
            waited = f"nothing was acknowledged for {self.patience:.0f} s"
            self.given_up = self.given_up or f"{waited}: {self._last_error}"
        if self.on_progress is not None and now - self._told_at > 0.2:
            self._told_at = now
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
            # The message in a delivery report has no headers: remember the record itself.
            told = partial(self._on_failure, record)
            self._producer.produce(
                topic or self.topic,
                value,
                key,
                on_delivery=told,
                timestamp=stamp or 0,
                headers=list(headers),
            )
        else:
            self._producer.produce(topic or self.topic, value, key, timestamp=stamp or 0)

    def _enqueue_later(self, record: Record, error: Exception) -> None:
        """Try again while the queue is full; note any other rejection as the record's failure."""
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
