"""Send records to Kafka without blocking the event loop, and await the delivery report of each.

All requests share one producer (idempotent, `acks=all`). One thread polls its delivery reports,
another one checks that Kafka answers.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ingestion_platform.errors import PlatformError, SourceUnavailable
from ingestion_platform.kafka.client import bootstrap_servers, checked, client_config
from ingestion_platform.produce.record import Record
from ingestion_platform.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

_QUEUE = 100_000  # records
_TUNING: dict[str, str | int] = {
    "linger.ms": 5,
    "queue.buffering.max.messages": _QUEUE,
    "queue.buffering.max.kbytes": 262_144,
    # Reconnect soon after an outage.
    "reconnect.backoff.max.ms": 1000,
}
_CHECK = 1.0  # seconds between two checks of Kafka
_ANSWER = 2.0  # seconds for Kafka to answer a check
_GRACE = 5.0  # seconds beyond the delivery timeout in which a report may still come
_AT_ONCE = 500  # records queued between two turns of the event loop


class Delivered(NamedTuple):
    """A record that all in-sync replicas have acknowledged."""

    partition: int
    offset: int


class Failed(NamedTuple):
    """A record that was not acknowledged; Kafka may have it nevertheless."""

    reason: str
    too_large: bool = False
    """Whether a retry would fail again."""


Outcome = Delivered | Failed


class Publisher:
    """Sends the records of all requests. Call `open` before, and `close` after."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = settings.http_api.ack_seconds
        self._producer: Producer | None = None
        self._servers = ""
        self._fatal = False
        self._problem = "Kafka is not connected yet"
        self._acknowledged_at = 0.0
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"http-api-{work.__name__.strip('_')}", daemon=True)
            for work in (self._poll_reports, self._monitor)
        ]

    @property
    def problem(self) -> str:
        """Why nothing can be sent now; empty if records can be sent."""
        return self._problem

    def open(self) -> None:
        """Connect. If Kafka does not answer, `problem` says so until it does.

        Raises:
            SettingError: a KAFKA_<PROPERTY> that librdkafka refuses.
        """
        self._check()
        for thread in self._threads:
            thread.start()

    def close(self) -> int:
        """Wait for queued records until the delivery timeout; return how many are lost."""
        left = 0
        if self._producer is not None:
            left = self._producer.flush(self._timeout + _GRACE)
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=_ANSWER + _GRACE)
        return left

    async def send(self, topic: str, records: Sequence[Record]) -> list[Outcome]:
        """Send records; return the outcome of each, at the latest after the delivery timeout.

        Raises:
            SourceUnavailable: Kafka does not answer, or the queue is full; nothing was sent.
        """
        producer = self._producer
        if self._problem or producer is None:
            raise _unavailable(self._problem)
        if len(producer) + len(records) > _QUEUE:
            raise SourceUnavailable(
                "the queue to Kafka is full", action="send the same again later", retry_after=2
            )
        batch = _Batch(len(records), self._acknowledged)
        for start in range(0, len(records), _AT_ONCE):
            for i, record in enumerate(records[start : start + _AT_ONCE], start):
                _enqueue(producer, topic, record, batch, i)
            await asyncio.sleep(0)
        return await batch.outcomes(self._timeout + _GRACE)

    def _acknowledged(self) -> None:
        self._acknowledged_at = time.monotonic()
        self._problem = ""

    def _poll_reports(self) -> None:
        while not self._closing.is_set():
            producer = self._producer
            if producer is None:
                self._closing.wait(0.1)
            else:
                producer.poll(0.1)

    def _monitor(self) -> None:
        while not self._closing.wait(_CHECK):
            try:
                self._check()
            except PlatformError as error:
                self._problem = error.message

    def _check(self) -> None:
        """Check that Kafka answers; replace the producer if it failed or the address changed."""
        from confluent_kafka import KafkaException

        try:
            servers = bootstrap_servers(self._settings)
            if self._producer is None or self._fatal or servers != self._servers:
                self._replace_producer(servers)
            assert self._producer is not None
            if time.monotonic() - self._acknowledged_at > _CHECK:
                self._producer.list_topics(timeout=_ANSWER)
            self._problem = ""
        except SourceUnavailable as error:
            self._problem = f"{error.message}; {error.action}"
        except KafkaException as error:
            self._problem = f"Kafka does not answer: {error.args[0].str()}"

    def _replace_producer(self, servers: str) -> None:
        """Create a producer, and drop the records that the old one still has."""
        from confluent_kafka import Producer

        config: dict[str, Any] = {
            **_TUNING,
            "compression.type": "zstd" if self._settings.embedded else "lz4",
            **client_config(
                self._settings,
                **{"enable.idempotence": "true", "acks": "all"},
                **{"message.timeout.ms": self._timeout * 1000},
            ),
            "error_cb": self._on_error,
        }
        before, self._producer = self._producer, checked(lambda: Producer(config))
        self._servers, self._fatal = servers, False
        if before is not None:
            before.purge()
            before.flush(_GRACE)  # delivers its last reports

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = True
            self._problem = f"the producer is being replaced after: {error.str()}"
        elif error.code() == error._ALL_BROKERS_DOWN:
            self._problem = f"no broker answers: {error.str()}"


def _unavailable(problem: str) -> SourceUnavailable:
    return SourceUnavailable(problem, action="send the same again later", retry_after=2)


def _enqueue(producer: Producer, topic: str, record: Record, batch: _Batch, i: int) -> None:
    from confluent_kafka import KafkaError, KafkaException

    try:
        producer.produce(
            topic,
            record.value,
            record.key,
            headers=list(record.headers),
            on_delivery=partial(batch.report, i),
        )
    except BufferError:
        batch.settle(i, Failed("the queue to Kafka is full; it was not sent"))
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        batch.settle(i, Failed(reason.str(), reason.code() == KafkaError.MSG_SIZE_TOO_LARGE))


class _Batch:
    """The records of one request, and the future of their outcomes."""

    def __init__(self, count: int, on_acknowledged: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._outcomes: list[Outcome | None] = [None] * count
        self._open = count
        self._lock = threading.Lock()
        self._on_acknowledged = on_acknowledged
        if not count:
            self._done.set_result(None)

    def report(self, i: int, error: KafkaError | None, message: Message) -> None:
        """Handle librdkafka's delivery report of record `i`."""
        if error is None:
            self._on_acknowledged()
            # A delivered message has both; the types allow None.
            self.settle(i, Delivered(message.partition() or 0, message.offset() or 0))
        else:
            too_large = error.code() == error.MSG_SIZE_TOO_LARGE
            self.settle(i, Failed(error.str(), too_large))

    def settle(self, i: int, outcome: Outcome) -> None:
        """Set the outcome of record `i`; from any thread."""
        with self._lock:
            self._outcomes[i] = outcome
            self._open -= 1
            last = not self._open
        if last and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    async def outcomes(self, timeout: float) -> list[Outcome]:
        """Return all outcomes; a record without a report in time has failed."""
        await asyncio.wait([self._done], timeout=timeout)
        unreported = Failed(f"no report within {timeout:.0f} s; it may have arrived")
        with self._lock:
            return [outcome or unreported for outcome in self._outcomes]
