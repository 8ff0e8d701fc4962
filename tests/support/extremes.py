"""Extreme records that a contract accepts, made from the contract itself, and extreme rows.

Which values a field takes at its limits is told here; what a model makes of them is tested by the
users of this module.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ingestion_platform.contract.columns import INGEST_DATE, OFFSET, PARTITION, TOPIC_ID
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.produce.record import Record
from ingestion_platform.streams import declared_streams
from tests.support.dbt_warehouse import START, bronze_rows, day

ABSENT = object()
"""A field that the record does not have."""

TEXTS = (
    " ", "\x00", "a\x00b", "\x1e", "\x1f", "a\x1fb", "\r\n", "\t", "\ufeff", "\ufffe", "\uffff",
    "e\u0301", "a\u200bb", "\u202e", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600", "\U0010ffff",
    "\U0001f468\u200d\U0001f469", "ß", "\u0130", "NULL", "null", "nan", "'", '"', "\\", "%",
    "{{ x }}", "'; drop table x; --", "x" * 15 + "\ud7ff" + "y", "x" * 15 + "\U0010ffff" + "y",
)  # fmt: skip
"""Unusual texts: controls, combining, astral, right to left, no character of zero width."""
LONG = 1_000
"""Characters of a text that no contract bounds."""

PATTERNS: Mapping[str, Sequence[str]] = {
    "^CMP_.+$": ("CMP_\x1f", "CMP_\U0001f600", "CMP_ ", "CMP_" + "x" * 124),
    "^[a-z]{2}$": ("aa", "zz"),
    "^tt[0-9]+$": ("tt0", "tt" + "9" * 400),
    "^nm[0-9]+$": ("nm0", "nm" + "9" * 400),
    "[A-Z]{2}": ("AA", "ZZ"),
    "[0-9a-f]{32}": ("0" * 32, "f" * 32),
    "[0-9A-Fa-f.:]{2,45}": ("::", "f" * 45),
    "[a-z][a-z0-9_]{0,63}": ("a", "z" + "_" * 63),
}
"""Texts at the limits of each pattern that a contract uses."""
FORMATS: Mapping[str, Sequence[str]] = {
    "uuid": ("00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
    "hostname": ("a", "0", ".".join(["x" * 63] * 3 + ["y" * 61])),
    "email": ("a@b.c",),
    "uri": ("a:b",),
}

DEEP = 400
"""Levels of a deep JSON value; the parser takes 500 of a record."""


class Json(str):
    """JSON text that is written into a record as it is."""


OPEN = tuple(
    map(
        Json,
        (
            "{}",
            '{"":""}',
            '{"a":1,"a":{"a":2},"a":[]}',
            '{"a":123456789012345678901234567890123456789012345678901234567890}',
            '{"a":1e400,"b":-1e-400,"c":-0.0,"d":0.10000000000000000000000001}',
            '{"$":1,"$.a":2,"a.b":3,"\\"":4,"\\u0000":"\\u0000"}',
            '{"a":"\\ud83d\\ude00 \\u202e e\\u0301"}',
            '{"a":' * DEEP + "1" + "}" * DEEP,
            '{"a":"' + "x" * LONG + '"}',
            '{"complaint_type":{"a":[1,2]},"priority":["HIGH"],"sla_hours":null}',
            '{"complaint_type":"","priority":"","sla_hours":"1.5"}',
            '{"complaint_type":null,"priority":true,"sla_hours":5e-324}',
            '{"sla_hours":876000,"priority":"ß"}',
            '{"sla_hours":1,"sla_hours":2}',
        ),
    )
)
ARRAYS = tuple(map(Json, ("[]", "[1,[2,[{}]]]", "[" * DEEP + "]" * DEEP, '["sla_hours"]')))


def values(field: Field) -> list[Any]:
    """Values of a field, as a record has them, at and near the limits of its contract."""
    if field.allowed:
        return list(field.allowed)
    return _READERS[field.kind](field)


def _texts(field: Field) -> list[str]:
    if field.pattern is not None:
        return [t for t in PATTERNS[field.pattern] if len(t) <= (field.max_length or LONG)]
    if field.format is not None:
        return list(FORMATS[field.format])
    least, most = field.min_length or 0, field.max_length or LONG
    found = ["x" * least, "x" * most, "\U0001f600" * most, *TEXTS]
    return [text for text in found if least <= len(text) <= most]


def _integers(field: Field) -> list[int]:
    low, high = -(2 ** (field.bits - 1)), 2 ** (field.bits - 1) - 1
    return [n for n in _near(field, low, high, 1) if low <= n <= high]


def _numbers(field: Field) -> list[float]:
    largest = math.ldexp(2 - 2**-52, 1023) if field.bits == 64 else math.ldexp(2 - 2**-23, 127)
    found = [*_near(field, -largest, largest, 5e-324), 0.1 + 0.2, -0.0, 1e15, 1e-15, 123456.789]
    return [float(x) for x in found if _inside(field, x)]


def _decimals(field: Field) -> list[float]:
    step = Decimal(1).scaleb(-(field.scale or 0))
    most = Decimal(10) ** ((field.precision or 38) - (field.scale or 0)) - step
    return [float(x) for x in _near(field, -most, most, step) if -most <= x <= most]


def _near(field: Field, low: Any, high: Any, step: Any) -> list[Any]:
    """The numbers at the limits, next to them, and about zero, as far as they are allowed."""
    limits = [field.minimum, field.maximum, field.exclusive_minimum, field.exclusive_maximum]
    kind = type(step)
    given = [kind(limit) for limit in limits if limit is not None]
    found = [low, high, kind(0), step, kind(1), -kind(1), *given]
    found += [limit + step for limit in given] + [limit - step for limit in given]
    return list(dict.fromkeys(x for x in found if _inside(field, x)))


def _inside(field: Field, value: Any) -> bool:
    return (
        (field.minimum is None or value >= field.minimum)
        and (field.maximum is None or value <= field.maximum)
        and (field.exclusive_minimum is None or value > field.exclusive_minimum)
        and (field.exclusive_maximum is None or value < field.exclusive_maximum)
    )


def _dates(field: Field) -> list[str]:
    days = (dt.date.min, dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date(2000, 2, 29),
            dt.date(2024, 12, 17), dt.date.max)  # fmt: skip
    return [d.isoformat() for d in days if _inside(field, d)]


def _times(field: Field) -> list[str]:
    zone = dt.UTC if field.zoned else None
    found = [dt.datetime.min, dt.datetime(1969, 12, 31, 23, 59, 59, 999_999),
             dt.datetime(2000, 1, 1), dt.datetime(2024, 12, 17, 10), dt.datetime.max]  # fmt: skip
    zoned = [t.replace(tzinfo=zone) for t in found]
    given = [limit for limit in (field.minimum, field.maximum) if limit is not None]
    return [t.replace(tzinfo=None).isoformat() + "Z" for t in [*zoned, *given] if _inside(field, t)]


def _objects(field: Field) -> list[Any]:
    plain = {f.name: values(f)[0] for f in field.fields}
    found: list[Any] = [{f.name: plain[f.name] for f in field.fields if f.required}, plain]
    for f in field.fields:
        found += [plain | {f.name: value} for value in values(f)]
        if not f.required:
            found.append(plain | {f.name: None})
    return found


def _arrays(field: Field) -> list[Any]:
    assert field.item is not None
    members, most = values(field.item), field.max_length or 100
    found = [[], members[:most], ([] if field.unique_items else [members[0]] * most)]
    return found if field.item.required else [*found, [None], [*members[:1], None]]


_READERS: Mapping[Kind, Callable[[Field], list[Any]]] = {
    Kind.STRING: _texts,
    Kind.INTEGER: _integers,
    Kind.NUMBER: _numbers,
    Kind.DECIMAL: _decimals,
    Kind.BOOLEAN: lambda _: [True, False],
    Kind.DATE: _dates,
    Kind.TIMESTAMP: _times,
    Kind.TIME: lambda _: ["00:00:00", "23:59:59.999999"],
    Kind.JSON: lambda _: [*OPEN, *ARRAYS],
    Kind.OBJECT: _objects,
    Kind.ARRAY: _arrays,
}

Values = dict[str, Any]


def _matching(stream: str, record: Values) -> Values:
    """The record with what the contract's rules over several fields ask for."""
    fit = _RULES.get(stream)
    return fit(record) if fit else record


def _given(record: Values, name: str, needed: bool, otherwise: Any) -> Values:
    """The record with a value of the field where one is needed, and none where not."""
    value = record.get(name)
    if not needed:
        return record | {name: None}
    return record | {name: otherwise if value is None or value is ABSENT else value}


def _auth(record: Values) -> Values:
    out = record["event_type"] == "logout"
    return _given(record if out else record | {"logout_reason": None}, "method", not out, "sso")


def _course(record: Values) -> Values:
    kind = record["event_type"]
    fit = _given(record, "resource_id", kind == "resource_download", "r")
    return _given(fit, "lesson_id", True, "l") if kind == "open" else fit


def _notification(record: Values) -> Values:
    return _given(record, "link_url", record["event_type"] == "clicked", "a:b")


def _pgr(record: Values) -> Values:
    return record | {"event_date": record["event_time"][:10]}


def _video(record: Values) -> Values:
    length = record["duration"]
    fit = _given(record, "seek_from", record["event_type"] == "seek", 0.0)
    left = fit["seek_from"]
    return fit | {
        "position": min(record["position"], length),
        "seek_from": None if left is None else min(left, length),
    }


def _assessment(record: Values) -> Values:
    fit = _given(record, "score", record["event_type"] == "graded", 0.0)
    if fit["score"] is not None:
        fit["score"] = min(fit["score"], fit["max_score"])
    return _given(fit, "session_id", True, "s") if record["event_type"] != "graded" else fit


def _reading(record: Values) -> Values:
    if record["metric"] == "humidity":
        return record | {"unit": "%", "value": 100.0}
    zeros = {"°C": -273.15, "°F": -459.67, "K": 0.0}
    return record | {"value": max(record["value"], zeros.get(record["unit"], -math.inf))}


def _log(record: Values) -> Values:
    return record | ({"fields": Json("{}")} if record.get("fields") in ARRAYS else {})


def _title(record: Values) -> Values:
    return record if record.get("id") in (None, ABSENT) else record | {"id": record["tmdb_id"]}


def _person(record: Values) -> Values:
    born, died = record.get("birthday"), record.get("deathday")
    if isinstance(born, str) and isinstance(died, str):
        record = record | {"deathday": max(born, died)}
    return _title(record)


_RULES: Mapping[str, Callable[[Values], Values]] = {
    "auth_events": _auth,
    "assessment_events": _assessment,
    "video_events": _video,
    "course_events": _course,
    "notification_events": _notification,
    "pgr_events": _pgr,
    "sensor_readings": _reading,
    "app_logs": _log,
    "tmdb_movie": _title,
    "tmdb_tv_series": _title,
    "tmdb_person": _person,
}


def records(stream: str, *, seed: int = 1, mixed: int = 40) -> list[bytes]:
    """Records of a declared stream: each value of each field once, and some mixed by the seed."""
    contract = declared_streams()[stream].contract
    return [_text(_matching(stream, record)) for record in _records(contract, seed, mixed)]


def _records(contract: Contract, seed: int, mixed: int) -> Iterator[Values]:
    fields = [f for f in contract.fields if f.derived is None]
    choices = {f.name: values(f) + ([] if f.required else [None, ABSENT]) for f in fields}
    plain = {f.name: values(f)[0] for f in fields}
    optional = [f.name for f in fields if not f.required]
    yield plain
    yield plain | dict.fromkeys(optional)
    yield plain | dict.fromkeys(optional, ABSENT)
    for name, found in choices.items():
        for value in found:
            yield plain | {name: value}
    rng = random.Random(f"{contract.stream} {seed}")
    for number in range(mixed):
        # Half of them say something of the same few things.
        few = {name for name in choices if name in _IDENTITIES} if number % 2 else set()
        yield {
            name: rng.choice(found[:2] if name in few else found) for name, found in choices.items()
        }


def _text(record: Values) -> bytes:
    members = (
        f"{json.dumps(name)}:{_json(value)}"
        for name, value in record.items()
        if value is not ABSENT
    )
    return ("{" + ",".join(members) + "}").encode()


def _json(value: Any) -> str:
    return value if isinstance(value, Json) else json.dumps(value, ensure_ascii=False)


def accepted_rows(stream: str, *, ingest_dates: int, seed: int = 1) -> list[dict[str, Any]]:
    """The rows of bronze of all records, in so many ingest dates; the parser accepts every
    record."""
    rng = random.Random(seed)
    listed = [
        Record(
            timestamp_ms=round(START.timestamp() * 1000) + rng.randrange(ingest_dates) * 86_400_000,
            key=str(place).encode(),
            value=value,
        )
        for place, value in enumerate(records(stream, seed=seed))
    ]
    return bronze_rows(stream, listed)


OUT_OF_BOUNDS: Mapping[Kind, Sequence[Any]] = {
    Kind.NUMBER: (math.nan, math.inf, -math.inf, 1e308, -1e308, 0.0),
    Kind.STRING: ("", *TEXTS),
    Kind.JSON: ("", "no JSON", '{"sla_hours":"nan"}', '{"sla_hours":"Infinity"}',
                '{"sla_hours":1e308}', '{"sla_hours":-1e308}', '{"sla_hours":876001}',
                '{"a":"\\ud800"}', '{"sla_hours":"0x10"}', "{ }", '"x"', "NaN"),
    Kind.BOOLEAN: (True, False),
    Kind.DATE: (dt.date.min, dt.date.max),
    Kind.TIMESTAMP: (dt.datetime.min, dt.datetime.max),
}  # fmt: skip
"""What only the type of a column keeps out, by kind: SQL may insert all of these."""


def inserted_rows(stream: str) -> list[dict[str, Any]]:
    """Rows that no parser has seen: each column null, and at the limits of its type."""
    contract = declared_streams()[stream].contract
    found: list[dict[str, Any]] = []
    for plain in _of_each_type(accepted_rows(stream, ingest_dates=1)):
        known = {name: None if name.startswith("_") else value for name, value in plain.items()}
        found += [known, dict.fromkeys(known)]
        for field in contract.fields:
            for value in (None, *_typed(field)):
                # Each is a thing of its own, so that none hides another one.
                own = {n: _numbered(v, len(found)) for n, v in known.items() if n in _IDENTITIES}
                found.append(known | own | {field.name: value})
    # Others have a place in the log, as rows of a wider contract that was narrowed since.
    return found + [
        row | {INGEST_DATE: day(0), TOPIC_ID: "g", PARTITION: 1, OFFSET: place}
        for place, row in enumerate(found)
    ]


def _of_each_type(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row of each type of event, or of all."""
    return list({row.get("event_type"): row for row in reversed(rows)}.values())


_IDENTITIES = {
    "event_id", "attempt_id", "entity_id", "sensor_id", "user_id", "item_id", "tmdb_id"
}  # fmt: skip


def _numbered(value: Any, number: int) -> Any:
    return 1_000 + number if isinstance(value, int) else f"{value} {number}"


def _typed(field: Field) -> Sequence[Any]:
    if field.kind is Kind.INTEGER:
        return (-(2 ** (field.bits - 1)), 2 ** (field.bits - 1) - 1, 0)
    if field.kind is Kind.DECIMAL:
        most = Decimal(10 ** (field.precision or 38) - 1).scaleb(-(field.scale or 0))
        return (-most, most, Decimal(0))
    found = OUT_OF_BOUNDS.get(field.kind, ())
    if field.kind is Kind.TIMESTAMP and field.zoned:
        return tuple(time.replace(tzinfo=dt.UTC) for time in found)
    return found
