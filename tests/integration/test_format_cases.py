"""The documented cases of files hold: dropped, landed, loaded and verified, all side by side."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingestion_platform.dialect import dialect_of
from ingestion_platform.lake.file_source import FilesRefused, Handled
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import FileSource, Stream
from tests.formats import csv_cases, jsonl_cases, parquet_cases
from tests.formats.case import FormatCase
from tests.support.oracle import read_table
from tests.support.reasons import cell_texts

CONTRACT = Path(csv_cases.__file__).with_name("file_contract.yaml")
CASES = (*csv_cases.CASES, *jsonl_cases.CASES, *parquet_cases.CASES)
SUFFIXES = {"CSV": "csv", "JSON Lines": "jsonl", "JSON arrays": "json", "Parquet": "parquet"}


def declared(case: FormatCase) -> str:
    """The settings that a case runs with: what refuses a file only recommends them."""
    return "" if case.outcome == "refused" else case.setting


def file_name(case: FormatCase) -> str:
    """A name of the case's own, with the suffix of its format."""
    return f"{CASES.index(case)}.{SUFFIXES[case.section]}"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, list[str]]]:
    """What became of the cases, by file: outcome or problem, rows as text, and reasons."""
    root = tmp_path_factory.mktemp("cases")
    env = {"PLATFORM_HOME": str(root / "home"), "DROP_SETTLE_SECONDS": "0"}
    platform = Platform(Settings.load(env, root=root))
    results: dict[str, tuple[str, str, list[str]]] = {}
    ordered = sorted(CASES, key=declared)
    for number, (setting, cases) in enumerate(groupby(ordered, declared)):
        stream = stream_of_cases(root, number, setting)
        results |= run(platform, stream, list(cases))
    return results


def stream_of_cases(root: Path, number: int, setting: str) -> Stream:
    """A stream with tables of its own, whose files have a declared dialect."""
    document = yaml.safe_load(CONTRACT.read_text())
    document["schema"][0]["physicalName"] = f"cases_{number}"
    file = root / f"cases_{number}.odcs.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    file_source = FileSource(
        f"zone-{number}", csv=dialect_of(yaml.safe_load(setting) or {}, "defs.yaml")
    )
    name = f"cases_{number}"
    return Stream(name, "test", name, file, "group", partitions=0, files=file_source)


def run(
    platform: Platform, stream: Stream, cases: list[FormatCase]
) -> dict[str, tuple[str, str, list[str]]]:
    """Drop the files of some cases, all at once, and run their stream."""
    for case in cases:
        platform.drop.write(f"{stream.file_source.folder}/{file_name(case)}", case.given)
    handled: list[Handled] = []
    with suppress(FilesRefused):
        run_stream(platform, stream, on_file=handled.append)
    assert verify_stream(platform, stream).ok
    tables = [
        read_table(platform.settings, name).to_pylist()
        for name in (stream.bronze_table, stream.quarantine_table)
    ]
    return {each.name: outcome(each, *tables) for each in handled}


def outcome(
    handled: Handled, bronze: list[dict[str, Any]], quarantine: list[dict[str, Any]]
) -> tuple[str, str, list[str]]:
    """What became of a file, from the tables that hold its records."""
    if handled.claim is None:
        return (handled.detail if handled.outcome == "refused" else "read"), "", []
    offsets = range(handled.claim.start, handled.claim.end)
    rows = sorted((r for r in bronze if r["_offset"] in offsets), key=lambda r: r["_offset"])
    bad = [
        reason
        for r in quarantine
        if r["_offset"] in offsets
        for reason in cell_texts(r["_reasons"])
    ]
    return "read", "; ".join(map(shown, rows)), bad


def shown(row: dict[str, Any]) -> str:
    """A row as the page shows it: its fields without nulls."""
    values = {k: v for k, v in row.items() if v is not None and not k.startswith("_")}
    texts = {k: v.isoformat() if isinstance(v, datetime) else str(v) for k, v in values.items()}
    return ", ".join(f"{name}: {text}" for name, text in texts.items())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.section} {c.title}")
def test_documented_case_holds(
    found: dict[str, tuple[str, str, list[str]]], case: FormatCase
) -> None:
    """Rows, reason or problem are those of the page."""
    result, rows, reasons = found[file_name(case)]
    match case.outcome:
        case "read":
            assert (result, rows, reasons) == ("read", case.result, [])
        case "rejected":
            assert result == "read"
            assert len(reasons) == 1
            assert case.result in reasons[0]
        case "refused":
            assert result == case.result
            assert case.setting in result
