"""Convert the values in a contract (bounds, allowed values, examples) to Python values.

This module validates the contract against itself. Other modules validate records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from ingestion_platform.contract.exact import is_epoch
from ingestion_platform.contract.model import Field, Kind
from ingestion_platform.contract.reasons import Code, InvalidValue
from ingestion_platform.contract.times import (
    instant_of,
    read_date,
    read_epoch,
    read_time,
    read_timestamp,
)


def literal(field: Field, raw: Any) -> Any:
    """Return a YAML value as a Python value of the field's kind (timestamps in UTC).

    Raises:
        ValueError: `raw` is not a value of that kind; the message says what is expected.
    """
    return _READERS[field.kind](field, raw)


def breach(field: Field, value: Any) -> InvalidValue | None:
    """Return how a value from `literal` breaks the field's own constraints; None if it does not.

    The engine that applies patterns and formats checks them.
    """
    if field.allowed and value not in field.allowed:
        return InvalidValue("is not one of the allowed values", Code.ENUM)
    if field.kind in (Kind.STRING, Kind.ARRAY):
        return _length_breach(field, value)
    return _bound_breach(field, value)


def _length_breach(field: Field, value: Any) -> InvalidValue | None:
    array = field.kind is Kind.ARRAY
    unit = "items" if array else "characters"
    if field.min_length is not None and len(value) < field.min_length:
        code = Code.MIN_ITEMS if array else Code.MIN_LENGTH
        return InvalidValue(f"has fewer than {field.min_length} {unit}", code)
    if field.max_length is not None and len(value) > field.max_length:
        code = Code.MAX_ITEMS if array else Code.MAX_LENGTH
        return InvalidValue(f"has more than {field.max_length} {unit}", code)
    if field.unique_items and any(item in value[:i] for i, item in enumerate(value)):
        return InvalidValue("repeats an item", Code.UNIQUE_ITEMS)
    return None


def _bound_breach(field: Field, value: Any) -> InvalidValue | None:
    if field.minimum is not None and value < field.minimum:
        return InvalidValue(f"is below the minimum {field.minimum}", Code.MINIMUM)
    if field.maximum is not None and value > field.maximum:
        return InvalidValue(f"is above the maximum {field.maximum}", Code.MAXIMUM)
    if field.exclusive_minimum is not None and value <= field.exclusive_minimum:
        message = f"is not above {field.exclusive_minimum}"
        return InvalidValue(message, Code.EXCLUSIVE_MINIMUM)
    if field.exclusive_maximum is not None and value >= field.exclusive_maximum:
        message = f"is not below {field.exclusive_maximum}"
        return InvalidValue(message, Code.EXCLUSIVE_MAXIMUM)
    return None


def breach_text(field: Field, value: Any) -> str | None:
    """Return the result of `breach` as a sentence about the value; None without a breach."""
    problem = breach(field, value)
    shown = repr(value) if isinstance(value, str | list | dict) else str(value)
    return None if problem is None else f"{shown} {problem}"


def _string(_: Field, raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is not a string; quote it")
    return raw


def _integer(field: Field, raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or raw != raw // 1:
        raise ValueError(f"{raw!r} is not an integer")
    value = int(raw)
    if not -(1 << (field.bits - 1)) <= value < 1 << (field.bits - 1):
        raise ValueError(f"{value} does not fit into {field.bits} bits")
    return value


def _number(_: Field, raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise ValueError(f"{raw!r} is not a finite number")
    return float(raw)


def _decimal(field: Field, raw: Any) -> Decimal:
    try:
        if isinstance(raw, bool):
            raise InvalidOperation
        value = Decimal(str(raw))
        scaled = value.scaleb(field.scale or 0)
        fits = scaled == scaled.to_integral_value()
    except InvalidOperation:
        raise ValueError(f"{raw!r} is not a decimal number") from None
    if not value.is_finite() or not fits or abs(scaled) >= 10 ** (field.precision or 0):
        raise ValueError(f"{raw} does not fit into decimal({field.precision},{field.scale})")
    return value


def _boolean(_: Field, raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"{raw!r} is not true or false")
    return raw


def read_text(field: Field, text: str) -> date | time | datetime:
    """Return the value of a text in a date, time or timestamp field.

    A timestamp is an instant in UTC; its value has a zone if the field is stored with one.

    Raises:
        ValueError: the text is not such a value; the message says why.
    """
    match field.kind:
        case Kind.DATE:
            return read_date(text)
        case Kind.TIME:
            return read_time(text)
    value = read_timestamp(text, field.default_zone)
    return value if field.zoned else value.replace(tzinfo=None)


_LIKE = {
    Kind.DATE: "a date like '2026-11-20'",
    Kind.TIME: "a time like '10:30:00'; quote it",
    Kind.TIMESTAMP: "a timestamp like '2026-11-20T10:00:00Z'",
}


def _moment(field: Field, raw: Any) -> date | time | datetime:
    if is_epoch(field) and isinstance(raw, int | float) and not isinstance(raw, bool):
        value = instant_of(read_epoch(str(raw), str(field.format)))
        return value if field.zoned else value.replace(tzinfo=None)
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is not {_LIKE[field.kind]}")
    try:
        return read_text(field, raw)
    except ValueError as error:
        raise ValueError(f"{raw!r} {error}; write {_LIKE[field.kind]}") from None


def _json(_: Field, raw: Any) -> Any:
    if isinstance(raw, dict | list):
        return raw
    try:
        value = json.loads(raw)
    except (TypeError, ValueError):
        value = None
    if not isinstance(value, dict | list):
        raise ValueError(f"{raw!r} is not a JSON object or array")
    return value


def _object(field: Field, raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{raw!r} is not an object")
    fields = {f.name: f for f in field.fields}
    if unknown := sorted(set(raw) - set(fields)):
        raise ValueError(f"{unknown[0]!r} is not a property of this object")
    return {name: _member(f, raw.get(name)) for name, f in fields.items()}


def _array(field: Field, raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise ValueError(f"{raw!r} is not an array")
    assert field.item is not None  # `properties` rejects an array without items
    return [_member(field.item, item) for item in raw]


def _member(field: Field, raw: Any) -> Any:
    if raw is None:
        if field.required:
            raise ValueError(f"{field.name} is required")
        return None
    value = literal(field, raw)
    if problem := breach_text(field, value):
        raise ValueError(f"{field.name}: {problem}")
    return value


_READERS: dict[Kind, Callable[[Field, Any], Any]] = {
    Kind.STRING: _string,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.DECIMAL: _decimal,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _moment,
    Kind.TIMESTAMP: _moment,
    Kind.TIME: _moment,
    Kind.JSON: _json,
    Kind.OBJECT: _object,
    Kind.ARRAY: _array,
}
