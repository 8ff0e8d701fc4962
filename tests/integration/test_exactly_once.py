"""Every record of a real topic is in bronze or quarantine exactly once, with the right values.

On Kafka, MinIO and Postgres; validated by the oracle, which shares no code with the platform.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pyiceberg.catalog import load_catalog

from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import land_stream, load_stream, run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.datafiles import write_data_files
from tests.support.every_kind import EVERY_KIND, GOOD, text
from tests.support.oracle import JsonText, Oracle, content, read_table, rows_of, snapshots
from tests.support.testbed import edited

pytestmark = [pytest.mark.services]

MakeStream = Callable[..., Stream]


def events(count: int, seed: int = 1, bad: float = 0.05, **how: Any) -> Iterator[Record]:
    """Simulated grievance events, one in twenty of them bad."""
    return simulate("pgr_events", count, seed=seed, bad_ratio=bad, **how)


def send(settings: Settings, stream: Stream, records: Iterator[Record] | list[Record]) -> None:
    """Produce, and see that all of it arrived."""
    assert not produce(settings, stream.topic, records).failed


def send_to(settings: Settings, stream: Stream, partition: int, records: list[Record]) -> None:
    """Produce to one partition, in order."""
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for r in records:
        headers, stamp = list(r.headers), r.timestamp_ms or 0
        producer.produce(stream.topic, r.value, r.key, partition, timestamp=stamp, headers=headers)
    assert producer.flush(30) == 0


def good(seed: int = 1, count: int = 1) -> list[Record]:
    """Good records."""
    return list(events(count, seed, bad=0))


def verified(platform: Platform, stream: Stream) -> Any:
    """The platform's own reconciliation, which must agree with the oracle's."""
    found = verify_stream(platform, stream)
    assert found.ok, found
    return found


def holds(settings: Settings, stream: Stream, oracle: Oracle | None = None) -> Oracle:
    """The oracle holds, the reconciliation agrees, and another run changes nothing."""
    oracle = (oracle or Oracle(settings, stream)).read()
    oracle.assert_holds()
    platform = Platform(settings)
    verified(platform, stream)
    before = snapshots(settings, stream)
    run_stream(platform, stream)
    assert snapshots(settings, stream) == before
    assert stream_status(platform, stream).lag == 0
    return oracle


def exactly_once(settings: Settings, stream: Stream, count: int) -> None:
    """Produce `count` events, one in a hundred bad, run once, and hold it against the oracle."""
    send(settings, stream, events(count, bad=0.01))
    run_stream(Platform(settings), stream)
    holds(settings, stream)
    found = verify_stream(Platform(settings), stream)
    assert (found.expected, found.quarantined) == (count, count // 100)
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap_servers, "group.id": stream.group_id}
    )
    partitions = [TopicPartition(stream.topic, p) for p in range(4)]
    committed = {tp.partition: tp.offset for tp in consumer.committed(partitions, timeout=10)}
    consumer.close()
    status = stream_status(Platform(settings), stream)
    assert committed == {p.partition: p.bronze_position for p in status.partitions}
    assert sum(committed.values()) == count


def test_a_hundred_thousand_events_arrive_exactly_once(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Content equals the oracle's, a second run commits nothing, the group's offsets tell it."""
    exactly_once(real_settings, make_stream(real_settings), 100_000)


@pytest.mark.long
def test_a_million_events_arrive_exactly_once(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """The same with a million."""
    exactly_once(real_settings, make_stream(real_settings), 1_000_000)


@pytest.mark.fault("log", "landing, loading and running alternate in any order")
def test_growing_logs_are_followed_run_by_run(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Landing, loading and running alternate in any order; each takes what is new."""
    stream = make_stream(real_settings)
    platform, oracle = Platform(real_settings), Oracle(real_settings, stream)
    run_stream(platform, stream)  # of an empty topic
    for seed in range(6):
        send(real_settings, stream, events(500, seed))
        if seed % 3 == 0:
            run_stream(platform, stream)
        else:
            land_stream(platform, stream, partitions=[seed % 4])
            load_stream(platform, stream, partitions=range(4))
    land_stream(platform, stream)
    load_stream(platform, stream, partitions=[3, 1, 2, 0])
    holds(real_settings, stream, oracle)


def narrow(document: dict[str, Any]) -> None:
    """A mistake: nobody may report by telephone any more."""
    for field in document["schema"][0]["properties"]:
        if field["name"] == "channel":
            field["enum"] = [v for v in field["enum"] if v["value"] != "IVR"]


def test_a_bad_contract_edit_and_its_repair_lose_nothing(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Re-materializing moves rows into quarantine, and back by the repaired contract."""
    stream = make_stream(real_settings)
    platform = Platform(real_settings)
    send(real_settings, stream, events(20_000))
    run_stream(platform, stream)
    before = content(real_settings, stream)
    ingest_dates = SegmentLog(platform.store, stream.topic).ingest_dates()
    assert len(ingest_dates) > 2

    wrong = edited(stream, narrow)
    load_stream(platform, wrong, partitions=range(4), ingest_dates=ingest_dates)
    during = content(real_settings, stream)
    moved = len(before["bronze"]) - len(during["bronze"])
    assert moved > 100
    assert len(during["quarantine"]) == len(before["quarantine"]) + moved
    assert verified(platform, wrong).stale == 0

    for ingest_date in reversed(ingest_dates):  # slice by slice, in another order
        for partition in (2, 0, 3, 1):
            load_stream(platform, stream, partitions=[partition], ingest_dates=[ingest_date])
    assert content(real_settings, stream) == before
    holds(real_settings, stream)


def test_slices_of_an_edited_contract_may_be_replaced_one_at_a_time(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Between, some slices are by the old contract and some by the new; new data by the new."""
    stream = make_stream(real_settings)
    platform = Platform(real_settings)
    send(real_settings, stream, events(4_000))
    run_stream(platform, stream)
    ingest_dates = SegmentLog(platform.store, stream.topic).ingest_dates()
    wrong = edited(stream, narrow)
    load_stream(platform, wrong, partitions=[1], ingest_dates=ingest_dates[:2])
    send(real_settings, stream, events(1_000, seed=2))
    run_stream(platform, wrong)
    assert verified(platform, wrong).stale > 0
    load_stream(
        platform,
        stream,
        partitions=range(4),
        ingest_dates=SegmentLog(platform.store, stream.topic).ingest_dates(),
    )
    holds(real_settings, stream)


@pytest.mark.fault("log", "a topic is deleted and created again between runs")
def test_a_recreated_topic_is_a_new_topic_id_and_both_are_kept(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Offsets start again; nothing of the first topic is lost or taken for the second's."""
    stream = make_stream(real_settings)
    platform, oracle = Platform(real_settings), Oracle(real_settings, stream)
    admin = AdminClient({"bootstrap.servers": real_settings.bootstrap_servers})
    for topic_id in range(3):
        send(real_settings, stream, events(2_000, seed=topic_id))
        run_stream(platform, stream)
        holds(real_settings, stream, oracle)
        if topic_id < 2:
            admin.delete_topics([stream.topic])[stream.topic].result()
            recreate(real_settings, stream)
    assert len({place[0] for place in oracle.seen}) == 3
    assert verified(platform, stream).expected == len(oracle.seen) > 6_000


def recreate(settings: Settings, stream: Stream) -> None:
    """Create the topic again, as soon as the broker has forgotten the old one."""
    from ingestion_platform.errors import PlatformError

    deadline = datetime.now() + timedelta(seconds=30)
    while True:
        try:
            ensure_topic(settings, stream.topic, 4)
            send(settings, stream, good())
            return
        except (PlatformError, AssertionError):
            assert datetime.now() < deadline


@pytest.mark.fault("log", "retention takes records between runs")
def test_what_retention_took_is_a_recorded_gap(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Records deleted before they were landed are counted as gaps, not as missing."""
    stream = make_stream(real_settings)
    platform, oracle = Platform(real_settings), Oracle(real_settings, stream)
    send_to(real_settings, stream, 0, good(count=100))
    run_stream(platform, stream)
    oracle.read()
    send_to(real_settings, stream, 0, good(count=50))
    admin = AdminClient({"bootstrap.servers": real_settings.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(stream.topic, 0, 130)]).values():
        future.result()
    status = stream_status(platform, stream).partitions[0]
    assert (status.log_start, status.log_end, status.lag) == (130, 150, 20)
    run_stream(platform, stream)
    holds(real_settings, stream, oracle)
    found = verified(platform, stream)
    assert (found.expected, found.gaps) == (120, 30)


def transactional(settings: Settings, name: str) -> Producer:
    """A producer whose records are seen when, and only when, it commits."""
    servers = {"bootstrap.servers": settings.bootstrap_servers}
    producer = Producer(servers | {"transactional.id": name, "linger.ms": 0})
    producer.init_transactions(30)
    return producer


def transact(producer: Producer, stream: Stream, count: int, *, commit: bool) -> None:
    """One transaction of good records in partition 0."""
    producer.begin_transaction()
    for record in good(count=count):
        producer.produce(stream.topic, record.value, record.key, 0)
    producer.flush(30)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)


@pytest.mark.fault("log", "transactions are aborted, or open; markers end the log")
def test_aborted_transactions_never_appear_and_markers_are_gaps(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Positions go past markers at the end of the log, and no further than the stable offset."""
    stream = make_stream(real_settings)
    platform, oracle = Platform(real_settings), Oracle(real_settings, stream)
    producer = transactional(real_settings, stream.name)
    transact(producer, stream, 10, commit=False)  # nothing but an aborted one
    run_stream(platform, stream)
    status = stream_status(platform, stream).partitions[0]
    assert (status.log_end, status.bronze_position, status.lag) == (11, 11, 0)
    for commit in (True, False, True, False):
        transact(producer, stream, 10, commit=commit)
        run_stream(platform, stream)
        holds(real_settings, stream, oracle)
    producer.begin_transaction()
    for record in good(count=5):
        producer.produce(stream.topic, record.value, record.key, 0)
    producer.flush(30)
    run_stream(platform, stream)
    assert verified(platform, stream).expected == 20  # the open one is not there yet
    producer.commit_transaction(30)
    run_stream(platform, stream)
    holds(real_settings, stream, oracle)
    found = verified(platform, stream)
    assert (found.expected, found.gaps) == (25, 36)


def test_one_partition_is_used_and_the_others_are_empty(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Empty log partitions neither hold up nor fail anything."""
    stream = make_stream(real_settings, partitions=5)
    run_stream(Platform(real_settings), stream)
    send_to(real_settings, stream, 3, good(count=7))
    run_stream(Platform(real_settings), stream)
    oracle = holds(real_settings, stream)
    assert len(oracle.seen) == 7


def test_keys_headers_and_tombstones_are_kept_as_sent(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Null keys and values, empty ones, headers that repeat, are empty, or hold any bytes."""
    stream = make_stream(real_settings)
    (record,) = good()
    producer = Producer({"bootstrap.servers": real_settings.bootstrap_servers})
    headers: list[Any] = [[("a", b"1"), ("a", b"\xff\x00"), ("", None), ("z", b"")], [], None]
    for each in headers:
        for key in (None, b"", b"\xff\x00k"):
            for value in (None, b"", b"\x00\xff", b"not json", record.value):
                producer.produce(stream.topic, value, key, 1, headers=each)
    assert producer.flush(30) == 0
    run_stream(Platform(real_settings), stream)
    oracle = holds(real_settings, stream)
    assert len(oracle.seen) == 45


@pytest.mark.fault("clocks", "producers stamp records in the far future and past")
def test_ingest_dates_follow_the_log_not_the_clock_of_a_record(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Late stamps stay in the ingest date ahead of them, future ones come no later than today."""
    stream = make_stream(
        real_settings, **{"message.timestamp.after.max.ms": 2**62, "retention.ms": -1}
    )
    platform, oracle = Platform(real_settings), Oracle(real_settings, stream)
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
    stamps = [
        *(midnight - timedelta(milliseconds=1), midnight, midnight + timedelta(milliseconds=1)),
        midnight - timedelta(days=400),
        midnight + timedelta(days=1),
        midnight,
        now + timedelta(days=900),
        midnight + timedelta(days=2),
    ]
    (record,) = good()
    millis = [round(stamp.timestamp() * 1000) for stamp in stamps]
    millis += [1_795_000_000_000_000, 2**62]  # microseconds by mistake, and nonsense
    for part in (millis[:3], millis[3:6], millis[6:]):  # a new file, then a new run
        values = [record.value, b"bad"]
        records = [record._replace(timestamp_ms=ms, value=v) for ms in part for v in values]
        send_to(real_settings, stream, 0, records)
        run_stream(platform, stream)
    oracle.read()
    ingest_dates = [row["_ingest_date"] for row in content(real_settings, stream)["bronze"]]
    first = midnight.date()
    days = [timedelta(days=n) for n in (-1, 0, 0, 0, 1, 1, 3, 3, 3, 3)]
    assert ingest_dates == [first + day for day in days]
    verified(platform, stream)


@pytest.mark.fault("tables", "rows of others in the same tables, and in the same files")
def test_rows_of_other_writers_are_left_alone(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Rows that somebody else appends, in files of their own or together with ours, stay."""
    stream = make_stream(real_settings)
    platform = Platform(real_settings)
    send(real_settings, stream, events(3_000))
    run_stream(platform, stream)
    table = load_catalog("lakehouse", **real_settings.catalog).load_table(stream.bronze_table)
    foreign = table.scan(limit=100).to_arrow()
    for name in [n for n in foreign.schema.names if n.startswith("_")]:
        at = foreign.schema.get_field_index(name)
        foreign = foreign.set_column(
            at, name, pa.nulls(len(foreign), foreign.schema.field(at).type)
        )
    table.append(foreign)
    # An optimizing engine puts rows of all origins into the same files.
    table.overwrite(table.scan().to_arrow())
    ingest_dates = SegmentLog(platform.store, stream.topic).ingest_dates()
    wrong = edited(stream, narrow)
    load_stream(platform, wrong, partitions=range(4), ingest_dates=ingest_dates)
    load_stream(platform, stream, partitions=range(4), ingest_dates=ingest_dates)
    holds(real_settings, stream)
    rows = load_catalog("lakehouse", **real_settings.catalog).load_table(stream.bronze_table)
    left = rows.scan().to_arrow().filter(pa.compute.field("_offset").is_null())
    assert sorted(map(repr, left.to_pylist())) == sorted(map(repr, foreign.to_pylist()))


@pytest.mark.fault("tables", "rolled back between runs")
@pytest.mark.parametrize("which", ["bronze", "quarantine", "both"])
def test_a_table_rolled_back_is_healed_by_the_next_run(
    real_settings: Settings, make_stream: MakeStream, which: str
) -> None:
    """Positions go back with the rows, so what was undone is loaded again."""
    stream = make_stream(real_settings)
    platform = Platform(real_settings)
    for seed in range(3):
        send(real_settings, stream, events(1_000, seed))
        run_stream(platform, stream)
    before = content(real_settings, stream)
    catalog = load_catalog("lakehouse", **real_settings.catalog)
    names = {"bronze": stream.bronze_table, "quarantine": stream.quarantine_table}
    for name in names.values() if which == "both" else [names[which]]:
        table = catalog.load_table(name)
        first = table.history()[0].snapshot_id
        table.manage_snapshots().rollback_to_snapshot(first).commit()
    run_stream(platform, stream)
    holds(real_settings, stream)
    assert content(real_settings, stream) == before


@pytest.mark.fault("tables", "dropped")
def test_a_dropped_table_is_made_again(real_settings: Settings, make_stream: MakeStream) -> None:
    """The lake has everything that either table needs."""
    stream = make_stream(real_settings)
    send(real_settings, stream, events(2_000))
    run_stream(Platform(real_settings), stream)
    before = content(real_settings, stream)
    for name in (stream.quarantine_table, stream.bronze_table):
        load_catalog("lakehouse", **real_settings.catalog).drop_table(name)
        run_stream(Platform(real_settings), stream)
        holds(real_settings, stream)
    assert content(real_settings, stream) == before


@pytest.mark.fault("tables", "the history expired below a commit of somebody else")
def test_an_expired_history_keeps_the_positions(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """After snapshots expired below a foreign one, nothing is loaded twice."""
    stream = make_stream(real_settings)
    platform = Platform(real_settings)
    send(real_settings, stream, events(1_000))
    run_stream(platform, stream)
    catalog = load_catalog("lakehouse", **real_settings.catalog)
    table = catalog.load_table(stream.bronze_table)
    empty = table.scan().to_arrow().slice(0, 0)
    table.append(empty)
    for snapshot in table.history()[:-1]:
        table.maintenance.expire_snapshots().by_id(snapshot.snapshot_id).commit()
    send(real_settings, stream, events(1_000, seed=2))
    run_stream(platform, stream)
    holds(real_settings, stream)


def rows_of_every_kind() -> dict[bytes, dict[str, Any] | None]:
    """Records of the contract with every kind of field, and the row that each makes."""
    base: dict[str, Any] = {
        **GOOD,
        "price": Decimal("12.34"),
        "amount": Decimal("1.5"),
        "day": date(2026, 11, 20),
        "at": datetime(2026, 11, 20, 8, tzinfo=UTC),
        "wall": datetime(2026, 11, 20, 10, 0, 0, 500_000),
        "clock": time(10, 30),
        "open": JsonText(GOOD["open"]),
        "place": GOOD["place"]
        | {"opened": date(1999, 1, 31), "since": datetime(2026, 11, 20, 10, tzinfo=UTC)},
    }
    inner = dict.fromkeys(("seats", "opened", "since", "code", "halls"))
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"tags": None, "numbers": None}, {"tags": None, "numbers": None}),
        ({"tags": [], "numbers": [None]}, {"tags": [], "numbers": [None]}),
        ({"place": None}, {"place": None}),
        ({"place": {"name": "x"}}, {"place": {"name": "x"} | inner}),
        ({"place": {"name": "x", "halls": []}}, {"place": {"name": "x"} | inner | {"halls": []}}),
        ({"place": {"name": "x", "halls": [None, {}]}},
         {"place": {"name": "x"} | inner | {"halls": [None, {"n": None}]}}),
        ({"amount": b"1234567890123456789012345678.0123456789"},
         {"amount": Decimal("1234567890123456789012345678.0123456789")}),
        ({"at": "0001-01-01T00:00:00Z", "wall": "9999-12-31T23:59:59.999999"},
         {"at": datetime.min.replace(tzinfo=UTC), "wall": datetime.max}),
        ({"day": "0001-01-01", "clock": "23:59:59.999999"},
         {"day": date.min, "clock": time.max}),
    ]  # fmt: skip
    rows: dict[bytes, dict[str, Any] | None] = {
        text(**sent): base | stored for sent, stored in changes
    }
    rows[b'{"id":5}'] = {"id": 5}
    rows[text(place=b'{"name":"a","name":"b"}')] = None
    rows[text(at="0001-01-01T00:00:00+05:00")] = None
    rows[text(single=b"1e39")] = None
    return rows


def test_every_kind_of_field_comes_back_as_it_was_sent(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Null and empty lists, nested values, decimals and times, also after rewriting files."""
    rows = rows_of_every_kind()
    stream = make_stream(real_settings, contract=deepcopy(EVERY_KIND))
    platform = Platform(real_settings)
    oracle = Oracle(real_settings, stream, validator=lambda value: rows[value or b""])
    send(real_settings, stream, [Record(None, value) for value in rows for _ in range(3)])
    run_stream(platform, stream)
    holds(real_settings, stream, oracle)

    # Files that hold other rows too are rewritten when a slice is replaced.
    catalog = load_catalog("lakehouse", **real_settings.catalog)
    table = catalog.load_table(stream.bronze_table)
    before = len(table.inspect.files())
    files = write_data_files(table, rows_of(table))
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as update:
        for task in table.scan().plan_files():
            update.delete_data_file(task.file)
        for file in files:
            update.append_data_file(file)
    assert len(table.refresh().inspect.files()) < before

    def lowered(document: dict[str, Any]) -> None:
        document["schema"][0]["properties"][1]["logicalTypeOptions"]["maximum"] = 4

    ingest_dates = SegmentLog(platform.store, stream.topic).ingest_dates()
    for contract in (edited(stream, lowered), stream):
        load_stream(platform, contract, partitions=[0, 2], ingest_dates=ingest_dates)
    holds(real_settings, stream, oracle)


def test_a_topic_name_with_every_legal_character(
    real_settings: Settings, make_stream: MakeStream
) -> None:
    """Dots, dashes and underscores in a topic are harmless in the lake."""
    from dataclasses import replace

    stream = make_stream()
    stream = replace(stream, topic=f"A.b-c_d.{stream.topic}")
    ensure_topic(real_settings, stream.topic, 2)
    send(real_settings, stream, events(100))
    run_stream(Platform(real_settings), stream)
    oracle = holds(real_settings, stream)
    assert len(oracle.seen) == 100
    assert json.dumps(stream_status(Platform(real_settings), stream).as_dict())
    assert read_table(real_settings, stream.bronze_table).num_rows == 95
