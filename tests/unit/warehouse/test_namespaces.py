"""Making namespaces: whoever comes first, nobody fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.tables import ensure_namespace


def test_concurrent_models_share_a_namespace(tmp_path: Path) -> None:
    """Threads that make the same namespace at once all find it made."""
    catalog = open_catalog(Settings.load({"PLATFORM_HOME": str(tmp_path)}))
    names = [f"layer_{number}" for number in range(20)]
    together = Barrier(4)

    def make(_: int) -> None:
        for name in names:
            together.wait(timeout=60)
            ensure_namespace(catalog, name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))
    assert {name for (name,) in catalog.list_namespaces()} == set(names)
