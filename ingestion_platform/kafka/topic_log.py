"""Read a Kafka topic as a log: identity, exact end offsets, and batches by log partition.

Partitions are assigned, never subscribed to, so no group rebalance can change a position.
Other modules produce records and run the embedded broker.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ingestion_platform.errors import Permanent, SourceUnavailable, TopicMissing, Transient
from ingestion_platform.kafka.broker import address
from ingestion_platform.kafka.client import checked, client_config
from ingestion_platform.kafka.librdkafka import Headers, Reader
from ingestion_platform.kafka.times import Stamp
from ingestion_platform.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition
    from confluent_kafka.admin import AdminClient

LOG = logging.getLogger("ingestion_platform.kafka")

TIMEOUT = 10.0
BATCH = 10_000
_NONE: Headers = []  # shared: a list per record would trigger the garbage collector too often

# The default backoff of one second on a full partition queue makes reading sixty times slower.
FETCHING: dict[str, str | int | bool] = {
    "fetch.queue.backoff.ms": 5,
    "queued.max.messages.kbytes": 16_384,
    "queued.min.messages": 100_000,
    "fetch.max.bytes": 16_777_216,
    "max.partition.fetch.bytes": 1_048_576,
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
}


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The readable range of one log partition: the first offset, and the next after the last."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Topic:
    """The current identity of a topic: topic id, cluster id and log partitions."""

    name: str
    topic_id: str
    cluster_id: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive messages of one partition.

    `end` is the end of the requested range if these are its last messages, else None.
    """

    partition: int
    messages: list[Message]
    end: int | None


def offset_of(message: Message) -> int:
    """Return a consumed message's offset, which is never None despite the library's type."""
    offset = message.offset()
    assert offset is not None
    return offset


class LogChanged(Transient):
    """The log lost the requested records: retention deleted them, or the topic was recreated."""


class Log:
    """One topic's log, opened for reading. A context manager; not thread-safe."""

    def __init__(self, settings: Settings, topic: str, group_id: str) -> None:
        from confluent_kafka import Consumer
        from confluent_kafka.admin import AdminClient

        self._settings = settings
        self._name = topic
        self._group_id = group_id
        config = client_config(settings, **{**FETCHING, "group.id": group_id})
        self._consumer: Consumer = checked(lambda: Consumer(config))
        self._admin: AdminClient = checked(lambda: AdminClient(client_config(settings)))
        self._leaders_known = False
        self._reader: Reader | None = None

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._name

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._consumer.close()
        if self._reader is not None:
            self._reader.close()

    def topic(self) -> Topic:
        """Return the topic's current identity.

        Raises:
            TopicMissing: the brokers have no such topic.
            SourceUnavailable: the brokers do not answer.
        """
        from confluent_kafka import KafkaException, TopicCollection

        try:
            if self._settings.embedded:
                return self._embedded_topic()
            cluster = self._admin.describe_cluster(request_timeout=TIMEOUT)
            described = self._admin.describe_topics(
                TopicCollection([self._name]), request_timeout=TIMEOUT
            )[self._name].result()
            cluster_id = cluster.result().cluster_id or ""
        except KafkaException as error:
            raise _unavailable(self._name, error) from error
        return Topic(
            name=self._name,
            topic_id=str(described.topic_id),
            cluster_id=cluster_id,
            partitions=tuple(sorted(p.id for p in described.partitions)),
        )

    def _embedded_topic(self) -> Topic:
        """Return the topic with the broker's id as topic id, since the mock cluster has none."""
        found = address(self._settings.home)
        metadata = self._admin.list_topics(self._name, timeout=TIMEOUT)
        return Topic(
            name=self._name,
            topic_id=found.topic_id if found else "embedded",
            cluster_id=metadata.cluster_id or "",
            partitions=tuple(sorted(metadata.topics[self._name].partitions)),
        )

    def watermarks(self, partitions: Sequence[int]) -> dict[int, Watermarks]:
        """Return the readable range of each partition; `end` is the last stable offset.

        Raises:
            SourceUnavailable: the broker does not answer.
        """
        import confluent_kafka.admin
        from confluent_kafka import IsolationLevel, KafkaException

        spec: Any = confluent_kafka.admin.OffsetSpec

        def offsets(which: Any) -> dict[int, int]:
            futures = self._admin.list_offsets(
                {self._partition(p): which for p in partitions},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=TIMEOUT,
            )
            return {tp.partition: future.result().offset for tp, future in futures.items()}

        try:
            if self._settings.embedded:
                return self._embedded_watermarks(partitions)
            starts, ends = offsets(spec.earliest()), offsets(spec.latest())
        except KafkaException as error:
            raise _unavailable(self._name, error) from error
        return {p: Watermarks(starts[p], ends[p]) for p in partitions}

    def _embedded_watermarks(self, partitions: Sequence[int]) -> dict[int, Watermarks]:
        found = {}
        for p in partitions:
            low, high = self._consumer.get_watermark_offsets(self._partition(p), timeout=TIMEOUT)
            found[p] = Watermarks(low, high)
        return found

    def read(self, ranges: Mapping[int, range], *, timeout: float = 60.0) -> Iterator[Run]:
        """Yield runs of messages in a range of offsets of each partition.

        The last run of a partition has `end` set to the stop of its range, even if the offset of
        the last message is lower, since transaction markers may follow it.

        Raises:
            LogChanged: an offset is no longer in the log, or the topic is gone or was recreated.
            Permanent: the client is not authorized to read the topic.
            SourceUnavailable: no message arrived for `timeout` seconds before the end of a range.
        """
        pending = {p: offsets.stop for p, offsets in ranges.items() if offsets}
        if not pending:
            return
        self._know_leaders()
        self._consumer.assign([self._partition(p, ranges[p].start) for p in pending])
        try:
            last = time.monotonic()
            while pending:
                with _uncollected():
                    messages = self._consumer.consume(BATCH, timeout=0.05)
                runs = self._runs(messages, pending) if messages else self._passed(pending)
                for run in runs:
                    if run.end is not None:
                        del pending[run.partition]
                    yield run
                if runs:
                    last = time.monotonic()
                elif time.monotonic() - last > timeout:
                    raise SourceUnavailable(
                        f"topic {self._name}: no record for {timeout:.0f} s, "
                        f"partitions {sorted(pending)} are not at their end",
                        action="see whether the brokers that lead them are up",
                    )
        finally:
            self._consumer.unassign()

    def _know_leaders(self) -> None:
        """Fetch the partition leaders now; the consumer alone takes up to a second for it."""
        from confluent_kafka import KafkaException

        if not self._leaders_known:
            try:
                self._consumer.list_topics(self._name, timeout=TIMEOUT)
            except KafkaException as error:
                raise _unavailable(self._name, error) from error
            self._leaders_known = True

    def _runs(self, messages: list[Message], pending: Mapping[int, int]) -> list[Run]:
        """Split a batch into runs of one partition, and cut each partition at its end."""
        good = [m for m in messages if m.error() is None]
        if len(good) < len(messages):
            self._check(messages)
        if not good:
            return []
        owners = np.fromiter((m.partition() for m in good), np.int32, len(good))
        cuts = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(good)]
        runs: list[Run] = []
        ended: set[int] = set()
        for start, stop in pairwise(cuts):
            partition = int(owners[start])
            if partition not in pending or partition in ended:
                continue
            end = pending[partition]
            run = good[start:stop]
            if offset_of(run[-1]) + 1 >= end:
                ended.add(partition)
                runs.append(Run(partition, [m for m in run if offset_of(m) < end], end))
            else:
                runs.append(Run(partition, run, None))
        return runs

    def _passed(self, pending: Mapping[int, int]) -> list[Run]:
        """Return an empty last run of each partition whose position passed its end.

        No message was left before the end, only transaction markers.
        """
        at = self._consumer.position([self._partition(p) for p in pending])
        passed = [tp.partition for tp in at if tp.offset >= pending[tp.partition]]
        return [Run(p, [], pending[p]) for p in passed]

    def _check(self, messages: Sequence[Message]) -> None:
        from confluent_kafka import KafkaError

        for message in messages:
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                continue
            where = f"topic {self._name}, partition {message.partition()}"
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                raise LogChanged(f"{where}: the offset asked for is no longer in the log")
            if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise LogChanged(f"{where}: the topic is gone or was recreated")
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise Permanent(f"{where}: not authorized to read", action="grant READ on it")
            if error.fatal():
                raise SourceUnavailable(f"{where}: {error.name()}", action="retry")

    def first_stamps(self, partition: int, offset: int, end: int) -> list[Stamp]:
        """Return the timestamps of the first run of records from `offset` to before `end`.

        Returns [] if there are no records.
        """
        for run in self.read({partition: range(offset, end)}):
            if run.messages:
                return [message.timestamp() for message in run.messages]
        return []

    def headers(self, messages: Sequence[Message]) -> list[Headers | None] | None:
        """Return the headers of messages of one partition; None if no message has any.

        A record whose headers cannot be read has None, and a warning is logged.

        Raises:
            LogChanged: the topic is gone or was recreated meanwhile.
            SourceUnavailable: the broker does not answer.
        """
        found, failed = plain_headers(messages)
        if failed:
            self._read_again(messages, found, failed)
        elif not any(found):
            return None
        return [_NONE if each is None and n not in failed else each for n, each in enumerate(found)]

    def _read_again(
        self, messages: Sequence[Message], found: list[Any], failed: Mapping[int, Exception]
    ) -> None:
        """Read headers that the Python client cannot represent from the log; fill them in."""
        from confluent_kafka import KafkaError, KafkaException

        partition = messages[0].partition()
        assert partition is not None
        places = {offset_of(messages[n]): n for n in failed}
        try:
            if self._reader is None:
                config = client_config(self._settings, **{**FETCHING, "group.id": self._group_id})
                self._reader = Reader(config, self._name)
            read = self._reader.headers(partition, sorted(places))
        except KafkaException as error:
            gone = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION)
            if error.args[0].code() in gone:
                raise LogChanged(
                    f"topic {self._name}: the topic is gone or was recreated"
                ) from error
            raise _unavailable(self._name, error) from error
        for offset, n in places.items():
            found[n] = read.get(offset)
            if found[n] is None:
                LOG.warning(
                    "topic %s, partition %d, offset %d: the record lands without its headers, "
                    "which librdkafka cannot read (%s); they are null in the lake",
                    *(self._name, partition, offset, failed[n]),
                )

    def commit(self, positions: Mapping[int, int]) -> None:
        """Commit the group's offsets for lag tools; the platform never reads them.

        Raises:
            SourceUnavailable: the broker does not accept them.
        """
        from confluent_kafka import KafkaException

        if not positions:
            return
        try:
            offsets = [self._partition(p, at) for p, at in positions.items()]
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise _unavailable(self._name, error) from error

    def _partition(self, partition: int, offset: int | None = None) -> TopicPartition:
        from confluent_kafka import TopicPartition

        if offset is None:
            return TopicPartition(self._name, partition)
        return TopicPartition(self._name, partition, offset)


def plain_headers(
    messages: Sequence[Message],
) -> tuple[list[Headers | None], dict[int, Exception]]:
    """Return the headers that the Python client gives, and its errors by index of the message.

    The headers of a message without any, and of one with an error, are None.
    """
    found: list[Any] = []
    failed: dict[int, Exception] = {}
    left = iter(messages)
    # Use map, which checks each result. For an invalid name confluent-kafka sets an error and
    # returns a broken list, which a call specialized by the interpreter would accept.
    read: Any = type(messages[0]).headers if messages else None
    while len(found) < len(messages):
        try:
            found.extend(map(read, left))
        # A name that is not UTF-8 raises SystemError. One record's error must not stop the others.
        except Exception as error:
            failed[len(found)] = error
            found.append(None)
    return found, failed


@contextmanager
def _uncollected() -> Iterator[None]:
    """Disable garbage collection while a batch is created.

    The thousands of live messages would make the collector traverse all objects again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _unavailable(topic: str, error: Any) -> SourceUnavailable:
    from confluent_kafka import KafkaError

    reason = error.args[0]
    said = f"topic {topic}: {reason.name()}: {reason.str()}"
    if reason.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
        return TopicMissing(said, action="create the topic, or correct the stream's `topic:`")
    return SourceUnavailable(said, action="check KAFKA_BOOTSTRAP_SERVERS and the brokers")
