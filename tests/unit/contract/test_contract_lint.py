"""Linting contract files, the declared ones first of all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ingestion_platform.contract.lint import Severity, lint
from ingestion_platform.contract.model import Kind
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.streams import DOMAINS_FOLDER

DECLARED = sorted(DOMAINS_FOLDER.glob("*/*.odcs.yaml"))
TEXT = {"name": "text", "logicalType": "string"}
PGR_COLUMNS = {
    "event_date": Kind.DATE,
    "event_time": Kind.TIMESTAMP,
    "tenant_id": Kind.STRING,
    "service": Kind.STRING,
    "entity_type": Kind.STRING,
    "entity_id": Kind.STRING,
    "event_type": Kind.STRING,
    "status": Kind.STRING,
    "actor_type": Kind.STRING,
    "actor_id": Kind.STRING,
    "channel": Kind.STRING,
    "ward_id": Kind.STRING,
    "locality_id": Kind.STRING,
    "attributes_json": Kind.JSON,
    "raw_payload": Kind.STRING,
}


def test_the_declared_contracts_are_spotless():
    """The platform's own contracts have neither errors nor warnings."""
    assert DECLARED
    assert lint(DECLARED) == []


@pytest.mark.slow
@pytest.mark.parametrize("file", DECLARED, ids=lambda file: file.name)
def test_the_declared_contracts_pass_datacontract_lint(file):
    """The tool of the standard accepts the files too."""
    tool = Path(sys.executable).parent / "datacontract"
    result = subprocess.run([tool, "lint", file], capture_output=True, text=True, timeout=120)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "Data contract is valid" in result.stdout


def test_the_contract_of_grievances():
    """Columns, table and partitions are those that existing readers know."""
    contract = load_contract(DOMAINS_FOLDER / "pgr" / "pgr_events.odcs.yaml")

    assert {f.name: f.kind for f in contract.fields} == PGR_COLUMNS
    assert [f.name for f in contract.fields] == list(PGR_COLUMNS)
    assert [f.name for f in contract.fields if f.required] == list(PGR_COLUMNS)[:9]
    assert (contract.domain, contract.stream) == ("pgr", "pgr_events")
    assert contract.table == "service_events_raw"
    assert contract.partition_by == ("event_date", "service")
    assert not contract.column("event_time").zoned
    assert contract.quarantine_share == 0.05
    assert contract.freshness_seconds == 3600
    assert "event_date_is_day_of_event_time" in [rule.name for rule in contract.rules]


def test_errors_and_warnings_of_several_files(odcs, tmp_path):
    """Every problem of every file is listed; a broken file does not hide the next one."""
    broken = tmp_path / "broken.odcs.yaml"
    broken.write_text(odcs(TEXT | {"unique": True}, TEXT | {"name": "_x"}, id="other").read_text())
    good = odcs(TEXT)

    findings = lint([broken, tmp_path / "absent.odcs.yaml", good])

    found = [(Path(f.file).name, f.element, f.severity) for f in findings]
    column = "schema[0].properties[0] (text)"
    assert found[:3] == [
        ("broken.odcs.yaml", "schema[0].properties[1] (_x)", Severity.ERROR),
        ("broken.odcs.yaml", f"{column}.unique", Severity.ERROR),
        ("absent.odcs.yaml", "the file", Severity.ERROR),
    ]
    assert found[3:] == [
        ("things.odcs.yaml", element, Severity.WARNING)
        for element in ("description.purpose", "team", "slaProperties", "schema[0].properties",
                        column, column)
    ]  # fmt: skip
    assert all(f.problem and f.action for f in findings)


def test_contracts_that_share_what_must_be_their_own(odcs, tmp_path):
    """Two files cannot feed one table, nor have one id or one stream's name."""
    first = odcs(TEXT)
    second = tmp_path / "more.odcs.yaml"
    second.write_text(first.read_text())

    errors = [f for f in lint([first, second]) if f.severity is Severity.ERROR]

    assert [f.element for f in errors] == ["id", "schema[0]"]
    assert all(f.file == str(second) and str(first) in f.problem for f in errors)


def test_a_zone_by_default_is_reported(odcs):
    """A warning for each column whose contract does not say what a time without a zone means."""
    options = {"declared": {"defaultTimezone": "UTC"}, "number": {"format": "epoch_millis"}}
    file = odcs(
        {"name": "relying", "logicalType": "timestamp"},
        {"name": "wall", "logicalType": "timestamp", "physicalType": "timestamp"},
        *(
            {"name": n, "logicalType": "timestamp", "logicalTypeOptions": o}
            for n, o in options.items()
        ),
    )
    found = [f for f in lint([file]) if "without a zone" in f.problem]
    assert [f.element.split(" ")[1] for f in found] == ["(relying)", "(wall)"]
    assert {f.severity for f in found} == {Severity.WARNING}


@pytest.mark.slow
def test_the_ways_to_send_times_pass_datacontract_lint():
    """Zones and epoch formats are said where the standard has a place for them."""
    file = Path(__file__).parents[2] / "formats" / "json_contract.yaml"
    tool = Path(sys.executable).parent / "datacontract"
    result = subprocess.run([tool, "lint", file], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
