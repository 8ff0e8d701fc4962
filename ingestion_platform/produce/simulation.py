"""The kit of simulators: random choices, times and ids, and records broken on purpose.

The records of a domain are in its `simulator.py`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestion_platform.produce.record import Record

Ints = npt.NDArray[np.int64]

# A placeholder in texts for bytes that no JSON writer would produce.
_MARK = "\ue000"

_NOT_JSON = (
    b"Service Unavailable",
    b"<event><status>OPEN</status></event>",
    b"2026-11-20,TENANT_001,OPEN",
    b"\x00\x00\x00\x00\x07\x12CMP",
    b"undefined",
)
_NOT_AN_OBJECT = (b"[]", b"null", b"42", b'"OPEN"')
_BLANK = (b"", b" ", b"\n")
_BAD_UTF8 = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x9f\x92")
_CONTROL = (b"\n", b"\r\n", b"\t", b"\x01")
_BAD_NUMBERS = (b"NaN", b"Infinity", b"-Infinity")
_BAD_DATES = ("2026-02-30", "2026-13-01", "20/11/2026", "0000-00-00", "epoch", "soon", "")
_BAD_TIMES = (
    "2026-02-30 10:00:00",
    "2026-11-20 25:00:00",
    "2026-11-20 10:61:00",
    "2026-11-20 10:00:00+25:00",
    "infinity",
    "yesterday",
    "",
)
_BAD_JSON_TEXT = ("{complaint_type: Water Supply}", "{'a': 1}", '{"a": 1', '{"a": NaN}', "n/a", "")


@dataclass(frozen=True)
class Shape:
    """The fields of a valid record that faults may change, so that the result is surely invalid."""

    required: tuple[str, ...]
    """Fields that must be present and not null."""
    texts: tuple[str, ...]
    """Fields that must be strings."""
    numbers: tuple[str, ...] = ()
    enums: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    timestamps: tuple[str, ...] = ()
    days: tuple[tuple[str, str], ...] = ()
    """Pairs of a date field and the timestamp field of the same day."""
    json_texts: tuple[str, ...] = ()
    """Fields that must be an object, or a string that holds JSON."""
    limits: tuple[tuple[str, str], ...] = ()
    """Pairs of number fields; the first must not exceed the second."""
    rejected: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Fields with values that the contract rejects for other reasons."""


@dataclass(frozen=True)
class Simulator:
    """The simulator of a stream: valid records by (count, seed, UTC start, days), and their shape.

    The records have no keys: `simulate` sets them by the stream's declaration.
    """

    records: Callable[[int, int, datetime, float], Iterator[Record]]
    shape: Shape


def choose(rng: np.random.Generator, weights: Sequence[float], count: int) -> Ints:
    """Draw `count` indices into `weights`, each with the probability of its weight."""
    total = np.cumsum(np.asarray(weights, dtype=float))
    drawn: Ints = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    return drawn


def run_number(seed: int, start: datetime) -> int:
    """Return a number of five digits for the ids of a run, by its arguments."""
    return zlib.crc32(f"{seed} {start.isoformat()}".encode()) % 100_000


def moments(
    rng: np.random.Generator, count: int, start: datetime, seconds: int, by_hour: Sequence[float]
) -> Ints:
    """Draw `count` seconds since `start` within the span, weighted by the hour of the UTC day."""
    midnight = start.hour * 3600 + start.minute * 60 + start.second
    edges = np.unique(np.clip(np.arange(-midnight, seconds + 3600, 3600), 0, seconds))
    weights = np.take(by_hour, (midnight + edges[:-1]) // 3600 % 24) * np.diff(edges)
    hour = choose(rng, weights.tolist(), count)
    return (edges[hour] + rng.random(count) * np.diff(edges)[hour]).astype(np.int64)


def with_repeats(rng: np.random.Generator, count: int, repeats: int) -> Ints:
    """Return the positions of `count` events in order, `repeats` of them again soon after."""
    twice = rng.integers(max(count, 1), size=repeats)
    turn = np.concatenate([np.arange(count), twice + rng.integers(1, 20, size=repeats) + 0.5])
    return np.concatenate([np.arange(count), twice])[np.argsort(turn, kind="stable")]


def uuids(rng: np.random.Generator, count: int) -> list[str]:
    """Draw UUIDs (version 4)."""
    digits = rng.bytes(16 * count).hex()
    return [
        f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-4{digits[at + 13 : at + 16]}-"
        f"8{digits[at + 17 : at + 20]}-{digits[at + 20 : at + 32]}"
        for at in range(0, 32 * count, 32)
    ]


def texts(parts: Iterable[str]) -> npt.NDArray[np.object_]:
    """Return an array of texts, to be indexed by arrays of numbers."""
    return np.array(list(parts), dtype=object)


def instants(start: datetime, milliseconds: Ints) -> list[str]:
    """Return the times so many milliseconds after `start`, in ISO 8601 with milliseconds."""
    epoch = np.datetime64(int(start.timestamp() * 1000), "ms")
    written: list[str] = np.datetime_as_string(epoch + milliseconds, timezone="UTC").tolist()
    return written


def with_faults(
    records: Iterator[Record], count: int, ratio: float, seed: int, shape: Shape
) -> Iterator[Record]:
    """Yield `count` records, `round(count * ratio)` of them broken, each fault equally often."""
    rng = Random(f"faults {seed}")
    faults = list(faults_of(shape).items())
    rng.shuffle(faults)
    at = 0
    for turn, position in enumerate(sorted(rng.sample(range(count), round(count * ratio)))):
        yield from islice(records, position - at)
        record = next(records)
        name, fault = faults[turn % len(faults)]
        yield record._replace(value=fault(rng, record.value), fault=name)
        at = position + 1
    yield from records


Fault = Callable[[Random, bytes], bytes]
"""Makes an invalid value of a valid one, a JSON object."""


def faults_of(shape: Shape) -> Mapping[str, Fault]:
    """Return the faults for records of the shape by name: of the JSON text, then of fields."""
    field_faults: dict[str, tuple[Sequence[Any], Callable[..., None]]] = {
        "missing_field": (shape.required, _drop),
        "null_field": (shape.required, _nullify),
        "wrong_type": (shape.texts, _retype),
        "number_as_string": (shape.numbers, _quote),
        "unknown_value": (shape.enums, _misspell),
        "invalid_date": (shape.dates, _set_to(_BAD_DATES)),
        "invalid_timestamp": (shape.timestamps, _set_to(_BAD_TIMES)),
        "wrong_day": (shape.days, _shift_day),
        "invalid_json_text": (shape.json_texts, _set_to(_BAD_JSON_TEXT)),
        "over_limit": (shape.limits, _exceed),
        "refused_value": (shape.rejected, _reject),
    }
    return {
        "empty": lambda rng, _: rng.choice(_BLANK),
        "not_json": lambda rng, value: rng.choice((*_NOT_JSON, str(json.loads(value)).encode())),
        "not_an_object": lambda rng, value: rng.choice((*_NOT_AN_OBJECT, b"[" + value + b"]")),
        "truncated": lambda rng, value: value[: rng.randrange(1, len(value))],
        "trailing_comma": lambda _, value: value[:-1] + b",}",
        "two_objects": lambda rng, value: value + rng.choice((b"", b" ", b"\n")) + value,
        "duplicate_key": _duplicating(shape.texts),
        "bad_utf8": _marking(shape.texts, _BAD_UTF8),
        "control_character": _marking(shape.texts, _CONTROL),
        "not_a_number": _number_breaking(shape),
        **{name: _editing(*fault) for name, fault in field_faults.items() if fault[0]},
    }


def _dump(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def _editing(targets: Sequence[Any], edit: Callable[..., None]) -> Fault:
    """Return a fault that edits one of the target fields."""

    def fault(rng: Random, value: bytes) -> bytes:
        fields = json.loads(value)
        edit(rng, fields, rng.choice(targets))
        return _dump(fields).encode()

    return fault


def _marking(targets: Sequence[str], replacements: Sequence[bytes]) -> Fault:
    """Return a fault that puts bytes into a string field that JSON does not allow there."""
    mark = _editing(targets, lambda _, fields, name: fields.update({name: fields[name] + _MARK}))

    def fault(rng: Random, value: bytes) -> bytes:
        return mark(rng, value).replace(_MARK.encode(), rng.choice(replacements))

    return fault


def _number_breaking(shape: Shape) -> Fault:
    """Return a fault that sets a value to NaN or infinity, in a nested object if possible."""

    def edit(rng: Random, fields: dict[str, Any], name: str) -> None:
        fields[name] = {"score": _MARK} if name in shape.json_texts else _MARK

    mark = _editing((*shape.numbers, *shape.json_texts) or shape.texts, edit)

    def fault(rng: Random, value: bytes) -> bytes:
        return mark(rng, value).replace(f'"{_MARK}"'.encode(), rng.choice(_BAD_NUMBERS))

    return fault


def _duplicating(targets: Sequence[str]) -> Fault:
    """Return a fault that adds a key a second time, in front or at the end, with another value."""

    def fault(rng: Random, value: bytes) -> bytes:
        pair = f'"{rng.choice(targets)}":"another"'.encode()
        return rng.choice((b"{" + pair + b"," + value[1:], value[:-1] + b"," + pair + b"}"))

    return fault


def _set_to(values: Sequence[str]) -> Callable[[Random, dict[str, Any], str], None]:
    return lambda rng, fields, name: fields.update({name: rng.choice(values)})


def _drop(_: Random, fields: dict[str, Any], name: str) -> None:
    del fields[name]


def _nullify(_: Random, fields: dict[str, Any], name: str) -> None:
    fields[name] = None


def _retype(rng: Random, fields: dict[str, Any], name: str) -> None:
    fields[name] = rng.choice((17, 1.5, 1_795_215_639, True, [fields[name]], {"id": fields[name]}))


def _quote(_: Random, fields: dict[str, Any], name: str) -> None:
    fields[name] = str(fields[name])


def _misspell(rng: Random, fields: dict[str, Any], name: str) -> None:
    value = fields[name]
    wrong = ("NO_SUCH_VALUE", value.swapcase(), value + " ", "")
    fields[name] = rng.choice([other for other in wrong if other != value])


def _shift_day(rng: Random, fields: dict[str, Any], pair: tuple[str, str]) -> None:
    day = date.fromisoformat(fields[pair[1]][:10])
    shift = timedelta(days=rng.choice((1, -1, 7, 365)))
    fields[pair[0]] = (day + shift).isoformat()


def _exceed(rng: Random, fields: dict[str, Any], pair: tuple[str, str]) -> None:
    fields[pair[0]] = fields[pair[1]] + rng.choice((0.5, 1, 100))


def _reject(rng: Random, fields: dict[str, Any], rejected: tuple[str, tuple[Any, ...]]) -> None:
    fields[rejected[0]] = rng.choice(rejected[1])
