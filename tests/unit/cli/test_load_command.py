"""`ingest load`: files by hand, with exit codes, a table for people and JSON for machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import Ingest

GOOD = '{"user_id": 1, "age": 30, "gender": "F", "device": "Mobile"}\n'
BAD = '{"user_id": 2, "age": 0, "gender": "F", "device": "Mobile"}\n'


@pytest.fixture
def files(bare: Ingest, tmp_path: Path) -> dict[str, str]:
    """A file with a bad record, one that cannot be parsed, and one that is not there."""
    found = {name: str(tmp_path / name) for name in ("good.jsonl", "broken.json", "missing.jsonl")}
    found = {name.partition(".")[0]: path for name, path in found.items()}
    Path(found["good"]).write_text(GOOD * 2 + BAD)
    Path(found["broken"]).write_text("{\n")
    return found


def test_files_are_loaded_once(bare: Ingest, files: dict[str, str]) -> None:
    """Without any broker; the second time they are copies."""
    first = bare("load", "recomart_users", files["good"], "--json")
    assert first.code == 0
    (outcome,) = first.json
    assert outcome == outcome | {"result": "landed", "records": 3, "bronze": 2, "quarantined": 1}
    assert list(outcome["reasons"]) == ["age: must be above 0"]
    second = bare("load", "recomart_users", files["good"])
    assert second.code == 0
    assert "copy" in second.out
    counted = bare("query", "select count(*) from bronze.recomart_users", "--json").out
    assert "2" in counted


def test_failing_file_does_not_stop_the_others(bare: Ingest, files: dict[str, str]) -> None:
    """It is told with line and reason; exit code 1."""
    answer = bare("load", "recomart_users", *files.values(), "--json")
    assert answer.code == 1
    assert {each["result"] for each in answer.json} == {"landed", "failed"}
    assert [each["bronze"] for each in answer.json] == [2, 0, 0]
    assert "broken.json, line 1: starts with no [" in answer.err
    assert "missing.jsonl: there is no such file" in answer.err


def test_a_trial_writes_nothing(bare: Ingest, files: dict[str, str], tmp_path: Path) -> None:
    """The counts and the reasons, and no lake."""
    answer = bare("load", "recomart_users", files["good"], "--dry-run", "--json")
    assert answer.code == 0
    (outcome,) = answer.json
    assert outcome == outcome | {"result": "tried", "records": 3, "bronze": 2, "quarantined": 1}
    assert list(outcome["reasons"]) == ["age: must be above 0"]
    assert not (tmp_path / ".platform" / "lake").exists()


@pytest.mark.parametrize("arguments", [("no_such_stream", "x.csv"), ("pgr_events",)])
def test_wrong_use(bare: Ingest, arguments: tuple[str, ...]) -> None:
    """Exit code 2."""
    assert bare("load", *arguments).code == 2
