"""Store open alarms in a file of this host, and post each to a webhook when it opens and resolves.

Each opening and each resolution is posted once. Problems are detected in other modules; this module
does not depend on Dagster.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import Permanent, Transient
from ingestion_platform.logs import masked
from ingestion_platform.retries import WEBHOOK, backoff
from ingestion_platform.settings import AlarmSettings, Settings

if TYPE_CHECKING:
    from ingestion_platform.bronze.load import Loaded
    from ingestion_platform.lake.land import Landed
    from ingestion_platform.streams import Stream

LOG = logging.getLogger("ingestion_platform.alarms")

TIMEOUT = 5.0
"""Timeout of the webhook in seconds, for connecting and for answering."""
BATCH = 30
"""Maximum number of messages per delivery; the rest waits for the next one."""
KEPT, MOST = 7 * 86_400.0, 1_000
"""Seconds for which a message is kept and retried, and the maximum number of messages."""
ID_HEADER, SIGNATURE_HEADER = "X-Alarm-Id", "X-Alarm-Signature"
_DETAIL = 1_000  # characters
_TICK = 1.0  # seconds between two checks of a worker monitor
_CLAIM = 60.0  # seconds for which one process claims a message that it delivers
_LAST = 10.0  # seconds for the last delivery when a worker ends


@dataclass(frozen=True, slots=True)
class Alarm:
    """A problem; the same problem always has the same `key`.

    `section` is the section of the runbook that says what to do, `action` is its short form.
    `severity` is "error" or "warning". `url` is a page in Dagster about the problem.
    """

    key: str
    what: str
    action: str
    section: str
    severity: str = "error"
    detail: str = ""
    asset: str | None = None
    stream: str | None = None
    slice: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """An open alarm; `since` is when the problem began (seconds since 1970)."""

    alarm: Alarm
    since: float


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Messages that the webhook has not accepted: count, oldest (seconds since 1970), an error."""

    count: int
    since: float
    error: str


class Unreachable(Transient):
    """The webhook does not answer, or rejects the message."""


class AlarmStore:
    """The alarms of this host: a SQLite file below PLATFORM_HOME, shared by all processes.

    Reporting a known problem again has no effect: only changes are sent as messages.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.path = settings.home / "alarms.db"

    @property
    def exists(self) -> bool:
        """Whether any problem was ever recorded."""
        return self.path.exists()

    def saw(self, alarm: Alarm, *, after: float = 0.0, since: float | None = None) -> None:
        """Record a problem; it becomes an open alarm after it has lasted for `after` seconds.

        `since` is when it began (seconds since 1970), by default the time of the first call.
        """
        now = time.time()
        alarm = _clean(alarm, self._settings)
        with self._changing() as book:
            row = book.execute(
                "SELECT since, opened, told, severity FROM alarms WHERE key = ?", (alarm.key,)
            ).fetchone()
            began, opened, told, severity = row or (since or now, None, 0, alarm.severity)
            if opened is not None and severity != alarm.severity:
                began, told = since or now, 0
            if opened is None and now - began >= after:
                opened = now
            if opened is not None and not told and self._settings.alarms.webhook_url:
                self._enqueue(book, alarm, "opened", began)
                told = 1
            book.execute(
                "REPLACE INTO alarms (key, since, opened, told, severity, alarm) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (alarm.key, began, opened, told, alarm.severity, json.dumps(asdict(alarm))),
            )

    def gone(self, *keys: str) -> None:
        """Remove the problems of these keys; open alarms among them are resolved."""
        if not self.exists:
            return
        with self._changing() as book:
            for key in keys:
                row = book.execute(
                    "DELETE FROM alarms WHERE key = ? RETURNING since, told, alarm", (key,)
                ).fetchone()
                if row is not None and row[1]:
                    self._enqueue(book, Alarm(**json.loads(row[2])), "resolved", row[0])

    def only(self, scope: str, alarms: Iterable[Alarm], *, after: float = 0.0) -> None:
        """Record all problems of a scope (a key prefix); remove other problems of the scope."""
        present = {alarm.key: alarm for alarm in alarms}
        for alarm in present.values():
            self.saw(alarm, after=after)
        self.gone(*(key for key in self.noted(scope) if key not in present))

    def noted(self, scope: str = "") -> list[str]:
        """Return the recorded keys of a scope, including those not open as alarms yet."""
        if not self.exists:
            return []
        with self._opened() as book:
            rows = book.execute("SELECT key FROM alarms ORDER BY key").fetchall()
        return [key for (key,) in rows if key.startswith(scope)]

    def open(self) -> list[Open]:
        """Return the open alarms, oldest first."""
        if not self.exists:
            return []
        with self._opened() as book:
            rows = book.execute(
                "SELECT alarm, since FROM alarms WHERE opened IS NOT NULL ORDER BY since"
            ).fetchall()
        return [Open(Alarm(**json.loads(alarm)), since) for alarm, since in rows]

    def undelivered(self) -> Undelivered | None:
        """Return the messages that failed at least once and are not delivered; None without any."""
        if not self.exists:
            return None
        with self._opened() as book:
            count, since, error = book.execute(
                "SELECT count(*), min(created), max(error) FROM messages "
                "WHERE sent IS NULL AND error IS NOT NULL"
            ).fetchone()
        return Undelivered(count, since, error) if count else None

    def deliver(self) -> int:
        """Post the messages that are due and return how many were accepted.

        Messages of one alarm are sent in order. A failed message is retried later with backoff, and
        ends this delivery.
        """
        alarms = self._settings.alarms
        if alarms.webhook_url is None or not self.exists:
            return 0
        taken = 0
        for ident, body, attempts in self._due():
            try:
                post(alarms, ident, body)
            except Unreachable as error:
                self._failed(ident, attempts + 1, error)
                if attempts == 0:
                    LOG.warning("an alarm cannot be delivered, it is tried again: %s", error)
                break
            with self._changing() as book:
                book.execute(
                    "UPDATE messages SET sent = ?, error = NULL WHERE id = ?", (time.time(), ident)
                )
            taken += 1
        return taken

    def _due(self) -> Iterator[tuple[str, str, int]]:
        """Claim the due messages one by one; yield id, body and number of attempts."""
        for _ in range(BATCH):
            now = time.time()
            with self._changing() as book:
                row = book.execute(
                    "UPDATE messages SET next = ? WHERE id = ("
                    "  SELECT id FROM messages m WHERE sent IS NULL AND next <= ? AND NOT EXISTS ("
                    "    SELECT 1 FROM messages e"
                    "    WHERE e.key = m.key AND e.sent IS NULL AND e.rowid < m.rowid)"
                    "  ORDER BY rowid LIMIT 1) RETURNING id, body, attempts",
                    (now + _CLAIM, now),
                ).fetchone()
            if row is None:
                return
            yield row

    def _failed(self, ident: str, attempts: int, error: Unreachable) -> None:
        seconds = max(backoff(WEBHOOK, attempts), min(error.retry_after, WEBHOOK.longest))
        said = masked(error.message, self._settings.secrets)
        with self._changing() as book:
            book.execute(
                "UPDATE messages SET attempts = ?, next = ?, error = ? WHERE id = ?",
                (
                    attempts,
                    time.time() + seconds,
                    said,
                    ident,
                ),
            )

    def _enqueue(self, book: sqlite3.Connection, alarm: Alarm, state: str, since: float) -> None:
        body = message(alarm, state, since, self._settings)
        now = time.time()
        book.execute(
            "INSERT OR IGNORE INTO messages (id, key, created, next, body) VALUES (?, ?, ?, ?, ?)",
            (body["id"], alarm.key, now, now, json.dumps(body, ensure_ascii=False)),
        )
        book.execute(
            "DELETE FROM messages WHERE created < ? OR rowid <= "
            "(SELECT max(rowid) FROM messages) - ?",
            (now - KEPT, MOST),
        )

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as book:
            book.execute("BEGIN IMMEDIATE")
            yield book
            book.execute("COMMIT")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=5.0, isolation_level=None)) as book:
            book.execute(
                "CREATE TABLE IF NOT EXISTS alarms (key TEXT PRIMARY KEY, since REAL, opened REAL, "
                "told INTEGER, severity TEXT, alarm TEXT)"
            )
            book.execute(
                "CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, key TEXT, created REAL, "
                "next REAL, body TEXT, attempts INTEGER DEFAULT 0, error TEXT, sent REAL)"
            )
            yield book


def message(alarm: Alarm, state: str, since: float, settings: Settings) -> dict[str, Any]:
    """Return the body to post (docs/alarms.md); `id` is the same for every attempt."""
    alarm = _clean(alarm, settings)
    began = datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds")
    mark = {"opened": "ALARM", "resolved": "resolved"}.get(state, state)
    runbook = f"{settings.alarms.runbook_url}#{alarm.section}"
    lines = [f"{mark}: {alarm.what}"]
    if state != "resolved":
        lines += [alarm.detail] if alarm.detail else []
        lines += [f"-> {alarm.action} ({runbook})", *([alarm.url] if alarm.url else [])]
    identity = f"{alarm.key}|{state}|{alarm.severity}|{began}"
    return {
        "version": 1,
        "id": hashlib.sha256(identity.encode()).hexdigest()[:32],
        "state": state,
        **asdict(alarm),
        "since": began.replace("+00:00", "Z"),
        "runbook": runbook,
        "host": socket.gethostname(),
        "text": "\n".join(lines),
    }


def trial_message(settings: Settings) -> dict[str, Any]:
    """Return the body of a test alarm."""
    alarm = Alarm(
        key=f"test/{time.time_ns()}",
        what="this is a test, nothing is wrong",
        action="see that it arrived",
        section="runbook",
        severity="warning",
    )
    return message(alarm, "test", time.time(), settings)


def post(alarms: AlarmSettings, ident: str, body: str) -> None:
    """Post one message to ALARM_WEBHOOK_URL, signed if a webhook secret is set.

    Raises:
        Unreachable: the message was not accepted; the error says why, without the address.
        Permanent: no webhook is set.
    """
    import httpx

    if alarms.webhook_url is None:
        raise Permanent("no webhook is set", action="set ALARM_WEBHOOK_URL")
    data = body.encode()
    headers = {"Content-Type": "application/json", "User-Agent": "ingestion-platform"}
    headers[ID_HEADER] = ident
    if alarms.webhook_secret:
        headers[SIGNATURE_HEADER] = signature(alarms.webhook_secret.get_secret_value(), data)
    url = alarms.webhook_url.get_secret_value()
    # Trust the system's certificates; do not follow redirects, which drop the body of a POST.
    trusted = ssl.create_default_context()
    options: dict[str, Any] = {"timeout": TIMEOUT, "verify": trusted, "follow_redirects": False}
    try:
        with httpx.stream("POST", url, content=data, headers=headers, **options) as answer:
            if not answer.is_success:
                said = f"it answered {answer.status_code}"
                raise _unreachable(said, _retry_after(answer.headers))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _unreachable(f"{type(error).__name__}: {error}") from None


def signature(secret: str, body: bytes) -> str:
    """Return the value of SIGNATURE_HEADER for a body (HMAC-SHA256)."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _unreachable(why: str, retry_after: float = 0.0) -> Unreachable:
    action = "see ALARM_WEBHOOK_URL and its receiver; `ingest alarm test` tries it"
    return Unreachable(
        f"the webhook did not take it: {why}", action=action, retry_after=retry_after
    )


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def _clean(alarm: Alarm, settings: Settings) -> Alarm:
    """Mask secrets and truncate long texts."""
    texts = {
        name: masked(value, settings.secrets)[:_DETAIL] if isinstance(value, str) else value
        for name, value in asdict(alarm).items()
    }
    return Alarm(**texts)


class WorkerMonitor:
    """Reports alarms of a worker's tasks from a separate thread; a context manager.

    It never blocks the worker and never fails it. It is also an observer of the worker: landed and
    loaded files count as progress.
    """

    def __init__(self, settings: Settings) -> None:
        self._book = AlarmStore(settings)
        self._after = settings.alarms.after_seconds
        self._lock = threading.Lock()
        self._troubles: dict[str, tuple[Alarm, float]] = {}
        self._over: set[str] = set()
        self._well: set[str] = set()
        self._began: dict[tuple[str, str], float] = {}
        self._moved: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)

    def __enter__(self) -> WorkerMonitor:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join(_LAST)

    def begins(self, line: str, stream: str) -> None:
        """Record that a task starts a step."""
        self._began[line, stream] = time.monotonic()

    def well(self, line: str, stream: str) -> None:
        """Record that a step succeeded; resolves the alarms of the task."""
        self._began.pop((line, stream), None)
        if line not in self._well:
            with self._lock:
                self._well.add(line)
                self._clear(_waits_key(line), _stands_key(line), _stopped_key(line))

    def waits(self, line: str, stream: str, error: Transient) -> None:
        """Record that a step failed with a transient error and is retried."""
        alarm = Alarm(
            key=_waits_key(line),
            what=f"the worker of {line} waits: {error.message}",
            action=error.action or "see why the server does not answer",
            section="a-worker-waits",
            stream=stream,
        )
        self._note(line, stream, alarm, self._after)

    def stopped(self, line: str, stream: str, error: Exception) -> None:
        """Record that a permanent or unexpected error stopped a task."""
        alarm = Alarm(
            key=_stopped_key(line),
            what=f"the worker has stopped {line}: {getattr(error, 'message', None) or error}",
            action=getattr(error, "action", "") or "read its log, and report the error",
            section="a-worker-has-stopped-a-stream",
            stream=stream,
        )
        self._note(line, stream, alarm, 0.0)

    def landed(self, stream: Stream, landed: Landed) -> None:
        """See worker.Observer."""
        self._moved[stream.name] = time.monotonic()

    def loaded(self, stream: Stream, loaded: Loaded) -> None:
        """See worker.Observer."""
        self._moved[stream.name] = time.monotonic()

    def lag(self, stream: Stream, waiting: Mapping[int, int]) -> None:
        """See worker.Observer."""

    def _note(self, line: str, stream: str, alarm: Alarm, after: float) -> None:
        self._began.pop((line, stream), None)
        with self._lock:
            self._well.discard(line)
            self._over.discard(alarm.key)
            self._troubles[alarm.key] = (alarm, after)

    def _clear(self, *keys: str) -> None:
        for key in keys:
            self._troubles.pop(key, None)
            self._over.add(key)

    def _run(self) -> None:
        failing = False
        while not self._ended.wait(_TICK):
            failing = self._tell(warn=not failing)
        self._tell(warn=not failing)

    def _tell(self, *, warn: bool) -> bool:
        """Update the alarm store and deliver messages; return whether that failed."""
        self._find_standing()
        with self._lock:
            troubles, over = list(self._troubles.values()), set(self._over)
        try:
            for alarm, after in troubles:
                self._book.saw(alarm, after=after)
            if over:
                self._book.gone(*sorted(over))
            self._book.deliver()
        except Exception as error:  # such as a full disk; the worker must continue
            if warn:
                LOG.warning("alarms cannot be told (%s: %s)", type(error).__name__, error)
            return True
        with self._lock:
            self._over -= over
        return False

    def _find_standing(self) -> None:
        """Find tasks whose current step neither ends nor lands or loads anything."""
        now = time.monotonic()
        for (line, stream), began in list(self._began.items()):
            still = now - max(began, self._moved.get(stream, began))
            with self._lock:
                if still < self._after:
                    if _stands_key(line) in self._troubles:
                        self._clear(_stands_key(line))
                    continue
                self._well.discard(line)
                alarm = Alarm(
                    key=_stands_key(line),
                    what=f"the worker of {line} stands still",
                    action="restart it: it goes on from the data",
                    section="a-worker-waits",
                    detail=f"for {still:,.0f} s nothing was landed or loaded, and no step ended",
                    stream=stream,
                )
                self._over.discard(alarm.key)
                self._troubles[alarm.key] = (alarm, 0.0)


def _waits_key(line: str) -> str:
    return f"worker/{line}/waits"


def _stands_key(line: str) -> str:
    return f"worker/{line}/stands-still"


def _stopped_key(line: str) -> str:
    return f"worker/{line}/stopped"
