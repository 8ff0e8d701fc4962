"""Logs: the same of every process, with their context, and never with a secret."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestion_platform import logs
from ingestion_platform.errors import PlatformError, SettingError
from ingestion_platform.settings import Settings

SECRETS = {
    "KAFKA_SASL_PASSWORD": "kafka-hunter2",
    "AWS_SECRET_ACCESS_KEY": 'object-"hunter2"\\é',
    "AWS_ACCESS_KEY_ID": "access-hunter2",
    "PYICEBERG_CATALOG__LAKEHOUSE__URI": "postgresql+psycopg://u:catalog-hunter2@h:1/c",
    "SINK_POSTGRES_URL": "postgresql://u:sink%2Dhunter2@h:1/c",
    "DAGSTER_POSTGRES_URL": "postgresql://u:dagster-hunter2@h:1/c",
    "HTTP_API_KEYS": f"shop:{'ab' * 32}",
    "ALARM_WEBHOOK_URL": "https://hooks.example.com/services/T0/token-hunter2?key=query-hunter2",
    "ALARM_WEBHOOK_SECRET": "signing-hunter2",
}
LOG = logging.getLogger("ingestion_platform.test")

Lines = Callable[[], list[str]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was written to standard error since the last look."""
    return lambda: capsys.readouterr().err.splitlines()


def configured(root: Path, **env: str) -> Settings:
    """The settings of these variables, by which this process logs."""
    settings = Settings.load(env, root=root)
    logs.configure(settings, run="worker-1")
    return settings


def one(lines: Lines) -> dict[str, Any]:
    """The only line, which must be JSON."""
    (line,) = lines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_json_has_a_message_per_line_with_its_context(tmp_path: Path, lines: Lines) -> None:
    """Time in UTC, level, logger, message; stream, slice and run as they are known."""
    configured(tmp_path, LOG_FORMAT="json")
    with (
        logs.bound(stream="shop", ingest_date=None),
        logs.bound(ingest_date="2026-11-20", partition=3),
    ):
        LOG.warning("two\nlines of %s", "text")
    line = one(lines)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "ingestion_platform.test",
        "message": "two\nlines of text",
        "run": "worker-1",
        "stream": "shop",
        "ingest_date": "2026-11-20",
        "partition": 3,
    }


def test_the_context_ends_with_its_block_and_is_the_threads_own(
    tmp_path: Path, lines: Lines
) -> None:
    """What another thread says does not carry the stream of this one."""
    configured(tmp_path, LOG_FORMAT="json")
    with logs.bound(stream="shop"):
        other = threading.Thread(target=LOG.info, args=("elsewhere",))
        other.start()
        other.join()
    LOG.info("after")
    assert ["stream" in json.loads(line) for line in lines()] == [False, False]


def test_console_is_for_people(tmp_path: Path, lines: Lines) -> None:
    """Time, level and message; of the context what the message does not say itself."""
    configured(tmp_path)
    with logs.bound(stream="shop", partition=3):
        LOG.info("shop waits")
    (line,) = lines()
    assert line[4] == "-"
    assert line.endswith(" INFO shop waits [partition=3]")


def test_what_a_terminal_obeys_is_shown_instead(tmp_path: Path, lines: Lines) -> None:
    """A record's text cannot colour, clear or retitle anybody's terminal."""
    configured(tmp_path)
    LOG.info("\x1b[2J%s", "\x9b31m")
    (line,) = lines()
    assert line.endswith("\\x1b[2J\\x9b31m")


HOSTILE = "\r\n2026-11-20 10:00:00 INFO forged\v\f\x1b[2J\x85\u2028\u2029\u202e\x7f\x9b\0\ud800\n"


def of_hostile(text: str) -> logging.LogRecord:
    """A record that has the text in message, arguments, fields and a chain of exceptions."""
    try:
        try:
            raise KeyError(text)
        except KeyError as cause:
            error = ExceptionGroup(text, [ValueError(text)])
            error.add_note(text)
            raise error from cause
    except ExceptionGroup:
        record = logging.LogRecord("n", logging.ERROR, "", 0, "a %s", (text,), sys.exc_info())
    setattr(record, logs.FIELDS, {"path": text, "number": 1})
    return record


@pytest.mark.parametrize("form", [logs.Console, logs.Json])
@settings(max_examples=30)
@given(text=st.text(max_size=40))
@example(text=HOSTILE)
def test_no_text_ends_a_log_line(form: type[logging.Formatter], text: str) -> None:
    """Each line but those of a traceback is the formatter's, and nothing needs a codec's help."""
    written = form([], "worker-1").format(of_hostile(text))  # type: ignore[call-arg]
    first, *more = written.encode().decode().splitlines()
    assert not {unicodedata.category(c) for c in written if c != "\n"} & {"Cc", "Cf", "Zl", "Zp"}
    if form is logs.Json:
        assert not more
        assert json.loads(first)["message"] == f"a {text}"
    assert all(line.startswith("  ") or not line for line in more)


def test_traceback_keeps_python_form(tmp_path: Path, lines: Lines) -> None:
    """Frames, causes, groups and notes are there; a message is one line."""
    record = of_hostile("x\ny")
    text = logs.Console([], None).format(record)
    told = [line.strip() for line in text.splitlines()]
    assert sum("Traceback" in line for line in told) == 2
    assert "The above exception was the direct cause of the following exception:" in told
    assert "KeyError: 'x\\ny'" in told
    assert "ExceptionGroup: x\\ny (1 sub-exception)" in told
    assert "| ValueError: x\\ny" in told


def test_field_cannot_pose_as_another(tmp_path: Path, lines: Lines) -> None:
    """A value with blanks or brackets is quoted."""
    configured(tmp_path)
    LOG.info("done", extra={logs.FIELDS: {"path": "/x] [client=admin", "status": 200}})
    (line,) = lines()
    assert line.endswith(' done [path="/x] [client=admin" status=200]')


def test_faulty_record_is_named_without_its_text(tmp_path: Path, lines: Lines) -> None:
    """A message that does not fit its arguments cannot write them raw."""
    configured(tmp_path)
    handler = next(each for each in logging.getLogger().handlers if isinstance(each, logs.ToStderr))
    handler.handle(logging.LogRecord(LOG.name, logging.INFO, "", 0, "%d", (HOSTILE,), None))
    assert lines() == ["a message of 'ingestion_platform.test' cannot be logged: TypeError"]


def test_error_and_action_share_a_line(tmp_path: Path, lines: Lines) -> None:
    """The platform's errors have two lines elsewhere."""
    configured(tmp_path)
    LOG.warning("stopped: %s", PlatformError("no disk", action="make room"))
    (line,) = lines()
    assert line.endswith(" stopped: no disk -> make room")


def test_others_are_heard_when_it_matters(tmp_path: Path, lines: Lines) -> None:
    """Libraries say warnings; librdkafka, which repeats itself, nothing."""
    configured(tmp_path)
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("beware")
    logging.getLogger("ingestion_platform.kafka").error("Connection refused")
    assert [line.rpartition(" ")[2] for line in lines()] == ["beware"]


def test_the_level_is_the_settings_or_the_process_own(tmp_path: Path, lines: Lines) -> None:
    """LOG_LEVEL wins over what suits a process."""
    logs.configure(Settings.load({}, root=tmp_path), level="WARNING")
    LOG.info("no")
    logs.configure(Settings.load({"LOG_LEVEL": "debug"}, root=tmp_path), level="WARNING")
    LOG.debug("yes")
    assert [line.rpartition(" ")[2] for line in lines()] == ["yes"]


@pytest.mark.parametrize(("name", "value"), [("LOG_FORMAT", "xml"), ("LOG_LEVEL", "LOUD")])
def test_a_wrong_setting_is_named(tmp_path: Path, name: str, value: str) -> None:
    """With what it may be, and an example."""
    with pytest.raises(SettingError, match=f"{name}.*'{value}'.*should be") as caught:
        Settings.load({name: value}, root=tmp_path)
    assert f"{name}=" in caught.value.action


@pytest.mark.parametrize("chosen", ["console", "json"])
def test_no_secret_is_in_a_message_or_a_traceback(
    tmp_path: Path, lines: Lines, chosen: str
) -> None:
    """Nor in a field, nor in the cause of an error; also passwords that are nobody's setting."""
    settings = configured(tmp_path, LOG_FORMAT=chosen, AWS_REGION="x", **SECRETS)
    assert len(settings.secrets) >= len(SECRETS)
    for value in [*SECRETS.values(), "https://me:other-hunter2@h/p", "sink-hunter2"]:
        try:
            try:
                raise ValueError(f"rejected: {value}")
            except ValueError as error:
                raise RuntimeError(f"with {value}") from error
        except RuntimeError:
            with logs.bound(stream=value):
                LOG.exception("tried %s", value)
    said = "\n".join(lines())
    assert said.count("tried") == len(SECRETS) + 2
    assert "Traceback" in said
    assert "hunter2" not in said
    assert "ab" * 32 not in said


@given(st.text(min_size=4).filter(lambda text: "*" not in text), st.text("xyz "))
def test_any_secret_is_masked_before_json_escapes_it(secret: str, around: str) -> None:
    """Whatever characters it has, the line does not have it, escaped or not."""
    line = logs.Json([secret], None).format(
        logging.LogRecord("n", logging.INFO, "", 0, f"{around}{secret}{around}", None, None)
    )
    assert secret not in json.loads(line)["message"]


def test_an_error_that_nobody_caught_is_a_message_too(tmp_path: Path) -> None:
    """Of the process and of its threads: a line of JSON with the traceback, masked."""
    program = (
        "import threading\n"
        "from ingestion_platform import logs\n"
        "from ingestion_platform.settings import Settings\n"
        "logs.configure(Settings.load())\n"
        "def burst():\n    raise ValueError('hunter2')\n"
        "thread = threading.Thread(target=burst)\nthread.start()\nthread.join()\n"
        "burst()\n"
    )
    env = os.environ | {"LOG_FORMAT": "json", "KAFKA_SASL_PASSWORD": "hunter2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(f["level"], f["message"]) for f in found] == [
        ("CRITICAL", "unexpected: ValueError")
    ] * 2
    assert all("ValueError: ***" in f["exception"] for f in found)
    assert "hunter2" not in done.stderr.replace("'hunter2'", "")
