"""Deliveries in Dagster: assets with lineage, a check, automation; a word where settings lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from ingestion_platform.definitions import defs
from ingestion_platform.errors import ContractError
from ingestion_platform.orchestration import deliveries as module
from ingestion_platform.orchestration.partitions import slice_key
from ingestion_platform.settings import Settings, SinkSettings
from ingestion_platform.sinks.declare import declared_deliveries, stream_deliveries
from ingestion_platform.streams import Destination, stream_of
from services import Services
from tests.support.dagster_lab import TODAY, Lab

READINGS = dg.AssetKey(["postgres", "telemetry", "sensor_readings"])


def test_declared_deliveries_are_assets_behind_their_sources() -> None:
    """Each has the slices of its source, its domain's group, and a check; without settings it
    says so and nothing asks for it."""
    graph = defs().get_repository_def().asset_graph
    node = graph.get(READINGS)
    bronze = dg.AssetKey(["bronze", "telemetry_sensor_readings"])
    assert node.parent_keys == {bronze}
    assert node.partitions_def == graph.get(bronze).partitions_def
    assert node.group_name == "telemetry"
    assert "postgres" in node.kinds
    assert {key.name for key in node.check_keys} == {module.EQUAL}
    assert node.automation_condition is None
    assert "until the settings of" in (node.description or "")


def test_a_model_is_delivered_by_its_days() -> None:
    """Behind the model, partitioned like it."""
    graph = defs().get_repository_def().asset_graph
    node = graph.get(dg.AssetKey(["postgres", "recomart", "user_features"]))
    model = dg.AssetKey(["gold", "gold_recomart_user_features"])
    assert node.parent_keys == {model}
    assert node.partitions_def == graph.get(model).partitions_def
    assert node.group_name == "recomart"


def test_the_shop_and_the_sensors_go_to_postgres() -> None:
    """The routing of the domains."""
    found = {each.name: each.source for each in declared_deliveries().values()}
    assert (
        found.items()
        >= {
            "postgres/telemetry.sensor_readings": "sensor_readings",
            "postgres/recomart.users": "recomart_users",
            "postgres/recomart.products": "recomart_products",
            "postgres/recomart.transactions": "recomart_transactions",
            "postgres/recomart.user_features": "gold.gold_recomart_user_features",
        }.items()
    )


@pytest.fixture
def delivering(lab: Lab, servers: Services, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab whose stream is delivered to a schema of its own."""
    uri = servers.env()["PYICEBERG_CATALOG__LAKEHOUSE__URI"].replace("+psycopg", "")
    monkeypatch.setenv("SINK_POSTGRES_URL", uri)
    where = Destination("postgres", {"table": f"{lab.stream.contract.table}.events"})
    return Lab(
        replace(lab.stream, deliver=(where,)),
        lab.settings.replace(sinks=SinkSettings(postgres_url=uri)),
        lab.instance,
    )


@pytest.mark.services
def test_materializing_delivers_and_checks(delivering: Lab) -> None:
    """A range in one run: figures as metadata, and the check that both agree."""
    delivering.produce(50, TODAY)
    key = module.delivery_key(stream_deliveries(delivering.stream)[0])
    delivering.materialize((TODAY, 0), (TODAY, 3))
    told = delivering.materialize((TODAY, 0), (TODAY, 3), only=[key])
    event = told.of(key)[TODAY, 0]
    assert (event["upserted"], event["rows"], event["lag"], event["rejected"]) == (50, 50, 0, 0)
    check = told.checks[module.EQUAL]
    assert check.passed
    assert check.metadata["target_rows"].value == 50
    again = delivering.materialize((TODAY, 1), only=[key])
    assert again.of(key)[TODAY, 1]["upserted"] == 0


@pytest.mark.services
def test_a_fresh_slice_of_bronze_asks_for_its_delivery(delivering: Lab) -> None:
    """By automation, slice by slice, once."""
    key = module.delivery_key(stream_deliveries(delivering.stream)[0])

    def tick(cursor: object) -> tuple[set[str], object]:
        result = dg.evaluate_automation_conditions(
            defs=delivering.definitions(), instance=delivering.instance, cursor=cursor
        )
        return set(result.get_requested_partitions(key)), result.cursor

    asked, cursor = tick(None)
    assert asked == set()
    event = dg.AssetMaterialization(delivering.bronze, partition=slice_key((TODAY, 2)))
    delivering.instance.report_runless_asset_event(event)
    asked, cursor = tick(cursor)
    assert asked == {slice_key((TODAY, 2))}
    asked, _ = tick(cursor)
    assert asked == set()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"postgres": {"tabel": "a.b"}}], "tabel: is not an option"),
        ([{"mongo": {}}], "'mongo' is not a sink"),
        ([{"postgres": {"table": "a-b.c"}}], "'a-b' is not a valid name"),
        ("", "'' is not a sink"),
        ([{"postgres": {}, "files": {}}], "is no list of sinks"),
    ],
)
def test_a_wrong_destination_is_told_with_its_place(
    given: object, said: str, local_settings: Settings, tmp_path: Path
) -> None:
    """The error names the file, the stream, and what is wrong."""
    contract = Path(stream_deliveries.__code__.co_filename).parents[1] / "domains" / "telemetry"
    attributes = {"name": "sensor_readings", "topic": "t", "deliver": given}
    with pytest.raises(ContractError, match=said) as found:
        stream_deliveries(stream_of(attributes, contract))
    assert "telemetry/defs.yaml" in str(found.value)
    assert "stream sensor_readings" in str(found.value)
