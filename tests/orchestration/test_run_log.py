"""What a run says: in Dagster's own log and on standard error, once each, masked."""

import json
import logging
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster import _loggers

from ingestion_platform import logs
from ingestion_platform.orchestration import run_log
from ingestion_platform.project import DAGSTER_CONFIG
from ingestion_platform.settings import Settings

LOG = logging.getLogger("ingestion_platform.test")


@dg.op
def speak(context: dg.OpExecutionContext) -> None:
    """Says something by Python's logging and by Dagster's."""
    with logs.bound(stream="shop", ingest_date="2026-11-20", partition="3"):
        LOG.info("by Python, with hunter2")
        context.log.info("by Dagster, with hunter2")


@dg.job
def speech() -> None:
    """The only step."""
    speak()


def test_a_run_is_heard_in_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its id and its slice on standard error; no secret in either."""
    monkeypatch.setenv("LOG_FORMAT", "json")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2")
    monkeypatch.setattr(_loggers, "colored_console_logger", _loggers.colored_console_logger)
    run_log.configure(Settings.load(root=tmp_path))
    shipped = yaml.safe_load(DAGSTER_CONFIG.read_text())
    with dg.DagsterInstance.ephemeral(settings={"python_logs": shipped["python_logs"]}) as instance:
        run = speech.execute_in_process(instance=instance).run_id
        kept = [
            entry.user_message for entry in instance.all_logs(run) if not entry.is_dagster_event
        ]
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    own = [line for line in said if line["message"].startswith("by ")]
    expected = ["by Python, with ***", "by Dagster, with ***"]
    assert kept == expected
    assert [line["message"] for line in own] == expected
    for line in own:
        assert [line[k] for k in ("run", "stream", "ingest_date", "partition")] == [
            run,
            "shop",
            "2026-11-20",
            "3",
        ]
