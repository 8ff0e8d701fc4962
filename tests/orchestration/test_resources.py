"""Resources from dagster-duckdb and dagster-aws, and the stack's compute logs."""

import sys
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from ingestion_platform.orchestration.resources import TablesResource, platform_resources
from ingestion_platform.platform import Platform
from ingestion_platform.project import DAGSTER_CONFIG
from ingestion_platform.settings import Settings
from services import Services
from tests.support.testbed import separate_environment

COMPUTE_LOGS = DAGSTER_CONFIG.parent / "docker" / "compute-logs.yaml"


@pytest.fixture
def real_platform(servers: Services, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the real servers, as those of this process."""
    for name, value in separate_environment(servers).items():
        monkeypatch.setenv(name, value)
    return Settings.load()


@pytest.mark.services
def test_checks_query_iceberg_tables_by_duckdb(real_platform: Settings) -> None:
    """A check of a user's own reads tables on MinIO by the resource `duckdb`."""
    catalog = Platform(real_platform).catalog
    catalog.create_namespace("shop")
    rows = pa.table({"id": [1, 2, 3]})
    catalog.create_table("shop.orders", schema=rows.schema).append(rows)

    @dg.asset_check(asset=dg.AssetKey(["shop", "orders"]))
    def has_orders(duckdb: TablesResource) -> dg.AssetCheckResult:
        (total,) = duckdb.query("select count(*) as n from shop.orders")["n"].to_pylist()
        with duckdb.get_connection() as connection:
            (highest,) = connection.execute("select max(id) from shop.orders").fetchall()[0]
        return dg.AssetCheckResult(passed=total == highest == 3)

    job = dg.define_asset_job("check", dg.AssetSelection.checks(has_orders))
    definitions = dg.Definitions(
        asset_checks=[has_orders],
        assets=[dg.AssetSpec(["shop", "orders"])],
        jobs=[job],
        resources=platform_resources(),
    )
    result = definitions.resolve_job_def("check").execute_in_process()
    assert [each.passed for each in result.get_asset_check_evaluations()] == [True]


@pytest.mark.services
def test_compute_logs_of_the_stack_are_on_s3(
    real_platform: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dagster.yaml of the image keeps output of runs in MinIO; pruning a run removes it there."""
    bucket, _, _ = real_platform.lake_url.removeprefix("s3://").partition("/")
    monkeypatch.setenv("DAGSTER_LOGS_BUCKET", bucket)
    (tmp_path / "dagster.yaml").write_text(DAGSTER_CONFIG.read_text() + COMPUTE_LOGS.read_text())
    s3 = platform_resources()["s3"].get_client()
    run = tmp_path.name
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        logs = instance.compute_log_manager
        with logs.capture_logs([run, "compute_logs", "step"]):
            print("a line of a model", file=sys.stderr)  # noqa: T201
        stored = s3.list_objects_v2(Bucket=bucket, Prefix=f"dagster/storage/{run}")["Contents"]
        texts = [s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in stored]
        assert any(b"a line of a model" in text for text in texts)
        logs.delete_logs(prefix=[run])
        left = s3.list_objects_v2(Bucket=bucket, Prefix=f"dagster/storage/{run}")
        assert left["KeyCount"] == 0
