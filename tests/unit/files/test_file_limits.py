"""What is read of a file is bounded: by bytes, by ratio, by records and by room on the disk."""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import zlib
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion_platform.errors import ContractError, SettingError
from ingestion_platform.files import formats as files
from ingestion_platform.files import reading
from ingestion_platform.files.formats import (
    BeyondLimit,
    Content,
    copy_in,
    format_of,
    open_copy,
)
from ingestion_platform.files.reading import UnreadableFile
from ingestion_platform.files.spool import NoRoom, Spool
from ingestion_platform.settings import FileLimits, Settings
from ingestion_platform.sizes import bytes_of, in_units
from ingestion_platform.streams import stream_of

MIB = 1024 * 1024
LIMITS = FileLimits(max_size=100 * MIB, max_ratio=200, max_records=1000)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A spool of the test's own."""
    with Spool(tmp_path / "spool") as opened:
        yield opened


def opened(spool: Spool, name: str, data: bytes, limits: FileLimits = LIMITS) -> Content:
    """A file of that name and content, ready to be read."""
    return open_copy(copy_in(name, [data], spool, limits), format_of(name), spool, limits)


def used(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def blank_lines(size: int) -> bytes:
    """A small gzip of so many blank lines."""
    return gzip.compress(b"\n" * size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.gz", "x.json.gz"])
def test_blank_line_bomb_stops_early(spool: Spool, tmp_path: Path, name: str) -> None:
    """300 MB of blank lines are refused by their ratio, in our words."""
    with pytest.raises(BeyondLimit, match=r"decompress to more than 200 times as many") as caught:
        opened(spool, name, blank_lines(300_000_000), FileLimits())
    assert "FILES_MAX_RATIO" in caught.value.action
    assert used(tmp_path) < files.RATIO_FROM + 2 * reading.CHUNK


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv.zst"])
def test_decompressed_size_is_bounded(spool: Spool, tmp_path: Path, name: str) -> None:
    """Also where several compressed members follow each other."""
    member = b"a" * 30 * MIB
    packed = gzip.compress(member) if name.endswith("gz") else bytes(pa.compress(member, "zstd"))
    limits = FileLimits(max_size=100 * MIB, max_ratio=10_000_000)
    with pytest.raises(BeyondLimit, match=r"has more than 100\.0 MiB when decompressed"):
        opened(spool, name, packed * 20, limits)
    assert used(tmp_path) < 102 * MIB


def test_zstd_ingest_date_beyond_memory_is_refused(spool: Spool) -> None:
    """A frame that declares a window of 2 GiB takes no memory."""
    # Magic, a descriptor with neither size nor checksum, a window of 2 GiB, an empty last block.
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(UnreadableFile, match="is not valid zstd"):
        opened(spool, "x.csv.zst", frame)


def test_repetitive_small_files_are_read(spool: Spool) -> None:
    """The ratio holds from 64 MiB on."""
    rows = b"a\n" + b"1\n" * 900
    content = opened(spool, "x.csv.gz", gzip.compress(rows), FileLimits(max_ratio=1))
    assert content.count() == 900


def test_copying_ends_at_the_limit(spool: Spool, tmp_path: Path) -> None:
    """A file without an end is refused; what was read of it is bounded."""
    read = 0

    def zeros() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += MIB
            yield bytes(MIB)

    with pytest.raises(BeyondLimit, match=r"has more than 100\.0 MiB, the most") as caught:
        copy_in("zero.csv", zeros(), spool, LIMITS)
    assert read == 101 * MIB
    assert re.search(r"FILES_MAX_SIZE or `max_size`", caught.value.action)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", b"[" + b"{}," * 1500 + b"{}]"),
        ("x.jsonl", b"{}\n" * 1500),
        ("x.csv", b"a,b\n" + b"1,2\n" * 1500),
    ],
)
def test_records_are_bounded(spool: Spool, name: str, data: bytes) -> None:
    """An array of very many empty items stops at the limit."""
    with pytest.raises(BeyondLimit, match=r"more than 1,000 records, the most that are taken"):
        opened(spool, name, data).count()


def test_parquet_footer_is_checked_first(spool: Spool) -> None:
    """A million rows in a few bytes, and columns without end."""
    rows = io.BytesIO()
    pq.write_table(pa.table({"a": pa.repeat(1, 1_000_000)}), rows)
    with pytest.raises(BeyondLimit, match=r"more than 1,000 records"):
        opened(spool, "x.parquet", rows.getvalue())
    wide = io.BytesIO()
    pq.write_table(pa.table({f"c{n}": [1] for n in range(reading.COLUMNS + 1)}), wide)
    with pytest.raises(UnreadableFile, match=r"has 10,001 columns, more than 10,000"):
        opened(spool, "y.parquet", wide.getvalue())


@pytest.mark.parametrize("name", ["x.csv", "x.json"])
def test_enormous_line_is_refused(spool: Spool, name: str) -> None:
    """Its length is bounded, whatever the file may have."""
    start = {"x.csv": b"a\n", "x.json": b"["}[name]
    with pytest.raises(UnreadableFile, match=r"longer than 8,388,608 bytes|does not end"):
        opened(spool, name, start + b'"' + b"x" * 30 * MIB).count()


def test_million_columns_are_refused_at_once(spool: Spool) -> None:
    """A header of a million names, all different."""
    text = io.StringIO()
    csv.writer(text).writerow(range(1_000_000))
    with pytest.raises(UnreadableFile, match=r"line 1.*1,000,000 columns, more than 10,000"):
        opened(spool, "x.csv", text.getvalue().encode()).count()


def test_faulty_reader_costs_its_file(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises, the file is refused, and the next one can be read."""

    def faulty(*_: object) -> Iterator[reading.Records]:
        raise OverflowError("date value out of range")

    monkeypatch.setattr(files, "read_csv", faulty)
    with pytest.raises(UnreadableFile, match="csv reader failed with OverflowError: date value"):
        opened(spool, "x.csv", b"a\n1\n").count()


def test_full_disk_is_seen_before_it_is_full(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of it, or 1 GiB, stays free; what fits is copied."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100 * MIB, 94 * MIB, 6 * MIB))
    copy_in("x.csv", [bytes(MIB)], spool, LIMITS)
    with pytest.raises(NoRoom, match=r"no room for a copy: 6\.0 MiB are free"):
        copy_in("x.csv", [bytes(2 * MIB)], spool, LIMITS)
    packed = zlib.compressobj(wbits=31)
    data = packed.compress(bytes(3 * MIB)) + packed.flush()
    with pytest.raises(NoRoom):
        opened(spool, "x.csv.gz", data)


def test_sizes_are_read_and_written_in_units(tmp_path: Path) -> None:
    """In settings and in a stream's declaration."""
    assert [bytes_of(each) for each in ("12", "500MB", "4 GiB", "1.5kib")] == [
        12,
        500_000_000,
        4 * 1024**3,
        1536,
    ]
    assert (in_units(4 * 1024**3), in_units(1234)) == ("4.0 GiB", "1,234 bytes")
    assert Settings.load({"FILES_MAX_SIZE": "1GB"}, root=tmp_path).files.max_size == 10**9
    for wrong in ("0", "many", "-1", "4 parsecs"):
        with pytest.raises(SettingError, match=r"FILES_MAX_SIZE: .* is not a size such as"):
            Settings.load({"FILES_MAX_SIZE": wrong}, root=tmp_path)
    (tmp_path / "x.odcs.yaml").touch()
    declared = {"name": "x", "files": {"folder": "x", "max_size": "2MB"}}
    stream = stream_of(declared, tmp_path)
    assert stream.files is not None
    assert stream.files.max_size == 2_000_000
    with pytest.raises(ContractError, match=r"files, max_size: 'big' is not a size"):
        stream_of({"name": "x", "files": {"max_size": "big"}}, tmp_path)
