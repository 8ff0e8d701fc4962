"""Files of JSON: lines and arrays. As in `csv_cases`, of the contract `file_contract.yaml`.

What a record's values may be is told by `json_cases`.
"""

from __future__ import annotations

import gzip

from tests.formats.case import FormatCase

LINES, ARRAYS = "JSON Lines", "JSON arrays"
_ONE = "id: 1, note: x"
_TWO = f"{_ONE}; id: 2, note: y"
_GOOD = b'{"id":1,"note":"x"}'

CASES: tuple[FormatCase, ...] = (
    FormatCase(LINES, "an object on each line", _GOOD + b'\n{"id":2,"note":"y"}\n', "read", _TWO),
    FormatCase(
        LINES,
        "empty lines, CR LF, no last end",
        b"\n" + _GOOD + b"\r\n \n" + _GOOD,
        "read",
        f"{_ONE}; {_ONE}",
    ),
    FormatCase(
        LINES, "a byte order mark", b"\xef\xbb\xbf" + _GOOD, "read", _ONE, "", "EF BB BF {…"
    ),
    FormatCase(
        LINES,
        "UTF-16 with its mark",
        _GOOD.decode().encode("utf-16"),
        "read",
        _ONE,
        "",
        "FF FE { 00…",
    ),
    FormatCase(
        LINES, "gzip, whatever the name", gzip.compress(_GOOD, mtime=0), "read", _ONE, "", "1F 8B…"
    ),
    FormatCase(LINES, "nothing", b"", "read", ""),
    FormatCase(
        LINES,
        "a line that is cut",
        _GOOD + b'\n{"id":2,"no',
        "rejected",
        "value: is not valid JSON: cut off (is at line 2)",
    ),
    FormatCase(
        LINES,
        "half a surrogate pair",
        _GOOD + b'\n{"id":2,"note":"\\ud83d"}',
        "rejected",
        "value: is not valid JSON: cut off (is at line 2)",
    ),
    FormatCase(
        LINES,
        "two objects on a line",
        _GOOD + b'\n{"id":2}{"id":3}',
        "rejected",
        "value: is not valid JSON: trailing characters (is at line 2, byte 9)",
    ),
    FormatCase(
        LINES,
        "bytes that are not UTF-8",
        _GOOD + b'\n{"id":2,"note":"\xe9"}',
        "rejected",
        "value: is not valid UTF-8 (is at line 2)",
    ),
    FormatCase(
        LINES,
        "a line that is no object",
        _GOOD + b"\n[1]\n",
        "rejected",
        "value: must be a JSON object (is [1])",
    ),
    FormatCase(
        LINES,
        "a line of more than 8 MiB",
        _GOOD + b'\n"' + b"x" * 9_000_000 + b'"\n',
        "rejected",
        "value: is longer than 8,388,608 bytes: only its beginning is kept here "
        "(is 9,000,002 bytes long, at line 2)",
        "",
        '… "xxx…',
    ),
    FormatCase(
        LINES,
        "UTF-16 that is cut",
        _GOOD.decode().encode("utf-16")[:-1],
        "refused",
        "line 1: is not valid utf-16: 'utf-16-le' codec can't decode byte 0x7d in position "
        "0: truncated data",
        "",
        "FF FE { 00… }",
    ),
    FormatCase(
        ARRAYS, "an array of objects", b"[" + _GOOD + b',\n{"id":2,"note":"y"}]', "read", _TWO
    ),
    FormatCase(ARRAYS, "an empty array, or nothing", b" [ ]\n", "read", ""),
    FormatCase(
        ARRAYS,
        "an invalid item between commas",
        b"[" + _GOOD + b', {"id" 2}]',
        "rejected",
        "value: is not valid JSON: expecting ':' delimiter (is at line 1)",
    ),
    FormatCase(
        ARRAYS,
        "a comma that is missing",
        b"[" + _GOOD + b',\n{"id":2} {"id":3}]',
        "rejected",
        "value: is not valid JSON: a comma is missing, or a quote (is at line 2)",
    ),
    FormatCase(
        ARRAYS,
        "NaN",
        b"[" + _GOOD + b',{"id":2,"price":NaN}]',
        "rejected",
        "value: is not valid JSON: NaN is no value (is at line 1)",
    ),
    FormatCase(
        ARRAYS,
        "bytes that are not UTF-8",
        b"[" + _GOOD + b',{"id":2,"note":"\xe9"}]',
        "rejected",
        "value: is not valid UTF-8 (is at line 1)",
    ),
    FormatCase(
        ARRAYS,
        "an array that does not end",
        b"[" + _GOOD + b',\n{"id":2}',
        "refused",
        "line 2: ends before its array does",
    ),
    FormatCase(
        ARRAYS,
        "brackets that do not match",
        b"[" + _GOOD + b',\n{"id":[2}]',
        "refused",
        "line 2: is not valid JSON: expecting ',' delimiter; where the item ends cannot be told",
    ),
    FormatCase(
        ARRAYS,
        "no array",
        _GOOD,
        "refused",
        "line 1: starts with no [: a .json file holds one array of records",
    ),
    FormatCase(
        ARRAYS,
        "something behind the array",
        b"[" + _GOOD + b"]\n[]",
        "refused",
        "line 2: '[' follows the end of the array",
    ),
)
