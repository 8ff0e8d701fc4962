"""What the tests of dbt's models share: the parsed project."""

from __future__ import annotations

from typing import Any

import pytest
from dbt_warehouse import Warehouse


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
