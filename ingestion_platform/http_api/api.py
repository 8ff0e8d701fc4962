"""What the API does with the records of a request: validate, send, wait for Kafka, say what became
of each. HTTP itself is in `requests` and `routes`.
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

from ingestion_platform.errors import Transient
from ingestion_platform.failures import note
from ingestion_platform.http_api.envelopes import Envelope
from ingestion_platform.http_api.findings import Finding
from ingestion_platform.http_api.idempotency import Answer, Done, Memory
from ingestion_platform.http_api.limits import Rate, Shares
from ingestion_platform.http_api.media import JSON
from ingestion_platform.http_api.problems import MEDIA_TYPE, Problem, later
from ingestion_platform.http_api.publish import Delivered, Failed, Outcome, Publisher
from ingestion_platform.http_api.validation import BatchValidator, ValidationResult
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.operations.metrics.api_counts import ApiCounts, MaintenanceResult
from ingestion_platform.produce.defaults import completer
from ingestion_platform.produce.keys import KeyOf, key_of
from ingestion_platform.produce.record import Record
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream

LOG = logging.getLogger("ingestion_platform.http_api")

_VALIDATORS = 2  # threads: DuckDB and the decoder leave the interpreter to others
_RETRY = 2.0  # seconds


@dataclass(frozen=True)
class Rejected:
    """A record that the contract, or its envelope, refuses."""

    findings: tuple[Finding, ...]


Result = Outcome | Rejected
Complete = Callable[[bytes], bytes]


@dataclass
class Api:
    """The state of one serving process."""

    settings: Settings
    streams: dict[str, Stream]
    publisher: Publisher = field(init=False)
    memory: Memory = field(init=False)
    rate: Rate = field(init=False)
    """Of records, by client."""
    anonymous: Rate = field(init=False)
    """Of requests that no key was needed for, or whose key is not known, by network."""
    of_client: Shares = field(init=False)
    of_address: Shares = field(init=False)
    """Of requests in progress, by client and by network."""
    connections: Shares = field(init=False)
    """By the network that they come from."""
    kept: MaintenanceResult = field(init=False)
    in_progress: int = 0
    """Requests that were begun and not yet answered."""
    draining: bool = False

    def __post_init__(self) -> None:
        http_api = self.settings.http_api
        self.publisher = Publisher(self.settings)
        self.memory = Memory(http_api.idempotency_seconds, http_api.idempotency_bytes)
        self.rate = Rate("records", http_api.rate_records)
        self.anonymous = Rate("requests without a key", http_api.rate_anonymous)
        self.of_client = Shares("requests in progress", http_api.client_requests)
        self.of_address = Shares("requests in progress", http_api.address_requests)
        self.connections = Shares(
            "connections",
            http_api.address_connections,
            http_api.max_connections,
            exempt=http_api.trusted_proxies,
        )
        self.kept = MaintenanceResult(self.streams)
        self._threads = ThreadPoolExecutor(_VALIDATORS, thread_name_prefix="gateway-validate")
        self._validators: dict[str, BatchValidator] = {}
        self._made: dict[str, tuple[Complete, KeyOf]] = {}
        self._topics: dict[str, asyncio.Task[int]] = {}

    @property
    def counters(self) -> ApiCounts:
        """What this process has counted."""
        return self.kept.counts

    def open(self) -> None:
        """Connect to Kafka; go on counting where an earlier API has stopped."""
        self.publisher.open()
        try:
            self.kept.open(self.settings.home)
        except OSError as error:
            LOG.warning("what is counted will be lost with this process: %s", error)

    def save(self) -> None:
        """Write what was counted, so that it outlives the process."""
        try:
            self.kept.save()
        except OSError as error:
            LOG.warning("what was counted cannot be written: %s", error)

    def close(self) -> None:
        """Deliver what is queued, or give it up when its time is over."""
        if left := self.publisher.close():
            LOG.error("gave up %d records that Kafka did not acknowledge", left)
        self._threads.shutdown()
        self.save()
        self.kept.close()

    def unready(self) -> str:
        """Why no record can be taken at present; empty while one can."""
        return "the API is closing" if self.draining else self.publisher.problem

    async def validate(self, stream: Stream, values: Sequence[bytes]) -> list[ValidationResult]:
        """The results of the stream's contract."""
        if stream.name not in self._validators:
            self._validators[stream.name] = BatchValidator(stream.contract, self._threads)
        return await self._validators[stream.name].validate(values)

    async def take(
        self, stream: Stream, envelopes: Sequence[Envelope], extra: dict[str, bytes], done: Done
    ) -> list[Result]:
        """Send the records that the contract accepts, completed; what became of each.

        `extra` are Kafka headers of every record. `done` holds what an earlier attempt delivered,
        which is not sent again, and is added to.

        Raises:
            Transient: Kafka is away, or the queue to it full; nothing was sent.
        """
        envelopes = [self.complete(stream, envelope) for envelope in envelopes]
        sound = [i for i, e in enumerate(envelopes) if not e.findings]
        validations = dict(
            zip(
                sound, await self.validate(stream, [envelopes[i].value for i in sound]), strict=True
            )
        )
        results: dict[int, Result] = {**done}
        for i, envelope in enumerate(envelopes):
            if findings := envelope.findings or validations[i].findings:
                results[i] = Rejected(findings)
        wanted = [i for i in range(len(envelopes)) if i not in results]
        along = tuple(extra.items())
        _, key = self._makers(stream)
        records = [
            Record(
                _encoded(envelopes[i].key) or key(envelopes[i].value),
                envelopes[i].value,
                envelopes[i].headers + along,
            )
            for i in wanted
        ]
        outcomes = await self._send(stream, records)
        results |= dict(zip(wanted, outcomes, strict=True))
        done |= {i: o for i, o in results.items() if isinstance(o, Delivered)}
        self._count(stream, results, wanted)
        return [results[i] for i in range(len(envelopes))]

    def complete(self, stream: Stream, envelope: Envelope) -> Envelope:
        """The envelope, its record with the stream's defaults filled in."""
        complete, _ = self._makers(stream)
        return envelope._replace(value=complete(envelope.value))

    def _makers(self, stream: Stream) -> tuple[Complete, KeyOf]:
        if stream.name not in self._made:
            self._made[stream.name] = completer(stream.contract), key_of(stream)
        return self._made[stream.name]

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
            self._topics.pop(stream.topic, None)  # somebody may have removed it
        return outcomes

    async def _topic(self, stream: Stream) -> None:
        """See once that the topic exists; all requests wait for the same look."""
        if stream.topic not in self._topics:
            look = asyncio.to_thread(ensure_topic, self.settings, stream.topic, stream.partitions)
            self._topics[stream.topic] = asyncio.ensure_future(look)
        task = self._topics[stream.topic]
        try:
            await asyncio.shield(task)
        finally:
            if task.done() and (task.cancelled() or task.exception()):
                self._topics.pop(stream.topic, None)

    def _count(self, stream: Stream, results: dict[int, Result], wanted: list[int]) -> None:
        self.counters.add(
            stream.name,
            accepted=sum(isinstance(results[i], Delivered) for i in wanted),
            rejected=sum(isinstance(r, Rejected) for r in results.values()),
            failed=sum(isinstance(results[i], Failed) for i in wanted),
        )


def _encoded(key: str | None) -> bytes | None:
    return None if key is None else key.encode()


def answer(stream: Stream, results: Sequence[Result]) -> Answer:
    """The answer to a request that may have many records: a result for each.

    201 all accepted; 207 some accepted, the others rejected for good; 422 all rejected; 413 too
    large for Kafka; 503 when one that could be accepted was not acknowledged.
    """
    told = [_told(i, result) for i, result in enumerate(results)]
    statuses = Counter(each["status"] for each in told)
    counts = {status: statuses[status] for status in ("accepted", "rejected", "failed")}
    if counts["failed"]:
        action = "send the same again, with an Idempotency-Key: what Kafka has is not sent twice"
        detail = f"{counts['failed']} of {len(results)} records were not acknowledged"
        return _problem("not-acknowledged", detail, action, {**counts, "results": told})
    if not counts["accepted"] and any(isinstance(r, Failed) for r in results):
        return _problem(
            "too-large",
            "Kafka's limit on the size of a record is exceeded",
            "send smaller records",
            {**counts, "results": told},
        )
    if results and not counts["accepted"]:
        return rejected(results, {**counts, "results": told})
    status = 201 if counts["accepted"] == len(results) else 207
    body = {"stream": stream.name, **counts, "results": told}
    return Answer(status, msgspec.json.encode(body), JSON, {}, final=True)


def answer_one(result: Result, body: dict[str, Any]) -> Answer:
    """The answer to a request of exactly one record; `body` is it when the record was accepted."""
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
    """422, with the findings of the first rejected record as `errors`."""
    first = next(r for r in results if isinstance(r, Rejected))
    named = ", ".join(dict.fromkeys(f.field or f"rule {f.rule}" for f in first.findings))
    detail = f"the contract refuses it because of: {named}"
    if len(results) > 1:
        detail = f"the contract refuses all {len(results)} records, the first because of: {named}"
    errors = [f.as_dict() for f in first.findings]
    return _problem(
        "rejected",
        detail,
        "correct it; the same again is rejected again",
        {"errors": errors, **more},
    )


def _problem(kind: str, detail: str, action: str, more: dict[str, Any]) -> Answer:
    problem = Problem(kind, detail, action=action, more=more)
    passing = problem.status == 503
    headers = later(_RETRY) if passing else {}
    return Answer(problem.status, problem.body(), MEDIA_TYPE, headers, final=not passing)


def _told(index: int, result: Result) -> dict[str, Any]:
    match result:
        case Delivered(partition, offset):
            return {
                "index": index,
                "status": "accepted",
                "partition": partition,
                "offset": offset,
            }
        case Rejected(findings):
            return {
                "index": index,
                "status": "rejected",
                "errors": [f.as_dict() for f in findings],
            }
        case Failed(reason, too_large):
            status = "rejected" if too_large else "failed"
            error = Finding("value", "size" if too_large else "delivery", reason).as_dict()
            return {"index": index, "status": status, "errors": [error]}
