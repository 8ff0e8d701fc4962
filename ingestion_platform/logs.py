"""Configure logging for every process of the platform.

One handler writes console lines or JSON, with context fields (stream, ingest date, partition, run)
and with all secret settings masked. Modules log with
`logging.getLogger("ingestion_platform.<part>")`; the entry point of a process calls `configure`.
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
"""Loggers that LOG_LEVEL applies to; of other libraries only warnings and errors are shown."""
FIELDS = "fields"
"""The log record attribute (`extra={FIELDS: {...}}`) for additional fields of the line."""

_CAUSE = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_CONTEXT: ContextVar[Mapping[str, Any]] = ContextVar("ingestion_platform_log", default=_NOTHING)
# The password in a URL.
_PASSWORD = re.compile(r"(\w://[^\s:/@]*:)[^\s/@]+(?=@)")
# Values that need no quotes in the brackets of a console line.
_WORD = re.compile(r"[^\s\[\]=\"]+")


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Add context fields (stream, ingest date, partition, run) to messages within the block.

    Applies to the current thread or task. Fields that are None are omitted.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    token = _CONTEXT.set({**_CONTEXT.get(), **given})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def configure(settings: Settings, *, level: str = "INFO", run: str | None = None) -> None:
    """Configure this process to log to standard error with LOG_FORMAT and LOG_LEVEL.

    `level` is the default for LOG_LEVEL; `run` identifies the process in its lines. Another call
    replaces the configuration.
    """
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, ToStderr)]:
        root.removeHandler(handler)
    handler = ToStderr(formatter(settings, run=run))
    handler.addFilter(_worth_showing)
    root.addHandler(handler)
    chosen = settings.log.level or level
    root.setLevel(chosen)
    # librdkafka logs every refused connection; the platform reports the error once, in context.
    kafka = logging.getLogger("ingestion_platform.kafka")
    kafka.setLevel(logging.NOTSET if chosen == "DEBUG" else logging.CRITICAL)
    sys.excepthook = _told
    threading.excepthook = _told_of_thread


def formatter(settings: Settings, *, run: str | None = None) -> logging.Formatter:
    """Return the formatter for LOG_FORMAT."""
    kind = Json if settings.log.format == "json" else Console
    return kind(settings.secrets, run)


def this_process(kind: str) -> str:
    """Return the name of a worker or source in log lines: <kind>-<host>-<process id>."""
    return f"{kind}-{socket.gethostname()}-{os.getpid()}"


def masked(text: str, secrets: Sequence[str]) -> str:
    """Mask secret values (given longest first) and passwords in URLs."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _PASSWORD.sub(r"\1***", text)


def mask_records(settings: Settings) -> None:
    """Mask log messages when they are created, for other handlers: Dagster stores messages."""

    def make(*given: Any, **named: Any) -> logging.LogRecord:
        record = logging.LogRecord(*given, **named)
        with suppress(TypeError, ValueError):  # a message that does not fit its arguments
            message = record.getMessage()
            if (shown := masked(message, settings.secrets)) != message:
                record.msg, record.args = shown, None
        return record

    logging.setLogRecordFactory(make)


def mask_error(error: BaseException, settings: Settings) -> None:
    """Mask the texts of an error and its causes in place, before another system stores them."""
    at: BaseException | None = error
    while at is not None:
        at.args = tuple(
            masked(each, settings.secrets) if isinstance(each, str) else each for each in at.args
        )
        if isinstance(at, PlatformError):
            at.message = masked(at.message, settings.secrets)
        at = at.__cause__ or at.__context__


class ToStderr(logging.Handler):
    """Writes lines to the current `sys.stderr`."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record as a line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Report the logger and the exception class; the record's own text may have caused it."""
        fault = sys.exc_info()[0] or Exception
        with suppress(Exception):
            sys.stderr.write(f"a message of {record.name!r} cannot be logged: {fault.__name__}\n")


class _Masking(logging.Formatter):
    """Base of both formatters: collects the fields of a record and masks all texts."""

    def __init__(self, secrets: Sequence[str], run: str | None) -> None:
        super().__init__()
        self._secrets = secrets
        self._run = run

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        told = {} if self._run is None else {"run": self._run}
        # Dagster's records carry their run, on any thread.
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
        # Dagster prefixes its messages with run and step, which are fields here.
        dagster = getattr(record, "dagster_meta", None) or {}
        return self._mask(dagster.get("orig_message") or record.getMessage())


class Json(_Masking):
    """Formats a record as one line of JSON.

    The members are timestamp, level, logger, message, then stream, ingest date, partition and run
    as far as known, additional fields, and the traceback as `exception`.
    """

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
    """Formats a record as a line with time, level and message.

    Fields whose values are not in the message follow in brackets. Only tracebacks add lines. These
    are indented, so that text of a record never starts a line.
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
    """Return a field's value, quoted if its end would be ambiguous."""
    return value if _WORD.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _traceback(error: TracebackException, *, most: int = 20) -> Iterator[str]:
    """Yield the lines of an error and its causes as Python prints them.

    A message is always one item, even if it contains line feeds. `most` limits the number of causes
    and of errors in a group.
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
    """Whether to show a record: our loggers, and warnings of others; not those of Dagster runs."""
    ours = record.name.split(".", 1)[0] in OURS
    return (ours or record.levelno >= logging.WARNING) and not hasattr(record, "dagster_meta")


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an uncaught exception in the configured format, masked."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log = logging.getLogger("ingestion_platform")
    log.critical("unexpected: %s", kind.__name__, exc_info=(kind, error, trace))


def _told_of_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not issubclass(failed.exc_type, SystemExit):
        _told(failed.exc_type, failed.exc_value, failed.exc_traceback)
