"""Automation: what is fresh in bronze goes on to silver and gold by itself, day by day."""

from __future__ import annotations

from typing import Any

import dagster as dg


def when_inputs_changed() -> dg.AutomationCondition[Any]:
    """Once a day's inputs are new, whether it is today's tenth time or a day of last year.

    A day whose inputs or own rows are being made waits, so that one run takes all that came.
    """
    return (
        dg.AutomationCondition.any_deps_updated().since(
            dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
        )
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    ).with_label("inputs_changed")


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions of all assets, as often as it can; Dagster's own one is stopped."""
    return dg.AutomationConditionSensorDefinition(
        "carry_on",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=1,
        description="Carries fresh days of bronze on to silver and gold.",
    )
