"""Settings: defaults, names, and errors that name the setting and show an example."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from ingestion_platform.errors import SettingError
from ingestion_platform.settings import Settings

URI = "PYICEBERG_CATALOG__LAKEHOUSE__URI"


def load(root: Path, **env: str) -> Settings:
    """Settings of these variables and no others."""
    return Settings.load(env, root=root)


def test_nothing_set_is_the_embedded_default(tmp_path: Path) -> None:
    """Everything lies in a folder of the working directory; nothing is created by reading."""
    settings = load(tmp_path)
    home = tmp_path / ".platform"
    assert settings.embedded
    assert settings.home == home
    assert settings.lake_url == (home / "lake" / "master_dataset").as_uri()
    assert settings.catalog["uri"] == f"sqlite:///{home / 'catalog.db'}"
    assert settings.catalog["warehouse"] == (home / "warehouse").as_uri()
    assert settings.dagster_home == home / "dagster"
    assert not home.exists()


def test_a_real_platform_by_its_variables(tmp_path: Path) -> None:
    """Each goes where the library that uses it looks."""
    settings = load(
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS="a:9092,[::1]:9093",
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_PASSWORD="",
        KAFKA_GROUP_ID="another program's",
        LAKE_URL="s3a://bucket-0/master_dataset/",
        AWS_ENDPOINT_URL="http://127.0.0.1:9000",
        AWS_ACCESS_KEY_ID="id",
        AWS_SECRET_ACCESS_KEY="shh",
        AWS_DEFAULT_REGION="eu-1",
        PYICEBERG_CATALOG__LAKEHOUSE__TYPE="sql",
        PYICEBERG_CATALOG__LAKEHOUSE__URI="postgresql+psycopg://u:shh@h/d",
        PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE="s3://bucket-0/warehouse",
        PYICEBERG_CATALOG__LAKEHOUSE__S3__REGION="eu-2",
        PLATFORM_HOME="here",
        DAGSTER_HOME=" ",
    )
    assert not settings.embedded
    assert settings.bootstrap_servers == "a:9092,[::1]:9093"
    assert settings.kafka == {"security.protocol": "SASL_SSL", "sasl.password": ""}
    assert settings.lake_url == "s3://bucket-0/master_dataset"
    assert settings.s3 == {
        "endpoint": "http://127.0.0.1:9000",
        "access_key_id": "id",
        "secret_access_key": "shh",
        "region": "eu-1",
    }
    assert settings.catalog == {
        "type": "sql",
        "uri": "postgresql+psycopg://u:shh@h/d",
        "warehouse": "s3://bucket-0/warehouse",
        "s3.endpoint": "http://127.0.0.1:9000",
        "s3.access-key-id": "id",
        "s3.secret-access-key": "shh",
        "s3.region": "eu-2",
    }
    assert settings.home == tmp_path / "here"
    assert settings.dagster_home == tmp_path / "here" / "dagster"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "broker"),
        ("KAFKA_BOOTSTRAP_SERVERS", "broker:9092,"),
        ("KAFKA_BOOTSTRAP_SERVERS", "http://broker"),
        ("KAFKA_BOOTSTRAP_SERVERS", ":9092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "broker:99999"),
        ("LAKE_URL", "/folder"),
        ("LAKE_URL", "gs://bucket"),
        ("LAKE_URL", "s3://"),
        ("LAKE_URL", "s3:///folder"),
        ("LAKE_URL", "file://folder/x"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000"),
        ("PLATFORM_HOME", "a file"),
        ("DAGSTER_HOME", "a file"),
    ],
)
def test_a_wrong_value_names_its_setting_and_an_example(
    tmp_path: Path, name: str, value: str
) -> None:
    """In words, with the value; the action is an example of a value that works."""
    (tmp_path / "a file").touch()
    with pytest.raises(SettingError) as caught:
        load(tmp_path, **{name: value})
    assert caught.value.name == name
    assert str(caught.value).startswith(f"setting {name}: ")
    assert f"-> for example {name}=" in str(caught.value)
    example = caught.value.action.partition("=")[2]
    assert load(tmp_path, **{name: example})


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_half_a_credential_is_told(tmp_path: Path, given: str, missing: str) -> None:
    """The setting that is missing is named; the one that is there is not shown."""
    with pytest.raises(SettingError, match=missing) as caught:
        load(tmp_path, **{given: "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_dotenv_file_fills_what_the_environment_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment wins; what the file adds is seen by libraries too."""
    (tmp_path / ".env").write_text(
        "KAFKA_BOOTSTRAP_SERVERS=file:1\nLAKE_URL='s3://bucket/x'  # comment\nexport AWS_REGION=r\n"
    )
    for name in ("LAKE_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "environment:1")
    settings = Settings.load(root=tmp_path)
    assert settings.bootstrap_servers == "environment:1"
    assert settings.lake_url == "s3://bucket/x"
    assert settings.s3["region"] == os.environ["AWS_REGION"] == "r"


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Neither by the settings' own text nor in what they were read from."""
    settings = load(
        tmp_path,
        KAFKA_SASL_PASSWORD="hunter2",
        KAFKA_SASL_JAAS_CONFIG="hunter2",
        KAFKA_SSL_KEY_PEM="hunter2",
        AWS_ACCESS_KEY_ID="id",
        AWS_SECRET_ACCESS_KEY="hunter2",
        AWS_SESSION_TOKEN="hunter2",
        PYICEBERG_CATALOG__LAKEHOUSE__URI="postgresql://u:hunter2@h/d",
        PYICEBERG_CATALOG__LAKEHOUSE__CREDENTIAL="hunter2",
        UNRELATED="hunter2",
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(dict(settings.source))
    assert settings.source[URI] == "***"
    assert "UNRELATED" not in settings.source


def test_the_worker_s_settings(tmp_path: Path) -> None:
    """Under the names that people know; a size that is none is rejected by its name."""
    worker = load(
        tmp_path,
        BATCH_SIZE="200",
        FLUSH_INTERVAL_SEC="0.5",
        FLUSH_BYTES="1000000",
        DROP_INTERVAL_SEC="60",
        REPORT_INTERVAL_SEC="30",
    ).worker
    assert (worker.batch_size, worker.flush_seconds, worker.flush_bytes) == (200, 0.5, 1_000_000)
    assert (worker.drop_seconds, worker.report_seconds) == (60.0, 30.0)
    for name in ("BATCH_SIZE", "FLUSH_INTERVAL_SEC", "FLUSH_BYTES"):
        with pytest.raises(SettingError, match=name):
            load(tmp_path, **{name: "many"})


def test_trusted_proxies_are_networks(tmp_path: Path) -> None:
    """Addresses and networks; anything else is named."""
    found = Settings.load({"HTTP_API_TRUSTED_PROXIES": "10.0.0.7, 10.1.0.0/16"}, root=tmp_path)
    assert found.http_api.trusted_proxies == ("10.0.0.7", "10.1.0.0/16")
    assert Settings.load({}, root=tmp_path).http_api.trusted_proxies == ()
    for wrong in ("*", "proxy.local", "10.0.0.0/33"):
        with pytest.raises(SettingError, match="neither an address nor a network"):
            Settings.load({"HTTP_API_TRUSTED_PROXIES": wrong}, root=tmp_path)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    """As containers mount it; the file's name is no property of a library."""
    file = tmp_path / "secret"
    file.write_text("postgresql://u:hunter2@h/d\n")
    settings = load(
        tmp_path,
        SINK_POSTGRES_URL_FILE=str(file),
        KAFKA_SASL_PASSWORD_FILE=str(file),
        PYICEBERG_CATALOG__LAKEHOUSE__URI_FILE=str(file),
        AWS_WEB_IDENTITY_TOKEN_FILE="/of/the/aws/library",
    )
    secret = "postgresql://u:hunter2@h/d"
    assert settings.sinks.postgres_url.get_secret_value() == secret
    assert settings.kafka == {"sasl.password": secret}
    assert settings.catalog["uri"] == secret
    assert {secret, "hunter2"} <= {*settings.secrets}
    assert "hunter2" not in repr(settings) + str(settings.source)


@pytest.mark.parametrize("other", [{}, {"ALARM_WEBHOOK_SECRET": "x"}])
def test_a_secret_s_file_must_be_usable(tmp_path: Path, other: dict[str, str]) -> None:
    """A file that is missing, or a second value beside it."""
    with pytest.raises(SettingError) as caught:
        load(tmp_path, ALARM_WEBHOOK_SECRET_FILE=str(tmp_path / "none"), **other)
    assert caught.value.name == "ALARM_WEBHOOK_SECRET_FILE"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_API_KEYS", "hunter2"),
        ("SINK_POSTGRES_URL", "mysql://u:hunter2@h/d"),
        ("ELASTICSEARCH_URL", "https://u:hunter2@"),
        ("ALARM_WEBHOOK_URL", "hunter2"),
    ],
)
def test_errors_do_not_show_secrets(tmp_path: Path, name: str, value: str) -> None:
    """Neither in the message nor in what led to it."""
    with pytest.raises(SettingError) as caught:
        load(tmp_path, **{name: value})
    assert caught.value.name == name
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_values_are_replaced_by_valid_ones(tmp_path: Path) -> None:
    """What was not set keeps its default, and the original its values."""
    worker = load(tmp_path, BATCH_SIZE="7").worker
    assert worker.replace(flush_bytes=9).model_dump() == worker.model_dump() | {"flush_bytes": 9}
    with pytest.raises(ValueError, match="flush_bytes"):
        worker.replace(flush_bytes=0)
