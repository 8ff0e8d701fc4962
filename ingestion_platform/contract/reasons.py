"""Reasons for which records are rejected: their codes, and a reason as plain data.

The decoder, the contract's SQL and the readers of files create reasons. Quarantine, the HTTP API,
reports and metrics pass them on. No code depends on the text of a message.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

RECORD: Final = "value"
"""The `field` of a reason against the whole record."""
SHOWN: Final = 80
"""Maximum number of characters of an invalid value that a reason keeps."""
RULE: Final = "rule."
"""Prefix of the code of a contract's own rule; the name of the rule follows."""


class Code(StrEnum):
    """What is wrong with a record or a field. Constraints have their names in JSON Schema."""

    REQUIRED = "required"
    TYPE = "type"
    ENUM = "enum"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    EXCLUSIVE_MINIMUM = "exclusiveMinimum"
    EXCLUSIVE_MAXIMUM = "exclusiveMaximum"
    MIN_LENGTH = "minLength"
    MAX_LENGTH = "maxLength"
    MIN_ITEMS = "minItems"
    MAX_ITEMS = "maxItems"
    UNIQUE_ITEMS = "uniqueItems"
    PATTERN = "pattern"
    FORMAT = "format"
    PRECISION = "precision"
    DERIVED = "derived"
    UNIQUE_KEYS = "uniqueKeys"
    JSON = "json"
    ENCODING = "encoding"
    DEPTH = "depth"
    SIZE = "size"
    ENVELOPE = "envelope"
    TOMBSTONE = "tombstone"
    QUOTING = "quoting"
    COLUMNS = "columns"
    ENGINE = "engine"
    UNIQUE = "unique"
    EXCLUSIVE = "exclusive"
    DELIVERY = "delivery"


MEANINGS: Final[dict[str, str]] = {
    Code.REQUIRED: "A required field is missing or null.",
    Code.TYPE: "The value has another type or is out of its range; the record is not an object.",
    Code.ENUM: "The value is not one of the allowed values.",
    Code.MINIMUM: "The value is below the minimum.",
    Code.MAXIMUM: "The value is above the maximum.",
    Code.EXCLUSIVE_MINIMUM: "The value is not above the exclusive minimum.",
    Code.EXCLUSIVE_MAXIMUM: "The value is not below the exclusive maximum.",
    Code.MIN_LENGTH: "The text has too few characters.",
    Code.MAX_LENGTH: "The text has too many characters.",
    Code.MIN_ITEMS: "The array has too few items.",
    Code.MAX_ITEMS: "The array has too many items.",
    Code.UNIQUE_ITEMS: "The array repeats an item.",
    Code.PATTERN: "The text does not match the pattern.",
    Code.FORMAT: "The text does not have the format, such as email or uuid.",
    Code.PRECISION: "The number or time has more digits than the column stores.",
    Code.DERIVED: "A required derived column is null.",
    Code.UNIQUE_KEYS: "A JSON object has a key twice.",
    Code.JSON: "The record is empty, or not valid JSON.",
    Code.ENCODING: "The bytes are not UTF-8, or start with a byte order mark.",
    Code.DEPTH: "The JSON is nested too deeply.",
    Code.SIZE: "The record is longer than a reader keeps.",
    Code.ENVELOPE: "The record is wrapped in an envelope, or is another kind of object.",
    Code.TOMBSTONE: "The record has no value.",
    Code.QUOTING: "A CSV row has a quote inside an unquoted value.",
    Code.COLUMNS: "A CSV row has more or fewer values than the header.",
    Code.ENGINE: "The query engine fails on the record.",
    Code.UNIQUE: "HTTP API only: the CloudEvents id or an attribute occurs twice in the request.",
    Code.EXCLUSIVE: "HTTP API only: an attribute of a CloudEvent excludes another one.",
    Code.DELIVERY: "HTTP API only: the broker did not acknowledge the record.",
    f"{RULE}<name>": "A rule of the contract is broken: a SQL expression under `quality`.",
}
"""The meaning of each code, in the order of the documentation."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason against a record.

    `field` is a top-level field, RECORD, or None for a rule over the whole row. `message` is the
    same for all records with that fault. `value` is the invalid value, cut to SHOWN characters, or
    None if there is no value to show.
    """

    code: str
    field: str | None
    message: str
    value: str | None = None

    @property
    def subject(self) -> str:
        """The field, or the rule over the row."""
        return self.field or f"rule {self.code.removeprefix(RULE)}"

    @property
    def label(self) -> str:
        """Field and message without the value. Reasons are counted by label."""
        return f"{self.subject}: {self.message}"

    def __str__(self) -> str:
        return self.label if self.value is None else f"{self.label} (is {self.value})"

    def as_dict(self) -> dict[str, Any]:
        """Return the reason as the members of `schemas.reasons_type`."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the reason as JSON text."""
        return json.dumps(self.as_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> Reason:
        """Return the reason from JSON text that `to_json` wrote."""
        return cls(**json.loads(text))


def label_sql(reason: str) -> str:
    """Return the DuckDB expression of a reason's label; `reason` is the SQL of its struct."""
    rule = f"'rule ' || {reason}.code[{len(RULE) + 1}:]"
    return f"coalesce({reason}.field, {rule}) || ': ' || {reason}.message"


def reasons_of(cell: list[dict[str, Any]] | None) -> tuple[Reason, ...]:
    """Return the reasons in one cell of a reasons column."""
    return tuple(Reason(**each) for each in cell or ())


class InvalidValue(ValueError):
    """A value that is invalid for a field; `code` names the failed check."""

    def __init__(self, message: str, code: Code = Code.TYPE) -> None:
        super().__init__(message)
        self.code = code
