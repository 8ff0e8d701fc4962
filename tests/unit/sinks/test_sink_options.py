"""What the YAML of deliveries may say, and which types targets have."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ingestion_platform.errors import ContractError, SettingError, UnknownStream
from ingestion_platform.settings import Settings
from ingestion_platform.sinks import files, postgres
from ingestion_platform.sinks.declare import declared_deliveries, model_deliveries, select
from ingestion_platform.sinks.interface import Column

URL = "postgresql://me:s3cret@db.example.org:5432/serving"


@pytest.mark.parametrize(
    ("kind", "json", "expected"),
    [
        (pa.int32(), False, "integer"),
        (pa.decimal128(12, 2), False, "numeric(12,2)"),
        (pa.timestamp("us", "UTC"), False, "timestamptz"),
        (pa.timestamp("us"), False, "timestamp"),
        (pa.string(), True, "jsonb"),
        (pa.list_(pa.int64()), False, "bigint[]"),
        (pa.list_(pa.struct([("a", pa.int32())])), False, "jsonb"),
        (pa.struct([("a", pa.int32())]), False, "jsonb"),
        (pa.binary(), False, "bytea"),
    ],
)
def test_postgres_types_keep_the_value(kind: pa.DataType, json: bool, expected: str) -> None:
    """A column of its own where there is a type for it, JSON where there is none."""
    assert postgres.postgres_type(Column("x", kind, 1, json)) == expected


def test_only_types_that_lose_nothing_are_widened() -> None:
    """As Iceberg does it, in arrays as well."""
    assert postgres.widens("integer", "bigint")
    assert postgres.widens("integer[]", "bigint[]")
    assert postgres.widens("numeric(9,2)", "numeric(12,2)")
    assert not postgres.widens("numeric(9,2)", "numeric(12,3)")
    assert not postgres.widens("bigint", "integer")
    assert not postgres.widens("text", "jsonb")


@pytest.mark.parametrize("given", [{"folder": "../x"}, {"format": "xlsx"}, {"parts": 0}, {"a": 1}])
def test_wrong_options_of_files_are_rejected(given: dict[str, object]) -> None:
    """By the option's name."""
    with pytest.raises(ValueError, match=next(iter(given))):
        files.options(given, "shop", "users")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"model": "users", "key": "id", "deliver": ["files"]}, "names no table"),
        ({"model": "silver.users", "deliver": ["files"]}, "key: is missing"),
        ({"model": "silver.users", "key": "id"}, "delivered nowhere"),
        ({"model": "silver.users", "keys": "id"}, "keys: is not an attribute"),
    ],
)
def test_a_wrong_delivery_of_a_model_is_told(
    attributes: dict[str, object], said: str, tmp_path: Path
) -> None:
    """With the file and what is wrong."""
    with pytest.raises(ContractError, match=said):
        model_deliveries(attributes, tmp_path / "shop")


def test_two_deliveries_to_one_target_are_rejected(tmp_path: Path) -> None:
    """They would undo each other."""
    document = (
        "type: ingestion_platform.orchestration.Delivery\n"
        "attributes: {model: silver.a, key: id, deliver: [files: {folder: same}]}\n"
    )
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "defs.yaml").write_text(
        f"{document}---\n{document.replace('silver.a', 'silver.b')}"
    )
    with pytest.raises(ContractError, match=r"mixed up with, files/same, the target of silver\.a"):
        declared_deliveries(tmp_path)


def test_what_is_not_delivered_is_told_with_what_is() -> None:
    """For the command line."""
    with pytest.raises(UnknownStream, match=r"pgr_events is not delivered[\s\S]*sensor_readings"):
        select(declared_deliveries(), ["pgr_events"])


def test_the_address_of_postgres_is_a_secret(tmp_path: Path) -> None:
    """It is in no listing of the settings, and a wrong one is not repeated."""
    settings = Settings.load({"SINK_POSTGRES_URL": URL}, root=tmp_path)
    assert settings.sinks.postgres_url.get_secret_value() == URL
    assert "s3cret" not in repr(settings) + str(settings.source)
    with pytest.raises(SettingError, match="SINK_POSTGRES_URL") as found:
        Settings.load({"SINK_POSTGRES_URL": URL.replace("postgresql", "mysql")}, root=tmp_path)
    assert "s3cret" not in str(found.value)


def test_without_settings_a_sink_says_which(local_settings: Settings) -> None:
    """Instead of failing somewhere else."""
    where = postgres.options({}, "shop", "users")
    assert postgres.label(where) == "shop.users"
    assert not postgres.configured(local_settings)
    with pytest.raises(SettingError, match="SINK_POSTGRES_URL: is not set"):
        postgres.open_target(local_settings, where)
