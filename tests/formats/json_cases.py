"""JSON records and their values: what is read, what is rejected, and with which words.

`result` of a read case is `field: value` as the table has it, of a rejected one part of a reason.
The tests run each case through the parser with the contract `json_contract.yaml` beside this file.
"""

from __future__ import annotations

from formats.case import FormatCase

RECORDS, COLUMNS = "JSON records", "JSON columns"

CASES: tuple[FormatCase, ...] = (
    FormatCase(RECORDS, "a field that no contract names", b'{"id":1,"extra":[2]}', "read", "id: 1"),
    FormatCase(RECORDS, "white space around", b' {"id": 1}\r\n', "read", "id: 1"),
    FormatCase(RECORDS, "a key with an escape", b'{"\\u0069d":1}', "read", "id: 1"),
    FormatCase(RECORDS, "a key twice", b'{"id":1,"id":2}', "rejected", "id: the key stands twice"),
    FormatCase(
        RECORDS,
        "a number in a string",
        b'{"id":"1"}',
        "rejected",
        "id: expected integer, got string",
    ),
    FormatCase(RECORDS, "a cut record", b'{"id":1', "rejected", "value: is not valid JSON"),
    FormatCase(
        RECORDS, "a comma too many", b'{"id":1,}', "rejected", "value: is not valid JSON: trailing"
    ),
    FormatCase(
        RECORDS,
        "NaN, also where no field is",
        b'{"id":1,"x":NaN}',
        "rejected",
        "value: is not valid",
    ),
    FormatCase(
        RECORDS,
        "half a surrogate pair",
        b'{"id":1,"x":"\\ud83d"}',
        "rejected",
        "value: is not valid",
    ),
    FormatCase(
        RECORDS,
        "bytes that are not UTF-8",
        b'{"id":1,"x":"\xff"}',
        "rejected",
        "value: is not valid UTF-8 at byte 13",
    ),
    FormatCase(
        COLUMNS,
        "tokens stay as sent",
        b'{"id":1,"open":{"a":10.10,"b":1e2,"c":0.1234567890123456789}}',
        "read",
        'open: {"a":10.10,"b":1e2,"c":0.1234567890123456789}',
        "physicalType: json",
    ),
    FormatCase(
        COLUMNS,
        "white space between tokens is removed",
        b'{"id":1,"open":{ "a b" : [ 1, 2 ] }}',
        "read",
        'open: {"a b":[1,2]}',
        "physicalType: json",
    ),
    FormatCase(
        COLUMNS,
        "repeated keys, order and escapes stay",
        b'{"id":1,"open":{"b":1,"a":2,"b":"\\u00e9"}}',
        "read",
        'open: {"b":1,"a":2,"b":"\\u00e9"}',
        "physicalType: json",
    ),
    FormatCase(
        COLUMNS,
        "JSON text in a string",
        b'{"id":1,"open":"{\\"a\\": 1.0}"}',
        "read",
        'open: {"a":1.0}',
        "physicalType: json",
    ),
    FormatCase(
        COLUMNS,
        "a string that is no JSON",
        b'{"id":1,"open":"{a:1}"}',
        "rejected",
        "open: is not valid JSON text",
        "physicalType: json",
    ),
    FormatCase(
        COLUMNS,
        "a scalar",
        b'{"id":1,"open":5}',
        "rejected",
        "open: expected string or object or array, got integer",
        "physicalType: json",
    ),
    FormatCase(
        COLUMNS,
        "a decimal of more digits than its scale",
        b'{"id":1,"price":1.005}',
        "rejected",
        "price: does not fit decimal(12,2)",
        "physicalType: decimal(12,2)",
    ),
    FormatCase(
        COLUMNS,
        "a decimal with zeros behind",
        b'{"id":1,"price":1.500000}',
        "read",
        "price: 1.50",
        "physicalType: decimal(12,2)",
    ),
)
