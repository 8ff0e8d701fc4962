"""Files and records broken at random, beside good ones: nothing is lost, and nothing held up."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.lake.file_source import FilesRefused, Handled
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from tests.support.grievances import as_csv, as_jsonl, as_parquet
from tests.support.oracle import read_table
from tests.support.reasons import reason_texts
from tests.support.testbed import new_stream

START = datetime(2026, 11, 1, tzinfo=UTC)
TOGETHER = 60
"""Broken files that are dropped at once, with a good one of each format."""


def events(count: int, seed: int) -> list[dict[str, Any]]:
    """Valid events, always the same."""
    records = simulate("pgr_events", count, seed=seed, start=START)
    return [json.loads(r.value or b"{}") for r in records]


def text_of_objects(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose objects are their JSON text: of different keys, they have no one type."""
    return {k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()}


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "csv": as_csv,
    "jsonl": as_jsonl,
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "parquet": lambda rows: as_parquet([text_of_objects(row) for row in rows]),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Some bytes become others."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def inserted(rng: random.Random, data: bytes) -> bytes:
    """Bytes that mean something to a format, or none, stand where they should not."""
    at = rng.randrange(len(data) + 1)
    signs = (b'"', b",", b"\n", b"\r", b"\0", b"\\", b"{", b"]", b"\xff\xfe", b"\xef\xbb\xbf", b";")
    return data[:at] + rng.choice((*signs, rng.randbytes(4))) * rng.randint(1, 3) + data[at:]


def deleted(rng: random.Random, data: bytes) -> bytes:
    """A stretch is gone."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 40) :]


def truncated(rng: random.Random, data: bytes) -> bytes:
    """The end is gone."""
    return data[: rng.randrange(len(data))]


def recoded(rng: random.Random, data: bytes) -> bytes:
    """The text is in another encoding; what is no text is taken for some."""
    text = data.decode("utf-8", errors="replace") + "é"
    names = ("utf-16", "utf-16-le", "utf-32", "latin-1", "cp037", "utf-8-sig")
    return text.encode(rng.choice(names), errors="replace")


def shuffled(rng: random.Random, data: bytes) -> bytes:
    """A line is gone, or stands twice."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at : at + 1] = [lines[at]] * rng.choice((0, 2))
    return b"".join(lines)


def separated(rng: random.Random, data: bytes) -> bytes:
    """Some delimiters are gone, doubled, or others."""
    sign, other = rng.choice(((b",", b";"), (b",", b""), (b",", b",,"), (b'"', b"'"), (b":", b"")))
    pieces = data.split(sign)
    at = rng.randrange(len(pieces))
    return sign.join(pieces[:at]) + other + sign.join(pieces[at:])


MUTATIONS = (flipped, inserted, deleted, truncated, recoded, shuffled, separated)


def broken_file(rng: random.Random, number: int) -> tuple[str, bytes]:
    """A file of any format, broken before or after it was compressed, and its name."""
    kind = rng.choice(list(WRITERS))
    suffix = "" if kind == "parquet" else rng.choice(list(PACKERS))
    data = WRITERS[kind](events(rng.randint(1, 8), seed=rng.randrange(10**6)))
    inside = rng.random() < 0.7
    for _ in range(rng.randint(1, 2)):
        if inside and data:
            data = rng.choice(MUTATIONS)(rng, data)
    data = PACKERS[suffix](data)
    if not inside:
        data = rng.choice(MUTATIONS)(rng, data)
    return f"broken-{number}.{kind}{suffix}", data


def good_files(number: int) -> dict[str, bytes]:
    """A file of each format, of three events that no other file has."""
    rows = {kind: events(3, seed=10**7 + 10 * number + n) for n, kind in enumerate(WRITERS)}
    return {f"good-{number}.{kind}": WRITERS[kind](rows[kind]) for kind in WRITERS}


@pytest.mark.fault("files", "files of every format, broken at random, beside good ones")
def test_broken_files_lose_and_hold_up_nothing(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The runs end; each record of a file that lands is in bronze or quarantine once, each file
    that is refused is kept with a reason of the platform's, and all good files are read."""
    rng = random.Random(pytestconfig.getoption("seed"))
    env = {"PLATFORM_HOME": str(tmp_path / "home"), "DROP_SETTLE_SECONDS": "0"}
    platform = Platform(Settings.load(env, root=tmp_path))
    stream = replace(new_stream(tmp_path), partitions=0)
    landed = 0
    for start in range(0, pytestconfig.getoption("mutations"), TOGETHER):
        files = dict(broken_file(rng, start + n) for n in range(TOGETHER)) | good_files(start)
        handled = dropped(platform, stream, files)
        assert handled.keys() == files.keys()
        check_refused(platform, files, handled)
        good = [each for name, each in handled.items() if name.startswith("good")]
        assert {(each.outcome, each.rows) for each in good} == {("landed", 3)}
        landed += sum(each.rows for each in handled.values() if each.outcome == "landed")
        assert platform.file_source(stream).zone.waiting() == []
    found = verify_stream(platform, stream)
    assert found.ok, found
    assert found.expected == found.bronze + found.quarantined == landed
    bronze = read_table(platform.settings, stream.bronze_table)["_offset"].to_pylist()
    rows = [n for each in good if each.claim for n in range(each.claim.start, each.claim.end)]
    assert set(rows) <= set(bronze)


def dropped(platform: Platform, stream: Stream, files: dict[str, bytes]) -> dict[str, Handled]:
    """What becomes of files that are dropped together."""
    for name, data in files.items():
        platform.drop.write(f"{stream.file_source.folder}/{name}", data)
    handled: list[Handled] = []
    with suppress(FilesRefused):
        run_stream(platform, stream, on_file=handled.append)
    assert len(handled) == len(files)
    return {each.name: each for each in handled}


def check_refused(platform: Platform, files: dict[str, bytes], handled: dict[str, Handled]) -> None:
    """What is refused is kept, with a reason that is not a reader's own failure."""
    for name, each in handled.items():
        assert each.outcome in ("landed", "copy", "empty", "refused"), each
        if each.outcome == "refused":
            assert platform.drop.read(each.kept) == files[name]
            assert each.detail in platform.drop.read(f"{each.kept}.reason.txt").decode()
            assert "please report it" not in each.detail, each


@pytest.mark.fault("files", "JSON records broken at random, as a topic or a request has them")
def test_broken_records_are_rejected_alone(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Each is valid or rejected with a reason, the same alone and among others."""
    rng = random.Random(pytestconfig.getoption("seed"))
    parser = Validator(new_stream(tmp_path).contract)
    sound = [json.dumps(row).encode() for row in events(200, seed=1)]
    values: list[bytes] = []
    for n in range(2 * pytestconfig.getoption("mutations")):
        values += [rng.choice(MUTATIONS)(rng, rng.choice(sound)), sound[n % len(sound)]]
    found = parser.parse(pa.array(values, pa.binary()))
    places = found.valid.to_pylist() + found.rejected.to_pylist()
    assert sorted(places) == list(range(len(values)))
    assert set(range(1, len(values), 2)) <= set(found.valid.to_pylist())
    reasons = dict(zip(found.rejected.to_pylist(), reason_texts(found.reasons), strict=True))
    assert all(reasons.values())
    for at in rng.sample(range(0, len(values), 2), 40):
        alone = parser.parse(pa.array([values[at]], pa.binary()))
        assert reason_texts(alone.reasons) == ([reasons[at]] if at in reasons else [])
