"""Translate the settings for other programs that read the lake and the tables.

`ingest env` prints the results, secrets included.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from ingestion_platform.settings import CATALOG, Settings

_AWS = {
    "endpoint": "AWS_ENDPOINT_URL",
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
    "region": "AWS_REGION",
}
_S3A = {
    "endpoint": "endpoint",
    "access_key_id": "access.key",
    "secret_access_key": "secret.key",
    "session_token": "session.token",
    "region": "endpoint.region",
}


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables by which PyIceberg, S3 and Trino clients find the data.

    Loading the settings from them gives the same lake, object store and catalog. PyIceberg reads
    its object store from PYICEBERG_CATALOG__LAKEHOUSE__S3__* only, other clients from AWS_*.
    """
    found = {"LAKE_URL": settings.lake_url}
    if _has_object_store(settings):
        found |= {_AWS[key]: value for key, value in settings.s3.items()}
    for key, value in _catalog(settings).items():
        name = key.replace(".", "__").replace("-", "_").upper()
        found[f"PYICEBERG_CATALOG__{CATALOG.upper()}__{name}"] = value
    if (trino := settings.trino) is not None:
        found |= {"TRINO_HOST": trino.host, "TRINO_PORT": str(trino.port)}
        found |= {"TRINO_USER": trino.user, "TRINO_CATALOG": trino.catalog}
    return found


def spark_properties(settings: Settings) -> dict[str, str]:
    """Return Spark's configuration for the tables (catalog `lakehouse`) and for the raw lake.

    Spark needs the jars of iceberg-spark-runtime, of the catalog's database driver, and with S3
    of iceberg-aws-bundle (tables) and hadoop-aws (raw lake).
    """
    catalog = _catalog(settings)
    prefix = f"spark.sql.catalog.{CATALOG}"
    found = {
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.session.timeZone": "UTC",
        prefix: "org.apache.iceberg.spark.SparkCatalog",
    }
    if catalog.get("type") == "sql":
        catalog |= {"type": "jdbc", "jdbc.schema-version": "V1", **_jdbc(catalog["uri"])}
    if _has_object_store(settings):
        catalog["io-impl"] = "org.apache.iceberg.aws.s3.S3FileIO"
        catalog["client.region"] = catalog.pop("s3.region")
        if "endpoint" in settings.s3:
            catalog["s3.path-style-access"] = "true"
            found["spark.hadoop.fs.s3a.path.style.access"] = "true"
        for key, value in settings.s3.items():
            found[f"spark.hadoop.fs.s3a.{_S3A[key]}"] = value
    return found | {f"{prefix}.{key}": value for key, value in catalog.items()}


def _has_object_store(settings: Settings) -> bool:
    """Return whether the lake or the tables may lie in an object store."""
    places = settings.lake_url, settings.catalog.get("warehouse", "")
    return any(not place.startswith("file:") for place in places)


def _catalog(settings: Settings) -> dict[str, str]:
    """Return the catalog's properties; those of an object store only if there is one."""
    with_store = _has_object_store(settings)
    return {k: v for k, v in settings.catalog.items() if with_store or not k.startswith("s3.")}


def _jdbc(uri: str) -> dict[str, str]:
    """Return the JDBC properties for SQLAlchemy's address of a database."""
    parts = urlsplit(uri)
    database = parts.scheme.partition("+")[0]
    if database == "sqlite":
        return {"uri": f"jdbc:sqlite:{parts.path.removeprefix('/')}"}
    port = f":{parts.port}" if parts.port else ""
    query = f"?{parts.query}" if parts.query else ""
    login = {"user": parts.username, "password": parts.password}
    return {
        "uri": f"jdbc:{database}://{parts.hostname}{port}{parts.path}{query}",
        **{f"jdbc.{name}": unquote(value) for name, value in login.items() if value},
    }
