"""`ingest contract plan`: what a load would change, told beforehand, and what it would refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command_line import Ingest

Properties = list[dict[str, Any]]


def write(file: Path, properties: Properties) -> None:
    """The contract of letters with these properties."""
    document = {
        "apiVersion": "v3.2.0",
        "kind": "DataContract",
        "id": "letters",
        "version": "1.0.0",
        "status": "active",
        "domain": "post",
        "schema": [{"name": "letters", "properties": properties}],
    }
    file.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture
def contract(bare: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The contract of a stream that takes files, not loaded yet."""
    folder = tmp_path / "domains" / "post"
    folder.mkdir(parents=True)
    attributes = {"name": "letters", "files": {"folder": "letters"}}
    component = "ingestion_platform.orchestration.Stream"
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": component, "attributes": attributes}))
    monkeypatch.setenv("PLATFORM_DOMAINS", str(folder.parent))
    file = folder / "letters.odcs.yaml"
    write(file, [{"name": "id", "logicalType": "integer", "physicalType": "int"}])
    return file


def load(bare: Ingest, tmp_path: Path, *ids: int) -> None:
    """Load letters of these ids."""
    records = tmp_path / f"letters-{ids[0]}.jsonl"
    records.write_text("".join(json.dumps({"id": id_}) + "\n" for id_ in ids))
    assert bare("load", "letters", str(records)).code == 0


def test_a_table_that_is_not_there_will_be_made(bare: Ingest, contract: Path) -> None:
    """And is not made by asking."""
    answer = bare("contract", "plan", "letters", "--json")
    assert answer.code == 0
    assert answer.json == [
        {
            "stream": "letters",
            "table": "bronze.letters",
            "new": True,
            "steps": [],
            "rejected": [],
            "impact": None,
            "error": None,
        }
    ]
    assert "will be made" in bare("contract", "plan", "letters").out
    assert bare("contract", "plan").code == 2


def test_steps_are_told_and_done_by_the_next_load(
    bare: Ingest, contract: Path, tmp_path: Path
) -> None:
    """Asking changes nothing; after the load there is nothing left."""
    load(bare, tmp_path, 1, 2)
    assert "follows its contract" in bare("contract", "plan", "letters").out
    note = {"name": "note", "logicalType": "string"}
    write(contract, [{"name": "id", "logicalType": "integer"}, note])
    for _ in range(2):
        (planned,) = bare("contract", "plan", "letters", "--json").json
        texts = [step["text"] for step in planned["steps"]]
        assert texts == ["widen id from int to long", "add note (string)"]
    assert "widen id from int to long" in bare("contract", "plan", "letters").out
    load(bare, tmp_path, 2**40)
    (planned,) = bare("contract", "plan", "letters", "--json").json
    assert planned["steps"] == []
    rows = bare("query", "select id, note from bronze.letters order by 1", "--json").json
    assert [row["id"] for row in rows] == [1, 2, 2**40]


def test_impossible_change_is_reported_with_next_action(
    bare: Ingest, contract: Path, tmp_path: Path
) -> None:
    """Exit code 1, for the plan and for a load, which writes nothing."""
    load(bare, tmp_path, 1)
    write(contract, [{"name": "id", "logicalType": "string"}])
    answer = bare("contract", "plan", "letters", "--json")
    assert answer.code == 1
    (problem,) = answer.json[0]["rejected"]
    assert problem["element"] == "property id"
    told = bare("contract", "plan", "letters")
    assert "cannot follow its contract" in told.out
    assert "is string in the contract, but int in the table" in told.out
    assert "under a new name" in told.out
    records = tmp_path / "more.jsonl"
    records.write_text('{"id": "x"}\n')
    rejected = bare("load", "letters", str(records))
    assert rejected.code == 1
    assert "is string in the contract" in rejected.err
    assert bare("query", "select id from bronze.letters", "--json").json == [{"id": 1}]


def test_impact_counts_records_and_dropped_columns(
    bare: Ingest, contract: Path, tmp_path: Path
) -> None:
    """The plan counts what revalidating does, newest records first; then verify finds nothing."""
    identity = {"name": "id", "logicalType": "integer", "logicalTypeOptions": {"maximum": 9}}
    write(contract, [identity, {"name": "note", "logicalType": "string"}])
    records = tmp_path / "noted.jsonl"
    rows = [{"id": n, "note": "a" if n < 4 else None} for n in range(1, 13)]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bare("load", "letters", str(records)).code == 0
    assert bare("contract", "plan", "letters", "--json").json[0]["impact"]["stale"] == 0

    options = {"minimum": 3, "maximum": 11}
    write(contract, [identity | {"logicalTypeOptions": options}])
    (planned,) = bare("contract", "plan", "letters", "--json").json
    impact = planned["impact"]
    numbers = ("stale", "checked", "rejected", "returned", "dropped")
    assert [impact[name] for name in numbers] == [12, 12, 2, 2, {"note": 3}]
    assert list(impact["rejected_by_reason"].values()) == [2]
    assert list(impact["returned_by_reason"].values()) == [2]
    (planned,) = bare("contract", "plan", "letters", "--sample", "4", "--json").json
    assert [planned["impact"][name] for name in numbers] == [12, 4, 0, 2, {"note": 3}]
    out = bare("contract", "plan", "letters").out
    assert "ingest revalidate letters --all-stale" in out

    verified = bare("verify", "letters")
    assert "ingest revalidate letters --all-stale" in verified.out + verified.err
    assert bare("revalidate", "letters").code == 2
    done = bare("revalidate", "letters", "--all-stale", "--json").json
    assert (done["records"], done["bronze"], done["quarantined"]) == (12, 9, 3)
    assert sum(done["reasons"].values()) == 3
    assert bare("revalidate", "letters", "--all-stale", "--json").json["slices"] == []
    (found,) = bare("verify", "letters", "--json").json
    assert (found["ok"], found["stale"], found["quarantined"]) == (True, 0, 3)
