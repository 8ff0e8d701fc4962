"""CSV: the reading in columns and the one row by row agree on everything, with every dialect."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestion_platform.dialect import PLAIN, Dialect, dialect_of
from ingestion_platform.errors import ContractError
from ingestion_platform.files import csv_files, reading
from ingestion_platform.files.csv_files import read_csv
from ingestion_platform.files.reading import LONGEST, UnreadableFile

Found = tuple[list[tuple[bytes, list[str]]], str]
"""Values with their problems, and what the file was rejected for."""

DIALECTS = (
    PLAIN,
    Dialect(trim=True),
    Dialect(quote=""),
    Dialect(delimiter=";", quote="'", null_values=("x",)),
    Dialect(delimiter="\t", header=("p", "q"), skip_lines=1),
)


def read(path: Path, data: bytes, dialect: Dialect = PLAIN) -> Found:
    """The records of a file of this content."""
    path.write_bytes(data)
    found: list[tuple[bytes, list[str]]] = []
    try:
        for batch in read_csv("x.csv", path, dialect):
            problems = {
                at: [str(r).partition(": ")[2] for r in each] for at, each in batch.reasons.items()
            }
            assert all(0 <= at < len(batch) for at in problems)
            values = enumerate(batch.values.to_pylist())
            found += [(value, problems.get(at, [])) for at, value in values]
    except UnreadableFile as error:
        return [], error.problem
    return found, ""


@settings(max_examples=150, deadline=None)
@given(
    data=st.text(st.sampled_from("a1N,;\t\"'\r\n x\\é\0"), max_size=60),
    head=st.sampled_from(["a,b\n", "a;b\r\n", "\n,\na,b,\r", "a\n", "sep=;\na;b;;\n"]),
    dialect=st.sampled_from(DIALECTS),
    chunk=st.sampled_from([3, 8, 1 << 20]),
)
@example(data='1,"x\n', head="a,b\n", dialect=PLAIN, chunk=3)
@example(data='1,5" x\n2,3\n4,5', head="a,b\n", dialect=PLAIN, chunk=8)
def test_both_ways_of_reading_agree(
    tmp_path_factory: pytest.TempPathFactory, data: str, head: str, dialect: Dialect, chunk: int
) -> None:
    """Records, problems with their lines, and what refuses a file; wherever its pieces end."""
    path = tmp_path_factory.getbasetemp() / "agree.csv"
    text = (head + data).encode()
    with pytest.MonkeyPatch.context() as patch:
        whole = read(path, text, dialect)
        patch.setattr(reading, "CHUNK", chunk)
        quickly = read(path, text, dialect)
        patch.setattr(csv_files, "_scan", lambda *_, **__: None)
        carefully = read(path, text, dialect)
    assert quickly == carefully == whole


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
                           min_size=2, max_size=2), max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    quote=st.sampled_from("\"'"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip
def test_written_values_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    delimiter: str,
    quote: str,
    encoding: str,
    end: str,
) -> None:
    """Whatever is quoted is itself, in any dialect and encoding with a mark."""
    out = io.StringIO(newline="")
    writer = csv.writer(
        out, delimiter=delimiter, quotechar=quote, quoting=csv.QUOTE_ALL, lineterminator=end
    )
    writer.writerows([["a", "b"], *rows])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    data = out.getvalue().encode(encoding)
    found, rejected = read(path, data, Dialect(delimiter=delimiter, quote=quote))
    assert rejected == ""
    assert [json.loads(value) for value, _ in found] == [{"a": a, "b": b} for a, b in rows]


def test_many_bad_rows_keep_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among good ones and values of several lines, in several blocks."""
    monkeypatch.setattr(reading, "CHUNK", 300_000)
    rows = [f'{n},"x\n{n}"\n' if n % 3 else f"{n}\n" for n in range(90_000)]
    found, _ = read(tmp_path / "x.csv", ("a,b\n" + "".join(rows)).encode())
    assert len(found) == len(rows)
    line = 2
    for n, (value, problems) in enumerate(found):
        if n % 3:
            assert json.loads(value) == {"a": str(n), "b": f"x\n{n}"}
            assert problems == []
            line += 2
        else:
            assert value == b"%d" % n
            assert problems == [f"has 1 values, the header 2 (is at line {line:,})"]
            line += 1


def test_too_long_rows_keep_their_beginning(tmp_path: Path) -> None:
    """The rows around are read."""
    data = b"a,b\n1,2\n" + b"x" * (3 * LONGEST) + b",y\r\n3,4\n"
    found, _ = read(tmp_path / "x.csv", data)
    assert [len(value) for value, _ in found] == [17, LONGEST, 17]
    assert found[1][1] == [
        "is longer than 8,388,608 bytes: only its beginning is kept here "
        "(is 25,165,826 bytes long, at line 3)"
    ]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"delimiter": "::"}, "files, delimiter: '::' is not one ASCII character"),
        ({"quote": ""}, "files, quote: '' is not one ASCII character"),
        ({"delimiter": "'", "quote": "'"}, "files, quote: is the delimiter too"),
        ({"decimal": ","}, "files, decimal: is the delimiter too"),
        ({"decimal": "x"}, "files, decimal: 'x' is not . or ,"),
        ({"encoding": "base64"}, "files, encoding: 'base64' is no encoding of text"),
        ({"encoding": 7}, "files, encoding: 7 is no encoding of text"),
        ({"header": ["a", "a"]}, "files, header: names a column twice"),
        ({"header": "a"}, "files, header: is no list of names"),
        ({"header": [" a"]}, "files, header: has a name that is empty"),
        ({"skip_lines": -1}, "files, skip_lines: -1 is no number of lines"),
        ({"trim": "yes"}, "files, trim: 'yes' is not true or false"),
        ({"null_values": "x"}, "files, null_values: is no list of texts"),
    ],
)
def test_impossible_settings_are_rejected(given: dict[str, Any], problem: str) -> None:
    """With the setting, its value and what it may be."""
    with pytest.raises(ContractError) as caught:
        dialect_of(given, "defs.yaml")
    assert problem in caught.value.message
    assert caught.value.action


def test_dialects_survive_their_json() -> None:
    """As claims of the lake keep them."""
    declared = {"delimiter": ";", "quote": "none", "header": ["a"], "null_values": []}
    dialect = dialect_of(declared, "defs.yaml")
    assert dialect == Dialect(delimiter=";", quote="", header=("a",), null_values=())
    assert Dialect.from_json(json.loads(json.dumps(dialect.to_json()))) == dialect
