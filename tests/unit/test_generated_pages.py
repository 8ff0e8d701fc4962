"""Pages that `make docs` writes: current, and complete."""

from __future__ import annotations

import pytest

from ingestion_platform.dialect import SETTINGS
from tests.support.pages import page_writer


@pytest.mark.parametrize("name", ["write_faults", "write_formats", "write_metrics"])
def test_page_is_current(name: str) -> None:
    """The page is what `make docs` would write."""
    writer = page_writer(name)
    assert writer.PAGE.read_text() == writer.page(), "stale: run `make docs`"


def test_format_page_has_every_setting() -> None:
    """Settings are listed in the order in which they are declared."""
    assert tuple(page_writer("write_formats").SETTINGS) == SETTINGS


def test_every_fault_has_an_expectation() -> None:
    """Each test of a fault names the fault and says what must happen."""
    found = page_writer("write_faults").scenarios()
    assert len(found) > 30
    for each in found:
        assert each.fault, each.test
        assert len(each.must.split()) > 3, each.test
