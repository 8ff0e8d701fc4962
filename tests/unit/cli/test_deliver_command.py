"""`ingest deliver`: what it tells people and machines, and what it does without settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ingestion_platform.streams import DOMAINS_FOLDER
from tests.support.command_line import Ingest

DEFINITION = """\
type: ingestion_platform.orchestration.Stream
attributes:
  name: my_users
  topic: my-users
  contract: users.odcs.yaml
  files: {folder: mine}
  deliver:
    - files: {folder: mine/users, format: csv, parts: 1}
"""


@pytest.fixture
def delivering(bare: Ingest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ingest:
    """A stream of one's own with three users in bronze, delivered to a folder."""
    domain = tmp_path / "domains" / "mine"
    domain.mkdir(parents=True)
    (domain / "defs.yaml").write_text(DEFINITION)
    contract = (DOMAINS_FOLDER / "recomart" / "recomart_users.odcs.yaml").read_text()
    table = "physicalName: recomart_users"
    (domain / "users.odcs.yaml").write_text(contract.replace(table, "physicalName: my_users"))
    monkeypatch.setenv("PLATFORM_DOMAINS", str(tmp_path / "domains"))
    monkeypatch.setenv("SINK_FILES_URL", (tmp_path / "out").as_uri())
    users = [{"user_id": n, "age": 30, "gender": "F", "device": "Mobile"} for n in (1, 2, 3, 2)]
    file = tmp_path / "users.jsonl"
    file.write_text("".join(json.dumps(user) + "\n" for user in users))
    assert bare("load", "my_users", str(file)).code == 0
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    return bare


def test_a_stream_is_delivered_once(delivering: Ingest, tmp_path: Path) -> None:
    """In figures for machines and for people; the second time there is nothing to do."""
    (done,) = delivering("deliver", "my_users", "--json").json
    assert (done["name"], done["upserted"], done["rejected"]) == ("files/mine/users", 3, 0)
    (part,) = (tmp_path / "out" / "mine" / "users").glob("part-*.csv")
    assert part.read_text().count("\n") == 4
    again = delivering("deliver", "my_users")
    assert again.code == 0
    assert "files/mine/users" in again.out
    assert delivering("deliver", "files/mine/users", "--again", "--json").json[0]["upserted"] == 3


def test_all_leaves_out_what_has_no_settings(delivering: Ingest) -> None:
    """It says so, and delivers the others."""
    answer = delivering("deliver", "--all", "--json")
    assert answer.code == 0
    assert [each["name"] for each in answer.json] == ["files/mine/users"]
    assert "postgres/telemetry.sensor_readings: no settings" in answer.err


def test_what_cannot_be_delivered_is_told(delivering: Ingest) -> None:
    """No setting, no such delivery, nothing named: wrong use, with what to do."""
    answer = delivering("deliver", "sensor_readings")
    assert answer.code == 2
    assert "SINK_POSTGRES_URL" in answer.err
    answer = delivering("deliver", "pgr_events")
    assert answer.code == 2
    assert "has no delivery" in answer.err
    assert delivering("deliver").code == 2


def test_doctor_tells_of_targets(delivering: Ingest) -> None:
    """Behind at first, then as its table; and which have no settings."""

    def told() -> str:
        found = delivering("doctor", "--json").json
        return "\n".join(each["message"] for each in found if each["check"] == "sinks")

    assert "files/mine/users: 0 rows, behind bronze.my_users" in told()
    delivering("deliver", "my_users")
    assert "files/mine/users: 3 rows, as bronze.my_users" in told()
    assert "no settings for postgres/" in told()
