"""`dg scaffold defs`: declares a stream as `ingest new` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dagster.components.component_scaffolding import scaffold_object

from ingestion_platform.streams import COMPONENT, DOMAINS_FOLDER, declared_streams

PROJECT = """
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "shop_platform"
defs_module = "shop_platform.domains"
registry_modules = ["ingestion_platform.orchestration"]
[tool.dg.cli]
suppress_warnings = ["project_and_activated_venv_mismatch"]
"""


@pytest.fixture
def domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dg project of the user's own, whose domains PLATFORM_DOMAINS names."""
    folder = tmp_path / "shop_platform" / "domains"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    monkeypatch.setenv("PLATFORM_DOMAINS", str(folder))
    return folder


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A file with a record."""
    file = tmp_path / "orders.jsonl"
    file.write_text('{"order_id": 1, "status": "new"}\n')
    return file


def scaffold(path: Path, **parameters: str) -> None:
    """Do what dg does, in this process."""
    scaffold_object(path, COMPONENT, json.dumps(parameters), "yaml", None)


@pytest.mark.slow
def test_dg_scaffolds_a_declared_stream(domains: Path, sample: Path) -> None:
    """The command writes a contract and a defs.yaml; its folder names domain and stream."""
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("dg"), "scaffold", "defs", COMPONENT),
            *("shop/shop_orders", "--sample", str(sample)),
        ],
        cwd=domains.parents[1],
        env=os.environ | {"PYTHONPATH": str(domains.parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "ingest contract lint" in done.stdout
    stream = declared_streams()["shop_orders"]
    assert (stream.domain, stream.topic) == ("shop", "shop-orders")
    assert stream.contract_file.parent == domains / "shop" / "shop_orders"
    assert [field.name for field in stream.contract.fields] == ["order_id", "status"]


def test_a_path_of_one_part_names_domain_and_stream(domains: Path, sample: Path) -> None:
    """The topic can be given."""
    scaffold(domains / "shop", sample=str(sample), topic="orders.v1")
    stream = declared_streams()["shop"]
    assert (stream.domain, stream.topic) == ("shop", "orders.v1")


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("pgr_events", {"sample": "orders.jsonl"}, "is taken"),
        ("mine", {}, "a sample or a contract"),
    ],
)
def test_a_rejected_scaffold_leaves_no_file(
    domains: Path, sample: Path, name: str, given: dict[str, str], problem: str
) -> None:
    """The error names the next action; the folder that dg made is removed."""
    given = {option: str(sample.with_name(file)) for option, file in given.items()}
    with pytest.raises(Exception, match=problem):
        scaffold(domains / name, **given)
    assert not (domains / name).exists()
    assert len(declared_streams()) == len(declared_streams(DOMAINS_FOLDER))
