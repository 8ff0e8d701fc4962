"""The contract as plain data: fields, rules and service levels of one stream.

`odcs` builds it from an ODCS file. Schemas, decoders, SQL and exports are derived from it in other
modules, so this one has no parsing and no target format.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """The logical type of a field."""

    STRING = "string"
    INTEGER = "integer"  # 32 or 64 bits, signed
    NUMBER = "number"  # IEEE double (or single, bits=32)
    DECIMAL = "decimal"  # exact, precision and scale
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"  # microseconds; stored in UTC
    TIME = "time"  # microseconds since midnight
    JSON = "json"  # an open object or array, stored as minified JSON text
    OBJECT = "object"  # nested, with declared fields
    ARRAY = "array"  # nested, with a declared item


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record; constraints that do not apply to its kind are None or empty."""

    name: str
    kind: Kind
    previous_names: tuple[str, ...] = ()  # its former names in tables and older records
    required: bool = False
    description: str = ""
    business_name: str = ""
    examples: tuple[Any, ...] = ()
    bits: int = 64
    precision: int | None = None
    scale: int | None = None
    zoned: bool = True  # timestamps: stored with a zone (UTC) or as UTC wall time
    minimum: Any = None
    maximum: Any = None
    exclusive_minimum: Any = None
    exclusive_maximum: Any = None
    min_length: int | None = None  # of a string, in characters; of an array, in items
    max_length: int | None = None
    unique_items: bool = False
    pattern: str | None = None  # the whole value must match (RE2 syntax)
    format: str | None = None  # string: uuid, email…; timestamp: sent as a number of times.EPOCHS
    default_zone: str = "UTC"  # zone of timestamps sent without one: a tz name, or times.NO_ZONE
    zone_declared: bool = False  # whether the contract names that zone
    allowed: tuple[Any, ...] = ()
    derived: str | None = None  # SQL over the other fields; the producer does not send it
    default: str | None = None  # "now": HTTP and Python sources fill it in; validation ignores it
    classification: str = ""
    fields: tuple[Field, ...] = ()  # of an OBJECT
    item: Field | None = None  # of an ARRAY


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over a whole row: a SQL expression (DuckDB dialect) that must not be false.

    NULL passes, as in a SQL CHECK constraint.
    """

    name: str
    expression: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Contract:
    """The records of one stream (fields, rules, table) and the service levels promised for them."""

    id: str
    name: str
    version: str
    domain: str
    stream: str
    table: str  # name of the bronze table, without its namespace
    fields: tuple[Field, ...]
    description: str = ""
    owner: str = ""
    status: str = ""  # proposed, draft, active, deprecated, retired
    tags: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    primary_key: tuple[str, ...] = ()
    partition_by: tuple[str, ...] = ()
    quarantine_share: float = 0.0  # a larger share of a slice in quarantine fails the check
    freshness_seconds: float | None = None
    file: str = field(default="", compare=False)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change if and only if the processing of a record may change.

        Prose (descriptions, owners, tags, examples), service levels and the values that sources
        fill in are left out.
        """
        essence = {
            "fields": [_essence(f) for f in self.fields],
            "rules": [(r.name, r.expression) for r in self.rules],
            "table": self.table,
            "partition_by": self.partition_by,
        }
        text = json.dumps(essence, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def column(self, name: str) -> Field:
        """Return the top-level field of that name.

        Raises:
            KeyError: the contract has no such field.
        """
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(name)


_PROSE = {"description", "business_name", "examples", "classification", "default", "zone_declared"}
_UNLESS = {"previous_names": (), "default_zone": "UTC"}  # added later: left out at these values


def _essence(value: Any) -> Any:
    if is_dataclass(value):
        return {
            f.name: _essence(getattr(value, f.name))
            for f in fields(value)
            if f.name not in _UNLESS or getattr(value, f.name) != _UNLESS[f.name]
            if f.name not in _PROSE
        }
    if isinstance(value, tuple):
        return [_essence(item) for item in value]
    return value
