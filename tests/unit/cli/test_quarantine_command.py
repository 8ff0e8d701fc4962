"""`ingest quarantine`: lists, records, replays and decisions, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingestion_platform import Client
from tests.support.command_line import Ingest

CONTRACT: dict[str, Any] = {
    "apiVersion": "v3.2.0",
    "kind": "DataContract",
    "id": "letters",
    "version": "1.0.0",
    "status": "active",
    "domain": "post",
    "schema": [
        {
            "name": "letters",
            "properties": [
                {"name": "id", "logicalType": "integer", "required": True},
                {"name": "kind", "logicalType": "string", "enum": [{"value": "card"}]},
            ],
        }
    ],
}
RECORDS = [
    {"id": 1, "kind": "card"},
    {"id": 2, "kind": "parcel"},
    {"id": 3, "kind": "\x1b[31m\x9b:bug:[bold]"},
    {"id": None, "kind": "parcel"},
]


@pytest.fixture
def contract(bare: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The contract of a stream of letters, of which one is good and three are rejected."""
    folder = tmp_path / "domains" / "post"
    folder.mkdir(parents=True)
    attributes = {"name": "letters", "files": {"folder": "letters"}}
    component = "ingestion_platform.orchestration.Stream"
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": component, "attributes": attributes}))
    file = folder / "letters.odcs.yaml"
    file.write_text(yaml.safe_dump(CONTRACT, sort_keys=False))
    monkeypatch.setenv("PLATFORM_DOMAINS", str(folder.parent))
    records = tmp_path / "letters.jsonl"
    records.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    assert bare("load", "letters", str(records)).code == 0
    return file


def let_parcels_in(contract: Path) -> None:
    """Repair the contract."""
    document = json.loads(json.dumps(CONTRACT))
    document["schema"][0]["properties"][1]["enum"].append({"value": "parcel"})
    contract.write_text(yaml.safe_dump(document, sort_keys=False))


def test_reasons_and_slices_are_counted(bare: Ingest, contract: Path) -> None:
    """As JSON, and as tables of at most 120 columns."""
    answer = bare("quarantine", "list", "letters", "--json")
    assert answer.code == 0
    (found,) = answer.json
    assert (found["records"], found["open"], found["decided"]) == (3, 3, 0)
    assert {g["name"]: g["records"] for g in found["by_reason"]} == {
        "kind: must be one of card": 3,
        "id: is required, but missing or null": 1,
    }
    assert [g["code"] for g in found["by_reason"]] == ["enum", "required"]
    assert [g["name"].rpartition("|")[2] for g in found["by_slice"]] == ["files"]
    told = bare("quarantine", "list", "letters")
    assert told.code == 0
    assert "kind: must be one of card" in told.out
    assert max(map(len, told.out.splitlines())) <= 120
    every = bare("quarantine", "list", "--all")
    assert every.code == 0
    assert "nothing in quarantine of" in every.err
    assert bare("quarantine", "list").code == 2


def test_a_record_is_shown_and_garbles_nothing(bare: Ingest, contract: Path) -> None:
    """Controls are escapes, markup and emoji names are letters; JSON has the value whole."""
    told = bare("quarantine", "show", "letters", "files", "2")
    assert told.code == 0
    assert '"kind": "\\u001b[31m\\x9b:bug:[bold]"' in told.out
    assert "\x1b" not in told.out
    assert "\x9b" not in told.out
    answer = bare("quarantine", "show", "letters", "files", "2", "--json")
    (found,) = answer.json
    assert json.loads(found["value"]["text"]) == RECORDS[2]
    assert "\x9b" not in answer.out
    assert (found["partition"], found["offset"], found["decision"]) == (-1, 2, None)


def test_records_are_shown_by_reason_up_to_a_limit(bare: Ingest, contract: Path) -> None:
    """And it is said that there are more."""
    answer = bare("quarantine", "show", "letters", "--reason", "KIND", "--limit", "2", "--json")
    assert [each["offset"] for each in answer.json] == [1, 2]
    assert "more than 2" in answer.err
    assert bare("quarantine", "show", "letters", "--reason", "nobody").code == 1
    assert bare("quarantine", "show", "letters", "files").code == 2
    assert bare("quarantine", "show", "letters", "x", "1").code == 2
    assert bare("quarantine", "show", "letters", "--ingest-date", "today").code == 2
    assert bare("quarantine", "show", "nobodys").code == 2


def test_a_replay_needs_another_contract(bare: Ingest, contract: Path) -> None:
    """Without, it says that nothing can change; with, how many came back."""
    same = bare("quarantine", "replay", "letters")
    assert same.code == 0
    assert "changes nothing" in same.out
    let_parcels_in(contract)
    answer = bare("quarantine", "replay", "letters", "--json")
    assert answer.json == answer.json | {"before": 3, "came_back": 1, "after": 2, "unchanged": 0}
    assert "3 of" not in bare("quarantine", "replay", "letters").out
    rows = bare("query", "select id from bronze.letters order by 1", "--json").json
    assert rows == [{"id": 1}, {"id": 2}]
    assert bare("verify", "letters").code == 0


def test_a_replay_tells_people_what_came_back(bare: Ingest, contract: Path) -> None:
    """And why the others did not."""
    let_parcels_in(contract)
    told = bare("quarantine", "replay", "letters")
    assert "1 of 3 records came back" in told.out
    assert "id: is required" in told.err


def test_a_decision_is_recorded_and_taken_back(bare: Ingest, contract: Path) -> None:
    """It shows in list, show and status; the record stays."""
    why = ("--because", "a test", "--by", "ann")
    made = bare("quarantine", "discard", "letters", "files", "1", "3", *why, "--json")
    assert made.json == made.json | {"records": 2, "by": "ann", "action": "discard"}
    (found,) = bare("quarantine", "list", "letters", "--json").json
    assert (found["records"], found["open"]) == (3, 1)
    told = bare("quarantine", "show", "letters", "files", "1").out
    assert "by ann: a test" in told
    (still,) = bare("quarantine", "show", "letters", "--open", "--json").json
    assert still["offset"] == 2
    status = bare("status", "letters")
    assert "3 (2 discarded) in quarantine.letters" in status.out
    again = bare("quarantine", "discard", "letters", "files", "1", *why)
    assert again.code == 1
    assert "no open record" in again.err
    undone = bare("quarantine", "discard", "letters", "--reason", "kind", "--undo", *why)
    assert undone.code == 0
    assert "2 records of letters open again by ann" in undone.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("letters", "files", "1"), 2),  # no reason
        (("letters", "--because", "x"), 2),  # no records
        (("letters", "files", "1", "--because", " "), 1),
        (("letters", "files", "0", "--because", "x"), 1),  # a good record
        (("nobodys", "files", "1", "--because", "x"), 2),
    ],
)
def test_a_decision_without_reason_or_records_is_none(
    bare: Ingest, contract: Path, arguments: tuple[str, ...], code: int
) -> None:
    """Wrong use and rejections end with the usual codes."""
    assert bare("quarantine", "discard", *arguments).code == code
    (found,) = bare("quarantine", "list", "letters", "--json").json
    assert found["decided"] == 0


def test_python_reads_rejected_records(bare: Ingest, contract: Path) -> None:
    """As the command does, and nothing else."""
    found = Client().quarantine("letters", reason="required")
    assert [each.offset for each in found] == [3]
    assert json.loads(found[0].value or b"") == RECORDS[3]
