"""What Dagster's processes log: as all others of the platform do, in its format and masked."""

from __future__ import annotations

import logging

import dagster as dg
from dagster import _loggers

from ingestion_platform import logs
from ingestion_platform.settings import Settings


def configure(settings: Settings) -> None:
    """Have this process, and the runs in it, log as LOG_FORMAT and LOG_LEVEL say.

    What Dagster keeps of a run (`python_logs` in dagster.yaml brings our messages there) is masked
    as it is made.
    """
    logs.configure(settings)
    logs.mask_records(settings)

    def run_log(context: dg.InitLoggerContext) -> logging.Logger:
        # Outside of the hierarchy: what it writes is written once.
        log = logging.Logger("dagster.run", settings.log.level or "INFO")
        log.addHandler(logs.ToStderr(logs.formatter(settings)))
        return log

    # Loggers of `Definitions` are used by runs whose config names them: nobody's does, so this is
    # the only place where that of all runs can be chosen.
    _loggers.colored_console_logger = dg.LoggerDefinition(run_log)
