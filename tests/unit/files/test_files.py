"""Reading files: each format gives its records exactly, or refuses with line and reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_platform.files import reading
from ingestion_platform.files.formats import (
    copy_file,
    copy_in,
    format_of,
    open_copy,
)
from ingestion_platform.files.reading import LONGEST, UnreadableFile
from ingestion_platform.files.spool import Spool

Read = Callable[[str, bytes], list[bytes]]


def read_in(spool: Spool, name: str, data: bytes) -> list[bytes]:
    """The records of a file of that name and content."""
    content = open_copy(copy_in(name, [data], spool), format_of(name), spool)
    return [value for batch in content.records() for value in batch.values.to_pylist()]


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Reads a file of a name and content."""
    with Spool(tmp_path / "spool") as spool:
        yield lambda name, data: read_in(spool, name, data)


def objects(values: list[bytes]) -> list[Any]:
    """Records as Python values."""
    return [json.loads(value) for value in values]


def test_csv_rows_are_objects_of_strings(read: Read) -> None:
    """NULL and nothing are null when they stand unquoted; quoted JSON comes through."""
    text = 'id,attributes,note\r\n1,"{""a"": [1, ""x""]}",NULL\r\n2,,"NULL"\r\n3,"",a\r\n'
    assert objects(read("x.csv", text.encode())) == [
        {"id": "1", "attributes": '{"a": [1, "x"]}', "note": None},
        {"id": "2", "attributes": None, "note": "NULL"},
        {"id": "3", "attributes": "", "note": "a"},
    ]


def test_csv_may_have_a_mark_breaks_in_values_and_no_last_newline(read: Read) -> None:
    """As spreadsheets and people write it."""
    data = b'\xef\xbb\xbfa,"b ""q"", c"\n"x\ny",\xc3\xa4\n\n1,2'
    assert objects(read("x.csv", data)) == [
        {"a": "x\ny", 'b "q", c': "ä"},
        {"a": "1", 'b "q", c': "2"},
    ]


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    header=st.lists(
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1), min_size=2, unique=True
    ),
    data=st.data(),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_comes_back_from_csv(
    tmp_path_factory: pytest.TempPathFactory, header: list[str], data: st.DataObject, end: str
) -> None:
    """Whatever is quoted is itself again."""
    rows = data.draw(
        st.lists(st.lists(_TEXTS, min_size=len(header), max_size=len(header)), max_size=5)
    )
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([header, *rows])
    with Spool(tmp_path_factory.getbasetemp() / "csv spool") as spool:
        found = objects(read_in(spool, "x.csv", out.getvalue().encode()))
    assert found == [dict(zip(header, row, strict=True)) for row in rows]


def test_jsonl_lines_are_taken_as_they_are(read: Read) -> None:
    """Blanks inside, any order of keys, any JSON value; empty lines are none."""
    data = b'{"b": 1.10, "a":2}\r\n\n  \n[1]\n"x"\n{"a":1,"a":2}'
    assert read("x.jsonl", data) == [b'{"b": 1.10, "a":2}', b"[1]", b'"x"', b'{"a":1,"a":2}']
    assert read("x.NDJSON", b'\xef\xbb\xbf{"a":1}') == [b'{"a":1}']


def test_json_array_items_are_taken_as_they_are(read: Read) -> None:
    """However the array is laid out."""
    data = '[\n  {"a": 1.10,\n "ä": "]"},2 , "x",[]\n,null]\n'
    items = ['{"a": 1.10,\n "ä": "]"}', "2", '"x"', "[]", "null"]
    assert read("products.json", data.encode()) == [item.encode() for item in items]
    for nothing in (b"[]", b" [ ] \n", b"", b"\n"):
        assert read("products.json", nothing) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=5
        ),
        max_size=8,
    )
)
def test_json_arrays_are_cut_right_wherever_a_piece_ends(
    tmp_path_factory: pytest.TempPathFactory, items: list[Any]
) -> None:
    """Pieces of seven characters cut strings, escapes and numbers."""
    folder = tmp_path_factory.getbasetemp() / "json spool"
    with Spool(folder) as spool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK", 7)
        found = read_in(spool, "x.json", json.dumps(items, indent=1).encode())
    assert objects(found) == items


Problems = Callable[[str, bytes], list[tuple[bytes, str]]]


@pytest.fixture
def problems(tmp_path: Path) -> Iterator[Problems]:
    """Reads a file; gives the records that have problems, each with those."""

    def read(name: str, data: bytes) -> list[tuple[bytes, str]]:
        content = open_copy(copy_in(name, [data], spool), format_of(name), spool)
        return [
            (batch.values[at].as_py(), "; ".join(map(str, found)))
            for batch in content.records()
            for at, found in sorted(batch.reasons.items())
        ]

    with Spool(tmp_path / "problem spool") as spool:
        yield read


def test_lines_of_jsonl_fail_alone(problems: Problems, read: Read) -> None:
    """Each with its bytes, the reason and the line."""
    bad = [
        (b'{"a":}', "is not valid JSON: invalid character", ", byte 5"),
        (b'{"a":1} {"a":2}', "is not valid JSON: trailing characters", ", byte 9"),
        (b'{"a":"\\ud83d"}', "is not valid JSON: cut off", ""),
        (b'{"a":NaN}', "is not valid JSON: invalid character", ", byte 5"),
        (b'{"a":"\xff"}', "is not valid UTF-8", ""),
        (b"[" * 10_000, "is nested too deeply", ""),
        (b'{"a":', "is not valid JSON: cut off", ""),
    ]
    data = b"\n\n".join(b'{"ok":1}\n' + value for value, *_ in bad)
    assert problems("x.jsonl", data) == [
        (value, f"value: {message} (is at line {2 + 3 * at}{place})")
        for at, (value, message, place) in enumerate(bad)
    ]
    assert len(read("x.jsonl", data)) == 2 * len(bad)


def test_too_long_lines_keep_their_beginning(problems: Problems, read: Read) -> None:
    """The lines around are read, wherever the pieces of the file end."""
    long = b'"' + b"x" * (2 * LONGEST) + b'"'
    data = b"\n".join([b"1", long, b"2", long, b"3"])
    assert [len(value) for value in read("x.jsonl", data)] == [1, LONGEST, 1, LONGEST, 1]
    (first, reason), _ = problems("x.jsonl", data)
    assert first == long[:LONGEST]
    assert reason == (
        "value: is longer than 8,388,608 bytes: only its beginning is kept here "
        "(is 16,777,218 bytes long, at line 2)"
    )


def test_items_of_json_arrays_fail_alone(problems: Problems, read: Read) -> None:
    """As long as the commas between items can be told."""
    data = b'[\n{"a":1},\n{"a" 2},\n1 2, NaN, "\xff",\n[' + b"[" * 3000 + b"]" * 3000 + b"],,3]"
    values = read("x.json", data)
    assert values[:5] == [b'{"a":1}', b'{"a" 2}', b"1 2", b"NaN", b'"\xff"']
    assert values[6:] == [b"", b"3"]
    assert [reason for _, reason in problems("x.json", data)] == [
        "value: is not valid JSON: expecting ':' delimiter (is at line 3)",
        "value: is not valid JSON: a comma is missing, or a quote (is at line 4)",
        "value: is not valid JSON: NaN is no value (is at line 4)",
        "value: is not valid UTF-8 (is at line 4)",
        "value: is nested too deeply (is at line 5)",
        "value: is not valid JSON: expecting value (is at line 5)",
    ]


def test_parquet_values_are_exact(read: Read) -> None:
    """Long decimals, times with and without a zone, nested values, text kept as bytes."""
    noon = datetime(2024, 12, 17, 10, 0, 0, 5)
    table = pa.table(
        {
            "price": pa.array([Decimal("12345678901234567890.10")]),
            "at": pa.array([noon], pa.timestamp("us")),
            "zoned": pa.array([noon.replace(tzinfo=UTC)], pa.timestamp("us", tz="UTC")),
            "nanos": pa.array([1_734_429_600_123_456_789], pa.timestamp("ns")),
            "day": pa.array([date(2024, 12, 17)]),
            "map": pa.array([[("a", 1.5)]], pa.map_(pa.string(), pa.float64())),
            "struct": pa.array([{"x": 2**63 - 1, "y": [None, "z"]}]),
            "bytes": pa.array([b"text"]),
            "nan": pa.array([float("nan")]),
            "nothing": pa.nulls(1),
        }
    )
    (value,) = read("x.parquet", parquet(table))
    assert b'"price":12345678901234567890.10' in value
    assert json.loads(value) | {"price": 0} == {
        "price": 0,
        "at": "2024-12-17T10:00:00.000005",
        "zoned": "2024-12-17T10:00:00.000005Z",
        "nanos": "2024-12-17T10:00:00.123456789",
        "day": "2024-12-17",
        "map": {"a": 1.5},
        "struct": {"x": 2**63 - 1, "y": [None, "z"]},
        "bytes": "text",
        "nan": "nan",  # no JSON number: a contract's number refuses it
        "nothing": None,
    }


def parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv.GZIP", "x.csv.zst", "x.csv.zstd"])
def test_compressed_files(read: Read, name: str) -> None:
    """Of one stream or of several, one behind the other."""
    parts = [b"a,b\n1,2\n", b"3,4\n"]
    if "z" in name.lower() and "g" in name.lower():
        data = b"".join(map(gzip.compress, parts))
    else:
        data = b"".join(pa.compress(part, "zstd", asbytes=True) for part in parts)
    assert objects(read(name, data)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


_CSV_GZ = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
_TABLE = parquet(pa.table({"a": list(range(1000))}))

BAD = [
    ("x.csv", b'a,b\n1,"x\n', r"line 2: a quoted value does not end"),
    ("x.csv", b'a,b\n1,2\n1,"x"y\n', r"line 3: text follows the quote that ends"),
    ("x.csv", b"a,b\n1,\xff\n", r"line 2: is not valid UTF-8"),
    ("x.csv", b"a,,c\n1,2,3\n", r"line 1: column 2 of the header has no name"),
    ("x.csv", b"a,b,a\n1,2,3\n", r"line 1: the header names a twice"),
    ("x.csv", b"a\x00,\x00b\x00", r"line 1: the header has NUL bytes: .*`encoding: utf-16-le`"),
    ("x.csv", b"a" * (LONGEST + 1), r"line 1: the header is longer than"),
    ("x.csv", b'a,b\n1,"' + b"x" * LONGEST + b"\n", r"line 2: a quoted value does not end"),
    ("x.csv", b'a,b\n1, "x"\n', r"line 2: blanks stand ahead of a quote: declare `trim: true`"),
    ("x.csv", b"a;b\n1;2\n", r"line 1: no comma separates .* declare `delimiter: ';'`"),
    ("x.csv", b"PK\x03\x04", r"is a ZIP archive or an Excel workbook"),
    ("x.json", b'{"a":1}\n{"a":2}', r"line 1: starts with no \["),
    ("x.json", b'[\n{"a":1},\n{"a" [1}]', r"line 3: .* where the item ends cannot be told"),
    ("x.json", b'[{"a":1}', r"line 1: ends before its array does"),
    ("x.json", b'[{"a":"b', r"line 1: ends before its array does"),
    ("x.json", b"[1]\n[2]", r"line 2: '\[' follows the end"),
    ("x.json", b"[" * 100_000, r"line 1: ends before its array does"),
    ("x.json", '["é"]'.encode("utf-16")[:-1], r"line 1: is not valid text: .*truncated"),
    ("x.jsonl", '["é"]'.encode("utf-16")[:-1], r"line 1: is not valid utf-16: .*truncated"),
    ("x.parquet", _TABLE[:-10], r"is not a valid Parquet file: it does not end"),
    ("x.parquet", _TABLE[:4] + b"\0" * 300 + _TABLE[304:], r"is not a valid Parquet file"),
    ("x.parquet", b"a,b\n", r"it does not start with PAR1"),
    ("x.parquet", _TABLE[:-4] + b"PARE", r"is an encrypted Parquet file"),
    ("x.parquet", parquet(pa.table([[1], [2]], names=["a", "a"])), r"two columns named a"),
    ("x.csv.gz", _CSV_GZ[:-9], r"is not valid gzip"),
    ("x.csv.gz", _CSV_GZ[:-8] + b"\0" * 8, r"is not valid gzip"),
    ("x.csv.gz", b"a,b\n1,2\n", r"is not valid gzip"),
    ("x.csv.zst", pa.compress(b"a,b\n", "zstd", asbytes=True)[:-2], r"is not valid zstd"),
    ("x.txt", b"a", r"its format is unknown"),
    ("x.parquet.gz", b"a", r"is compressed inside"),
]


@pytest.mark.parametrize(("name", "data", "reason"), BAD, ids=[b[2][:40] for b in BAD])
def test_a_file_that_cannot_be_parsed_is_refused(
    read: Read, name: str, data: bytes, reason: str
) -> None:
    """With its name, the line where there are lines, and the reason."""
    with pytest.raises(UnreadableFile, match=reason) as caught:
        read(name, data)
    assert str(caught.value).startswith(name)


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    """It names the path."""
    with (
        Spool(tmp_path / "spool") as spool,
        pytest.raises(UnreadableFile, match=r"nothing\.csv: there is no such file"),
    ):
        copy_file(tmp_path / "nothing.csv", spool)


def test_a_spool_removes_itself_and_those_of_the_dead(tmp_path: Path) -> None:
    """But none that is in use."""
    dead = tmp_path / "dead"
    dead.mkdir()
    (dead / "lock").touch()
    with Spool(tmp_path) as one:
        one.new().write_bytes(b"x")
        with Spool(tmp_path) as other:
            other.new().write_bytes(b"y")
            assert len(list(tmp_path.iterdir())) == 2
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
