"""Logging of every process of the platform: one handler, lines for people or JSON, the context of a
message beside it, and no value of a secret setting in either.

Modules log by `logging.getLogger("ingestion_platform.<part>")`; who starts a process configures.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, date, datetime
from traceback import TracebackException
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import ACTION, PlatformError
from ingestion_platform.escaping import visible, visible_json

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings

OURS = ("ingestion_platform", "uvicorn")
"""Loggers that the level holds for; of other libraries, warnings and errors are shown."""
FIELDS = "fields"
"""The attribute of a record (`extra={FIELDS: {...}}`) with further fields of its JSON line."""

_CAUSE = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_CONTEXT: ContextVar[Mapping[str, Any]] = ContextVar("ingestion_platform_log", default=_NOTHING)
# The password of an address, whoever put it into a message.
_PASSWORD = re.compile(r"(\w://[^\s:/@]*:)[^\s/@]+(?=@)")
# A value that reads as one word in the brackets of a console line; others are quoted.
_WORD = re.compile(r"[^\s\[\]=\"]+")


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Messages of this thread (or task) carry some fields meanwhile: stream, ingest date,
    partition, run; those that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    token = _CONTEXT.set({**_CONTEXT.get(), **given})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def configure(settings: Settings, *, level: str = "INFO", run: str | None = None) -> None:
    """Have this process log to standard error, as LOG_FORMAT and LOG_LEVEL say.

    `level` is what holds when LOG_LEVEL is not set; `run` names the process in its lines. May be
    called again: the last call counts.
    """
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, ToStderr)]:
        root.removeHandler(handler)
    handler = ToStderr(formatter(settings, run=run))
    handler.addFilter(_worth_showing)
    root.addHandler(handler)
    chosen = settings.log.level or level
    root.setLevel(chosen)
    # librdkafka repeats every refused connection; whoever meets it says once what it means.
    kafka = logging.getLogger("ingestion_platform.kafka")
    kafka.setLevel(logging.NOTSET if chosen == "DEBUG" else logging.CRITICAL)
    sys.excepthook = _told
    threading.excepthook = _told_of_thread


def formatter(settings: Settings, *, run: str | None = None) -> logging.Formatter:
    """How LOG_FORMAT wants a message to look."""
    kind = Json if settings.log.format == "json" else Console
    return kind(settings.secrets, run)


def this_process(kind: str) -> str:
    """What a worker or a source is called in its lines: <kind>-<host>-<process id>."""
    return f"{kind}-{socket.gethostname()}-{os.getpid()}"


def masked(text: str, secrets: Sequence[str]) -> str:
    """A text without the values of secrets (longest first), and without passwords of addresses."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _PASSWORD.sub(r"\1***", text)


def mask_records(settings: Settings) -> None:
    """Mask messages as they are made, for handlers that are not ours: Dagster keeps them."""

    def make(*given: Any, **named: Any) -> logging.LogRecord:
        record = logging.LogRecord(*given, **named)
        with suppress(TypeError, ValueError):  # a message that does not fit its arguments
            message = record.getMessage()
            if (shown := masked(message, settings.secrets)) != message:
                record.msg, record.args = shown, None
        return record

    logging.setLogRecordFactory(make)


def mask_error(error: BaseException, settings: Settings) -> None:
    """Mask the texts of an error and of its causes, in place, before somebody else keeps them."""
    at: BaseException | None = error
    while at is not None:
        at.args = tuple(
            masked(each, settings.secrets) if isinstance(each, str) else each for each in at.args
        )
        if isinstance(at, PlatformError):
            at.message = masked(at.message, settings.secrets)
        at = at.__cause__ or at.__context__


class ToStderr(logging.Handler):
    """Writes lines to what is standard error at the time."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Name the logger and the fault; the record's own text may be what failed."""
        fault = sys.exc_info()[0] or Exception
        with suppress(Exception):
            sys.stderr.write(f"a message of {record.name!r} cannot be logged: {fault.__name__}\n")


class _Masking(logging.Formatter):
    """What both formats share: the fields of a record, all of it masked."""

    def __init__(self, secrets: Sequence[str], run: str | None) -> None:
        super().__init__()
        self._secrets = secrets
        self._run = run

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        told = {} if self._run is None else {"run": self._run}
        # Dagster's records know their run, on whatever thread they were made.
        dagster: dict[str, Any] = getattr(record, "dagster_meta", None) or {}
        if dagster.get("run_id"):
            told["run"] = dagster["run_id"]
        fields = {**told, **_CONTEXT.get(), **getattr(record, FIELDS, {})}
        return {name: self._plain(value) for name, value in fields.items()}

    def _plain(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return self._mask(value.isoformat() if isinstance(value, date) else str(value))

    def _mask(self, text: str) -> str:
        return masked(text, self._secrets)

    def _exception(self, record: logging.LogRecord) -> str:
        if not record.exc_info or record.exc_info[1] is None:
            return visible(self._mask(record.exc_text or ""))
        lines = _traceback(TracebackException(*record.exc_info))
        return "\n".join(visible(self._mask(line)) for line in lines)

    def _message(self, record: logging.LogRecord) -> str:
        # Dagster leads its messages with run and step, which are fields here.
        dagster = getattr(record, "dagster_meta", None) or {}
        return self._mask(dagster.get("orig_message") or record.getMessage())


class Json(_Masking):
    """A line of JSON: timestamp, level, logger, message, then what is known of stream, ingest date,
    partition and run, further fields, and the traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "timestamp": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            **self._fields(record),
        }
        if exception := self._exception(record):
            line["exception"] = exception
        return visible_json(line)


class Console(_Masking):
    """A line with time and level; what the message does not say itself follows in brackets.

    Only a traceback adds lines, and they are indented: no text of a record can begin a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        at = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        message = self._message(record).replace(ACTION, " -> ")
        fields = {name: value for name, value in self._fields(record).items() if name != "run"}
        said = [
            f"{n}={_word(str(v))}"
            for n, v in fields.items()
            if v is not None and str(v) not in message
        ]
        line = f"{at} {record.levelname} {message}" + (f" [{' '.join(said)}]" if said else "")
        exception = textwrap.indent(self._exception(record), "  ")
        return visible(line) + (f"\n{exception}" if exception else "")


def _word(value: str) -> str:
    """Return a field's value, quoted where its end would be unclear."""
    return value if _WORD.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _traceback(error: TracebackException, *, most: int = 20) -> Iterator[str]:
    """Yield an error and its causes as Python prints them; a message is one line, however long.

    `most` bounds the causes, and the errors of a group.
    """
    segment_log: list[tuple[TracebackException, str]] = [(error, "")]
    while len(segment_log) < most:
        last = segment_log[-1][0]
        if last.__cause__ is not None:
            segment_log.append((last.__cause__, _CAUSE))
        elif last.__context__ is not None and not last.__suppress_context__:
            segment_log.append((last.__context__, _DURING))
        else:
            break
    for each, relation in reversed(segment_log):
        if each.stack:
            yield "Traceback (most recent call last):"
        for frame in each.stack.format():
            yield from frame.rstrip("\n").split("\n")
        yield from (said.rstrip("\n") for said in each.format_exception_only())
        for inner in (each.exceptions or [])[:most]:
            yield from (f"  | {line}" for line in _traceback(inner, most=most))
        if relation:
            yield from ("", relation, "")


def _worth_showing(record: logging.LogRecord) -> bool:
    """Ours, and what deserves attention of others; a run of Dagster shows its messages itself."""
    ours = record.name.split(".", 1)[0] in OURS
    return (ours or record.levelno >= logging.WARNING) and not hasattr(record, "dagster_meta")


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error that nobody caught is a message, too: masked, and in the format of all others."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log = logging.getLogger("ingestion_platform")
    log.critical("unexpected: %s", kind.__name__, exc_info=(kind, error, trace))


def _told_of_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not issubclass(failed.exc_type, SystemExit):
        _told(failed.exc_type, failed.exc_value, failed.exc_traceback)
