"""Landing: copy a topic's log into the lake, from the end of the lake's segment log.

Each log partition's segment log grows by whole files, in order. A file's name holds its start and
can be created once, so two writers of the same records leave one copy.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ingestion_platform.errors import Permanent, TopicMissing, WriteConflict
from ingestion_platform.kafka.times import NOT_AVAILABLE, as_date, as_days, ingest_days, instants
from ingestion_platform.kafka.topic_log import Log, LogChanged, Run, Topic, Watermarks, offset_of
from ingestion_platform.lake.losses import ordinal_of, present_losses, record_losses
from ingestion_platform.lake.names import FILES, Name
from ingestion_platform.lake.records import HEADERS, SCHEMA, decode, describe, encode
from ingestion_platform.lake.segments import Segment, SegmentLog
from ingestion_platform.lake.store import Store
from ingestion_platform.positions import waiting

if TYPE_CHECKING:
    from confluent_kafka import Message

    from ingestion_platform.kafka.librdkafka import Headers

ROWS = 100_000
BYTES = 128 * 1024 * 1024
BUFFERED = 256 * 1024 * 1024
"""Bytes buffered over all log partitions; beyond that, the largest buffer becomes a file."""
_TYPES = np.array(["not_available", "create_time", "log_append_time"])


@dataclass(frozen=True, slots=True)
class Landed:
    """A file that this call added to the lake, with its records (of records.SCHEMA)."""

    segment: Segment
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Backlog:
    """The offsets of a log partition that its segment log lacks.

    `tail` is the last segment, `ordinal` that of the topic id.
    """

    offsets: range
    tail: Segment | None
    ordinal: int


def find_topic(log: Log, store: Store) -> Topic | None:
    """Return the topic, or None while it does not exist yet.

    Raises:
        TopicMissing: the topic is gone though the lake has records of it.
        SourceUnavailable, StoreUnavailable: the log or the store does not answer.
    """
    try:
        return log.topic()
    except TopicMissing as error:
        segment_log = SegmentLog(store, log.name)
        if any(segment_log.names(day).keys() - {FILES} for day in segment_log.ingest_dates()):
            raise TopicMissing(
                f"topic {log.name} is gone: the lake has records of it, and the brokers do not "
                "know it any more",
                action="wait if the brokers have just started; else create it again, or remove "
                "the stream's declaration",
            ) from error
        return None


def backlogs(
    topic: Topic,
    watermarks: Mapping[int, Watermarks],
    tails: Mapping[int, Segment],
) -> dict[int, Backlog]:
    """Return what is to be landed of each log partition.

    Raises:
        Permanent: the log ends before what was landed from it.
    """
    ordinal = ordinal_of(topic.topic_id, tails)
    found = {}
    for partition, mark in watermarks.items():
        tail = tails.get(partition)
        if tail is not None and tail.topic_id == topic.topic_id and mark.end < tail.end:
            raise Permanent(
                f"topic {topic.name}, partition {partition}: the log ends at {mark.end}, but "
                f"the lake has it up to {tail.end}: the broker lost records",
                action="restore the broker's data, or recreate the topic to go on",
            )
        at = None if tail is None else tail.position
        offsets = waiting(mark.start, mark.end, topic.topic_id, at)
        found[partition] = Backlog(offsets, tail, ordinal)
    return found


def land(
    log: Log,
    store: Store,
    *,
    partitions: Iterable[int] | None = None,
    first: date,
    last: date | None = None,
    rows: int = ROWS,
    size: int = BYTES,
    tails: Mapping[int, Segment] | None = None,
) -> Iterator[Landed]:
    """Copy the records that the lake lacks, up to the current end of the log.

    Yields each new file, in order per partition.

    Args:
        log: the topic.
        store: the lake.
        partitions: log partitions to land; all of them by default.
        first: no record gets an earlier ingest date (see `times.ingest_days`).
        last: the last ingest date to land; today by default.
        rows: records per file, about.
        size: bytes of records per file, about.
        tails: the last segments, if the caller knows them; saves listing the lake. If they are out
            of date, a WriteConflict is raised or readers skip the duplicated segments.

    Raises:
        WriteConflict: another writer landed the same records; its files are complete.
        LogChanged: retention or a recreation changed the log meanwhile; try again.
        SourceUnavailable, StoreUnavailable: the log or the store does not answer.
        Permanent: the log ends before what was landed from it, or the store refuses.
    """
    topic = log.topic()
    chosen = set(topic.partitions) if partitions is None else set(partitions)
    watermarks = log.watermarks(topic.partitions)
    ends = SegmentLog(store, topic.name).tails(topic.partitions) if tails is None else tails
    record_losses(store, topic.name, present_losses(topic, watermarks, ends))
    todo = {p: b for p, b in backlogs(topic, watermarks, ends).items() if p in chosen}
    for backlog in todo.values() if tails is None else ():
        ensure_sidecar(store, backlog.tail)
    todo = {p: b for p, b in todo.items() if b.offsets}
    if not todo:
        return
    today = datetime.now(UTC).date()
    builders = {
        p: _Builder(topic, p, backlog, log.headers, first, min(last or today, today), today)
        for p, backlog in todo.items()
    }
    with Writer(store, lambda: _same(log, topic)) as writer:
        for run in log.read({p: b.offsets for p, b in todo.items()}):
            builder = builders[run.partition]
            builder.add(run)
            cuts = builder.take(rows, size, finished=run.end is not None)
            if sum(b.size for b in builders.values()) > BUFFERED:
                cuts += max(builders.values(), key=lambda b: b.size).take(0, 0)
            for segment, table in cuts:
                writer.put(segment, table)
                yield from writer.done(keep=2)
            if all(b.finished for b in builders.values()):
                break
        yield from writer.done(keep=0)


def _same(log: Log, topic: Topic) -> None:
    now = log.topic()
    if now.topic_id != topic.topic_id:
        raise LogChanged(f"topic {topic.name} was recreated while it was read")


@dataclass
class _Builder:
    """Buffers one partition's records and cuts them into files of one ingest date each."""

    topic: Topic
    partition: int
    backlog: Backlog
    headers: Callable[[Sequence[Message]], list[Headers | None] | None]
    first: date
    last: date
    today: date
    finished: bool = False
    _ingest_date: int | None = None  # days since the epoch
    _tables: list[pa.Table] = field(default_factory=list)
    _cuts: list[tuple[Segment, pa.Table]] = field(default_factory=list)
    _rows: int = 0
    _bytes: int = 0

    def __post_init__(self) -> None:
        tail = self.backlog.tail
        self._start = self.backlog.offsets.start
        self._previous = None if tail is None else tail.position
        self._floor = None if tail is None else as_days(tail.name.ingest_date)

    def add(self, run: Run) -> None:
        """Buffer a run of messages; start a new file at each change of the ingest date."""
        if self.finished or not run.messages:
            return
        # A flat array of kind, milliseconds, …: an array of tuples takes ten times as long.
        pairs = chain.from_iterable(m.timestamp() for m in run.messages)
        stamps = np.fromiter(pairs, np.int64, 2 * len(run.messages)).reshape(-1, 2)
        days = ingest_days(
            stamps, floor=self._floor, first=as_days(self.first), today=as_days(self.today)
        )
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        for start, stop in pairwise(edges):
            day = int(days[start])
            messages = run.messages[start:stop]
            at = offset_of(messages[0])
            if self._ingest_date not in (None, day) and at > self._start:
                self._cut(at)
            if day > as_days(self.last):
                self.finished = True
                return
            self._ingest_date = self._floor = day
            headers = self.headers(messages)
            table = _table(messages, headers, stamps[start:stop], self.partition)
            self._tables.append(table)
            self._rows += table.num_rows
            self._bytes += table.nbytes

    @property
    def size(self) -> int:
        """Return the buffered bytes."""
        return self._bytes

    def take(
        self, rows: int, size: int, *, finished: bool = False
    ) -> list[tuple[Segment, pa.Table]]:
        """Return the full files, and the rest when the partition is finished."""
        if finished and not self.finished:
            self.finished = True
            if self._start < self.backlog.offsets.stop:
                self._cut(self.backlog.offsets.stop)
        elif self._rows >= rows or self._bytes >= size:
            self._cut(self._tables[-1]["offset"][-1].as_py() + 1)
        cuts, self._cuts = self._cuts, []
        return cuts

    def _cut(self, end: int) -> None:
        """Close a file of the offsets up to before `end`."""
        days = self._ingest_date
        if days is None:  # only transaction markers
            days = as_days(self.today) if self._floor is None else self._floor
        table = pa.concat_tables(self._tables) if self._tables else SCHEMA.empty_table()
        name = Name(
            ordinal=self.backlog.ordinal,
            start=self._start,
            ingest_date=as_date(days),
            partition=self.partition,
            topic=self.topic.name,
        )
        segment = Segment(
            name=name,
            topic_id=self.topic.topic_id,
            cluster_id=self.topic.cluster_id,
            end=end,
            rows=table.num_rows,
            previous=self._previous,
        )
        self._cuts.append((segment, table))
        self._start, self._previous = end, segment.position
        self._tables, self._rows, self._bytes = [], 0, 0


def _table(
    messages: list[Message],
    headers: list[Headers | None] | None,
    stamps: np.ndarray,
    partition: int,
) -> pa.Table:
    """Return messages of one partition as a table of records.SCHEMA."""
    count = len(messages)
    in_range = instants(stamps)
    times = pa.array(stamps[:, 1], pa.int64(), mask=~in_range)
    beyond = pa.array(stamps[:, 1], pa.int64(), mask=in_range | (stamps[:, 0] == NOT_AVAILABLE))
    return pa.Table.from_arrays(
        [
            pa.array([m.key() for m in messages], pa.binary()),
            pa.array([m.value() for m in messages], pa.binary()),
            _no_headers(count) if headers is None else pa.array(headers, HEADERS),
            times.cast(SCHEMA.field("timestamp").type),
            pa.DictionaryArray.from_arrays(stamps[:, 0].astype(np.int8), _TYPES).cast(pa.string()),
            beyond,
            pa.array(np.full(count, partition, np.int32)),
            pa.array(np.fromiter((m.offset() for m in messages), np.int64, count)),
        ],
        schema=SCHEMA,
    )


def _no_headers(count: int) -> pa.Array:
    """Return `count` empty lists of headers."""
    nothing = pa.array([], HEADERS.value_type)
    return pa.ListArray.from_arrays(np.zeros(count + 1, np.int32), nothing).cast(HEADERS)


class Writer:
    """Encodes and stores files on threads, those of a partition in log order."""

    def __init__(self, store: Store, check: Callable[[], None]) -> None:
        self._store = store
        self._check = check
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="land")
        self._ahead: dict[int, Future[None]] = {}
        self._queue: deque[tuple[Future[None], Landed]] = deque()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def put(self, segment: Segment, table: pa.Table) -> None:
        """Encode and store a file after the previous one of its partition."""
        self._check()
        ahead = self._ahead.get(segment.name.partition)
        future = self._pool.submit(self._store_file, segment, table, ahead)
        self._ahead[segment.name.partition] = future
        self._queue.append((future, Landed(segment, table)))

    def done(self, keep: int) -> Iterator[Landed]:
        """Yield stored files in the order of `put` until `keep` are still being written."""
        while len(self._queue) > keep:
            future, landed = self._queue.popleft()
            future.result()
            yield landed

    def _store_file(self, segment: Segment, table: pa.Table, ahead: Future[None] | None) -> None:
        data = encode(table, segment)
        if ahead is not None:
            ahead.result()  # a file must not exist without the previous one
        if not self._store.create(segment.name.path, data):
            raise WriteConflict(
                f"{segment.name.path} was landed by another writer",
                action="land again from the lake's end",
            )
        write_sidecar(self._store, segment, table, data)


def write_sidecar(store: Store, segment: Segment, table: pa.Table, data: bytes) -> None:
    """Store the metadata JSON beside a file."""
    text = json.dumps(describe(table, segment, data, store.url), indent=2)
    store.write(segment.name.sidecar, text.encode())


def ensure_sidecar(store: Store, tail: Segment | None) -> None:
    """Write the metadata JSON of a segment log's last file if its writer died before it did."""
    if tail is None:
        return
    try:
        store.tail(tail.name.sidecar, 1)
    except FileNotFoundError:
        data = store.read(tail.name.path)
        write_sidecar(store, tail, decode(data), data)
