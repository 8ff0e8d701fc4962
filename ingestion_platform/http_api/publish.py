"""Records to Kafka, without blocking the event loop: each is answered by its own delivery report.

One producer for all requests, idempotent and acknowledged by all replicas; a thread takes its
reports, another one watches whether Kafka answers at all.
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
    # Back soon after Kafka is.
    "reconnect.backoff.max.ms": 1000,
}
_WATCH = 1.0  # seconds between two looks at Kafka
_ANSWER = 2.0  # seconds for it to answer
_GRACE = 5.0  # seconds beyond the delivery timeout, after which a report is not waited for
_AT_ONCE = 500  # records queued between two turns of the event loop


class Delivered(NamedTuple):
    """A record that all in-sync replicas have."""

    partition: int
    offset: int


class Failed(NamedTuple):
    """A record that was not acknowledged; it may have arrived nevertheless."""

    reason: str
    too_large: bool = False
    """Sending it again cannot help."""


Outcome = Delivered | Failed


class Publisher:
    """Sends records for any number of requests. `open` it before, `close` it after."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = settings.http_api.ack_seconds
        self._producer: Producer | None = None
        self._servers = ""
        self._fatal = False
        self._problem = "Kafka was not asked yet"
        self._acknowledged_at = 0.0
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"gateway-{work.__name__.strip('_')}", daemon=True)
            for work in (self._take_reports, self._watch)
        ]

    @property
    def problem(self) -> str:
        """Why nothing can be sent at present; empty while it can."""
        return self._problem

    def open(self) -> None:
        """Connect. Kafka may be away: then `problem` says so until it is back.

        Raises:
            SettingError: a KAFKA_<PROPERTY> that librdkafka refuses.
        """
        self._look()
        for thread in self._threads:
            thread.start()

    def close(self) -> int:
        """Wait for what is queued, as long as it may take to deliver; how much was given up."""
        left = 0
        if self._producer is not None:
            left = self._producer.flush(self._timeout + _GRACE)
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=_ANSWER + _GRACE)
        return left

    async def send(self, topic: str, records: Sequence[Record]) -> list[Outcome]:
        """What became of each record, known at the latest when the delivery timeout is over.

        Raises:
            SourceUnavailable: Kafka is away or the queue is full; nothing was sent.
        """
        producer = self._producer
        if self._problem or producer is None:
            raise _away(self._problem)
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

    def _take_reports(self) -> None:
        while not self._closing.is_set():
            producer = self._producer
            if producer is None:
                self._closing.wait(0.1)
            else:
                producer.poll(0.1)

    def _watch(self) -> None:
        while not self._closing.wait(_WATCH):
            try:
                self._look()
            except PlatformError as error:
                self._problem = error.message

    def _look(self) -> None:
        """Renew the producer where it has to be; find out whether Kafka answers."""
        from confluent_kafka import KafkaException

        try:
            servers = bootstrap_servers(self._settings)
            if self._producer is None or self._fatal or servers != self._servers:
                self._renew(servers)
            assert self._producer is not None
            if time.monotonic() - self._acknowledged_at > _WATCH:
                self._producer.list_topics(timeout=_ANSWER)
            self._problem = ""
        except SourceUnavailable as error:
            self._problem = f"{error.message}; {error.action}"
        except KafkaException as error:
            self._problem = f"Kafka does not answer: {error.args[0].str()}"

    def _renew(self, servers: str) -> None:
        """A new producer: the first, after a fatal error, or to where the broker is now."""
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
            before.flush(_GRACE)  # its last reports

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = True
            self._problem = f"the producer starts again: {error.str()}"
        elif error.code() == error._ALL_BROKERS_DOWN:
            self._problem = f"Kafka is away: {error.str()}"


def _away(problem: str) -> SourceUnavailable:
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
    """The records of one request, and the future that has their outcomes."""

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
        """Take librdkafka's delivery report of record `i`."""
        if error is None:
            self._on_acknowledged()
            # Both are known of a delivered message.
            self.settle(i, Delivered(message.partition() or 0, message.offset() or 0))
        else:
            too_large = error.code() == error.MSG_SIZE_TOO_LARGE
            self.settle(i, Failed(error.str(), too_large))

    def settle(self, i: int, outcome: Outcome) -> None:
        """Note what became of record `i`; from any thread."""
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
        """All outcomes; a record without a report in time counts as failed."""
        await asyncio.wait([self._done], timeout=timeout)
        silent = Failed(f"no report within {timeout:.0f} s; it may have arrived")
        with self._lock:
            return [outcome or silent for outcome in self._outcomes]
