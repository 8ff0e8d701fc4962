"""Reasons against a record, taken apart: which field, which rule, what is wrong.

The reasons are those that quarantine keeps; they are made in `contract.sql` and `decoder`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

RECORD = "value"
"""The field of a reason that is against the record as a whole."""

_RULES = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"is required", "required"),
        (r"must be one of", "enum"),
        (r"must be at least", "minimum"),
        (r"must be at most", "maximum"),
        (r"must be above", "exclusiveMinimum"),
        (r"must be below", "exclusiveMaximum"),
        (r"expected array of length >=", "minItems"),
        (r"expected array of length <=", "maxItems"),
        (r"must have at least", "minLength"),
        (r"must have at most", "maxLength"),
        (r"must not repeat an item", "uniqueItems"),
        (r"must match", "pattern"),
        (r"must be a valid", "format"),
        (r"does not fit decimal|has more than six digits", "precision"),
        (r"the key stands twice", "uniqueKeys"),
        (r"is not valid (JSON|UTF-8)|is empty|starts with a byte order mark", "json"),
        (r"is nested too deeply", "depth"),
        (r"is longer than", "size"),
        (r"looks like|has none of the contract's fields", "envelope"),
        (r"cannot be derived", "derived"),
    )
)


class Finding(NamedTuple):
    """One reason against a record; `field` is None for a rule over the row."""

    field: str | None
    rule: str
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as a member of a problem's `errors`."""
        whole = self.field in (None, RECORD)
        path = "" if whole else "/" + str(self.field).replace("~", "~0").replace("/", "~1")
        return {"pointer": f"#{path}", **self._asdict()}


def finding(reason: str) -> Finding:
    """A reason as the contract's validate words it: `field: what is wrong` or `rule name: ...`."""
    subject, _, said = reason.partition(": ")
    if subject.startswith("rule "):
        return Finding(None, subject.removeprefix("rule "), said)
    # A wrong type is worded by the decoder, in many ways.
    rule = next((rule for pattern, rule in _RULES if pattern.match(said)), "type")
    return Finding(subject, rule, said)
