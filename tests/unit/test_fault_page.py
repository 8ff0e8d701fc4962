"""docs/faults.md says what the tests of faults say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

WRITER = Path(__file__).parents[2] / "docs" / "write_faults.py"


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("write_faults", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_fresh(writer: ModuleType) -> None:
    """`make docs` would write what is there."""
    assert writer.PAGE.read_text() == writer.page(), "stale: run `make docs`"


def test_every_scenario_says_what_must_happen(writer: ModuleType) -> None:
    """A fault without an expectation is no test."""
    found = writer.scenarios()
    assert len(found) > 30
    for each in found:
        assert each.fault, each.test
        assert len(each.must.split()) > 3, each.test
