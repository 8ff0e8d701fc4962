"""Automation: what is fresh in bronze goes on to silver and gold by itself, day by day."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any

import dagster as dg


def when_inputs_changed(together: Iterable[dg.AssetKey]) -> dg.AutomationCondition[Any]:
    """Once a day's inputs are new, whether it is today's tenth time or a day of last year.

    A day waits while its inputs are being made, or any of the assets that are made `together` in
    one run: so one run takes all that came, and makes all of them.
    """
    fresh = dg.AutomationCondition.any_deps_updated().since(
        dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    )
    at_work = dg.AutomationCondition.in_progress()
    others = [dg.AutomationCondition.asset_matches(key, at_work) for key in together]
    busy = reduce(or_, others, at_work | dg.AutomationCondition.any_deps_in_progress())
    return (fresh & ~busy).with_label("inputs_changed")


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions of all assets, as often as it can; Dagster's own one is stopped."""
    return dg.AutomationConditionSensorDefinition(
        "carry_on",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=1,
        description="Carries fresh days of bronze on to silver and gold.",
    )
