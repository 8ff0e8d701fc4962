"""Files come in once by their content, by every format as by Kafka, or not at all.

In folders, and on MinIO and Postgres.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion_platform.files.reading import UnreadableFile
from ingestion_platform.lake.file_source import FilesRefused, HalfLanded, Handled
from ingestion_platform.lake.journal import Journal
from ingestion_platform.lake.land_files import land_claimed, unfinished
from ingestion_platform.lake.names import FILES
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import land_stream, load_files, load_stream, run_stream, try_file
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from ingestion_platform.settings import Settings
from ingestion_platform.streams import FileSource, Stream
from services import Services
from tests.support.grievances import EVENT, as_csv, as_jsonl, as_parquet
from tests.support.oracle import read_table, snapshots
from tests.support.reasons import cell_texts
from tests.support.testbed import new_stream, separate_environment

START = datetime(2026, 11, 1, tzinfo=UTC)
ON_SERVERS = [pytest.mark.services]


@pytest.fixture(params=["folders", pytest.param("servers", marks=ON_SERVERS)])
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Platform:
    """Stores and a catalog of the test's own, in folders or on servers; files settle at once."""
    env = {"PLATFORM_HOME": str(tmp_path / "home"), "DROP_SETTLE_SECONDS": "0"}
    if request.param == "servers":
        servers: Services = request.getfixturevalue("servers")
        env = separate_environment(servers) | env
        env["DROP_URL"] = env["LAKE_URL"].replace("master_dataset", "drop")
    return Platform(Settings.load(env, root=tmp_path))


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    """A stream of grievance events that has no topic."""
    return replace(new_stream(tmp_path), partitions=0)


def events(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Simulated grievance events; always the same, whatever the time."""
    records = simulate("pgr_events", count, seed=seed, start=START)
    return [json.loads(r.value or b"{}") for r in records]


def drop(platform: Platform, stream: Stream, name: str, data: bytes) -> str:
    """Put a file into the stream's zone; gives its path in the store."""
    path = f"{stream.file_source.folder}/{name}"
    platform.drop.write(path, data)
    return path


def run(platform: Platform, stream: Stream) -> list[Handled]:
    """Run the stream; gives what became of the files."""
    handled: list[Handled] = []
    run_stream(platform, stream, on_file=handled.append)
    return handled


def rows(platform: Platform, stream: Stream) -> list[dict[str, Any]]:
    """The contract's columns of bronze, in the order of the log."""
    table = read_table(platform.settings, stream.bronze_table).sort_by("_offset")
    return table.select([n for n in table.schema.names if not n.startswith("_")]).to_pylist()


def holds(platform: Platform, stream: Stream, records: int) -> None:
    """As many records as said are in the tables, each once; another run changes nothing."""
    found = verify_stream(platform, stream)
    assert found.ok, found
    assert (found.expected, found.gaps) == (records, 0)
    before = snapshots(platform.settings, stream)
    assert run(platform, stream) == []
    assert snapshots(platform.settings, stream) == before


def test_every_format_gives_equal_rows(platform: Platform, stream: Stream) -> None:
    """The example event by CSV, JSONL, a JSON array, Parquet, and compressed."""
    mapped = EVENT | {"attributes_json": {k: str(v) for k, v in EVENT["attributes_json"].items()}}
    schema = pa.schema([("attributes_json", pa.map_(pa.string(), pa.string()))])
    table = pa.Table.from_pylist([mapped]).drop_columns(["attributes_json"])
    column = pa.array([list(mapped["attributes_json"].items())], schema.field(0).type)
    with_map = io.BytesIO()
    pq.write_table(table.append_column("attributes_json", column), with_map)
    given = {
        "a.csv": as_csv([EVENT]),
        "b.jsonl": as_jsonl([EVENT]),
        "c.json": json.dumps([EVENT], indent=2).encode(),
        "d.parquet": as_parquet([EVENT]),
        "e.csv.gz": gzip.compress(as_csv([EVENT])),
        "f.jsonl.zst": pa.compress(as_jsonl([EVENT]), "zstd", asbytes=True),
        "g.parquet": with_map.getvalue(),
    }
    for name, data in given.items():
        drop(platform, stream, name, data)
    assert [each.outcome for each in run(platform, stream)] == ["landed"] * len(given)
    *found, of_map = rows(platform, stream)
    assert len(found) == len(given) - 1
    assert all(row == found[0] for row in found)
    attributes = '{"complaint_type":"Water Supply","priority":"MEDIUM","sla_hours":72}'
    assert found[0]["attributes_json"] == attributes
    assert of_map == found[0] | {"attributes_json": attributes.replace("72", '"72"')}
    holds(platform, stream, len(given))


@pytest.mark.services
def test_files_and_the_topic_give_equal_rows(servers: Services, tmp_path: Path) -> None:
    """One run lands both sources of a stream, and each is a partition of its own."""
    env = separate_environment(servers) | {"DROP_SETTLE_SECONDS": "0"}
    env["PLATFORM_HOME"] = str(tmp_path / "home")
    platform = Platform(Settings.load(env, root=tmp_path))
    stream = new_stream(tmp_path, platform.settings)
    value = json.dumps(EVENT).encode()
    assert not produce(platform.settings, stream.topic, [Record(value=value, key=b"k")]).failed
    drop(platform, stream, "a.csv", as_csv([EVENT]))
    assert [each.outcome for each in run(platform, stream)] == ["landed"]
    one, other = rows(platform, stream)
    assert one == other
    partitions = read_table(platform.settings, stream.bronze_table)["_partition"].to_pylist()
    assert sorted(p == FILES for p in partitions) == [False, True]
    holds(platform, stream, 2)


def test_bad_rows_are_quarantined_with_their_place(platform: Platform, stream: Stream) -> None:
    """Raw value, reason, file and record number; the rest goes on."""
    bad = [EVENT | {"status": "NO"}, EVENT, EVENT | {"event_date": "x"}]
    drop(platform, stream, "sub/folder/bad.csv", as_csv(bad))
    (handled,) = run(platform, stream)
    assert (handled.outcome, handled.rows, handled.name) == ("landed", 3, "sub/folder/bad.csv")
    found = read_table(platform.settings, stream.quarantine_table).sort_by("_offset").to_pylist()
    headers = [{h["key"]: h["value"] for h in row["_headers"]} for row in found]
    assert headers == [
        {b"content-type": b"text/csv", b"file": b"sub/folder/bad.csv", b"record": number}
        for number in (b"1", b"3")
    ]
    assert json.loads(found[0]["_value"])["status"] == "NO"
    assert "status: must be one of" in cell_texts(found[0]["_reasons"])[0]
    assert "event_date: is not an ISO 8601 date" in cell_texts(found[1]["_reasons"])[0]
    holds(platform, stream, 3)


def test_a_content_lands_once(platform: Platform, stream: Stream) -> None:
    """Copies, under any name and by hand, say so; a changed file is a new one and says so."""
    data = as_csv(events(30))
    drop(platform, stream, "one.csv", data)
    drop(platform, stream, "two.csv", data)
    first, second = run(platform, stream)
    assert (first.outcome, second.outcome) == ("landed", "copy")
    assert "landed as one.csv" in second.detail
    drop(platform, stream, "one.csv", data)
    file = platform.settings.home / "three.csv"
    file.write_bytes(data)
    assert [each.outcome for each in run(platform, stream)] == ["copy"]
    handled: list[Handled] = []
    load_files(platform, stream, [file], on_file=handled.append)
    drop(platform, stream, "one.csv", as_csv(events(31)))
    handled += run(platform, stream)
    assert [each.outcome for each in handled] == ["copy", "landed"]
    assert "another content of this name" in handled[1].detail
    assert file.read_bytes() == data
    holds(platform, stream, 61)


def test_copies_are_told_and_landed_on_purpose(platform: Platform, stream: Stream) -> None:
    """Once for each other name, however often the command is repeated, and in any format."""
    data = as_csv(events(30))
    drop(platform, stream, "monday.csv", data)
    run(platform, stream)
    drop(platform, stream, "tuesday.csv", data)
    (handled,) = run(platform, stream)
    assert handled.outcome == "copy"
    assert "landed nothing, because its content was landed as monday.csv on" in handled.detail
    assert "--again" in handled.detail
    found = stream_status(platform, stream).copies
    assert found is not None
    assert (found.count, found.name, found.landed_as) == (1, "tuesday.csv", "monday.csv")
    folder = platform.settings.home
    for name in ("monday.csv", "tuesday.csv", "wednesday.csv"):
        (folder / name).write_bytes(data)

    def load(name: str, *, again: bool) -> list[str]:
        handled: list[Handled] = []
        load_files(platform, stream, [folder / name], again=again, on_file=handled.append)
        return [each.outcome for each in handled]

    assert load("monday.csv", again=True) == ["copy"]
    assert load("tuesday.csv", again=False) == ["copy"]
    for name in ("tuesday.csv", "wednesday.csv"):
        assert load(name, again=True) == ["landed"]
        assert load(name, again=True) == ["copy"]
    holds(platform, stream, 90)


def test_again_lands_an_unknown_content_once(platform: Platform, stream: Stream) -> None:
    """What was never landed gets its ordinary place, which a later copy finds."""
    file = platform.settings.home / "first.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(as_csv(events(5)))
    handled: list[Handled] = []
    for _ in range(2):
        load_files(platform, stream, [file], again=True, on_file=handled.append)
    drop(platform, stream, "other.csv", file.read_bytes())
    handled += run(platform, stream)
    assert [each.outcome for each in handled] == ["landed", "copy", "copy"]
    holds(platform, stream, 5)


def test_many_landing_again_at_once_land_once(platform: Platform, stream: Stream) -> None:
    """The same command, repeated while it is at work."""
    data = as_csv(events(20))
    drop(platform, stream, "one.csv", data)
    run(platform, stream)
    file = platform.settings.home / "two.csv"
    file.write_bytes(data)
    with ThreadPoolExecutor(3) as pool:
        work = [
            pool.submit(load_files, Platform(platform.settings), stream, [file], again=True)
            for _ in range(3)
        ]
        for each in work:
            each.result()
    holds(platform, stream, 40)


def test_half_landed_file_comes_again_in_another_format(platform: Platform, stream: Stream) -> None:
    """It is ended as what it was claimed as, whatever its new name says."""
    data = half_landed(platform, stream, 5000, 2048)
    claim = unfinished(platform.store, stream.topic)
    assert claim is not None
    platform.drop.remove(claim.archive)
    drop(platform, stream, "again.json", data)
    run(platform, stream)
    holds(platform, stream, 5000)


def test_originals_are_archived_unchanged(platform: Platform, stream: Stream) -> None:
    """The zone is empty afterwards but for what is nobody's business."""
    data = gzip.compress(as_jsonl(events(3)))
    drop(platform, stream, "in/a file é.jsonl.gz", data)
    for name in (".x.csv", "_x.csv", "x.csv.tmp", "x.csv.part", "notes.txt", "_y/z.csv"):
        drop(platform, stream, name, b"a,b\n1\n")
    (handled,) = run(platform, stream)
    assert platform.drop.read(handled.kept) == data
    assert "/_archive/" in handled.kept
    assert handled.kept.endswith("/a file é.jsonl.gz")
    assert len([e for e in platform.drop.files("") if "/_archive/" not in e.path]) == 6
    assert platform.file_source(stream).zone.waiting() == []


def test_a_file_that_cannot_be_parsed_lands_nothing(platform: Platform, stream: Stream) -> None:
    """It is moved aside with the reason; others land, and the run tells of it."""
    drop(platform, stream, "a.csv", as_csv(events(200)) + b'1,"2\r\n')
    drop(platform, stream, "b.csv", as_csv(events(3)))
    drop(platform, stream, "c.csv.gz", gzip.compress(as_csv(events(3)))[:-5])
    with pytest.raises(FilesRefused, match=r"(?s)a\.csv: line 202: a quoted value .*c\.csv\.gz"):
        run(platform, stream)
    holds(platform, stream, 3)
    kept = [e.path for e in platform.drop.files("") if "/_refused/" in e.path]
    reasons = [platform.drop.read(p).decode() for p in kept if p.endswith(".reason.txt")]
    assert len(kept) == 4
    assert any("a.csv, line 202: a quoted value does not end" in reason for reason in reasons)


def test_an_empty_file_lands_nothing(platform: Platform, stream: Stream) -> None:
    """Also one of a header only; it is archived, and said."""
    drop(platform, stream, "a.csv", b"")
    drop(platform, stream, "b.csv", as_csv([]))
    drop(platform, stream, "c.json", b"[]")
    assert {each.outcome for each in run(platform, stream)} == {"empty"}
    assert SegmentLog(platform.store, stream.topic).ingest_dates() == []
    assert platform.file_source(stream).zone.waiting() == []


def test_a_missing_file_is_a_clear_error(platform: Platform, stream: Stream) -> None:
    """By hand; in a trial too."""
    for use in (
        lambda f: load_files(platform, stream, [f]),
        lambda f: try_file(platform, stream, f),
    ):
        with pytest.raises(UnreadableFile, match=r"nothing\.csv: there is no such file"):
            use(Path("nothing.csv"))


def test_a_trial_lands_nothing(platform: Platform, stream: Stream, tmp_path: Path) -> None:
    """It counts what would be good, and the reasons of the rest."""
    file = tmp_path / "x.csv"
    file.write_bytes(as_csv([EVENT, EVENT | {"status": "NO"}, EVENT]))
    trial = try_file(platform, stream, file)
    assert (trial.records, trial.valid, trial.rejected) == (3, 2, 1)
    assert next(iter(trial.reasons)).startswith("status: must be one of")
    assert Journal(platform.store, stream.topic).last() is None


def test_sidecars_tell_the_file(platform: Platform, stream: Stream) -> None:
    """All the fields that readers look for; the source is the file."""
    drop(platform, stream, "users.csv", as_csv(events(5)))
    run(platform, stream)
    (segment,) = SegmentLog(platform.store, stream.topic).slice(datetime.now(UTC).date(), FILES)
    said = json.loads(platform.store.read(segment.name.sidecar))
    assert (said["source"], said["data_type"], said["record_count"]) == ("users.csv", "raw", 5)
    assert "/partition=-1/" in said["file_path"]
    assert {
        *("timestamp", "file_size_bytes", "schema", "checksum_md5", "null_counts"),
        "memory_usage_bytes",
    } <= said.keys()
    assert said["schema"].keys() == {"columns", "dtypes"}


def half_landed(platform: Platform, stream: Stream, count: int, done: int) -> bytes:
    """Leave a file landed up to a record, as a writer that died does; gives its content."""
    data = as_csv(events(count))
    file = platform.settings.home / "half.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file_source = platform.file_source(stream)

    class Died(Exception):
        pass

    def parts(store: Any, topic: str, claim: Any, content: Any) -> Any:
        for landed in land_claimed(store, topic, claim, content, rows=done):
            yield landed
            raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingestion_platform.lake.file_source.land_claimed", parts)
        patch.setattr("ingestion_platform.files.csv_files.BATCH", done)
        with pytest.raises(Died):
            list(file_source.land_file(file, lambda _: None))
    assert unfinished(platform.store, stream.topic) is not None
    return data


def test_a_half_landed_file_is_ended_by_the_next_run(platform: Platform, stream: Stream) -> None:
    """Whatever the next run is about, and before what comes behind it."""
    half_landed(platform, stream, 5000, 2048)
    drop(platform, stream, "next.csv", as_csv(events(7, seed=2)))
    run(platform, stream)
    segments = SegmentLog(platform.store, stream.topic).after(FILES, None)
    assert [segment.file.name for segment in segments if segment.file][-1] == "next.csv"
    holds(platform, stream, 5007)


def test_a_half_landed_file_whose_copy_is_gone_is_never_forgotten(
    platform: Platform, stream: Stream
) -> None:
    """All wait, loudly, until the content comes again."""
    data = half_landed(platform, stream, 5000, 2048)
    claim = unfinished(platform.store, stream.topic)
    assert claim is not None
    platform.drop.remove(claim.archive)
    drop(platform, stream, "next.csv", as_csv(events(7, seed=2)))
    for _ in range(2):
        with pytest.raises(HalfLanded, match=r"half\.csv is landed up to record [24],0.* of 5,000"):
            run(platform, stream)
    assert [a.name for a in platform.file_source(stream).zone.waiting()] == ["next.csv"]
    drop(platform, stream, "again.csv", data)
    run(platform, stream)
    run(platform, stream)
    holds(platform, stream, 5007)


def test_many_at_once_land_each_content_once(platform: Platform, stream: Stream) -> None:
    """Runs of the same zone, and the same files by hand, all together."""
    files = []
    for number in range(6):
        data = as_jsonl(events(50, seed=number % 4))  # two of them twice
        drop(platform, stream, f"{number}.jsonl", data)
        files.append(platform.settings.home / f"hand {number}.jsonl")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_bytes(data)
    work: list[Callable[[], Any]] = [lambda: run(Platform(platform.settings), stream)] * 2
    work += [lambda f=f: load_files(Platform(platform.settings), stream, [f]) for f in files[:3]]
    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(each) for each in work]:
            future.result()
    run(platform, stream)
    holds(platform, stream, 200)


def test_landing_alone_and_loading_later(platform: Platform, stream: Stream) -> None:
    """As Dagster's assets do it, for the slice of the files; another contract replaces it."""
    drop(platform, stream, "a.csv", as_csv([*events(39), EVENT | {"status": "NO"}]))
    assert land_stream(platform, stream, partitions=[FILES]) == 40
    assert land_stream(platform, stream, partitions=[FILES]) == 0
    drop(platform, stream, "b.csv", as_csv(events(10, seed=3)))
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    assert land_stream(platform, stream, partitions=[FILES], last=yesterday) == 0
    load_stream(platform, stream, partitions=[FILES], ingest_dates=[datetime.now(UTC).date()])
    found = verify_stream(platform, stream)
    assert found.ok
    assert found.expected == 40
    run(platform, stream)
    holds(platform, stream, 50)


def test_a_file_that_is_being_written_waits(platform: Platform, stream: Stream) -> None:
    """Until it did not change for a while."""
    platform.settings = platform.settings.replace(drop_settle_seconds=0.2)
    zone = platform.file_source(stream).zone
    drop(platform, stream, "done.csv", as_csv(events(1)))
    path = drop(platform, stream, "growing.csv", b"a")
    seen = []

    def growing() -> list[str]:
        with ThreadPoolExecutor(1) as pool:
            look = pool.submit(zone.settled, 0.5)
            while not look.done():
                seen.append(1)
                platform.drop.write(path, b"a" * len(seen))
            return [arrival.name for arrival in look.result()]

    assert growing() == ["done.csv"]
    assert sorted(a.name for a in zone.settled(0.05)) == ["done.csv", "growing.csv"]


def test_patterns_and_formats_of_a_api(platform: Platform, stream: Stream) -> None:
    """Streams may share a folder; a name may have any suffix if the source says the format."""
    users = replace(stream, files=FileSource("shop", ("*user*.csv",)))
    other = replace(stream, files=FileSource("shop", ("*.export",), "jsonl"))
    drop(platform, users, "new_USERS_1.csv", as_csv([EVENT]))
    drop(platform, users, "user.csv.gz", gzip.compress(as_csv([EVENT, EVENT])))
    drop(platform, users, "transactions.csv", as_csv([EVENT] * 3))
    drop(platform, users, "events.export", as_jsonl([EVENT] * 4))
    assert sorted(e.rows for e in run(platform, users)) == [1, 2]
    assert [e.rows for e in run(platform, other)] == [4]
    assert [e.path for e in platform.drop.listing("shop/")[0]] == ["shop/transactions.csv"]
