"""`ingest doctor`: every kind of trouble is a line with a next action."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_platform.cli import diagnosis
from ingestion_platform.kafka import broker
from ingestion_platform.lake.losses import Loss, record_losses
from ingestion_platform.lake.store import open_store
from ingestion_platform.settings import Settings
from ingestion_platform.streams import declared_streams
from ingestion_platform.warehouse.catalog import open_catalog
from tests.support.command_line import Answer, Ingest


def lines(answer: Answer, check: str, about: str = "") -> list[dict[str, str]]:
    """The findings of one check, all or those about something."""
    return [f for f in answer.json if f["check"] == check and about in f["message"]]


@pytest.fixture
def healthy(ingest: Ingest) -> Ingest:
    """`ingest` on a platform that has loaded some events."""
    ingest("produce", "pgr_events", "--count", "50", "--quiet")
    assert ingest("run", "pgr_events").code == 0
    return ingest


def test_a_healthy_platform_has_no_failure(healthy: Ingest) -> None:
    """All checks are told, none fails, and whatever is not ok has an action."""
    answer = healthy("doctor", "--json")
    assert answer.code == 0
    checks = {finding["check"] for finding in answer.json}
    assert checks == {
        "settings",
        "contracts",
        "broker",
        "topics",
        "lake",
        "catalog",
        "tables",
        "maintenance",
        "streams",
        "sinks",
        "alarms",
        "dagster home",
        "embedded broker",
    }
    for finding in answer.json:
        assert set(finding) == {"check", "status", "message", "action"}
        assert finding["status"] in ("ok", "warn")
        assert finding["action"] or finding["status"] == "ok"


def test_tables_that_pile_up_are_told_of(healthy: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do; none is after maintenance."""
    for _ in range(5):
        healthy("produce", "pgr_events", "--count", "50", "--quiet")
        assert healthy("run", "pgr_events").code == 0
    monkeypatch.setattr(diagnosis, "PILED", 5)
    (warned,) = lines(healthy("doctor", "--json"), "maintenance", "bronze.service_events_raw")
    assert warned["status"] == "warn"
    assert "small files" in warned["message"]
    assert "ingest maintain" in warned["action"]
    assert healthy("maintain", "pgr_events").code == 0
    assert not lines(healthy("doctor", "--json"), "maintenance", "bronze.service_events_raw")


def test_people_get_a_line_per_finding(healthy: Ingest) -> None:
    """Without --json a line has status, check, message and action."""
    healthy("doctor")  # the embedded broker creates a topic that is asked for
    told = healthy("doctor").out.splitlines()
    found = healthy("doctor", "--json").json
    assert [line.split()[0] for line in told] == [finding["status"] for finding in found]


def test_doctor_leaves_nothing_behind(healthy: Ingest) -> None:
    """The object that proves conditional puts is gone afterwards."""
    lake = Path(Settings.load().lake_url.removeprefix("file://"))
    before = sorted(lake.rglob("*"))
    healthy("doctor")
    assert sorted(lake.rglob("*")) == before


def test_settings_tell_where_they_come_from(healthy: Ingest, tmp_path: Path) -> None:
    """A setting is told with its value and its origin."""
    (tmp_path / ".env").write_text("AWS_REGION=eu-north-7\n")
    told = [finding["message"] for finding in lines(healthy("doctor", "--json"), "settings")]
    assert "AWS_REGION=eu-north-7 (.env)" in told
    assert any(m.startswith("LAKE_URL=") and m.endswith("(environment)") for m in told)


def test_doctor_fails_without_broker(bare: Ingest) -> None:
    """A broker that does not run fails its check; what hangs on it is not looked at."""
    answer = bare("doctor", "--json")
    assert answer.code == 1
    (finding,) = lines(answer, "broker")
    assert finding["status"] == "fail"
    assert "ingest broker" in finding["action"]
    assert [f["status"] for f in lines(answer, "topics") + lines(answer, "streams")] == ["warn"] * 2
    assert [f["status"] for f in lines(answer, "lake") + lines(answer, "catalog")] == ["ok"] * 2


def test_a_wrong_setting_fails(bare: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that cannot be read are the only finding, with an example."""
    monkeypatch.setenv("LAKE_URL", "ftp://somewhere")
    answer = bare("doctor", "--json")
    assert answer.code == 1
    (finding,) = answer.json
    assert (finding["check"], finding["status"]) == ("settings", "fail")
    assert "LAKE_URL" in finding["message"]
    assert "s3://" in finding["action"]


def test_a_stream_that_is_behind_is_a_warning(healthy: Ingest) -> None:
    """Records that bronze lacks are counted, with the command that loads them."""
    healthy("produce", "pgr_events", "--count", "7", "--quiet")
    answer = healthy("doctor", "--json")
    assert answer.code == 0
    (finding,) = lines(answer, "streams", "pgr_events")
    assert finding["status"] == "warn"
    assert "7 records behind" in finding["message"]
    assert "ingest run pgr_events" in finding["action"]


def test_a_table_that_lost_rows_fails(healthy: Ingest) -> None:
    """Rows deleted behind the platform's back show as a slice that does not add up."""
    table = open_catalog(Settings.load()).load_table("bronze.service_events_raw")
    table.delete("_partition = 2")
    answer = healthy("doctor", "--json")
    assert answer.code == 1
    (finding,) = lines(answer, "tables", "pgr_events")
    assert finding["status"] == "fail"
    assert "ingest verify pgr_events" in finding["action"]


def test_a_lake_that_lost_files_fails(healthy: Ingest) -> None:
    """Bronze being ahead of the lake means that lake files are gone."""
    lake = Path(Settings.load().lake_url.removeprefix("file://"))
    for file in lake.rglob("partition=1/*"):
        file.unlink()
    answer = healthy("doctor", "--json")
    assert answer.code == 1
    told = [f["message"] for f in lines(answer, "streams") if f["status"] == "fail"]
    assert len(told) == 1
    assert "partition 1" in told[0]
    assert "files are missing" in told[0]


def test_a_lake_that_cannot_be_written_fails(
    bare: Ingest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A lake below a file is no lake."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAKE_URL", (tmp_path / "file" / "lake").as_uri())
    (finding,) = lines(bare("doctor", "--json"), "lake")
    assert finding["status"] == "fail"
    assert "LAKE_URL" in finding["action"]


def test_a_broker_that_crashed_is_noticed(bare: Ingest, tmp_path: Path) -> None:
    """A broker.json without its process is left over; `broker stop` cleans up."""
    home = tmp_path / ".platform"
    broker.start(home)
    left_over = (home / "broker.json").read_bytes()
    broker.stop(home)
    (home / "broker.json").write_bytes(left_over)
    (finding,) = lines(bare("doctor", "--json"), "embedded broker")
    assert finding["status"] == "warn"
    assert "ingest broker stop" in finding["action"]
    bare("broker", "stop")
    (finding,) = lines(bare("doctor", "--json"), "embedded broker")
    assert finding["status"] == "ok"


def test_what_was_lost_is_told(healthy: Ingest) -> None:
    """Lost records fail, a recreated topic warns; `ingest status` counts both."""
    store, topic = open_store(Settings.load()), declared_streams()["pgr_events"].topic
    record_losses(store, topic, [Loss(1, 0, 3, 45), Loss(2, 0, 9, None)])
    answer = healthy("doctor", "--json")
    assert answer.code == 1
    (lost,) = lines(answer, "streams", "lost")
    assert lost["status"] == "fail"
    assert "pgr_events, partition 1: 42 records lost, offsets 3 to before 45" in lost["message"]
    (recreated,) = lines(answer, "streams", "recreated")
    assert recreated["status"] == "warn"
    assert all("docs/runbook.md" in finding["action"] for finding in (lost, recreated))
    (status,) = [s for s in healthy("status", "--json").json if s["stream"] == "pgr_events"]
    assert [p["lost"] for p in status["partitions"]] == [0, 42, 0, 0]
    assert "recreated 1 times" in healthy("status", "pgr_events").out


@pytest.mark.parametrize(
    ("mode", "folder", "said"),
    [
        (0o600, 0o755, ""),
        (0o640, 0o755, "others can read"),
        (0o604, 0o755, "others can read"),
        (0o620, 0o755, "others can write"),
        (0o666, 0o755, "others can write"),
        (0o600, 0o775, "others can replace"),
        (0o600, 0o1777, ""),
    ],
)
def test_dotenv_that_others_reach_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, folder: int, said: str
) -> None:
    """They would read the secrets in it, or decide what the platform does."""
    file = tmp_path / ".env"
    file.write_text("")
    file.chmod(mode)
    tmp_path.chmod(folder)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load()
    assert settings.dotenv_file == file
    found = [f for f in diagnosis._settings(diagnosis.DoctorContext(settings)) if f.level != "ok"]
    assert [f.message.partition(f" {file}")[0] for f in found] == ([said] if said else [])
    assert all("chmod" in f.action for f in found)
