"""A broken record or value of a file costs its row; a broken file costs itself; others go on."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion_platform.bronze.load import RowBuilder
from ingestion_platform.lake.file_source import FilesRefused, Handled
from ingestion_platform.lake.names import FILES
from ingestion_platform.lake.records import read
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.quarantine import replay
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream, try_file
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from tests.support.grievances import EVENT, as_parquet
from tests.support.lake_files import records, segment_of
from tests.support.oracle import read_table
from tests.support.reasons import cell_texts, reason_texts
from tests.support.testbed import edited, new_stream

GOOD = json.dumps(EVENT).encode()


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """Folders and a catalog of the test's own; files settle at once."""
    env = {"PLATFORM_HOME": str(tmp_path / "home"), "DROP_SETTLE_SECONDS": "0"}
    return Platform(Settings.load(env, root=tmp_path))


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    """A stream of grievance events that has no topic."""
    return replace(new_stream(tmp_path), partitions=0)


def drop(platform: Platform, stream: Stream, name: str, data: bytes) -> None:
    """Put a file into the stream's zone."""
    platform.drop.write(f"{stream.file_source.folder}/{name}", data)


def run(platform: Platform, stream: Stream) -> dict[str, Handled]:
    """Run the stream; gives what became of the files, by name."""
    handled: list[Handled] = []
    with suppress(FilesRefused):
        run_stream(platform, stream, on_file=handled.append)
    return {each.name: each for each in handled}


def table(platform: Platform, name: str) -> list[dict[str, Any]]:
    """The rows of a table in the order of the log."""
    return read_table(platform.settings, name).sort_by("_offset").to_pylist()


def quarantined(platform: Platform, stream: Stream) -> list[tuple[bytes, list[str]]]:
    """Values and reasons of what is in quarantine."""
    rows = table(platform, stream.quarantine_table)
    return [(row["_value"], cell_texts(row["_reasons"])) for row in rows]


def holds(platform: Platform, stream: Stream, count: int) -> None:
    """As many records as said are in the tables, each once."""
    found = verify_stream(platform, stream)
    assert found.ok, found
    assert (found.expected, found.gaps) == (count, 0)


def test_bad_lines_go_to_quarantine(platform: Platform, stream: Stream, tmp_path: Path) -> None:
    """With their bytes, a reason and the line; replaying and a trial agree."""
    bad = [b'{"ward_id":"\\ud83d"}', b'{"a":1}{"b":2}', b'{"ward_id":"\xff"}', b'{"cut":']
    data = b"\n".join([GOOD, *bad[:3], GOOD, bad[3]])
    drop(platform, stream, "a.jsonl", data)
    drop(platform, stream, "b.jsonl", GOOD + b"\n")
    assert {h.outcome for h in run(platform, stream).values()} == {"landed"}
    found = quarantined(platform, stream)
    assert [value for value, _ in found] == bad
    assert [reasons for _, (reasons,) in found] == [
        "value: is not valid JSON: cut off (is at line 2)",
        "value: is not valid JSON: trailing characters (is at line 3, byte 8)",
        "value: is not valid UTF-8 (is at line 4)",
        "value: is not valid JSON: cut off (is at line 6)",
    ]
    holds(platform, stream, 7)
    (segment, _) = SegmentLog(platform.store, stream.topic).slice(datetime.now(UTC).date(), FILES)
    assert json.loads(platform.store.read(segment.name.sidecar))["record_count"] == 6
    file = tmp_path / "c.jsonl"
    file.write_bytes(data)
    trial = try_file(platform, stream, file)
    assert (trial.records, trial.valid, trial.rejected) == (6, 2, 4)

    def describe(document: dict[str, Any]) -> None:
        document["schema"][0]["properties"][2]["logicalTypeOptions"] = {"maxLength": 500}

    changed = edited(stream, describe)
    again = replay(platform, changed)
    assert (again.before, again.after, again.came_back) == (4, 4, 0)
    assert quarantined(platform, changed) == found
    holds(platform, changed, 7)


def test_topics_cannot_forge_problems(stream: Stream) -> None:
    """The header of a file's broken record is an ordinary one in a topic."""
    found = records([GOOD])
    forged = pa.array([[{"key": k, "value": b"x"} for k in ("a", "b", "c", "problem")]])
    at = found.schema.get_field_index("headers")
    forged_records = found.set_column(at, "headers", forged.cast(found.schema.field(at).type))
    bronze, quarantine = RowBuilder(stream.contract).rows(segment_of("t", 0, 1), forged_records)
    assert (bronze.num_rows, quarantine.num_rows) == (1, 0)


def parquet_of(rows: list[dict[str, Any]], **columns: pa.Array) -> bytes:
    """Events as a Parquet file, with columns replaced or added."""
    read = pq.read_table(io.BytesIO(as_parquet(rows)))
    for name, column in columns.items():
        if name in read.schema.names:
            read = read.drop_columns([name])
        read = read.append_column(name, column)
    out = io.BytesIO()
    pq.write_table(read, out)
    return out.getvalue()


def test_a_date_beyond_the_calendar_costs_its_row(platform: Platform, stream: Stream) -> None:
    """`DATE 'infinity'` is the largest number of days; files behind it are read."""
    days = pa.array([2**31 - 1, 20_074], pa.int32()).view(pa.date32())
    drop(platform, stream, "a.parquet", parquet_of([EVENT, EVENT], event_date=days))
    drop(platform, stream, "b.jsonl", GOOD)
    assert {h.outcome for h in run(platform, stream).values()} == {"landed"}
    ((value, reasons),) = quarantined(platform, stream)
    assert reasons == ["event_date: is a date beyond the years 1 to 9999 (is at row 1)"]
    assert json.loads(value)["event_date"] == "2147483647 days since 1970-01-01"
    assert len(table(platform, stream.bronze_table)) == 2
    holds(platform, stream, 3)


def test_undeclared_columns_cost_nothing(platform: Platform, stream: Stream) -> None:
    """Of any type, with values that JSON cannot hold; declared later, they count."""
    stamp = pa.array([2**63 - 1]).view(pa.timestamp("us"))
    more = {
        "picture": pa.array([b"\xff\xd8"]),
        "never": pa.array([2**31 - 1], pa.int32()).view(pa.date32()),
        "end": stamp,
        "ends": pa.ListArray.from_arrays([0, 1], stamp),
        "took": pa.array([5], pa.duration("us")),
        "double": pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64())),
        "void": pa.nulls(1),
        "exact": pa.array([10**60], pa.decimal256(76, 2)),
        "code": pa.array(["x"]).dictionary_encode(),
        "id": pa.array([b"\xfe" * 16], pa.uuid()),
        "half": pa.array([float("nan")], pa.float16()),
        "midnight": pa.array([86_400_000_000], pa.int64()).view(pa.time64("us")),
    }
    drop(platform, stream, "a.parquet", parquet_of([EVENT], **more))
    assert run(platform, stream)["a.parquet"].outcome == "landed"
    (row,) = table(platform, stream.bronze_table)
    assert row["entity_id"] == EVENT["entity_id"]
    holds(platform, stream, 1)

    def declare(document: dict[str, Any]) -> None:
        document["schema"][0]["properties"].append({"name": "picture", "logicalType": "string"})

    changed = edited(stream, declare)
    (segment,) = SegmentLog(platform.store, stream.topic).slice(datetime.now(UTC).date(), FILES)
    _, rejected = RowBuilder(changed.contract).rows(segment, read(platform.store, segment))
    reasons = reason_texts(rejected["_reasons"])
    assert reasons == [["picture: is binary, and not text in UTF-8 (is at row 1)"]]


def plain_parquet(names: list[str]) -> bytes:
    """A Parquet file of a row of ones."""
    out = io.BytesIO()
    pq.write_table(pa.table([[1]] * len(names), names=names), out)
    return out.getvalue()


BROKEN = {
    "cut.parquet": as_parquet([EVENT])[:-20],
    "text.parquet": b"a,b\n1,2\n",
    "hole.parquet": as_parquet([EVENT])[:60] + b"\xff" * 60 + as_parquet([EVENT])[120:],
    "footer.parquet": as_parquet([EVENT])[:-200] + b"\x00" * 192 + as_parquet([EVENT])[-8:],
    "names.parquet": plain_parquet(["service", "service"]),
    "other.parquet": plain_parquet(["x"]),
    "cut.json": b"[" + GOOD + b",",
    "no.json": b'{"a": 1}',
}


def test_broken_files_hold_up_no_other(platform: Platform, stream: Stream) -> None:
    """Each is kept aside with a reason of ours; a run after that finds nothing to do."""
    for name, data in BROKEN.items():
        drop(platform, stream, name, data)
        drop(platform, stream, f"good-{name}.jsonl", GOOD + b"\n" + name.encode())
    handled = run(platform, stream)
    assert {name: handled[name].outcome for name in BROKEN} == dict.fromkeys(BROKEN, "refused")
    for name in BROKEN:
        assert handled[f"good-{name}.jsonl"].outcome == "landed"
        assert platform.drop.read(handled[name].kept) == BROKEN[name]
    assert "none of the columns (x) is a field" in handled["other.parquet"].detail
    assert "cut off" in handled["cut.parquet"].detail
    holds(platform, stream, 2 * len(BROKEN))
    assert run(platform, stream) == {}
