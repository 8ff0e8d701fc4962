"""Every declared stream through every source that it has, bad records in each, on real servers."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from ingestion_platform import Client
from ingestion_platform.http_api.app import build
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.lake.file_source import Handled
from ingestion_platform.lake.names import FILES
from ingestion_platform.pipeline import load_files, run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.labelled import find
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import DOMAINS_FOLDER, Stream, declared_streams
from tests.support.grievances import EVENT, as_csv, as_jsonl, as_parquet
from tests.support.oracle import read_table

pytestmark = [pytest.mark.services, pytest.mark.slow]

SAMPLES = Path(__file__).parents[2] / "data"
MISSING = {"missing_field", "null_field"}
"""Faults that are faults in any format: text has no wrong types."""


@dataclass
class Sent:
    """How many records of each stream went in by any source; those rejected by HTTP did not."""

    good: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def note(self, stream: Stream, records: Iterable[Record]) -> None:
        """Count records by their labels."""
        for record in records:
            (self.bad if record.fault else self.good)[stream.name] += 1


@pytest.fixture
def client(real_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The platform with the declared streams, each in a topic that nobody else has."""
    folder, own = tmp_path / "domains", uuid.uuid4().hex[:8]
    shutil.copytree(DOMAINS_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in folder.glob("*/defs.yaml"):
        text = re.sub(r"^( +topic: .*)$", rf"\1-{own}", file.read_text(), flags=re.MULTILINE)
        file.write_text(text)
    monkeypatch.setattr("ingestion_platform.streams.DOMAINS_FOLDER", folder)
    settings = real_settings.replace(
        drop_url=(tmp_path / "drop").as_uri(),
        drop_settle_seconds=0.0,
        http_api=real_settings.http_api.replace(auth=False),
    )
    for stream in declared_streams().values():
        assert stream.topic.endswith(own)
        ensure_topic(settings, stream.topic, stream.partitions)
    return Client(settings)


def parses(record: Record) -> bool:
    """Whether the value is JSON on a line, whatever the contract says of it."""
    try:
        msgspec.json.decode(record.value.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return b"\n" not in record.value


def records(
    stream: Stream, seed: int, good: int, bad: int, fits: Callable[[Record], bool] = parses
) -> list[Record]:
    """So many good and bad simulated records, the bad ones such as fit the source."""
    made = list(simulate(stream.name, 200, seed=seed, bad_ratio=0.5))
    found = [*islice((r for r in made if r.fault is None), good)]
    found += islice((r for r in made if r.fault is not None and fits(r)), bad)
    assert len(found) == good + bad
    return found


def lacks_a_field(record: Record) -> bool:
    """Whether a required field is not there: a fault in any format."""
    return record.fault in MISSING


def misspells(record: Record) -> bool:
    """Whether a value is none of the allowed ones: a fault that no default mends."""
    return record.fault == "unknown_value"


def as_file(kind: str, made: list[Record]) -> bytes:
    """The records as a file of that suffix."""
    if kind == ".jsonl":
        return b"".join(record.value + b"\n" for record in made)
    if kind == ".json":
        return b"[" + b",\n".join(record.value for record in made) + b"]"
    assert kind == ".csv"
    rows: list[dict[str, Any]] = [json.loads(record.value) for record in made]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(dict.fromkeys(n for row in rows for n in row)), "NULL")
    writer.writeheader()
    for row in rows:
        writer.writerow({n: "NULL" if v is None else v for n, v in row.items()})
    return out.getvalue().encode()


def by_kafka(client: Client, stream: Stream, sent: Sent) -> None:
    """What a producer sends, broken in all ways."""
    made = list(simulate(stream.name, 200, seed=1, bad_ratio=0.05))
    assert not produce(client.settings, stream.topic, made).failed
    sent.note(stream, made)


def by_python(client: Client, stream: Stream, sent: Sent) -> None:
    """Dicts that are good, bytes that are not."""
    made = records(stream, 2, 10, 3, fits=lambda record: not parses(record))
    values = [r.value if r.fault else json.loads(r.value) for r in made]
    assert client.send(stream.name, values).delivered == len(made)
    sent.note(stream, made)


def by_http(http: TestClient, stream: Stream, sent: Sent) -> None:
    """Good ones are accepted; bad ones are rejected, also among good ones, and go nowhere."""
    *good, bad = records(stream, 3, 9, 1, fits=lacks_a_field)
    path = f"/v1/streams/{stream.name}/records"
    lines = {"content-type": "application/x-ndjson"}
    one = {"content-type": "application/json"}
    assert http.post(path, content=good[0].value, headers=one).status_code == 201
    answer = http.post(path, content=as_file(".jsonl", good[1:5]), headers=lines)
    assert (answer.status_code, answer.json()["accepted"]) == (201, 4)
    answer = http.post(path, content=as_file(".json", [*good[5:], bad]), headers=one)
    told = answer.json()
    assert (answer.status_code, told["accepted"], told["rejected"]) == (207, 4, 1)
    assert http.post(path, content=bad.value, headers=one).status_code == 422
    sent.note(stream, good)
    sent.rejected[stream.name] += 2


def by_the_shops_paths(http: TestClient, streams: dict[str, Stream], sent: Sent) -> None:
    """To the topic by the public path, to a staging file of the drop zone by the internal one."""
    for name, paths in (
        ("recomart_users", ("/users", "/internal/ingest-user")),
        ("recomart_transactions", ("/transactions", "/internal/ingest-transaction")),
    ):
        for path in paths:
            good, bad = records(streams[name], 4, 1, 1, fits=misspells)
            assert http.post(path, content=good.value).status_code == 201
            assert http.post(path, content=bad.value).status_code == 422
            sent.note(streams[name], [good])
            sent.rejected[name] += 1


def by_hand(client: Client, stream: Stream, folder: Path, sent: Sent) -> None:
    """A file of lines, loaded at once."""
    made = records(stream, 5, 12, 4)
    file = folder / f"{stream.name}.jsonl"
    file.write_bytes(as_file(".jsonl", made))
    handled: list[Handled] = []
    load_files(Platform(client.settings), stream, [file], on_file=handled.append)
    assert [(each.outcome, each.rows) for each in handled] == [("landed", len(made))]
    sent.note(stream, made)


def into_the_zone(platform: Platform, stream: Stream, sent: Sent) -> None:
    """A file of the name and format that the stream's source is declared with."""
    pattern = next(iter(stream.file_source.patterns), "*.jsonl")
    kind = Path(pattern).suffix
    made = records(stream, 6, 12, 4, fits=lacks_a_field if kind == ".csv" else parses)
    name = pattern.replace("*", "day_1")
    platform.drop.write(f"{stream.file_source.folder}/{name}", as_file(kind, made))
    sent.note(stream, made)


def by_samples(client: Client, streams: list[Stream], sent: Sent) -> None:
    """The sample files that are sorted by type and label, each record to the topic of its type."""
    made = list(find(SAMPLES, streams).records(seed=7))
    assert not produce(client.settings, streams[0].topic, made).failed
    for stream in streams:
        own = [record for record in made if record.topic == stream.topic]
        assert own
        sent.note(stream, own)


def test_every_stream_by_every_api(client: Client, tmp_path: Path) -> None:
    """All that was sent is in bronze or quarantine, as labelled, once; nothing is left behind."""
    streams, sent, platform = dict(client.streams), Sent(), Platform(client.settings)
    assert len(streams) >= 15
    with TestClient(build(client.settings, streams)) as http:
        for stream in streams.values():
            by_kafka(client, stream, sent)
            by_python(client, stream, sent)
            by_http(http, stream, sent)
            by_hand(client, stream, tmp_path, sent)
            into_the_zone(platform, stream, sent)
        by_the_shops_paths(http, streams, sent)
        assert http.get("/readyz").json()["rejected"] == sent.rejected
    by_samples(client, [s for s in streams.values() if s.domain == "tmdb"], sent)

    client.run()

    for name in streams:
        found, status = client.verify(name), client.status(name)
        assert found.ok, found
        assert (found.bronze, found.quarantined) == (sent.good[name], sent.bad[name]), name
        assert (found.expected, found.gaps) == (sent.good[name] + sent.bad[name], 0), name
        assert (status.bronze_rows, status.quarantine_rows) == (found.bronze, found.quarantined)
        assert (status.lag, status.waiting_files) == (0, 0), status


def test_an_event_is_the_same_row_by_every_api(client: Client) -> None:
    """The example event: by Kafka, HTTP, Python, and as a CSV, JSONL and Parquet file."""
    streams, platform = dict(client.streams), Platform(client.settings)
    stream = streams["pgr_events"]
    value = json.dumps(EVENT).encode()
    assert not produce(client.settings, stream.topic, [Record(b"k", value)]).failed
    with TestClient(build(client.settings, streams)) as http:
        assert http.post("/v1/streams/pgr_events/records", json=EVENT).status_code == 201
    client.send("pgr_events", EVENT)
    for suffix, data in (("csv", as_csv), ("jsonl", as_jsonl), ("parquet", as_parquet)):
        platform.drop.write(f"{stream.file_source.folder}/event.{suffix}", data([EVENT]))

    run_stream(platform, stream)

    table = read_table(client.settings, stream.bronze_table)
    assert [p == FILES for p in table["_partition"].to_pylist()].count(True) == 3
    rows = table.select([n for n in table.schema.names if not n.startswith("_")]).to_pylist()
    expected = EVENT | {
        "event_date": date(2024, 12, 17),
        "event_time": datetime(2024, 12, 17, 10),
        "attributes_json": json.dumps(EVENT["attributes_json"], separators=(",", ":")),
    }
    assert rows == [expected] * 6
    assert client.verify("pgr_events").ok
