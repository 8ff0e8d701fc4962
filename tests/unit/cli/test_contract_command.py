"""`ingest contract lint`, where it looks further than a contract's own file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ingestion_platform.streams import COMPONENT, DOMAINS_FOLDER
from tests.support.command_line import Ingest

CONTRACT = DOMAINS_FOLDER / "telemetry" / "app_logs.odcs.yaml"


@pytest.mark.parametrize(("key", "code"), [("host", 0), ("nobody", 1)])
def test_lint_looks_at_declared_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Ingest, key: str, code: int
) -> None:
    """A key that is no field of the contract is an error that names file, stream and fields."""
    folder = tmp_path / "mine"
    folder.mkdir()
    document = yaml.safe_load(CONTRACT.read_text()) | {"id": "mine"}
    document["schema"][0] |= {"name": "mine", "physicalName": "mine"}
    (folder / "mine.odcs.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    attributes = {"name": "mine", "topic": "mine", "key": key}
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": COMPONENT, "attributes": attributes}))
    monkeypatch.setenv("PLATFORM_DOMAINS", str(tmp_path))
    done = bare("contract", "lint")
    assert done.code == code, done.out
    told = f"{folder / 'defs.yaml'}: stream mine, key: 'nobody' is no field of mine.odcs.yaml"
    assert (told in done.out) is bool(code)
    assert ("use one of: timestamp, level" in done.out) is bool(code)
