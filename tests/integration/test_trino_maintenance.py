"""Maintenance that has a real Trino rewrite files and manifests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion_platform.errors import EngineUnavailable, Permanent
from ingestion_platform.operations.maintenance import maintain_stream
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.commit import read_committed
from services import Services
from services.net import free_port
from tests.support.testbed import separate_settings
from tests.support.trino_sql import Trino

pytestmark = [pytest.mark.services, pytest.mark.slow]


def test_trino_rewrites_what_the_platform_finds_small(
    trino: Services, tmp_path: Path, make_stream: Callable[..., Stream]
) -> None:
    """Rows and positions stay, another maintenance and another run find nothing to do; a Trino that
    is away or has other tables is told as such, and has changed nothing."""
    settings = separate_settings(trino, tmp_path)
    platform = Platform(settings)
    stream = make_stream(settings, partitions=1)
    for seed in range(6):  # as many small files of one day
        records = simulate("pgr_events", 20, seed=seed, days=0.01)
        assert not produce(settings, stream.topic, records).failed
        run_stream(platform, stream)
    name = stream.bronze_table
    committed_by_partition = read_committed(platform.catalog.load_table(name))

    with Trino(trino, settings) as sql:
        away = sql.settings.replace(port=free_port())
        with pytest.raises(EngineUnavailable, match="TRINO_HOST"):
            maintain_stream(Platform(settings.replace(trino=away)), stream, thorough=False)
        other = sql.settings.replace(catalog="system")
        with pytest.raises(Permanent, match="TRINO_CATALOG"):
            maintain_stream(Platform(settings.replace(trino=other)), stream, thorough=False)
        assert verify_stream(platform, stream).ok

        by_trino = Platform(settings.replace(trino=sql.settings))
        done = {each.before.table: each for each in maintain_stream(by_trino, stream).tables}[name]
        assert done.rewritten > done.written > 0
        assert done.after.files < done.before.files
        table = platform.catalog.load_table(name)
        replaced = [s.summary for s in table.snapshots() if s.summary]
        assert any(s.additional_properties.get("engine-name") == "trino" for s in replaced)
        assert read_committed(table) == committed_by_partition
        assert verify_stream(platform, stream).ok
        assert all(each.idle for each in maintain_stream(by_trino, stream, thorough=False).tables)
    run_stream(platform, stream)
    assert platform.catalog.load_table(name).current_snapshot() == table.current_snapshot()
