"""Every error that the API answers, as RFC 9457 problem details."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from ingestion_platform.contract.reasons import RECORD, Reason
from ingestion_platform.errors import PlatformError, Transient

if TYPE_CHECKING:
    from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"

KINDS: dict[str, tuple[int, str]] = {
    "malformed": (400, "The request cannot be read"),
    "unauthorized": (401, "A valid API key is needed"),
    "not-found": (404, "There is no such resource"),
    "method-not-allowed": (405, "The resource does not know the method"),
    "not-acceptable": (406, "The answer has no form that the client takes"),
    "no-topic": (409, "The stream takes no records by HTTP"),
    "slow-request": (408, "The request did not arrive in time"),
    "too-large": (413, "The request is above a limit"),
    "unsupported-media-type": (415, "The content cannot be understood"),
    "head-too-large": (431, "Request line and headers are above a limit"),
    "rejected": (422, "The contract rejects what was sent"),
    "key-reused": (422, "The Idempotency-Key belongs to another request"),
    "too-many": (429, "The client sends too much at once"),
    "unexpected": (500, "The API failed"),
    "not-implemented": (501, "The server does not know the transfer coding"),
    "not-possible": (501, "The settings do not allow it"),
    "not-acknowledged": (503, "Kafka did not acknowledge everything"),
    "unavailable": (503, "The API cannot take records now"),
    "unsupported-version": (505, "The HTTP version is not supported"),
}
"""Status and title of each kind of problem."""


class Problem(PlatformError):
    """An error as an answer; `more` are further members of its body."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        action: str = "",
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, action=action)
        self.kind = kind
        self.status = KINDS[kind][0]
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def body(self) -> bytes:
        """Return the problem as JSON."""
        return msgspec.json.encode(
            {
                "type": f"urn:ingestion-platform:problem:{self.kind}",
                "title": KINDS[self.kind][1],
                "status": self.status,
                "detail": self.message,
                **({"action": self.action} if self.action else {}),
                **self.more,
            }
        )

    def response(self) -> Response:
        """Return the problem as a response."""
        from starlette.responses import Response

        return Response(self.body(), self.status, self.headers, media_type=MEDIA_TYPE)


def unavailable(error: Transient) -> Problem:
    """Return the problem of a transient error, with the time after which to retry."""
    return Problem(
        "unavailable", error.message, action=error.action, headers=retry_after(error.retry_after)
    )


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header with the seconds to wait before a retry."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def status_problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    """Return the problem for a status that Starlette has chosen."""
    kind = next((k for k, (code, _) in KINDS.items() if code == status), None)
    if kind is None:
        kind = "malformed" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "unexpected"
    return Problem(kind, detail, headers=headers)


def error_of(reason: Reason) -> dict[str, Any]:
    """Return a reason as a member of a problem's `errors`, with a JSON pointer to its field."""
    whole = reason.field in (None, RECORD)
    path = "" if whole else "/" + str(reason.field).replace("~", "~0").replace("/", "~1")
    return {"pointer": f"#{path}", **reason.as_dict()}
