"""Configure the logs of Dagster's processes: the platform's format, with secrets masked."""

from __future__ import annotations

import logging

import dagster as dg
from dagster import _loggers

from ingestion_platform import logs
from ingestion_platform.settings import Settings


def configure(settings: Settings) -> None:
    """Configure this process and its runs to log with LOG_FORMAT and LOG_LEVEL.

    Dagster also stores messages of runs (`python_logs` in dagster.yaml adds ours). They are masked
    when they are created.
    """
    logs.configure(settings)
    logs.mask_records(settings)

    def run_log(context: dg.InitLoggerContext) -> logging.Logger:
        # Not in the logger hierarchy, so that messages are not written twice.
        log = logging.Logger("dagster.run", settings.log.level or "INFO")
        log.addHandler(logs.ToStderr(logs.formatter(settings)))
        return log

    # Runs use loggers of `Definitions` only if their config names them. Replacing Dagster's default
    # logger applies to all runs.
    _loggers.colored_console_logger = dg.LoggerDefinition(run_log)
