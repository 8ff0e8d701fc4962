"""Every setting of the platform, read once at the edge; the only reader of the environment.

Names are the ecosystem's own: KAFKA_<LIBRDKAFKA_PROPERTY>, AWS_*, PYICEBERG_CATALOG__LAKEHOUSE__*.
A `.env` file in the working directory fills what the environment does not set. A secret may also
come from a file: <NAME>_FILE is its path.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ingestion_platform.errors import SettingError
from ingestion_platform.sizes import bytes_of

CATALOG = "lakehouse"
_CATALOG_PREFIX = f"PYICEBERG_CATALOG__{CATALOG.upper()}__"

# Read elsewhere (by producers of one domain, by Kafka's own scripts): no librdkafka properties.
_NOT_LIBRDKAFKA = {
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_GROUP_ID",
    "KAFKA_HEAP_OPTS",
    "KAFKA_HOME",
    "KAFKA_JMX_OPTS",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_LOG4J_OPTS",
    "KAFKA_OPTS",
    "KAFKA_TOPIC",
}
_S3 = {
    "endpoint": "AWS_ENDPOINT_URL",
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
    "region": "AWS_REGION",
}
_PREFIXES = (
    "ALARM_", "AWS_", "DROP_", "ELASTICSEARCH_", "FILES_", "FLUSH_", "HTTP_API_", "KAFKA_", "LAKE_",
    "LOG_", "MAINTENANCE_", "PLATFORM_", "PYICEBERG_", "SENSOR_", "SINK_", "TRINO_",
)  # fmt: skip
_UNPREFIXED = {"BATCH_SIZE", "DAGSTER_HOME", "DAGSTER_WEBSERVER_URL", "REPORT_INTERVAL_SEC"}
# In names of variables and of properties of Kafka, S3 and the catalog.
_SECRET_WORDS = ("password", "secret", "token", "key", "uri", "credential", "jaas", "pem")
_SECRET_URLS = ("postgres_url", "elasticsearch_url", "webhook_url")
_exported: dict[str, str] = {}
"""The variables that this process put into its environment from a `.env` file."""


def _is_http(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)


def _folder(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    return folder


def _servers(value: str) -> str:
    for server in value.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{server.strip()!r} is not host:port")
    return value


def _store_url(value: str) -> str:
    value = value.rstrip("/")
    # Spark's and Hadoop's spelling of the same store.
    value = "s3://" + value.removeprefix("s3a://") if value.startswith("s3a://") else value
    url = urlsplit(value)
    if url.scheme not in ("file", "s3"):
        raise ValueError(f"{value!r} does not start with file:// or s3://")
    if url.scheme == "s3" and not url.netloc:
        raise ValueError(f"{value!r} has no bucket")
    if url.scheme == "file" and (url.netloc or not url.path.startswith("/")):
        raise ValueError(f"{value!r} is not an absolute file URL")
    return value


def _http_url(value: str) -> str:
    if not _is_http(value):
        raise ValueError(f"{value!r} does not start with http:// or https://")
    return value.rstrip("/")


def _without_slash(value: str) -> str:
    return value.rstrip("/")


def _webhook(value: SecretStr) -> SecretStr:
    if not _is_http(value.get_secret_value()):
        raise ValueError("is not an address that starts with http:// or https://")
    return value


def _postgres(value: SecretStr) -> SecretStr:
    url = urlsplit(value.get_secret_value())
    if url.scheme not in ("postgresql", "postgres") or not url.path.strip("/"):
        raise ValueError("is not the address of a PostgreSQL database")
    return value


def _nodes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    urls = tuple(url.strip().rstrip("/") for url in value.split(",") if url)
    if not all(map(_is_http, urls)):
        raise ValueError("is not the address of an Elasticsearch node")
    return urls


def _networks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    networks = tuple(each.strip() for each in value.split(",") if each.strip())
    for each in networks:
        try:
            ipaddress.ip_network(each)
        except ValueError:
            raise ValueError(f"{each!r} is neither an address nor a network") from None
    return networks


def _api_keys(value: Any) -> Any:
    """Parse name:hash entries; errors name an entry by number, since it may hold the key itself."""
    if not isinstance(value, str):
        return value
    keys: dict[str, str] = {}
    for number, entry in enumerate(filter(None, map(str.strip, value.split(","))), 1):
        client, _, digest = entry.partition(":")
        if not re.fullmatch(r"[\w.@-]+", client) or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise ValueError(
                f"entry {number} is not name:hash with a SHA-256 hash of 64 hex digits"
            )
        if client in keys:
            raise ValueError(f"entry {number} repeats the name {client}")
        keys[client] = digest.lower()
    return keys


def _size(value: Any) -> Any:
    return bytes_of(value) if isinstance(value, str) else value


def _cased(case: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: case(value.strip()) if isinstance(value, str) else value)


Folder = Annotated[Path, AfterValidator(_folder)]
StoreUrl = Annotated[str, AfterValidator(_store_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Seconds = NonNegativeFloat


class Group(BaseSettings):
    """Settings that belong together; each field is one environment variable.

    The variable is the field's alias, or the group's prefix and the field's name.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
        enable_decoding=False,
        env_ignore_empty=True,
        allow_inf_nan=False,
        validate_default=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the values that `read` gives: a group must not read the environment on its own."""
        return (init_settings,)

    @classmethod
    def read(cls, variables: Mapping[str, str], **others: Any) -> Self:
        """Return the group from environment variables, and `others` by the names of fields.

        Raises:
            SettingError: a variable has a value that cannot work.
        """
        source = EnvSettingsSource(cls)
        source.env_vars = {name.lower(): value for name, value in variables.items()}
        try:
            return cls(**{**source(), **others})
        except ValidationError as error:
            raise cls._setting_error(error) from None  # it would show the values of secrets

    @classmethod
    def _setting_error(cls, error: ValidationError) -> SettingError:
        first = error.errors(include_url=False)[0]
        given = str(first["loc"][0])
        name, field = next(
            (name, field)
            for name, field in cls.model_fields.items()
            if given in (name, field.validation_alias)
        )
        prefixed = f"{cls.model_config['env_prefix']}{name}".upper()
        variable = str(field.validation_alias or prefixed)
        value = "the value" if is_secret(variable) else repr(first["input"])
        raised = first.get("ctx", {}).get("error")
        problem = str(raised) if raised else f"{value} cannot be used: {first['msg']}"
        example = (field.examples or [field.default])[0]
        return SettingError(variable, problem, example=str(example))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, validated."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)

    def secret_values(self) -> Iterator[str]:
        """Yield the values that must not be shown."""
        for name in type(self).model_fields:
            yield from _secret_values(getattr(self, name))


def _secret_values(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, Group):
        yield from value.secret_values()
    elif isinstance(value, tuple):
        for each in value:
            yield from _secret_values(each)
    elif isinstance(value, Mapping):
        yield from (each for name, each in value.items() if is_secret(str(name)))


class HttpApiSettings(Group):
    """Limits and timeouts of the HTTP API: HTTP_API_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="HTTP_API_")

    auth: bool = True
    """Whether a request needs an API key; off only by HTTP_API_AUTH=off."""
    api_keys: Annotated[Mapping[str, str], BeforeValidator(_api_keys)] = Field(
        default_factory=dict,
        validation_alias="HTTP_API_KEYS",
        repr=False,
        examples=["<what `ingest serve --new-key NAME` prints>"],
    )
    """SHA-256 of each client's key, in hex, by the client's name."""
    max_body_bytes: PositiveInt = 8 * 1024 * 1024
    """Bytes of a request body, both as sent and decompressed."""
    max_records: PositiveInt = 5000
    """Records of one request."""
    max_json_depth: PositiveInt = 32
    """Nested objects and arrays of a body, the outermost included."""
    max_requests: PositiveInt = 64
    """Requests in progress at once; more are answered 503."""
    client_requests: PositiveInt = 16
    """Requests in progress of one client."""
    address_requests: PositiveInt = 32
    """Requests in progress from one address."""
    max_connections: PositiveInt = 1000
    """Open connections."""
    address_connections: PositiveInt = 250
    """Open connections from one address that is no trusted proxy."""
    rate_records: NonNegativeInt = 50_000
    """Records (requests without any count as one) per second and client, two seconds' worth at
    once; 0 is no limit."""
    rate_anonymous: NonNegativeInt = 200
    """Requests without a known key per second and address, two seconds' worth at once; 0 is no
    limit."""
    body_seconds: PositiveInt = 30
    """Seconds for a whole request body to arrive."""
    body_rate: NonNegativeInt = 1000
    """Bytes per second at which a body has to arrive on average; 0 is any rate."""
    write_seconds: PositiveInt = 10
    """Seconds that a client may take next to nothing of its answer."""
    ack_seconds: PositiveInt = 30
    """Seconds for Kafka to acknowledge a record: longer than a broker is usually down, because a
    record that was given up may have arrived."""
    idempotency_seconds: PositiveInt = 3600
    """Seconds that the answer to an Idempotency-Key is remembered."""
    idempotency_bytes: PositiveInt = 64 * 1024 * 1024
    """Bytes of remembered answers; the oldest are dropped first."""
    trusted_proxies: Annotated[tuple[str, ...], BeforeValidator(_networks)] = Field(
        default=(), examples=["10.0.0.7,10.1.0.0/16"]
    )
    """Addresses and networks whose X-Forwarded-For names the client's address."""


class WorkerSettings(Group):
    """How much the worker takes at once, and how often; its streams share the sizes."""

    model_config = SettingsConfigDict(env_prefix="PLATFORM_WORKER_")

    batch_size: PositiveInt = Field(default=50_000, validation_alias="BATCH_SIZE")
    """Records that are taken at once; also of a lake file, at most."""
    flush_seconds: Seconds = Field(default=1.0, validation_alias="FLUSH_INTERVAL_SEC")
    """Seconds that a record waits at most."""
    flush_bytes: PositiveInt = Field(default=32 * 1024 * 1024, validation_alias="FLUSH_BYTES")
    """Estimated bytes of values that are taken at once; also of a file."""
    drop_seconds: Seconds = Field(default=5.0, validation_alias="DROP_INTERVAL_SEC")
    """Seconds between two listings of a drop zone."""
    report_seconds: Seconds = Field(default=10.0, validation_alias="REPORT_INTERVAL_SEC")
    """Seconds between two reports of a stream to Dagster, at least."""


class FileLimits(Group):
    """The most that is read of a dropped file: FILES_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="FILES_")

    max_size: Annotated[PositiveInt, BeforeValidator(_size)] = Field(
        default=4 * 1024**3, examples=["4GiB"]
    )
    """Bytes of a file, both as dropped and decompressed (`500MB`, `4GiB`); a stream may declare its
    own, `max_size` below `files:`."""
    max_ratio: PositiveInt = 200
    """Decompressed bytes for each compressed one, beyond the first 64 MiB."""
    max_records: PositiveInt = 50_000_000
    """Records of a file."""


class MaintenanceSettings(Group):
    """Targets of maintenance: MAINTENANCE_<FIELD>.

    The number of snapshots to keep is a property of each table
    (history.expire.min-snapshots-to-keep), which every engine knows.
    """

    model_config = SettingsConfigDict(env_prefix="MAINTENANCE_")

    target_file_mb: PositiveInt = 128
    """Small files of a table become files of about this size."""
    orphan_hours: PositiveInt = 24
    """Hours that a file stays after it was written and after it was first found unused: longer than
    any write or read takes."""
    run_days: PositiveInt = 14
    """Days that Dagster's finished runs are kept; those that tell the state of a slice stay."""


class SensorSettings(Group):
    """How often Dagster's sensors tick: SENSOR_<FIELD>. Dagster itself ticks every five seconds."""

    model_config = SettingsConfigDict(env_prefix="SENSOR_")

    topics_seconds: PositiveInt = 2
    """Seconds between two comparisons of a topic with its tables."""
    files_seconds: PositiveInt = 2
    """Seconds between two listings of a drop zone."""
    automation_seconds: PositiveInt = 1
    """Seconds between two evaluations of the models' conditions."""
    alarms_seconds: PositiveInt = 60
    """Seconds between two checks for alarms."""
    dead_run_seconds: PositiveInt = 600
    """Seconds without an event after which a started run counts as dead."""


class TrinoSettings(Group):
    """A Trino that has the platform's tables in a catalog: TRINO_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="TRINO_")

    host: str
    port: Annotated[PositiveInt, Field(le=65535)] = 8080
    user: str = "ingestion"
    catalog: str = CATALOG
    """The name that the tables' catalog has there."""


class SinkSettings(Group):
    """Addresses and credentials of delivery targets; one that is not set gets nothing."""

    model_config = SettingsConfigDict(env_prefix="SINK_")

    postgres_url: Annotated[SecretStr, AfterValidator(_postgres)] | None = Field(
        default=None, examples=["postgresql://user:password@host:5432/database"]
    )
    files_url: StoreUrl = Field(default="", examples=["s3://bucket/exports"])
    """file:///folder or s3://bucket/prefix."""
    elasticsearch_urls: Annotated[tuple[SecretStr, ...], BeforeValidator(_nodes)] = Field(
        default=(),
        validation_alias="ELASTICSEARCH_URL",
        examples=["https://search.example.org:9200"],
    )
    """Addresses of one or more nodes, separated by commas."""
    elasticsearch_api_key: SecretStr | None = Field(
        default=None, validation_alias="ELASTICSEARCH_API_KEY"
    )
    """The encoded key, as Elasticsearch shows it once."""
    elasticsearch_username: str | None = Field(
        default=None, validation_alias="ELASTICSEARCH_USERNAME"
    )
    """The user, in place of an API key."""
    elasticsearch_password: SecretStr | None = Field(
        default=None, validation_alias="ELASTICSEARCH_PASSWORD"
    )
    elasticsearch_ca_file: str | None = Field(
        default=None, validation_alias="ELASTICSEARCH_CA_FILE"
    )
    """Certificates to trust beside the system's."""

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        prefix = "ELASTICSEARCH_"
        if self.elasticsearch_api_key and self.elasticsearch_username:
            problem = "is set together with ELASTICSEARCH_USERNAME: only one of them can be used"
            raise SettingError(f"{prefix}API_KEY", problem, example="<the key alone>")
        if bool(self.elasticsearch_username) != bool(self.elasticsearch_password):
            missing = "PASSWORD" if self.elasticsearch_username else "USERNAME"
            problem = "is missing while its partner is set"
            raise SettingError(f"{prefix}{missing}", problem, example="...")
        if self.elasticsearch_ca_file and not Path(self.elasticsearch_ca_file).is_file():
            problem = f"there is no file {self.elasticsearch_ca_file}"
            raise SettingError(f"{prefix}CA_FILE", problem, example="/etc/ssl/certs/search.pem")
        return self


class LogSettings(Group):
    """The log of every process: LOG_<FIELD>; see `logs`."""

    model_config = SettingsConfigDict(env_prefix="LOG_")

    format: Annotated[Literal["console", "json"], _cased(str.lower)] = "console"
    """console, for people; json, a line per message for machines."""
    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], _cased(str.upper)] | None = (
        Field(default=None, examples=["INFO"])
    )
    """None is what suits the process."""


class AlarmSettings(Group):
    """Where alarms go, and how soon: ALARM_<FIELD>; see `alarms`."""

    model_config = SettingsConfigDict(env_prefix="ALARM_")

    webhook_url: Annotated[SecretStr, AfterValidator(_webhook)] | None = Field(
        default=None, examples=["https://alarms.example.com/hook"]
    )
    """Where each alarm is posted; None keeps them here (`ingest alarm list`)."""
    webhook_secret: SecretStr | None = None
    """Signs the bodies, so that the receiver knows the sender."""
    after_seconds: Seconds = Field(default=300.0, validation_alias="ALARM_AFTER_SEC")
    """Seconds after which a transient fault is an alarm: a server that is down, a worker or a
    sensor that makes no progress."""
    warnings: bool = False
    """Whether failed checks of severity WARN are alarms, too."""
    runbook_url: Annotated[str, AfterValidator(_without_slash)] = "docs/runbook.md"
    """Where the alarms' next actions point to."""
    webserver_url: HttpUrl | None = Field(
        default=None,
        validation_alias="DAGSTER_WEBSERVER_URL",
        examples=["http://127.0.0.1:3000"],
    )
    """Dagster's pages, for links to runs, checks and sensors."""


class Settings(Group):
    """All settings. Build with `Settings.load()`; its text never shows a secret."""

    model_config = SettingsConfigDict(env_prefix="PLATFORM_")

    home: Folder = Field(examples=[".platform"])
    """Folder of the embedded default's data: broker address, lake, catalog, warehouse."""
    bootstrap_servers: Annotated[str, AfterValidator(_servers)] | None = Field(
        default=None,
        validation_alias="KAFKA_BOOTSTRAP_SERVERS",
        examples=["broker-1:9092,broker-2:9092"],
    )
    """Kafka's bootstrap servers; None means the embedded broker below `home`."""
    kafka: Mapping[str, str] = Field(repr=False)
    """Further librdkafka properties, by their own names."""
    lake_url: StoreUrl = Field(validation_alias="LAKE_URL", examples=["s3://bucket/master_dataset"])
    """file:///folder or s3://bucket/prefix; the lake's `topic=` folders lie directly below."""
    s3: Mapping[str, str] = Field(repr=False)
    """endpoint, access_key_id, secret_access_key, region; only those that are set."""
    catalog: Mapping[str, str] = Field(repr=False)
    """Properties of the PyIceberg catalog `lakehouse`."""
    dagster_home: Folder = Field(validation_alias="DAGSTER_HOME", examples=[".platform/dagster"])
    drop_url: StoreUrl = Field(validation_alias="DROP_URL", examples=["s3://bucket/drop"])
    """file:///folder or s3://bucket/prefix: the drop zones of the file source lie below."""
    drop_settle_seconds: Seconds = Field(default=2.0, validation_alias="DROP_SETTLE_SECONDS")
    """Seconds that a dropped file must not have changed to be taken."""
    http_api: HttpApiSettings = HttpApiSettings()
    worker: WorkerSettings = WorkerSettings()
    files: FileLimits = FileLimits()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    sensors: SensorSettings = SensorSettings()
    trino: TrinoSettings | None = None
    """None without TRINO_HOST: the embedded engine does everything."""
    sinks: SinkSettings = SinkSettings()
    log: LogSettings = LogSettings()
    alarms: AlarmSettings = AlarmSettings()
    source: Mapping[str, str] = Field(default_factory=dict, repr=False)
    """The variables that were read, secrets masked (for `ingest doctor`)."""
    others: Mapping[str, str] = Field(default_factory=dict, repr=False)
    """Secrets of Dagster's own settings (DAGSTER_POSTGRES_URL), which are not used here."""
    dotenv: frozenset[str] = frozenset()
    """Those of `source` that the `.env` file gave."""
    dotenv_file: Path | None = None
    """That file, where there is one."""

    @property
    def embedded(self) -> bool:
        """Whether the embedded broker stands in for Kafka."""
        return self.bootstrap_servers is None

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The values that must not be shown, longest first; also the secret parts of addresses."""
        values = {*self.secret_values(), *self.http_api.api_keys.values()}
        values |= {part for value in values if "://" in value for part in _secret_parts(value)}
        return tuple(sorted(values - {""}, key=len, reverse=True))

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, *, root: Path | None = None
    ) -> Settings:
        """Read the settings from `environ` (default: the process's, after `root`/.env).

        Raises:
            SettingError: a value that cannot work; names the setting and an example.
        """
        root = (root or Path.cwd()).absolute()
        env = dict(os.environ) if environ is None else dict(environ)
        dotenv = _dotenv(root, env) if environ is None else {}
        added = dotenv | _secrets_of_files(env | dotenv)
        env |= added
        if environ is None:
            # Libraries (PyIceberg, dbt, Dagster) read the environment themselves.
            export(added)
            # An earlier call has exported variables of the same file.
            _exported.update(dotenv)
            dotenv = {name: value for name, value in _exported.items() if env.get(name) == value}
        env = {k: v for k, v in env.items() if v.strip() != "" or k.startswith("KAFKA_SASL")}
        home = Path(_absolute(env.get("PLATFORM_HOME", ".platform"), root))
        located = env | {
            "PLATFORM_HOME": str(home),
            "DAGSTER_HOME": _absolute(env.get("DAGSTER_HOME", str(home / "dagster")), root),
            "LAKE_URL": env.get("LAKE_URL", (home / "lake" / "master_dataset").as_uri()),
            "DROP_URL": env.get("DROP_URL", (home / "drop").as_uri()),
            "SINK_FILES_URL": env.get("SINK_FILES_URL", (home / "exports").as_uri()),
        }
        return cls.read(
            located,
            kafka=_kafka(env),
            s3=_s3(env),
            catalog=_catalog(env, home),
            http_api=HttpApiSettings.read(env),
            worker=WorkerSettings.read(env),
            files=FileLimits.read(env),
            maintenance=MaintenanceSettings.read(env),
            sensors=SensorSettings.read(env),
            trino=TrinoSettings.read(env) if "TRINO_HOST" in env else None,
            sinks=SinkSettings.read(located),
            log=LogSettings.read(env),
            alarms=AlarmSettings.read(env),
            source={name: _masked(name, value) for name, value in env.items() if _ours(name)},
            others={name: env[name] for name in ("DAGSTER_POSTGRES_URL",) if name in env},
            dotenv=frozenset(filter(_ours, dotenv)),
            dotenv_file=root / ".env" if environ is None and (root / ".env").is_file() else None,
        )


def own_definitions(
    environ: Mapping[str, str] | None = None, *, root: Path | None = None
) -> Path | None:
    """Return the folder PLATFORM_DOMAINS of streams outside of the package; None when not set.

    Raises:
        SettingError: it is a file.
    """
    root = (root or Path.cwd()).absolute()
    env = dict(os.environ) if environ is None else dict(environ)
    env |= _dotenv(root, env) if environ is None else {}
    name = "PLATFORM_DOMAINS"
    if not env.get(name, "").strip():
        return None
    try:
        return _folder(Path(_absolute(env[name], root)))
    except ValueError as error:
        raise SettingError(name, str(error), example="./domains") from None


def process_environment() -> dict[str, str]:
    """Return a copy of the environment, for processes that the platform starts."""
    return dict(os.environ)


def export(values: Mapping[str, str]) -> None:
    """Put values into this process's environment, for libraries that read it themselves."""
    os.environ.update(values)


def keep_freed_memory() -> None:
    """Make Arrow's allocator keep freed memory for the next batch; call it before Arrow loads.

    Page faults take a fifth of a load's time, more on virtual machines. The process stays as large
    as its largest moment.
    """
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")


def is_secret(name: str) -> bool:
    """Return whether the value of a variable or property of that name must not be shown."""
    return any(word in name.lower() for word in (*_SECRET_WORDS, *_SECRET_URLS))


def _secret_parts(url: str) -> set[str]:
    """Return the password, and the long parts of an HTTP address's path and query (webhooks)."""
    parts = urlsplit(url)
    password = parts.password or ""
    words = re.split(r"[/?&=]", f"{parts.path}?{parts.query}") if parts.scheme[:4] == "http" else []
    return {password, unquote(password), *(word for word in words if len(word) >= 12)}


def _dotenv(root: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that `root`/.env adds to the environment."""
    file = root / ".env"
    if not file.is_file():
        return {}
    from dotenv import dotenv_values

    return {k: v for k, v in dotenv_values(file).items() if v is not None and k not in env}


def _secrets_of_files(env: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets whose variable is set as <NAME>_FILE: the path of a file, as containers
    mount them."""
    found: dict[str, str] = {}
    for variable, path in env.items():
        name = variable.removesuffix("_FILE")
        if name == variable or not path.strip() or not _may_be_in_a_file(name):
            continue
        if env.get(name, "").strip():
            problem = f"is set together with {name}: only one of them can be used"
            raise SettingError(variable, problem, example="<the path alone>")
        try:
            found[name] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            problem = f"cannot read {path}: {getattr(error, 'strerror', None) or 'is no text'}"
            example = f"/run/secrets/{name.lower()}"
            raise SettingError(variable, problem, example=example) from None
    return found


def _may_be_in_a_file(name: str) -> bool:
    # AWS_WEB_IDENTITY_TOKEN_FILE and its like are settings of the AWS libraries themselves.
    ours = name in _S3.values() if name.startswith("AWS_") else _ours(name)
    return is_secret(name) and (ours or name == "DAGSTER_POSTGRES_URL")


def _absolute(folder: str, root: Path) -> str:
    return str(root / Path(folder).expanduser())


def _kafka(env: Mapping[str, str]) -> dict[str, str]:
    prefix = "KAFKA_"
    return {
        name.removeprefix(prefix).lower().replace("_", "."): value
        for name, value in env.items()
        if name.startswith(prefix)
        and name not in _NOT_LIBRDKAFKA
        and not (name.endswith("_FILE") and name.removesuffix("_FILE") in env)
    }


def _s3(env: Mapping[str, str]) -> dict[str, str]:
    found = {key: env[name] for key, name in _S3.items() if name in env}
    found.setdefault("region", env.get("AWS_DEFAULT_REGION", "us-east-1"))
    endpoint = found.get("endpoint")
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        problem = f"{endpoint!r} does not start with http:// or https://"
        raise SettingError("AWS_ENDPOINT_URL", problem, example="http://127.0.0.1:9000")
    if ("access_key_id" in found) != ("secret_access_key" in found):
        missing = "secret_access_key" if "access_key_id" in found else "access_key_id"
        raise SettingError(_S3[missing], "is missing while its partner is set", example="...")
    return found


def _catalog(env: Mapping[str, str], home: Path) -> dict[str, str]:
    found = {
        name.removeprefix(_CATALOG_PREFIX).lower().replace("__", ".").replace("_", "-"): value
        for name, value in env.items()
        if name.startswith(_CATALOG_PREFIX)
        and not (name.endswith("_FILE") and name.removesuffix("_FILE") in env)
    }
    if not found:
        found = _catalog_of_file(env)
    if "uri" not in found and found.get("type", "sql") == "sql":
        found |= {"type": "sql", "uri": f"sqlite:///{home / 'catalog.db'}"}
    if found.get("type") == "sql":
        found.setdefault("warehouse", (home / "warehouse").as_uri())
    for key, value in _s3(env).items():
        found.setdefault(f"s3.{key.replace('_', '-')}", value)
    return found


def _catalog_of_file(env: Mapping[str, str]) -> dict[str, str]:
    """Return the catalog's part of a `.pyiceberg.yaml`, found where PyIceberg looks for it."""
    folders = [env.get("PYICEBERG_HOME"), env.get("HOME"), "."]
    for folder in folders:
        file = Path(folder) / ".pyiceberg.yaml" if folder else None
        if file is not None and file.is_file():
            import yaml

            content = yaml.safe_load(file.read_text()) or {}
            found = (content.get("catalog") or {}).get(CATALOG) or {}
            return {str(k): str(v) for k, v in found.items()}
    return {}


def _ours(name: str) -> bool:
    return name.startswith(_PREFIXES) or name in _UNPREFIXED


def _masked(name: str, value: str) -> str:
    return "***" if is_secret(name) else value
