"""What the tables must hold, found out without the platform: its own consumer, plain PyIceberg,
and rules written by hand.

Records are compared by (topic id, partition, offset) and by value.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaError, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from tests.support import c_kafka

SHOWN = 20
Place = tuple[str, int, int]
RecordValidator = Callable[[bytes | None], dict[str, Any] | None]
"""The typed row of a good record; None for a bad one."""
IngestDates = Callable[[dict[Place, "Logged"]], dict[Place, date]]
"""The ingest date of every record."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A record as the topic has it."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]
    timestamp_ms: int | None
    """None if the record has no time: Kafka itself writes -1 then."""


@dataclass
class Oracle:
    """Remembers every record it has seen of a stream's topic, of any topic id, and validates."""

    settings: Settings
    stream: Stream
    validator: RecordValidator = field(default_factory=lambda: validate_pgr)
    seen: dict[Place, Logged] = field(default_factory=dict)
    ingest_dates: IngestDates | None = None
    """By default `ingest_dates_of`, from the stream's first date on."""

    def read(self) -> Oracle:
        """Take in all that the topic has now (committed records only)."""
        self.seen |= read_topic(self.settings, self.stream.topic)
        return self

    def differences(self) -> list[str]:
        """How the tables differ from what they must hold; empty when they do not."""
        good, bad = {}, {}
        for place, record in self.seen.items():
            row = self.validator(record.value)
            if row is None:
                bad[place] = record
            else:
                good[place] = row
        first = self.stream.first_date
        ingest_dates = (
            self.ingest_dates(self.seen) if self.ingest_dates else ingest_dates_of(self.seen, first)
        )
        bronze = read_table(self.settings, self.stream.bronze_table)
        quarantine = read_table(self.settings, self.stream.quarantine_table)
        found = _places("bronze", bronze, set(good), set(bad))
        found += _places("quarantine", quarantine, set(bad), set(good))
        found += _different_rows(bronze, good, ingest_dates)
        found += _different_records(quarantine, bad, ingest_dates)
        return found

    def assert_holds(self) -> None:
        """Fail with the first differences."""
        found = self.differences()
        assert not found, "\n".join([f"{len(found)} differences", *found[:SHOWN]])


def read_topic(settings: Settings, topic: str) -> dict[Place, Logged]:
    """All committed records of a topic, by topic id, partition and offset."""
    servers = {"bootstrap.servers": settings.bootstrap_servers}
    admin = AdminClient(servers)  # kept: its answers die with it
    described = admin.describe_topics(TopicCollection([topic]))[topic].result()
    partitions = [p.id for p in described.partitions]
    consumer = Consumer(
        {
            **servers,
            "group.id": f"oracle-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 5,
        }
    )
    found: dict[Place, Logged] = {}
    unread: list[Place] = []
    try:
        starts = [consumer.get_watermark_offsets(TopicPartition(topic, p)) for p in partitions]
        pairs = zip(partitions, starts, strict=True)
        consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in pairs])
        ended: set[int] = set()
        deadline = time.monotonic() + 120
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline, f"the oracle cannot read {topic} to its end"
            for message in consumer.consume(10_000, timeout=0.05):
                error = message.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ended.add(message.partition())
                    continue
                kind, stamp = message.timestamp()
                place = (str(described.topic_id), message.partition(), message.offset())
                try:
                    # By map: a specialized call would not see the client's error.
                    (given,) = map(Message.headers, [message])
                    headers = tuple((k.encode(), v) for k, v in given or ())
                except SystemError:  # a name that is no UTF-8
                    headers = ()
                    unread.append(place)
                time_ms = stamp if kind and stamp != -1 else None
                found[place] = Logged(message.key(), message.value(), headers, time_ms)
    finally:
        consumer.close()
    if unread:
        raw = c_kafka.read(str(settings.bootstrap_servers), topic, sorted({p[1] for p in unread}))
        found |= {p: replace(found[p], headers=raw[p[1:]].headers) for p in unread}
    return found


def read_table(settings: Settings, name: str) -> pa.Table:
    """All rows of a table that came from the log; an empty table without columns if none is."""
    catalog = load_catalog("lakehouse", **settings.catalog)
    try:
        table = catalog.load_table(name)
    except NoSuchTableError:
        return pa.table({name: [] for name in ("_topic_id", "_partition", "_offset")})
    rows = rows_of(table)
    return rows.filter(pa.compute.is_valid(rows["_offset"]))


def rows_of(table: Table) -> pa.Table:
    """The rows of a table straight from its files: PyIceberg's scan makes empty lists of null
    ones. It is asked only where deletes have to be applied."""
    tasks = list(table.scan().plan_files())
    if not tasks or any(task.delete_files for task in tasks):
        return table.scan().to_arrow()

    def rows(path: str) -> pa.Table:
        with table.io.new_input(path).open() as file:
            part = pq.read_table(pa.BufferReader(file.read()), use_threads=False)
        return part.replace_schema_metadata().cast(_plain(part.schema))

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(rows, [task.file.file_path for task in tasks]))
    return pa.concat_tables(parts, promote_options="permissive")  # others write other strings


def _plain(schema: pa.Schema) -> pa.Schema:
    """Without field ids, which keep equal schemas of several writers apart."""
    return pa.schema([field.remove_metadata() for field in schema])


def snapshots(settings: Settings, stream: Stream) -> tuple[int | None, ...]:
    """The present snapshot ids of both tables: equal when nothing was committed in between."""
    catalog = load_catalog("lakehouse", **settings.catalog)
    tables = [catalog.load_table(n) for n in (stream.bronze_table, stream.quarantine_table)]
    return tuple(s.snapshot_id if (s := t.current_snapshot()) else None for t in tables)


def content(settings: Settings, stream: Stream) -> dict[str, list[dict[str, Any]]]:
    """The rows of both tables in the order of the log, without what each load makes again."""
    found = {}
    for which in ("bronze", "quarantine"):
        rows = read_table(settings, getattr(stream, f"{which}_table"))
        rows = rows.drop_columns(
            [c for c in ("_ingested_at", "_contract") if c in rows.schema.names]
        )
        order = [(c, "ascending") for c in ("_topic_id", "_partition", "_offset")]
        found[which] = rows.sort_by(order).to_pylist()
    return found


def ingest_dates_of(seen: dict[Place, Logged], first: date) -> dict[Place, date]:
    """Each record's ingest date: the day of its timestamp, never before the one ahead of it in its
    log partition or the first there is, never after today, which is also that of a record without
    a time and without one ahead; topic ids in the order they were seen."""
    order = {g: n for n, g in enumerate(dict.fromkeys(place[0] for place in seen))}
    today = datetime.now(UTC).date()
    floors: dict[int, date] = {}
    ingest_dates = {}
    for place in sorted(seen, key=lambda p: (order[p[0]], p[1], p[2])):
        stamp = seen[place].timestamp_ms
        floor = floors.get(place[1], first if stamp is not None else today)
        day = first if stamp is None else _day(stamp)
        floors[place[1]] = ingest_dates[place] = max(min(day, today), floor, first)
    return ingest_dates


def _day(stamp: int) -> date:
    return date(1970, 1, 1) + timedelta(days=max(0, min(stamp // 86_400_000, 2_900_000)))


def _columns(table: pa.Table, *names: str) -> Iterable[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _places(which: str, table: pa.Table, expected: set[Place], other: set[Place]) -> list[str]:
    counts = Counter(_columns(table, "_topic_id", "_partition", "_offset"))
    found = [f"{which}: {place} stands {n} times" for place, n in counts.items() if n > 1]
    found += [f"{which}: {place} is missing" for place in sorted(expected - counts.keys())]
    for place in sorted(counts.keys() - expected):
        why = "belongs into the other table" if place in other else "is not in the topic"
        found.append(f"{which}: {place} {why}")
    return found


def _different_rows(
    table: pa.Table, good: dict[Place, dict[str, Any]], ingest_dates: dict[Place, date]
) -> list[str]:
    names = [n for n in table.schema.names if not n.startswith("_")]
    places = _columns(table, "_topic_id", "_partition", "_offset")
    if table.num_rows == 0:
        return []
    found = []
    rows = _columns(table, *names, "_ingest_date", "_ingested_at", "_contract")
    for place, (*values, ingest_date, ingested, contract) in zip(places, rows, strict=True):
        if place not in good:
            continue
        expected = good[place]
        if ingested is None or not contract or ingest_date != ingest_dates[place]:
            found.append(
                f"bronze: {place}: ingest date {ingest_date}, not {ingest_dates[place]}, no origin"
            )
        for name, value in zip(names, values, strict=True):
            if not same(expected.get(name), value):
                found.append(f"bronze: {place}: {name} is {value!r}, not {expected.get(name)!r}")
    return found


def _different_records(
    table: pa.Table, bad: dict[Place, Logged], ingest_dates: dict[Place, date]
) -> list[str]:
    if table.num_rows == 0:
        return []
    found = []
    names = ("_key", "_value", "_headers", "_timestamp", "_ingest_date", "_reasons", "_origin")
    places = _columns(table, "_topic_id", "_partition", "_offset")
    for place, row in zip(places, _columns(table, *names), strict=True):
        if place not in bad:
            continue
        key, value, headers, stamp, ingest_date, reasons, origin = row
        sent = bad[place]
        got = Logged(
            key,
            value,
            tuple((h["key"], h["value"]) for h in headers or []),
            None if stamp is None else round((stamp - _EPOCH) / timedelta(milliseconds=1)),
        )
        if not 0 <= (sent.timestamp_ms or 0) < _YEAR_10000:
            sent = replace(sent, timestamp_ms=None)  # no table holds it
        if got != sent or ingest_date != ingest_dates[place]:
            found.append(f"quarantine: {place}: is {got} of {ingest_date}, not {sent}")
        if not reasons or not all(reasons) or not origin:
            found.append(f"quarantine: {place}: no reason or no origin")
    return found


_YEAR_10000 = 253_402_300_800_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class JsonText:
    """Expects a JSON text of this value, without blanks between its tokens."""

    value: Any


def same(expected: Any, found: Any) -> bool:
    """Whether a table's value is the expected one: types too, numbers exactly."""
    if isinstance(expected, JsonText):
        return isinstance(found, str) and expected.value == _minified(found)
    if isinstance(expected, float):
        return isinstance(found, float) and expected == found
    return type(expected) is type(found) and expected == found


@lru_cache(50_000)
def _minified(text: str) -> Any:
    """The value of a JSON text; nothing equals it when there are blanks between its tokens."""
    return object() if _BLANKS.search(_STRINGS.sub("", text)) else strict_json(text)


_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_BLANKS = re.compile(r"\s")


def strict_json(text: str) -> Any:
    """JSON by RFC 8259, numbers exact; ValueError for anything else, and for a key twice."""

    def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    return json.loads(
        text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=whole
    )


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_ENUMS = {
    "service": {"PGR"},
    "entity_type": {"complaint"},
    "event_type": {
        *("CaseSubmitted", "CaseAssigned", "CaseInProgress", "CaseResolved"),
        *("CaseReopened", "CaseClosed", "CaseRejected"),
    },
    "status": {
        *("OPEN", "ASSIGNED", "IN_PROGRESS", "RESOLVED", "REOPENED", "CLOSED", "REJECTED"),
    },
    "actor_type": {"CITIZEN", "EMPLOYEE", "SYSTEM"},
    "channel": {"WEB", "MOBILE", "IVR", "WHATSAPP", "COUNTER"},
}
_REQUIRED = {
    *("event_date", "event_time", "tenant_id", "service", "entity_type", "entity_id"),
    *("event_type", "status", "actor_type"),
}
_LENGTHS = {
    "tenant_id": (1, 64),
    "entity_id": (0, 128),
    "actor_id": (1, 128),
    "ward_id": (1, 64),
    "locality_id": (1, 64),
}
_TEXTS = {*_ENUMS, *_LENGTHS, "raw_payload"}
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)?")


def validate_pgr(value: bytes | None) -> dict[str, Any] | None:
    """The bronze row of a grievance event, None for one that breaks a rule; written by hand."""
    try:
        fields = strict_json((value or b"").decode())
        if not isinstance(fields, dict):
            return None
        row = {name: fields.get(name) for name in (*_TEXTS, "event_date", "event_time")}
        row["event_date"] = _date(row["event_date"])
        row["event_time"] = _naive_utc(row["event_time"])
        attributes = fields.get("attributes_json")
    except ValueError:
        return None
    if any(row[name] is None for name in _REQUIRED) or not _texts_hold(row):
        return None
    if row["event_time"].date() != row["event_date"]:
        return None
    try:
        row["attributes_json"] = _attributes(attributes)
    except ValueError:
        return None
    return row


def _texts_hold(row: dict[str, Any]) -> bool:
    for name in _TEXTS:
        text = row[name]
        if text is None:
            continue
        low, high = _LENGTHS.get(name, (0, 10**9))
        if not isinstance(text, str) or not low <= len(text) <= high:
            return False
        if name in _ENUMS and text not in _ENUMS[name]:
            return False
    return re.fullmatch(r"CMP_.+", row["entity_id"]) is not None


def _date(text: Any) -> date | None:
    if text is None:
        return None
    if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ValueError(f"{text!r} is no date")
    return date.fromisoformat(text)


def _naive_utc(text: Any) -> datetime | None:
    if text is None:
        return None
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is no time")
    found = datetime.fromisoformat(text.upper())
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


def _attributes(sent: Any) -> JsonText | None:
    if sent is None:
        return None
    value = strict_json(sent) if isinstance(sent, str) else sent
    if not isinstance(value, dict | list):
        raise ValueError("not an object")
    hours = value.get("sla_hours") if isinstance(value, dict) else None
    if hours is not None and not float(hours) > 0:
        raise ValueError("sla_hours")
    return JsonText(value)
