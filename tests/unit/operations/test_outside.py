"""The settings for other programs: complete, readable back, and in Spark's own names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_platform.operations import outside
from ingestion_platform.settings import Settings

PREFIX = "PYICEBERG_CATALOG__LAKEHOUSE__"
STORE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "se/cret+",
    "AWS_REGION": "eu-central-1",
}
EMBEDDED: dict[str, str] = {}
SERVED = STORE | {
    "LAKE_URL": "s3a://bucket/lake",
    f"{PREFIX}TYPE": "sql",
    f"{PREFIX}URI": "postgresql+psycopg://us%40er:p%2Fw@db:5432/iceberg?options=-csearch_path%3Dx",
    f"{PREFIX}WAREHOUSE": "s3://bucket/warehouse",
    "TRINO_HOST": "trino.example.org",
}
REST = {
    "AWS_REGION": "eu-central-1",
    "LAKE_URL": "s3://bucket/lake",
    f"{PREFIX}TYPE": "rest",
    f"{PREFIX}URI": "https://catalog.example.org",
    f"{PREFIX}WAREHOUSE": "lakehouse",
    f"{PREFIX}HEADER__X_ICEBERG_ACCESS_DELEGATION": "vended-credentials",
}


@pytest.mark.parametrize("given", [EMBEDDED, SERVED, REST], ids=["embedded", "served", "rest"])
def test_printed_variables_load_the_same_settings(given: dict[str, str], tmp_path: Path) -> None:
    """Lake, store, catalog and Trino are the same for a process that has only these variables."""
    settings = Settings.load(given, root=tmp_path)
    again = Settings.load(outside.environment(settings), root=tmp_path / "elsewhere")
    assert again.lake_url == settings.lake_url
    assert again.catalog == settings.catalog
    assert again.s3 == settings.s3
    assert again.trino == settings.trino


def test_embedded_variables_name_no_object_store(tmp_path: Path) -> None:
    """On local disk there is nothing to say of an object store."""
    settings = Settings.load({}, root=tmp_path)
    assert not [name for name in outside.environment(settings) if "S3" in name or "AWS" in name]
    assert not [name for name in outside.spark_properties(settings) if "s3" in name]


def test_pyiceberg_reads_the_printed_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyIceberg's own configuration has the endpoint and the keys."""
    from pyiceberg.utils.config import Config

    for name, value in outside.environment(Settings.load(SERVED, root=tmp_path)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYICEBERG_HOME", str(tmp_path))
    assert Config().get_catalog_config("lakehouse") == {
        "type": "sql",
        "uri": SERVED[f"{PREFIX}URI"],
        "warehouse": "s3://bucket/warehouse",
        "s3.endpoint": "http://127.0.0.1:9000",
        "s3.access-key-id": "someone",
        "s3.secret-access-key": "se/cret+",
        "s3.region": "eu-central-1",
    }


def test_spark_gets_the_catalogs_database(tmp_path: Path) -> None:
    """SQLAlchemy's address becomes JDBC's, and the login is decoded."""
    properties = outside.spark_properties(Settings.load(SERVED, root=tmp_path))
    catalog = "spark.sql.catalog.lakehouse"
    assert properties[f"{catalog}.type"] == "jdbc"
    assert properties[f"{catalog}.uri"] == (
        "jdbc:postgresql://db:5432/iceberg?options=-csearch_path%3Dx"
    )
    assert properties[f"{catalog}.jdbc.user"] == "us@er"
    assert properties[f"{catalog}.jdbc.password"] == "p/w"
    assert properties[f"{catalog}.s3.endpoint"] == "http://127.0.0.1:9000"
    assert properties[f"{catalog}.s3.path-style-access"] == "true"
    assert properties["spark.hadoop.fs.s3a.secret.key"] == "se/cret+"


def test_spark_gets_the_embedded_database(tmp_path: Path) -> None:
    """The SQLite file is named by its absolute path."""
    properties = outside.spark_properties(Settings.load({}, root=tmp_path))
    database = tmp_path / ".platform" / "catalog.db"
    assert properties["spark.sql.catalog.lakehouse.uri"] == f"jdbc:sqlite:{database}"


def test_spark_gets_other_catalogs_properties(tmp_path: Path) -> None:
    """A REST catalog's properties are passed on as they are."""
    properties = outside.spark_properties(Settings.load(REST, root=tmp_path))
    catalog = "spark.sql.catalog.lakehouse"
    assert properties[f"{catalog}.type"] == "rest"
    assert properties[f"{catalog}.header.x-iceberg-access-delegation"] == "vended-credentials"
    assert f"{catalog}.s3.path-style-access" not in properties
