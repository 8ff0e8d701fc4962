"""The definitions of the code location: declared streams, their models, and how both are run."""

from __future__ import annotations

import warnings
from functools import cache

import dagster as dg

from ingestion_platform.orchestration import run_log
from ingestion_platform.orchestration.alarms import alarm_sensor
from ingestion_platform.orchestration.automation import automation_sensors
from ingestion_platform.orchestration.component import (
    first_date,
    model_definitions,
    stream_definitions,
)
from ingestion_platform.orchestration.dbt import dbt_definitions
from ingestion_platform.orchestration.maintenance import maintenance_definitions
from ingestion_platform.orchestration.resources import platform_resources
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import models_of
from ingestion_platform.streams import DOMAINS_FOLDER, declared_streams, folders


@dg.definitions
def defs() -> dg.Definitions:
    """Return all definitions, and configure the logs of the code location's process."""
    run_log.configure(Settings.load())
    return _built()


@cache  # a single command of Dagster's evaluates `defs` six times
def _built() -> dg.Definitions:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        # Dagster looks for definitions in the package's `__init__.py`, by a preview function.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        streams = declared_streams()
        return dg.Definitions.merge(
            # Not load_from_defs_folder: it also imports every component that is installed, which
            # takes longer than all the rest, at the start of every run.
            dg.ComponentTree.for_project(DOMAINS_FOLDER).build_defs(DOMAINS_FOLDER),
            # Dagster's components lie within the project; streams of PLATFORM_DOMAINS need not.
            *(
                stream_definitions(stream)
                for folder in folders()
                if folder != DOMAINS_FOLDER
                for stream in declared_streams(folder).values()
            ),
            *(
                model_definitions([each])
                for folder in folders()
                if folder != DOMAINS_FOLDER
                for each in models_of(folder)
            ),
            dbt_definitions(streams, first_date),
            maintenance_definitions(streams),
            dg.Definitions(
                sensors=[*automation_sensors(), alarm_sensor(streams)],
                resources=platform_resources(),
                # One process per run: a process per step costs nine seconds each.
                executor=dg.in_process_executor,
            ),
        )
