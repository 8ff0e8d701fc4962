"""What the tests of dbt's models share: the parsed project, and a catalog for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbt.adapters.duckdb.connections import DuckDBConnectionManager

from tests.support.dbt_warehouse import Warehouse


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The project, so that each test does not parse it again; parsing needs no catalog."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("parse")
        patch.setenv("PLATFORM_HOME", str(home))
        result = Warehouse(home).dbt("parse")
        assert result.success, result.exception
        assert not (home / "catalog.db").exists()
        return result.result


@pytest.fixture
def rounds(pytestconfig: pytest.Config) -> int:
    """Return how often rows change before models are compared with a full rebuild."""
    return 3 if pytestconfig.getoption("long") else 1


@pytest.fixture
def warehouse(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    manifest: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Warehouse]:
    """The module's own `Warehouse`: an empty catalog that the settings of this process name."""
    monkeypatch.setenv("PLATFORM_HOME", str(tmp_path))
    yield request.module.Warehouse(tmp_path, manifest)
    DuckDBConnectionManager.close_all_connections()
