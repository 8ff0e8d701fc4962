"""Retry policies and the waits between attempts, carried out by tenacity.

Only the errors that a caller names are retried; any other error is raised at once. Dagster retries
whole steps by its own policies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.wait import wait_base

Result = TypeVar("Result")
Matches = Callable[[BaseException], bool]
Errors = type[BaseException] | tuple[type[BaseException], ...] | Matches


@dataclass(frozen=True, slots=True)
class Policy:
    """How often to try and how long to wait: about `first` seconds, doubled per attempt.

    The `steady` share of a wait is certain and the rest is random: 0 separates writers that
    collided, 0.5 spares a server that is down.
    """

    first: float
    longest: float
    attempts: int | None = None
    """None is no limit."""
    seconds: float | None = None
    """Start no attempt after so long; None is no limit."""
    steady: float = 0.5


COMMIT = Policy(0.05, 2.0, attempts=30, steady=0.0)
"""Iceberg commits that met another writer's."""
MAINTENANCE_COMMIT = Policy(0.02, 0.5, attempts=30, steady=0.0)
"""Commits that change no rows: quick, because a busy writer is always there."""
CONFLICT = Policy(0.2, 2.0, attempts=30, steady=0.0)
"""A whole load or delivery after another writer processed the same records."""
CREATE = Policy(0.2, 0.5, attempts=3)
"""Conditional writes of S3, which its client does not repeat."""
DELIVERY = Policy(0.2, 20.0, attempts=30)
"""A delivery after another one moved its target: the waits are for a position that stands still."""
SEARCH_BUSY = Policy(0.1, 5.0, seconds=60.0)
"""Requests that Elasticsearch is too busy for."""
SEARCH_SILENT = Policy(0.1, 5.0, attempts=4)
"""Requests that Elasticsearch does not answer."""
OUTAGE = Policy(0.5, 30.0)
"""A worker's step while a server is down."""
YIELD = Policy(0.5, 2.0)
"""A worker's step after another writer was faster."""
WEBHOOK = Policy(4.0, 300.0)
"""Messages to the webhook of alarms; their age limits the attempts."""


def retry(
    work: Callable[[], Result],
    policy: Policy,
    on: Errors,
    *,
    gave_up: Callable[[BaseException], Exception] | None = None,
) -> Result:
    """Return what `work` returns, called again while it raises an error that `on` names or accepts.

    Raises:
        Exception: any other error, at once; after the last attempt the last error, or the error
            that `gave_up` makes of it.
    """
    from tenacity import Retrying, retry_if_exception

    def fail(state: RetryCallState) -> Result:
        last = state.outcome.exception() if state.outcome is not None else None
        assert last is not None
        if gave_up is None:
            raise last
        raise gave_up(last) from last

    retrying = Retrying(
        stop=_stop(policy),
        wait=_wait(policy),
        retry=retry_if_exception(_matching(on)),
        retry_error_callback=fail,
        sleep=time.sleep,
    )
    return retrying(work)


def backoff(policy: Policy, attempt: int) -> float:
    """Return the seconds to wait after a failed attempt, the first being number 1."""
    from tenacity import RetryCallState, Retrying

    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return _wait(policy)(state)


def _matching(on: Errors) -> Matches:
    return (lambda error: isinstance(error, on)) if isinstance(on, (type, tuple)) else on


def _stop(policy: Policy) -> Callable[[RetryCallState], bool]:
    from tenacity import stop_after_attempt, stop_before_delay, stop_never

    by_count = stop_never if policy.attempts is None else stop_after_attempt(policy.attempts)
    by_time = stop_never if policy.seconds is None else stop_before_delay(policy.seconds)
    return by_count | by_time


def _wait(policy: Policy) -> wait_base:
    from tenacity import wait_exponential, wait_random_exponential

    certain, rest = policy.steady, 1.0 - policy.steady
    return wait_exponential(policy.first * certain, policy.longest * certain) + (
        wait_random_exponential(policy.first * rest, policy.longest * rest)
    )
