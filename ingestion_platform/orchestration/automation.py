"""Automation: build silver and gold, and deliver to sinks, as soon as a day's inputs change."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any

import dagster as dg

from ingestion_platform.orchestration.cadence import cadence


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


def automation_sensors() -> list[dg.AutomationConditionSensorDefinition]:
    """Return the sensors that evaluate the conditions of models and of sinks.

    Runs that they request have no job of their own, so the timeline shows them by these names when
    it is grouped by automation.
    """
    models = dg.AssetSelection.kind("dbt")
    return [
        _sensor("build_models", models, "Builds the days of silver and gold whose bronze changed."),
        _sensor(
            "deliver_to_sinks",
            dg.AssetSelection.all() - models,
            "Delivers tables that changed to their sinks.",
        ),
    ]


def _sensor(
    name: str, target: dg.AssetSelection, description: str
) -> dg.AutomationConditionSensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        name,
        target=target,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=cadence().automation_seconds,
        description=description,
    )
