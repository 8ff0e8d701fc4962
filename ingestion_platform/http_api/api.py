"""Take the records of a request: validate, send, wait for Kafka, report a result for each.

HTTP itself is in `requests` and `routes`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ingestion_platform.contract.reasons import RECORD, Code, Reason
from ingestion_platform.errors import Transient
from ingestion_platform.failures import note
from ingestion_platform.http_api.envelopes import Envelope
from ingestion_platform.http_api.idempotency import Answer, AnswerCache, Done
from ingestion_platform.http_api.limits import ConcurrencyLimit, RateLimit
from ingestion_platform.http_api.media import JSON
from ingestion_platform.http_api.problems import MEDIA_TYPE, Problem, error_of, retry_after
from ingestion_platform.http_api.publish import Delivered, Failed, Outcome, Publisher
from ingestion_platform.http_api.validation import BatchValidator, ValidationResult
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.operations.metrics.api_counts import ApiCounts, CountsFile
from ingestion_platform.produce.defaults import completer
from ingestion_platform.produce.keys import KeyOf, key_of
from ingestion_platform.produce.record import Record
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream

LOG = logging.getLogger("ingestion_platform.http_api")

_VALIDATORS = 2  # threads: DuckDB and the decoder release the interpreter lock
_RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class Rejected:
    """A record that breaks its contract, or the rules of its envelope."""

    reasons: tuple[Reason, ...]


Result = Outcome | Rejected
Complete = Callable[[bytes], bytes]


@dataclass
class Api:
    """The state of one serving process."""

    settings: Settings
    streams: dict[str, Stream]
    publisher: Publisher = field(init=False)
    answers: AnswerCache = field(init=False)
    rate: RateLimit = field(init=False)
    """Of records, by client."""
    anonymous_rate: RateLimit = field(init=False)
    """Of requests that need no key or whose key is not known, by network."""
    client_requests: ConcurrencyLimit = field(init=False)
    """Of requests in progress, by client."""
    address_requests: ConcurrencyLimit = field(init=False)
    """Of requests in progress, by network."""
    connections: ConcurrencyLimit = field(init=False)
    """Of open connections, by network."""
    counts_file: CountsFile = field(init=False)
    in_progress: int = 0
    """Number of requests that are not answered yet."""
    draining: bool = False
    """Whether the API is closing: it answers what it has, and takes no more."""

    def __post_init__(self) -> None:
        http_api = self.settings.http_api
        self.publisher = Publisher(self.settings)
        self.answers = AnswerCache(http_api.idempotency_seconds, http_api.idempotency_bytes)
        self.rate = RateLimit("records", http_api.rate_records)
        self.anonymous_rate = RateLimit("requests without a key", http_api.rate_anonymous)
        self.client_requests = ConcurrencyLimit("requests in progress", http_api.client_requests)
        self.address_requests = ConcurrencyLimit("requests in progress", http_api.address_requests)
        self.connections = ConcurrencyLimit(
            "connections",
            http_api.address_connections,
            http_api.max_connections,
            exempt=http_api.trusted_proxies,
        )
        self.counts_file = CountsFile(self.streams)
        self._threads = ThreadPoolExecutor(_VALIDATORS, thread_name_prefix="http-api-validate")
        self._validators: dict[str, BatchValidator] = {}
        self._makers_by_stream: dict[str, tuple[Complete, KeyOf]] = {}
        self._topics: dict[str, asyncio.Task[int]] = {}

    @property
    def counters(self) -> ApiCounts:
        """The counts of this process."""
        return self.counts_file.counts

    def open(self) -> None:
        """Connect to Kafka; continue the counts of an earlier API that has ended."""
        self.publisher.open()
        try:
            self.counts_file.open(self.settings.home)
        except OSError as error:
            LOG.warning("counts end with this process, their file cannot be used: %s", error)

    def save(self) -> None:
        """Write the counts to their file."""
        try:
            self.counts_file.save()
        except OSError as error:
            LOG.warning("counts cannot be written: %s", error)

    def close(self) -> None:
        """Deliver what is queued, until the delivery timeout; then save the counts."""
        if left := self.publisher.close():
            LOG.error("gave up %d records that Kafka did not acknowledge", left)
        self._threads.shutdown()
        self.save()
        self.counts_file.close()

    def unready(self) -> str:
        """Return why no record can be taken now; empty if one can."""
        return "the API is closing" if self.draining else self.publisher.problem

    async def validate(self, stream: Stream, values: Sequence[bytes]) -> list[ValidationResult]:
        """Validate records by the contract of their stream; return a result for each, in order."""
        if stream.name not in self._validators:
            self._validators[stream.name] = BatchValidator(stream.contract, self._threads)
        return await self._validators[stream.name].validate(values)

    async def take(
        self, stream: Stream, envelopes: Sequence[Envelope], extra: dict[str, bytes], done: Done
    ) -> list[Result]:
        """Send the records that fit the contract; return a result for each, in order.

        Defaults are filled in first. `extra` are Kafka headers of every record. `done` has the
        deliveries of an earlier attempt by index: they are not sent again, and new ones are added.

        Raises:
            Transient: Kafka does not answer, or the queue to it is full; nothing was sent.
        """
        envelopes = [self.complete(stream, envelope) for envelope in envelopes]
        readable = [i for i, e in enumerate(envelopes) if not e.reasons]
        checked = await self.validate(stream, [envelopes[i].value for i in readable])
        validations = dict(zip(readable, checked, strict=True))
        results: dict[int, Result] = {**done}
        for i, envelope in enumerate(envelopes):
            if reasons := envelope.reasons or validations[i].reasons:
                results[i] = Rejected(reasons)
        pending = [i for i in range(len(envelopes)) if i not in results]
        _, key = self._makers(stream)
        records = [
            Record(
                _encoded(envelopes[i].key) or key(envelopes[i].value),
                envelopes[i].value,
                envelopes[i].headers + tuple(extra.items()),
            )
            for i in pending
        ]
        outcomes = await self._send(stream, records)
        results |= dict(zip(pending, outcomes, strict=True))
        done |= {i: o for i, o in results.items() if isinstance(o, Delivered)}
        self._count(stream, results, pending)
        return [results[i] for i in range(len(envelopes))]

    def complete(self, stream: Stream, envelope: Envelope) -> Envelope:
        """Return the envelope with the stream's defaults filled into its record."""
        complete, _ = self._makers(stream)
        return envelope._replace(value=complete(envelope.value))

    def _makers(self, stream: Stream) -> tuple[Complete, KeyOf]:
        if stream.name not in self._makers_by_stream:
            self._makers_by_stream[stream.name] = completer(stream.contract), key_of(stream)
        return self._makers_by_stream[stream.name]

    async def _send(self, stream: Stream, records: list[Record]) -> list[Outcome]:
        if not records:
            return []
        try:
            if not self.publisher.problem:
                await self._topic(stream)
            outcomes = await self.publisher.send(stream.topic, records)
        except Transient as error:
            self.counters.add(stream.name, failed=len(records))
            note(self.settings.home, stream.name, error)
            raise
        if not any(isinstance(o, Delivered) for o in outcomes):
            self._topics.pop(stream.topic, None)  # it may have been deleted: check again
        return outcomes

    async def _topic(self, stream: Stream) -> None:
        """Make sure once that the topic exists; concurrent requests wait for the same check."""
        if stream.topic not in self._topics:
            check = asyncio.to_thread(ensure_topic, self.settings, stream.topic, stream.partitions)
            self._topics[stream.topic] = asyncio.ensure_future(check)
        task = self._topics[stream.topic]
        try:
            await asyncio.shield(task)
        finally:
            if task.done() and (task.cancelled() or task.exception()):
                self._topics.pop(stream.topic, None)

    def _count(self, stream: Stream, results: dict[int, Result], sent: list[int]) -> None:
        self.counters.add(
            stream.name,
            accepted=sum(isinstance(results[i], Delivered) for i in sent),
            rejected=sum(isinstance(r, Rejected) for r in results.values()),
            failed=sum(isinstance(results[i], Failed) for i in sent),
        )


def _encoded(key: str | None) -> bytes | None:
    return None if key is None else key.encode()


def answer(stream: Stream, results: Sequence[Result]) -> Answer:
    """Return the answer to a request of any number of records, with a result for each.

    201: all are accepted; 207: some are, and the others would be rejected again; 422: all are
    rejected; 413: none is accepted, and one is too large for Kafka; 503: one was not acknowledged.
    """
    items = [_as_dict(i, result) for i, result in enumerate(results)]
    statuses = Counter(each["status"] for each in items)
    counts = {status: statuses[status] for status in ("accepted", "rejected", "failed")}
    if counts["failed"]:
        action = "send the same again, with an Idempotency-Key: what Kafka has is not sent twice"
        detail = f"{counts['failed']} of {len(results)} records were not acknowledged"
        return _problem("not-acknowledged", detail, action, {**counts, "results": items})
    if not counts["accepted"] and any(isinstance(r, Failed) for r in results):
        return _problem(
            "too-large",
            "Kafka's limit on the size of a record is exceeded",
            "send smaller records",
            {**counts, "results": items},
        )
    if results and not counts["accepted"]:
        return rejected(results, {**counts, "results": items})
    status = 201 if counts["accepted"] == len(results) else 207
    body = {"stream": stream.name, **counts, "results": items}
    return Answer(status, msgspec.json.encode(body), JSON, {}, final=True)


def answer_one(result: Result, body: dict[str, Any]) -> Answer:
    """Return the answer to a request of one record; `body` is sent if the record was accepted."""
    match result:
        case Delivered():
            return Answer(201, msgspec.json.encode(body), JSON, {}, final=True)
        case Rejected():
            return rejected([result], {})
        case Failed(reason, too_large=True):
            return _problem("too-large", reason, "send a smaller record", {})
        case Failed(reason):
            action = "send the same again, with an Idempotency-Key"
            return _problem("not-acknowledged", reason, action, {})


def rejected(results: Sequence[Result], more: dict[str, Any]) -> Answer:
    """Return 422, with the reasons of the first rejected record as `errors`."""
    first = next(r for r in results if isinstance(r, Rejected))
    named = ", ".join(dict.fromkeys(r.subject for r in first.reasons))
    detail = f"the contract rejects it because of: {named}"
    if len(results) > 1:
        detail = f"the contract rejects all {len(results)} records, the first because of: {named}"
    errors = [error_of(r) for r in first.reasons]
    return _problem(
        "rejected",
        detail,
        "correct it; the same again is rejected again",
        {"errors": errors, **more},
    )


def _problem(kind: str, detail: str, action: str, more: dict[str, Any]) -> Answer:
    problem = Problem(kind, detail, action=action, more=more)
    transient = problem.status == 503
    headers = retry_after(_RETRY_SECONDS) if transient else {}
    return Answer(problem.status, problem.body(), MEDIA_TYPE, headers, final=not transient)


def _as_dict(index: int, result: Result) -> dict[str, Any]:
    match result:
        case Delivered(partition, offset):
            return {
                "index": index,
                "status": "accepted",
                "partition": partition,
                "offset": offset,
            }
        case Rejected(reasons):
            return {
                "index": index,
                "status": "rejected",
                "errors": [error_of(r) for r in reasons],
            }
        case Failed(reason, too_large):
            status = "rejected" if too_large else "failed"
            error = Reason(Code.SIZE if too_large else Code.DELIVERY, RECORD, reason)
            return {"index": index, "status": status, "errors": [error_of(error)]}
