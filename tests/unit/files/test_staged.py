"""Texts in staging files: none is a formula to a spreadsheet of any locale, and all read back."""

from __future__ import annotations

import csv
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.files.formats import copy_file, format_of, open_copy
from ingestion_platform.files.spool import Spool
from ingestion_platform.files.staged import guarded, unguarded
from ingestion_platform.http_api import staging
from ingestion_platform.http_api.staging import append_rows

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "x;=1", "x|=1", "x\n=1"]
TEXTS = [*FORMULAS, "", "NULL", "'", "'=1", "%3B", " =1", "a,b", 'say "x"', "plain", "é'", "a %"]


def read_back(file: Path, folder: Path) -> list[dict[str, Any]]:
    """The records that the reader makes of a file."""
    with Spool(folder) as spool:
        content = open_copy(copy_file(file, spool), format_of(file.name), spool)
        return [json.loads(v) for batch in content.records() for v in batch.values.to_pylist()]


@given(st.text())
def test_every_text_reads_back(text: str) -> None:
    """Whatever it is."""
    assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_a_formula(text: str) -> None:
    """Not even where a spreadsheet splits it by its own delimiter."""
    cell = guarded(text)
    assert not any(part[:1] in "=+-@＝" for part in cell.replace("|", ";").split(";") if part)
    assert not any(delimiter in cell for delimiter in ";|\t\r\n")


def test_staged_values_are_read_exactly(tmp_path: Path) -> None:
    """Texts, JSON with a delimiter, nulls and numbers; numbers are left as they are."""
    rows = [{"text": text, "number": -5, "json": {"k": "a;=1"}, "none": None} for text in TEXTS]
    append_rows(tmp_path, "zone/x_api_staging.csv", list(rows[0]), rows)
    file = tmp_path / "zone" / "x_api_staging.csv"
    found = read_back(file, tmp_path / "spool")
    assert [each["text"] for each in found] == TEXTS
    assert {(each["number"], each["none"]) for each in found} == {("-5", None)}
    assert json.loads(found[0]["json"]) == {"k": "a;=1"}
    with file.open(newline="", encoding="utf-8") as lines:
        assert {row["number"] for row in csv.DictReader(lines)} == {"-5"}


def test_other_files_keep_their_apostrophes(tmp_path: Path) -> None:
    """They are somebody's data there."""
    file = tmp_path / "other.csv"
    file.write_text("a\n'=1\n")
    assert read_back(file, tmp_path / "spool") == [{"a": "'=1"}]


def test_staging_never_writes_through_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may drop files cannot have the API write elsewhere, nor make it wait for ever."""
    zone, outside = tmp_path / "zone", tmp_path / "outside"
    zone.mkdir()
    outside.write_text("as it was\n")
    (zone / "link_api_staging.csv").symlink_to(outside)
    os.link(outside, zone / "hard_api_staging.csv")
    os.mkfifo(zone / "pipe_api_staging.csv")
    (tmp_path / "linked").symlink_to(zone)
    names = ["zone/link", "zone/hard", "zone/pipe", "linked/new"]
    for name in names:
        with pytest.raises(OSError, match=r".+"):
            append_rows(tmp_path, f"{name}_api_staging.csv", ["a"], [{"a": 1}])
    assert outside.read_text() == "as it was\n"
    monkeypatch.setattr(staging, "_LOCK_SECONDS", 0.05)
    append_rows(tmp_path, "zone/x_api_staging.csv", ["a"], [{"a": 1}])
    with (zone / "x_api_staging.csv").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            append_rows(tmp_path, "zone/x_api_staging.csv", ["a"], [{"a": 2}])
