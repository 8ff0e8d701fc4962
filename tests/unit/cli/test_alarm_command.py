"""`ingest alarm`, and what `ingest doctor` says of alarms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ingestion_platform.alarms import Alarm, AlarmStore
from ingestion_platform.cli.diagnosis import CHECKS, DoctorContext
from ingestion_platform.settings import Settings
from tests.support.command_line import Ingest
from tests.support.webhook import Receiver, receiving

LAG = Alarm(
    key="check/bronze/shop/lag",
    what="check lag of bronze/shop failed",
    action="see why runs fail",
    section="records-wait",
)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """The webhook of the settings."""
    with receiving() as made:
        monkeypatch.setenv("ALARM_WEBHOOK_URL", made.url)
        yield made


def doctors() -> list[tuple[str, str]]:
    """Status and message of doctor's findings about alarms."""
    found = CHECKS["alarms"](DoctorContext(Settings.load()))
    return [(each.level.value, each.message) for each in found]


def test_nothing_is_on(bare: Ingest) -> None:
    """Exit code 0, and a word."""
    answer = bare("alarm", "list")
    assert (answer.code, answer.out) == (0, "")
    assert bare("alarm", "list", "--json").json == []


def test_what_is_on_is_shown_and_can_be_closed(bare: Ingest, receiver: Receiver) -> None:
    """With the next action and the runbook's section; closing tells the webhook."""
    book = AlarmStore(Settings.load())
    book.saw(LAG)
    book.deliver()
    answer = bare("alarm", "list")
    assert answer.code == 1
    assert "see why runs fail; docs/runbook.md#records-wait" in answer.out
    assert bare("alarm", "list", "--json").json[0]["key"] == LAG.key
    assert bare("alarm", "close", LAG.key).code == 0
    assert [state for state, _ in receiver.told()] == ["opened", "resolved"]
    assert bare("alarm", "close", LAG.key).code == 1


def test_the_webhook_can_be_tried(bare: Ingest, receiver: Receiver) -> None:
    """One message that means nothing; what goes wrong is told without the address."""
    assert bare("alarm", "test").code == 0
    assert [state for state, _ in receiver.told()] == ["test"]
    receiver.answers = [403]
    answer = bare("alarm", "test")
    assert answer.code == 1
    assert "it answered 403" in answer.err
    assert "a-token-of-the-webhook" not in answer.out + answer.err


def test_without_a_webhook_there_is_nothing_to_try(bare: Ingest) -> None:
    """The setting is named."""
    answer = bare("alarm", "test")
    assert answer.code == 1
    assert "ALARM_WEBHOOK_URL" in answer.err


def test_doctor_reports_alarms_and_undelivered_messages(bare: Ingest, receiver: Receiver) -> None:
    """And sends nothing itself."""
    book = AlarmStore(Settings.load())
    assert [status for status, _ in doctors()] == ["ok"]
    receiver.answers = [500]
    book.saw(LAG)
    book.deliver()
    (on, away) = doctors()
    assert on[0] == "warn"
    assert "check lag of bronze/shop failed" in on[1]
    assert away[0] == "fail"
    assert "1 message not delivered" in away[1]
    assert len(receiver.requests) == 1
