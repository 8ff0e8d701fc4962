"""docs/formats.md says what the cases of formats say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ingestion_platform.dialect import SETTINGS

WRITER = Path(__file__).parents[2] / "docs" / "write_formats.py"


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("write_formats", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_format_page_is_current(writer: ModuleType) -> None:
    """`make docs` would write what is there."""
    assert writer.PAGE.read_text() == writer.page(), "stale: run `make docs`"


def test_format_page_has_every_setting(writer: ModuleType) -> None:
    """In the order in which they are declared."""
    assert tuple(writer.SETTINGS) == SETTINGS
