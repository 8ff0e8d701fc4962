"""Writing small ODCS files: `odcs` gives the path of one, `load` and `problems` read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ingestion_platform.contract.model import Contract
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.contract.problems import ContractProblems, Problem
from tests.support.contract_documents import document


@pytest.fixture
def odcs(tmp_path: Path) -> Callable[..., Path]:
    """Writes an ODCS file of `document(*properties, **changes)` and gives its path."""

    def write(*properties: dict[str, object], **changes: object) -> Path:
        file = tmp_path / "things.odcs.yaml"
        content = document(*properties, **changes)
        file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return file

    return write


@pytest.fixture
def load(odcs: Callable[..., Path]) -> Callable[..., Contract]:
    """Loads a contract of these properties."""
    return lambda *properties, **changes: load_contract(odcs(*properties, **changes))


@pytest.fixture
def problems(odcs: Callable[..., Path]) -> Callable[..., tuple[Problem, ...]]:
    """The problems of a contract of these properties."""

    def read(*properties: dict[str, object], **changes: object) -> tuple[Problem, ...]:
        file = odcs(*properties, **changes)
        with pytest.raises(ContractProblems) as caught:
            load_contract(file)
        assert str(file) in str(caught.value)
        assert all(p.element and p.problem and p.action for p in caught.value.problems)
        return caught.value.problems

    return read
