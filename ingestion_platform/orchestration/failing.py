"""Classify failures of run steps.

The kind of a failure tells Dagster and alarms whether another run can succeed.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError

from ingestion_platform.errors import PlatformError, Transient

KIND = "error"
"""Metadata entry of a failure that holds the kind of its error."""
PERMANENT, TRANSIENT, UNEXPECTED, INTERRUPTED, BLOCKED = (
    "permanent",
    "transient",
    "unexpected",
    "interrupted",
    "blocked",
)
"""BLOCKED: the step succeeded, but a blocking check failed."""
ACTIONS = {
    PERMANENT: "do what its error says: until then every run of it fails the same way; what was "
    "committed before stays as it was",
    TRANSIENT: "bring back what its error names; what it did is safe, and a next run goes on from "
    "there",
    UNEXPECTED: "read its error: a next run may fail the same way; what was committed before stays "
    "as it was",
    INTERRUPTED: "read the end of its log; what it did is safe, and a next run goes on from there",
}
"""What to do about a failed run, by the kind of its error."""


def failure(error: PlatformError | str) -> dg.Failure:
    """Return the failure of a step for a permanent error; it is not retried."""
    return dg.Failure(str(error), metadata={KIND: PERMANENT}, allow_retries=False)


def kind_of(failed: Any) -> str:
    """Return the kind of a step's failure from its event data; INTERRUPTED without an error."""
    given = getattr(failed, "user_failure_data", None)
    if given is not None and KIND in given.metadata:
        return str(given.metadata[KIND].value)
    error = getattr(failed, "error", None)
    if error is None:
        return INTERRUPTED
    names = {error.cls_name, error.cause.cls_name if error.cause is not None else None}
    if DagsterAssetCheckFailedError.__name__ in names:
        return BLOCKED
    return TRANSIENT if names & _transient() else UNEXPECTED


def _transient() -> set[str | None]:
    """Return the class names of transient errors: Transient, its subclasses and RetryRequested."""
    names: set[str | None] = {dg.RetryRequested.__name__}
    found = [Transient]
    while found:
        kind = found.pop()
        names.add(kind.__name__)
        found += kind.__subclasses__()
    return names
