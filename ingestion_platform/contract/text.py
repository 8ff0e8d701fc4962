"""Convert records whose values are all strings, as in CSV, to typed JSON by a contract.

A string that spells a value of its field's type becomes that value. Any other string stays as it
is and is validated like a string in JSON. Dates and times are strings in JSON too.
"""

from __future__ import annotations

import json

from ingestion_platform.contract.exact import is_epoch
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.contract.sql import INPUT, quoted, text

_INTEGER = r"[+-]?\d+"
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


def typed_query(contract: Contract, decimal: str = ".") -> str:
    """Return the query that converts `_value`, JSON objects of strings and nulls, to typed JSON.

    `decimal` is the decimal separator of numbers in the input: `.` or `,`. The query keeps the
    order of the rows when one thread runs it.
    """
    sent = [f for f in contract.fields if f.derived is None]
    shape = text(json.dumps({f.name: "VARCHAR" for f in sent}))
    pieces = ", ',', ".join(f"{text(json.dumps(f.name) + ':')}, {_json(f, decimal)}" for f in sent)
    return f"""WITH read AS (SELECT from_json(_value, {shape}) AS _j FROM {INPUT})
SELECT concat('{{', {pieces}, '}}') AS _value FROM read"""


def _json(item: Field, decimal: str) -> str:
    """Return the SQL of the JSON text of one field's value."""
    value = f"_j.{quoted(item.name)}"
    typed = (
        _fraction(value, decimal)
        if is_epoch(item)
        else {
            Kind.INTEGER: _number(value, _INTEGER),
            Kind.NUMBER: _fraction(value, decimal),
            Kind.DECIMAL: _fraction(value, decimal),
            Kind.BOOLEAN: f"WHEN lower({value}) IN ('true', 'false') THEN lower({value}) "
            f"WHEN {value} = '1' THEN 'true' WHEN {value} = '0' THEN 'false'",
            Kind.OBJECT: _nested(value, "OBJECT"),
            Kind.ARRAY: _nested(value, "ARRAY"),
        }.get(item.kind, "")
    )
    return (
        f"CASE WHEN {value} IS NULL THEN 'null' {typed} ELSE CAST(to_json({value}) AS VARCHAR) END"
    )


def _fraction(value: str, decimal: str) -> str:
    if decimal == ".":
        return _number(value, _NUMBER)
    # A text with a dot is not a number: the dot may separate thousands.
    dotted = f"CASE WHEN NOT contains({value}, '.') THEN replace({value}, ',', '.') END"
    return _number(dotted, _NUMBER)


def _number(value: str, pattern: str) -> str:
    """Return the SQL branch that rewrites a number of this pattern to JSON's syntax.

    JSON has no plus sign and no leading zeros, and needs digits on both sides of the dot.
    """
    plain = rf"regexp_replace({value}, '^\+?(-?)0*(\d)', '\1\2')"
    plain = rf"regexp_replace({plain}, '^\+?(-?)\.', '\1' || '0.')"
    plain = rf"regexp_replace({plain}, '\.([eE]|$)', '\1')"
    return f"WHEN regexp_full_match({value}, '{pattern}') THEN {plain}"


def _nested(value: str, kind: str) -> str:
    """Return the SQL branch for an object or array, whose cell holds its JSON text."""
    return f"WHEN json_valid({value}) AND json_type({value}) = '{kind}' THEN {value}"
