"""Options and attributes of deliveries in YAML, and the types of columns in PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from ingestion_platform.errors import ContractError, SettingError, UnknownStream
from ingestion_platform.settings import Settings
from ingestion_platform.sinks import elasticsearch, files, postgres
from ingestion_platform.sinks.base import Column
from ingestion_platform.sinks.declare import declared_deliveries, model_deliveries, select
from ingestion_platform.sinks.postgres.types import postgres_type

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
    """Values without a PostgreSQL type become jsonb."""
    assert postgres_type(Column("x", kind, 1, json)) == expected


@pytest.mark.parametrize(
    ("sink", "given", "message"),
    [
        (files, {"folder": "../x"}, "folder: '../x' is not a valid path"),
        (files, {"format": "xlsx"}, "format: is not one of"),
        (files, {"parts": 0}, "parts: is not a number"),
        (files, {"a": 1}, "a: is not an option"),
        (postgres, {"index": "x"}, "index: is not an option"),
        (postgres, {"table": "a b"}, "table: 'a b' is not a valid name"),
        (postgres, {"table": "shop.ingestion_rejected"}, "belongs to the sink"),
        (elasticsearch, {"table": "x"}, "table: is not an option"),
        (elasticsearch, {"index": "Logs"}, "not a valid name"),
        (elasticsearch, {"index": "a-000001"}, "reserved for the sink"),
        (elasticsearch, {"index": "a-rejected"}, "reserved for the sink"),
    ],
)
def test_wrong_options_are_rejected_by_name(
    sink: ModuleType, given: dict[str, object], message: str
) -> None:
    """The error names the option and what is wrong."""
    with pytest.raises(ValueError, match=message):
        sink.SINK.parse_options(given, "shop", "users")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"model": "users", "key": "id", "deliver": ["files"]}, "does not name a table"),
        ({"model": "silver.users", "deliver": ["files"]}, "key: is missing"),
        ({"model": "silver.users", "key": "id"}, "has no destination"),
        ({"model": "silver.users", "keys": "id"}, "keys: is not an attribute"),
    ],
)
def test_wrong_delivery_of_model_is_rejected(
    attributes: dict[str, object], message: str, tmp_path: Path
) -> None:
    """The error names the attribute and what is wrong."""
    with pytest.raises(ContractError, match=message):
        model_deliveries(attributes, tmp_path / "shop")


def test_two_deliveries_to_one_target_are_rejected(tmp_path: Path) -> None:
    """Each would delete the rows of the other."""
    document = (
        "type: ingestion_platform.orchestration.Delivery\n"
        "attributes: {model: silver.a, key: id, deliver: [files: {folder: same}]}\n"
    )
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "defs.yaml").write_text(
        f"{document}---\n{document.replace('silver.a', 'silver.b')}"
    )
    with pytest.raises(ContractError, match=r"nested with, files/same of silver\.a"):
        declared_deliveries(tmp_path)


def test_unknown_delivery_lists_the_known_ones() -> None:
    """The command line shows the error."""
    with pytest.raises(UnknownStream, match=r"pgr_events has no delivery[\s\S]*sensor_readings"):
        select(declared_deliveries(), ["pgr_events"])


def test_postgres_url_is_secret(tmp_path: Path) -> None:
    """It is not in a listing of the settings, and a wrong one is not in the error."""
    settings = Settings.load({"SINK_POSTGRES_URL": URL}, root=tmp_path)
    assert settings.sinks.postgres_url.get_secret_value() == URL
    assert "s3cret" not in repr(settings) + str(settings.source)
    with pytest.raises(SettingError, match="SINK_POSTGRES_URL") as found:
        Settings.load({"SINK_POSTGRES_URL": URL.replace("postgresql", "mysql")}, root=tmp_path)
    assert "s3cret" not in str(found.value)


def test_missing_setting_is_named(local_settings: Settings) -> None:
    """Opening a target fails with the setting."""
    options = postgres.SINK.parse_options({}, "shop", "users")
    assert options.label == "shop.users"
    assert not postgres.SINK.configured(local_settings)
    with pytest.raises(SettingError, match="SINK_POSTGRES_URL: is not set"):
        postgres.SINK.open_target(local_settings, options)
