"""The examples of docs/contract-reference.md: each passes, or gives the error that follows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ingestion_platform.contract.lint import Severity, lint

PAGE = Path(__file__).parents[3] / "docs" / "contract-reference.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```\n(?:Error: ([^\n]*))?", PAGE.read_text(), re.S)


@pytest.mark.parametrize(("text", "error"), EXAMPLES)
def test_examples_of_the_page_hold(odcs: Callable[..., Path], text: str, error: str) -> None:
    """An example is a list of properties, or keys of the head."""
    example = yaml.safe_load(text)
    if isinstance(example, list):
        file = odcs(*example)
    else:
        file = odcs({"name": "x", "logicalType": "string"}, **example)
    errors = [each for each in lint([file]) if each.severity is Severity.ERROR]

    assert len(errors) == bool(error), errors
    assert all(error in f"{each.problem} {each.action}" for each in errors)


def test_page_has_examples_of_both_kinds() -> None:
    """The page shows what passes and what does not."""
    assert len(EXAMPLES) >= 10
    assert 0 < sum(bool(error) for _, error in EXAMPLES) < len(EXAMPLES)
