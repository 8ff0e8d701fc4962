"""Reading CSV rows as JSON objects of strings, by the names of the header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

from ingestion_platform.sources.reading import (
    BATCH,
    COLUMNS,
    LONGEST,
    Records,
    UnreadableFile,
    repeated,
)


def read_csv(name: str, path: Path) -> Iterator[Records]:
    """Each row as a JSON object of strings, by the names of the header.

    Raises:
        UnreadableFile: it cannot be parsed.
    """
    for v in _csv(name, path):
        yield Records(v, {})


def _csv(name: str, path: Path) -> Iterator[pa.BinaryArray]:
    """Each row as a JSON object of strings, by the names of the header."""
    import duckdb
    import pyarrow as pa

    header = _header(name, path)
    if header is None:
        return
    connection = duckdb.connect(":memory:")
    # One thread keeps the order of the rows.
    connection.execute("SET threads = 1; SET autoinstall_known_extensions = false")
    try:
        found = connection.execute(_csv_query(header), [str(path)])
        for batch in found.to_arrow_reader(BATCH):
            yield batch.column(0).cast(pa.binary())
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _csv_error(name, str(error)) from error
    finally:
        connection.close()


def _csv_query(header: Sequence[str]) -> str:
    columns = [f"c{i}" for i in range(len(header))]
    types = ", ".join(f"{column}: 'VARCHAR'" for column in columns)
    literals = ["'" + title.replace("'", "''") + "'" for title in header]
    pairs = ", ".join(f"{title}, {column}" for title, column in zip(literals, columns, strict=True))
    return f"""SELECT CAST(json_object({pairs}) AS VARCHAR) FROM read_csv(?, auto_detect = false,
        columns = {{{types}}}, header = true, delim = ',', quote = '"', escape = '"',
        nullstr = ['', 'NULL'], allow_quoted_nulls = false, strict_mode = true,
        max_line_size = {LONGEST}, buffer_size = {LONGEST})"""


def _header(name: str, path: Path) -> list[str] | None:
    """The names of a CSV file's columns; None when there is nothing in it."""
    # What is not UTF-8 further down is the reader's to tell.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = iter(lambda: file.readline(LONGEST), "")
        try:
            found = next((row for row in csv.reader(lines, strict=True) if row), None)
        except csv.Error as error:
            raise UnreadableFile(name, f"has no header that can be read: {error}", line=1) from None
    if found is None:
        return None
    if re.search("[\0\ud800-\udfff]", "".join(found)):
        raise UnreadableFile(name, "the header is no text, or not in UTF-8", line=1)
    if "" in found:
        raise UnreadableFile(name, "a column of the header has no name", line=1)
    if len(found) > COLUMNS:
        problem = f"the header has {len(found):,} columns, more than {COLUMNS:,}"
        raise UnreadableFile(name, problem, line=1)
    if twice := repeated(found):
        raise UnreadableFile(name, f"the header names {', '.join(twice)} twice", line=1)
    return found


def _csv_error(name: str, said: str) -> UnreadableFile:
    """A reader's long message as a line and a reason."""
    line = re.search(r"Line: (\d+)", said)
    columns = re.search(r"Number of Columns: (\d+) Found: (\d+)", said)
    if columns:
        problem = f"has {columns[2]} values, the header {columns[1]}"
    elif "state machine" in said:
        problem = "lines end in different ways (LF and CR LF), or a quote stands where none may"
    elif "unicode" in said:
        problem = "is not valid UTF-8"
    elif "unterminated quote" in said:
        problem = "a quoted value does not end, or something follows its end"
    elif "Maximum line size" in said:
        problem = f"is longer than {LONGEST:,} bytes"
    else:
        problem = said.splitlines()[0].partition("Error: ")[2] or said.splitlines()[0]
    return UnreadableFile(name, problem, line=int(line[1]) if line else None)
