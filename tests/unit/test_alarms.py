"""Alarms: told once when they begin and once when they end, to a receiver that may be away."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ingestion_platform import alarms
from ingestion_platform.alarms import Alarm, AlarmStore, WorkerMonitor
from ingestion_platform.errors import Permanent, SettingError, StoreUnavailable
from ingestion_platform.settings import Settings
from ingestion_platform.worker import loop
from tests.support.webhook import PATH, Receiver, receiving

LAG = Alarm(
    key="check/bronze/shop/lag",
    what="check lag of bronze/shop failed: 300,000 records wait",
    action="see why runs fail",
    section="records-wait",
    detail="log partition 3",
    asset="bronze/shop",
    stream="shop",
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook that takes everything, unless it is told otherwise."""
    with receiving() as made:
        yield made


def settings_of(root: Path, url: str | None = None, **env: str) -> Settings:
    """Settings whose alarms go to an address."""
    given = {"ALARM_WEBHOOK_URL": url} if url else {}
    return Settings.load({"PLATFORM_HOME": str(root / "home"), **given, **env}, root=root)


@pytest.fixture
def book(tmp_path: Path, receiver: Receiver) -> AlarmStore:
    """An empty book of a host with a webhook."""
    return AlarmStore(settings_of(tmp_path, receiver.url))


def due_now(monkeypatch: pytest.MonkeyPatch, seconds: float = 10_000.0) -> None:
    """Let time pass for what waits."""
    now = time.time() + seconds
    monkeypatch.setattr(alarms.time, "time", lambda: now)


def test_one_message_when_it_begins_and_one_when_it_ends(
    book: AlarmStore, receiver: Receiver
) -> None:
    """However often it is seen meanwhile, and by however many."""
    for _ in range(3):
        book.saw(LAG)
        AlarmStore(book._settings).saw(replace(LAG, detail="more by now"))
        book.deliver()
    assert [each.alarm.key for each in book.open()] == [LAG.key]
    book.gone(LAG.key, "check/of/nothing")
    book.gone(LAG.key)
    book.deliver()
    assert receiver.told() == [("opened", LAG.key), ("resolved", LAG.key)]
    assert book.open() == []
    first, last = (each.body for each in receiver.requests)
    assert first["since"] == last["since"]
    assert first["id"] != last["id"]


def test_the_message_says_what_where_and_what_next(tmp_path: Path, receiver: Receiver) -> None:
    """The documented fields, and a text that chats show as it is."""
    settings = settings_of(
        tmp_path, receiver.url, ALARM_RUNBOOK_URL="https://docs.example.com/runbook/"
    )
    book = AlarmStore(settings)
    book.saw(replace(LAG, url="http://dagster/runs/1", slice="2026-11-20|3"), since=1_700_000_000.5)
    book.deliver()
    body = receiver.requests[0].body
    assert body.pop("host")
    assert len(body.pop("id")) == 32
    assert body == {
        "version": 1,
        "state": "opened",
        "key": "check/bronze/shop/lag",
        "severity": "error",
        "what": "check lag of bronze/shop failed: 300,000 records wait",
        "detail": "log partition 3",
        "asset": "bronze/shop",
        "stream": "shop",
        "slice": "2026-11-20|3",
        "since": "2023-11-14T22:13:20.500Z",
        "url": "http://dagster/runs/1",
        "action": "see why runs fail",
        "section": "records-wait",
        "runbook": "https://docs.example.com/runbook#records-wait",
        "text": "ALARM: check lag of bronze/shop failed: 300,000 records wait\nlog partition 3\n"
        "-> see why runs fail (https://docs.example.com/runbook#records-wait)\n"
        "http://dagster/runs/1",
    }


def test_a_secret_signs_the_very_bytes(tmp_path: Path, receiver: Receiver) -> None:
    """A receiver can compute the same, and sees the id without parsing."""
    book = AlarmStore(settings_of(tmp_path, receiver.url, ALARM_WEBHOOK_SECRET="shared"))
    book.saw(LAG)
    book.deliver()
    (request,) = receiver.requests
    expected = hmac.new(b"shared", request.raw, hashlib.sha256).hexdigest()
    assert request.headers["X-Alarm-Signature"] == f"sha256={expected}"
    assert request.headers["X-Alarm-Id"] == request.body["id"]
    assert request.path == PATH


def test_what_lasts_is_an_alarm_and_what_passes_is_none(
    book: AlarmStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until `after` seconds are over, nobody is told of either end."""
    book.saw(LAG, after=60.0)
    book.gone(LAG.key)
    book.saw(LAG, after=60.0)
    assert book.open() == []
    due_now(monkeypatch, 61.0)
    book.saw(LAG, after=60.0)
    book.deliver()
    assert receiver.told() == [("opened", LAG.key)]


def test_a_scope_that_was_looked_at_ends_what_is_not_seen(
    book: AlarmStore, receiver: Receiver
) -> None:
    """And leaves other scopes alone."""
    sensors = [replace(LAG, key=f"sensor/{name}") for name in "ab"]
    book.saw(LAG)
    book.only("sensor/", sensors)
    book.only("sensor/", sensors[:1])
    book.deliver()
    assert sorted(receiver.told()) == [
        ("opened", LAG.key),
        ("opened", "sensor/a"),
        ("opened", "sensor/b"),
        ("resolved", "sensor/b"),
    ]


def test_a_worse_alarm_is_told_anew(book: AlarmStore, receiver: Receiver) -> None:
    """A warning that becomes an error is another message."""
    book.saw(replace(LAG, severity="warning"))
    book.saw(LAG)
    book.saw(LAG)
    book.deliver()
    assert [each.body["severity"] for each in receiver.requests] == ["warning", "error"]


@pytest.mark.parametrize("answer", [500, 429, 404, 302])
def test_a_message_is_tried_until_it_is_taken(
    book: AlarmStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """With the same id, after a wait that grows; in order, and visible meanwhile."""
    receiver.answers, receiver.headers = [answer, answer, 200], {"Location": receiver.url}
    book.saw(LAG)
    book.gone(LAG.key)
    assert book.deliver() == 0
    assert book.deliver() == 0  # it is not yet due
    assert len(receiver.requests) == 1
    waiting = book.undelivered()
    assert waiting is not None
    assert f"answered {answer}" in waiting.error
    for hours in (1, 2):
        due_now(monkeypatch, hours * 3600.0)
        book.deliver()
    assert [state for state, _ in receiver.told()] == ["opened"] * 3 + ["resolved"]
    assert len({each.body["id"] for each in receiver.requests[:3]}) == 1
    assert book.undelivered() is None


def test_a_receiver_may_say_when_to_come_again(book: AlarmStore, receiver: Receiver) -> None:
    """Retry-After is obeyed."""
    receiver.answers, receiver.headers = [429], {"Retry-After": "120"}
    book.saw(LAG)
    book.deliver()
    with book._opened() as rows:
        (due,) = rows.execute("SELECT next FROM messages").fetchone()
    assert due - time.time() > 100


def test_a_receiver_that_is_away_is_named_without_its_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The token in the address is neither in the log nor in the book; nothing raises."""
    book = AlarmStore(settings_of(tmp_path, f"http://127.0.0.1:1{PATH}"))
    book.saw(LAG)
    with caplog.at_level(logging.WARNING):
        assert book.deliver() == 0
    assert "cannot be delivered" in caplog.text
    waiting = book.undelivered()
    assert waiting is not None
    assert "refused" in waiting.error
    assert "a-token-of-the-webhook" not in caplog.text + waiting.error


def test_two_processes_do_not_tell_the_same_twice(book: AlarmStore, receiver: Receiver) -> None:
    """Each message is claimed before it is posted."""
    for number in range(12):
        book.saw(replace(LAG, key=f"sensor/{number}"))
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: AlarmStore(book._settings).deliver(), range(4)))
    assert sum(taken) == len(receiver.requests) == 12


def test_alarms_are_kept_until_there_is_a_webhook(tmp_path: Path, receiver: Receiver) -> None:
    """Without one they are only shown; with one, those that are still on are told."""
    alone = AlarmStore(settings_of(tmp_path))
    alone.saw(LAG)
    assert (alone.deliver(), len(alone.open())) == (0, 1)
    book = AlarmStore(settings_of(tmp_path, receiver.url))
    book.saw(LAG)
    book.deliver()
    assert receiver.told() == [("opened", LAG.key)]


def test_no_secret_goes_out(tmp_path: Path, receiver: Receiver) -> None:
    """Not even to the receiver."""
    settings = settings_of(tmp_path, receiver.url, KAFKA_SASL_PASSWORD="hunter2")
    book = AlarmStore(settings)
    book.saw(replace(LAG, what="no login with hunter2", detail="postgresql://u:hunter3@h/d"))
    book.deliver()
    said = receiver.requests[0].raw.decode() + book.path.read_bytes().decode(errors="replace")
    assert "hunter" not in said
    assert "no login with ***" in said


def test_a_message_is_of_bounded_size(book: AlarmStore, receiver: Receiver) -> None:
    """However long an error is."""
    book.saw(replace(LAG, detail="x" * 1_000_000))
    book.deliver()
    assert len(receiver.requests[0].raw) < 5_000


def test_nothing_is_written_while_nothing_is_wrong(tmp_path: Path) -> None:
    """Looking, and ending what never began, make no file."""
    book = AlarmStore(settings_of(tmp_path))
    book.gone("worker/shop/waits")
    book.only("sensor/", [])
    assert (book.open(), book.undelivered(), book.deliver(), book.exists) == ([], None, 0, False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALARM_WEBHOOK_URL", "hooks.example.com/secret-token"),
        ("DAGSTER_WEBSERVER_URL", "127.0.0.1:3000"),
        ("ALARM_AFTER_SEC", "soon"),
        ("ALARM_WARNINGS", "perhaps"),
    ],
)
def test_a_wrong_setting_is_named_without_a_secret(tmp_path: Path, name: str, value: str) -> None:
    """The webhook's address is not repeated: it has the token in it."""
    with pytest.raises(SettingError, match=name) as caught:
        Settings.load({name: value}, root=tmp_path)
    assert "secret-token" not in str(caught.value)


class Line:
    """A line of a worker that does what it is told, in turn, and then goes on well."""

    name = stream = "shop"

    def __init__(self, *steps: object) -> None:
        self._steps = list(steps)

    def step(self) -> float:
        """The next of the script: raise an error, or wait for an event."""
        do = self._steps.pop(0) if self._steps else None
        if isinstance(do, Exception):
            raise do
        if isinstance(do, threading.Event):
            do.wait(30)
        return 0.02

    def close(self) -> None:
        """Nothing is open."""


def served(settings: Settings, line: Line, until: threading.Event) -> None:
    """Keep a line on a thread until told to stop, as the worker does."""
    with WorkerMonitor(settings) as watch:
        loop.run_task(line, until, loop.Outcome(), watch)
        until.wait(30)


@pytest.mark.parametrize(
    ("kind", "ends"),
    [("waits", True), ("stands-still", True), ("stopped", False)],
)
def test_a_worker_tells_what_does_not_pass(
    tmp_path: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    ends: bool,
) -> None:
    """Servers that are away too long, a step that never ends, a lasting error; and the end."""
    monkeypatch.setattr(loop, "backoff", lambda *_: 0.02)
    monkeypatch.setattr(alarms, "_TICK", 0.02)
    away = StoreUnavailable("the store is away", action="see to it")
    hang, stop = threading.Event(), threading.Event()
    script: dict[str, list[object]] = {
        "waits": [None, *[away] * 40],
        "stands-still": [None, hang],
        "stopped": [None, Permanent("the contract is wrong", action="mend it")],
    }
    settings = settings_of(tmp_path, receiver.url, ALARM_AFTER_SEC="0.3")
    thread = threading.Thread(target=served, args=(settings, Line(*script[kind]), stop))
    thread.start()
    try:
        expected = [("opened", f"worker/shop/{kind}")]
        poll(lambda: receiver.told() == expected)
        hang.set()
        if ends:
            expected.append(("resolved", f"worker/shop/{kind}"))
            poll(lambda: receiver.told() == expected)
    finally:
        hang.set()
        stop.set()
        thread.join()
    assert receiver.told() == expected
    assert receiver.requests[0].body["stream"] == "shop"


def test_the_next_worker_ends_what_the_last_one_told(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that was stopped, and goes on well in another process, is no alarm any more."""
    monkeypatch.setattr(alarms, "_TICK", 0.02)
    settings, stop = settings_of(tmp_path, receiver.url), threading.Event()
    AlarmStore(settings).saw(replace(LAG, key="worker/shop/stopped"))
    thread = threading.Thread(target=served, args=(settings, Line(), stop))
    thread.start()
    try:
        poll(lambda: [state for state, _ in receiver.told()] == ["opened", "resolved"])
    finally:
        stop.set()
        thread.join()


def test_a_book_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on, and says so once."""
    monkeypatch.setattr(alarms, "_TICK", 0.02)
    settings = settings_of(tmp_path, ALARM_AFTER_SEC="0")
    settings.home.mkdir()
    AlarmStore(settings).path.mkdir()  # no file can be there
    with caplog.at_level(logging.WARNING), WorkerMonitor(settings) as watch:
        watch.waits("shop", "shop", StoreUnavailable("away"))
        poll(lambda: "alarms cannot be told" in caplog.text)
        watch.well("shop", "shop")
    assert caplog.text.count("alarms cannot be told") == 1


def poll(condition: object) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_trial_is_a_message_of_its_own(tmp_path: Path, receiver: Receiver) -> None:
    """Posted at once, and not kept."""
    settings = settings_of(tmp_path, receiver.url)
    body = alarms.trial_message(settings)
    alarms.post(settings.alarms, body["id"], json.dumps(body))
    assert receiver.requests[0].body["state"] == "test"
    assert not AlarmStore(settings).exists
