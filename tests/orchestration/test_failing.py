"""Kinds of failed steps: what alarms say of a next run depends on them."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest

from ingestion_platform.errors import Permanent, SourceUnavailable
from ingestion_platform.orchestration import failing


def _asked_again() -> None:
    error = SourceUnavailable("the broker does not answer")
    raise dg.RetryRequested(0) from error


def _permanent() -> None:
    raise failing.failure(Permanent("a setting is wrong", action="set it"))


def _passing() -> None:
    raise SourceUnavailable("the broker does not answer")


def _mistake() -> None:
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (_asked_again, failing.TRANSIENT),
        (_passing, failing.TRANSIENT),
        (_permanent, failing.PERMANENT),
        (_mistake, failing.UNEXPECTED),
    ],
)
def test_kind_of_a_failed_step(step: Callable[[], None], kind: str) -> None:
    """By the classes of its errors, never by their texts."""

    @dg.asset
    def failed() -> None:
        step()

    done = dg.materialize([failed], raise_on_error=False)
    (event,) = [e for e in done.all_events if e.event_type_value == "STEP_FAILURE"]
    assert failing.kind_of(event.event_specific_data) == kind


def test_run_without_a_failed_step_was_interrupted() -> None:
    """As when its process was killed."""
    assert failing.kind_of(None) == failing.INTERRUPTED
