"""CSV files: what is read, what is rejected and what is refused, and with which words.

`result` of a read case is its rows, of a rejected one the reason, of a refused one the problem.
The contract is `file_contract.yaml` beside this file.
"""

from __future__ import annotations

import gzip

import pyarrow as pa

from tests.formats.case import FormatCase

CSV = "CSV"


def read(title: str, given: bytes, result: str, setting: str = "", shown: str = "") -> FormatCase:
    """A file that is read."""
    return FormatCase(CSV, title, given, "read", result, setting, shown)


def rejected(title: str, given: bytes, result: str, setting: str = "") -> FormatCase:
    """A file with a row that is rejected; another one is read."""
    return FormatCase(CSV, title, given, "rejected", result, setting)


def refused(
    title: str, given: bytes, result: str, setting: str = "", shown: str = ""
) -> FormatCase:
    """A file that is refused."""
    return FormatCase(CSV, title, given, "refused", result, setting, shown)


_ONE = "id: 1, note: x"
_TWO = f"{_ONE}; id: 2, note: y"

CASES: tuple[FormatCase, ...] = (
    read("a header and rows", b"id,note\n1,x\n2,y\n", _TWO),
    read("columns in any order, and some that no contract names", b"note,z,id\nx,9,1\n", _ONE),
    read(
        "quotes, with commas, line breaks and doubled quotes inside",
        b'id,note\n1,"a, ""b""\nc"\n',
        'id: 1, note: a, "b"\nc',
    ),
    read("lines that end with CR LF", b"id,note\r\n1,x\r\n2,y\r\n", _TWO),
    read("lines that end with CR", b"id,note\r1,x\r2,y\r", _TWO),
    read("lines that end in several ways", b"id,note\r\n1,x\n2,y\r", _TWO),
    read("no end of the last line", b"id,note\n1,x", _ONE),
    read("empty lines, also ahead of the header", b"\n\nid,note\n\n1,x\n \n2,y\n", _TWO),
    read("rows of nothing but commas", b"id,note\n1,x\n,\n2,y\n,\n", _TWO),
    read("a comma behind each row", b"id,note,\n1,x,\n2,y,\n", _TWO),
    read("a comma behind the header only", b"id,note,\n1,x\n2,y\n", _TWO),
    read("blanks around names of columns", b" id , note\n1,x\n", _ONE),
    read("an unquoted empty value or NULL is null", b"id,note,price\n1,NULL,\n", "id: 1"),
    read(
        "a quoted empty value or NULL is text",
        b'id,note\n1,"NULL"\n2,""\n',
        "id: 1, note: NULL; id: 2, note: ",
    ),
    read(
        "signs, zeros ahead and powers in numbers",
        b"id,price\n+007,.5\n8,1e2\n",
        "id: 7, price: 0.500; id: 8, price: 100.000",
    ),
    read("nothing", b"", ""),
    read("a header only", b"id,note", ""),
    read(
        "a byte order mark of UTF-8",
        b"\xef\xbb\xbfid,note\n1,\xc3\xa9\n",
        "id: 1, note: é",
        shown="EF BB BF id,note…",
    ),
    read(
        "UTF-16 with its mark",
        "id,note\n1,é\n".encode("utf-16"),
        "id: 1, note: é",
        shown="FF FE i 00 d 00…",
    ),
    read(
        "gzip, whatever the name", gzip.compress(b"id,note\n1,x\n", mtime=0), _ONE, shown="1F 8B…"
    ),
    read(
        "zstd, whatever the name",
        pa.compress(b"id,note\n1,x\n", "zstd", asbytes=True),
        _ONE,
        shown="28 B5 2F FD…",
    ),
    read(
        "a first line that says the delimiter, as Excel writes it",
        b"sep=;\r\nid;note\r\n1;x\r\n",
        _ONE,
    ),
    read("another delimiter", b"id;note\n1;x\n", _ONE, "delimiter: ';'"),
    read("tabs", b"id\tnote\n1\tx\n", _ONE, 'delimiter: "\\t"'),
    read("another quote", b"id,note\n1,'a, b'\n", "id: 1, note: a, b", 'quote: "\'"'),
    read("no quotes", b'id,note\n1,5" disk\n', 'id: 1, note: 5" disk', "quote: none"),
    read(
        "another encoding",
        "id,note\n1,é\n".encode("latin-1"),
        "id: 1, note: é",
        "encoding: latin-1",
        shown="id,note 1,E9",
    ),
    read(
        "UTF-16 without a mark",
        "id,note\n1,x\n".encode("utf-16-le"),
        _ONE,
        "encoding: utf-16-le",
        shown="i 00 d 00…",
    ),
    read("no header", b"1,x\n2,y\n", _TWO, "header: [id, note]"),
    read("lines ahead of the header", b"Report\nof today\nid,note\n1,x\n", _ONE, "skip_lines: 2"),
    read("blanks around values", b'id , note\n 1 , "x"\n 2, y\n', _TWO, "trim: true"),
    read("other words for null", b"id,note\n1,n/a\n", "id: 1", "null_values: ['', n/a]"),
    read(
        "decimal commas",
        b"id;price\n1;12,50\n",
        "id: 1, price: 12.500",
        "{delimiter: ';', decimal: ','}",
    ),
    rejected(
        "too few values", b"id,note\n1,x\n2\n", "value: has 1 values, the header 2 (is at line 3)"
    ),
    rejected(
        "too many values",
        b"id,note\n1,x\n2,Smith, John\n",
        "value: has 3 values, the header 2 (is at line 3)",
    ),
    rejected(
        "a value under no name",
        b"id,note,\n1,x,\n2,y,z\n",
        "value: has a value in a column without a name (is at line 3)",
    ),
    rejected(
        "a quote inside an unquoted value",
        b'id,note\n1,x\n2,5" disk\n',
        "value: has a quote inside a value that is not quoted (is at line 3)",
    ),
    rejected(
        "a word where a number must be",
        b"id,note\n1,x\ntwo,y\n",
        "id: expected integer, got string",
    ),
    rejected("blanks around a number", b"id,note\n1,x\n 2,y\n", "id: expected integer, got string"),
    rejected(
        "a decimal comma that is not declared",
        b'id,price\n1,2\n2,"1,5"\n',
        "price: expected number, got string",
    ),
    rejected(
        "dots between thousands",
        b"id;price\n1;2\n2;1.234,5\n",
        "price: expected number, got string",
        "{delimiter: ';', decimal: ','}",
    ),
    rejected(
        "a null where a value is required",
        b"id,note\n1,x\n,y\n",
        "id: is required, but missing or null",
    ),
    refused(
        "another delimiter that is not declared",
        b"id;note\n1;x\n",
        "line 1: no comma separates the columns, but ';' may: declare `delimiter: ';'` under "
        "`files:`",
        "delimiter: ';'",
    ),
    refused(
        "tabs that are not declared",
        b"id\tnote\n1\tx\n",
        'line 1: no comma separates the columns, but "\\t" may: declare `delimiter: "\\t"` '
        "under `files:`",
        'delimiter: "\\t"',
    ),
    refused(
        "bars that are not declared",
        b"id|note\n1|x\n",
        "line 1: no comma separates the columns, but '|' may: declare `delimiter: '|'` under "
        "`files:`",
        "delimiter: '|'",
    ),
    refused(
        "another encoding that is not declared",
        "id,note\n1,x\n2,é\n".encode("latin-1"),
        "line 3: is not valid UTF-8 (byte 0xE9): if it is in another encoding, declare it "
        "under `files:`, for example `encoding: latin-1`",
        "encoding: latin-1",
        shown="id,note 1,x 2,E9",
    ),
    refused(
        "UTF-16 without a mark that is not declared",
        "id,note\n1,x\n".encode("utf-16-le"),
        "line 1: the header has NUL bytes: if it is UTF-16, declare `encoding: utf-16-le` "
        "under `files:`",
        "encoding: utf-16-le",
        shown="i 00 d 00…",
    ),
    refused(
        "a quote that is not closed",
        b'id,note\n1,x\n2,"y\n3,z\n',
        "line 3: a quoted value does not end",
    ),
    refused(
        "text behind a closing quote",
        b'id,note\n1,"say "hi""\n',
        "line 2: text follows the quote that ends a value: a quote inside a value must be "
        "written twice",
    ),
    refused(
        "blanks ahead of a quote",
        b'id,note\n1, "x"\n',
        "line 2: blanks stand ahead of a quote: declare `trim: true` under `files:`",
        "trim: true",
    ),
    refused(
        "a column without a name between others",
        b"id,,note\n1,x,y\n",
        "line 1: column 2 of the header has no name",
    ),
    refused("a name twice", b"id,note,id\n1,x,2\n", "line 1: the header names id twice"),
    refused(
        "no column of the contract",
        b"a,b\n1,x\n",
        "line 1: none of the columns (a, b) is a field of the contract (id, note, price, day, at)",
    ),
    refused(
        "no header, and not declared",
        b"1,x,2,2026-11-20,2026-11-20T10:00:00Z\n",
        "line 1: none of the columns (1, x, 2, 2026-11-20, 2026-11-20T10:00:00Z) is a field "
        "of the contract (id, note, price, day, at); if the file has no header, declare "
        "`header: [names]` under `files:`",
        "header: [names]",
    ),
    refused(
        "a required column that is missing",
        b"\nID,note\n1,x\n",
        "line 2: required columns are missing: id ('ID' is not 'id')",
    ),
    refused(
        "an Excel workbook under the name of CSV",
        b"PK\x03\x04\x14\x00",
        "is a ZIP archive or an Excel workbook: save it as CSV",
        shown="PK 03 04…",
    ),
    refused(
        "Parquet under the name of CSV",
        b"PAR1\x15\x00",
        "is a Parquet file: name it .parquet",
        shown="PAR1…",
    ),
)
