"""Retries: what is retried, how often, and how long between."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform import retries
from ingestion_platform.errors import CatalogUnavailable, Transient, WriteConflict
from ingestion_platform.retries import Policy, backoff, retry

POLICIES = {
    name: value for name, value in vars(retries).items() if isinstance(value, Policy)
}  # fmt: skip


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, none of which takes time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


class Failing:
    """Raises its errors one after another, then returns the number of calls."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def test_named_errors_are_retried(waits: list[float]) -> None:
    """By class, and with a wait between the attempts."""
    work = Failing(WriteConflict("a"), WriteConflict("b"))
    assert retry(work, retries.COMMIT, WriteConflict) == 3
    assert len(waits) == 2


def test_a_predicate_chooses_errors() -> None:
    """Where the class alone does not say it."""
    work = Failing(OSError(1), OSError(2))
    with pytest.raises(OSError, match="2"):
        retry(work, retries.COMMIT, lambda error: error.args == (1,))


@pytest.mark.parametrize("error", [CatalogUnavailable("away"), KeyboardInterrupt()])
def test_other_errors_are_raised_at_once(error: BaseException, waits: list[float]) -> None:
    """Also those that are no Exception."""
    work = Failing(error)
    with pytest.raises(type(error)):
        retry(work, retries.COMMIT, WriteConflict)
    assert (work.calls, waits) == (1, [])


def test_the_last_error_ends_the_attempts() -> None:
    """As it is, or as the caller's words for it, which keep it as their cause."""
    policy = Policy(1.0, 1.0, attempts=3)
    with pytest.raises(WriteConflict, match="c"):
        retry(Failing(*map(WriteConflict, "abcd")), policy, WriteConflict)
    with pytest.raises(Transient, match="gave up after 3") as caught:
        retry(
            Failing(*map(WriteConflict, "abcd")),
            policy,
            WriteConflict,
            gave_up=lambda last: Transient(f"gave up after {policy.attempts}: {last}"),
        )
    assert str(caught.value.__cause__) == "c"


def test_no_attempt_starts_after_the_deadline(waits: list[float]) -> None:
    """An attempt that would begin too late is not made."""
    with pytest.raises(WriteConflict):
        retry(Failing(WriteConflict("a")), Policy(10.0, 10.0, seconds=5.0), WriteConflict)
    assert waits == []


@pytest.mark.parametrize("name", POLICIES)
@given(attempt=st.integers(1, 10_000))
def test_waits_grow_to_a_limit(name: str, attempt: int) -> None:
    """Each lies between the certain share and the whole of first * 2^(attempt - 1)."""
    policy = POLICIES[name]
    whole = min(policy.longest, policy.first * 2.0 ** min(attempt - 1, 64))
    assert policy.steady * whole <= backoff(policy, attempt) <= whole + 1e-9
