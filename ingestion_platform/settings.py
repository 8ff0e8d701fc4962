"""Every setting of the platform, read once at the edge; the only reader of the environment.

Names are the ecosystem's own: KAFKA_<LIBRDKAFKA_PROPERTY>, AWS_*, PYICEBERG_CATALOG__LAKEHOUSE__*.
A `.env` file in the working directory fills what the environment does not set.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ingestion_platform.errors import SettingError

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
# Ours without a prefix that says so.
_UNPREFIXED = {"BATCH_SIZE", "DAGSTER_WEBSERVER_URL", "REPORT_INTERVAL_SEC"}
_SECRET_WORDS = (
    "password",
    "secret",
    "token",
    "key",
    "uri",
    "credential",
    "jaas",
    "pem",
    "sink_postgres_url",
    "elasticsearch_url",
    "dagster_postgres_url",
    "alarm_webhook_url",
)
_exported: dict[str, str] = {}
"""What this process has put into its environment from a `.env` file."""
LOG_FORMATS = ("console", "json")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True)
class HttpApiSettings:
    """What the HTTP API allows, and how long it waits; each a HTTP_API_<FIELD>."""

    auth: bool = True
    """Whether a request needs an API key; off only by HTTP_API_AUTH=off."""
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """SHA-256 of each client's key, in hex, by the client's name."""
    max_body_bytes: int = 8 * 1024 * 1024
    """Of a request body, as it was sent and decompressed."""
    max_records: int = 5000
    """Records of one request."""
    max_json_depth: int = 32
    """Objects and arrays within each other, from the body's outermost."""
    max_requests: int = 64
    """Requests in progress at once; more are told to come again."""
    client_requests: int = 16
    """Of them, requests of one client."""
    address_requests: int = 32
    """Of them, requests from one address."""
    max_connections: int = 1000
    """Open connections."""
    address_connections: int = 250
    """Of them, connections from one address that is no trusted proxy."""
    rate_records: int = 50_000
    """Records (requests without any count as one) per second and client, two seconds' worth at
    once; 0 is no limit."""
    rate_anonymous: int = 200
    """Requests without a known key per second and address, two seconds' worth at once; 0 is no
    limit."""
    body_seconds: int = 30
    """For a whole request body to arrive."""
    body_rate: int = 1000
    """Bytes per second at which a body has to arrive on the whole; 0 is any rate."""
    write_seconds: int = 10
    """For a client to take what it was answered, while it takes next to nothing."""
    ack_seconds: int = 30
    """For Kafka to acknowledge a record before it is given up: longer than a broker is usually
    away, since a record that was given up may have arrived."""
    idempotency_seconds: int = 3600
    """How long the answer to an Idempotency-Key is remembered."""
    idempotency_bytes: int = 64 * 1024 * 1024
    """Of remembered answers; the oldest go first."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-For names the client's address."""


@dataclass(frozen=True)
class WorkerSettings:
    """When the worker takes what waits, and how often it looks elsewhere; sizes are those of a
    process, whose streams share them."""

    batch_size: int = 50_000
    """BATCH_SIZE: so many waiting records are taken at once; also of a lake file, at most."""
    flush_seconds: float = 1.0
    """FLUSH_INTERVAL_SEC: no record waits longer to be taken."""
    flush_bytes: int = 32 * 1024 * 1024
    """FLUSH_BYTES: so much of values, as far as one can tell without reading; also of a file."""
    drop_seconds: float = 5.0
    """DROP_INTERVAL_SEC: between two looks into a drop zone."""
    report_seconds: float = 10.0
    """REPORT_INTERVAL_SEC: between two reports of a stream to Dagster, at least."""


@dataclass(frozen=True)
class FileLimits:
    """The most that is read of a file, so that whoever may drop files cannot fill the host."""

    max_size: int = 4 * 1024**3
    """FILES_MAX_SIZE: bytes of a file, as it was dropped and decompressed (`500MB`, `4GiB`); a
    stream may declare its own, `max_size` below `files:`."""
    max_ratio: int = 200
    """FILES_MAX_RATIO: decompressed bytes for each compressed one, beyond the first 64 MiB."""
    max_records: int = 50_000_000
    """FILES_MAX_RECORDS: of a file."""


@dataclass(frozen=True)
class MaintenanceSettings:
    """What maintenance works towards. How many snapshots a table keeps is the table's own property
    (history.expire.min-snapshots-to-keep), which every engine knows."""

    target_file_mb: int = 128
    """MAINTENANCE_TARGET_FILE_MB: small files of a table become files of about this size."""
    orphan_hours: int = 24
    """MAINTENANCE_ORPHAN_HOURS: no file goes sooner than this after it was written, and after it
    was first seen unneeded: longer than any write or read takes."""
    run_days: int = 14
    """MAINTENANCE_RUN_DAYS: Dagster's finished runs are kept this long, and those that tell the
    state of a slice for good."""


@dataclass(frozen=True)
class TrinoSettings:
    """A Trino that has the platform's tables in a catalog of its own."""

    host: str
    """TRINO_HOST"""
    port: int = 8080
    """TRINO_PORT"""
    user: str = "ingestion"
    """TRINO_USER"""
    catalog: str = CATALOG
    """TRINO_CATALOG: the name that the tables' catalog has there."""


@dataclass(frozen=True)
class SinkSettings:
    """Where deliveries go; what is None is not set, and nothing can be delivered there."""

    postgres_url: str | None = field(default=None, repr=False)
    """SINK_POSTGRES_URL: postgresql://user:password@host:port/database."""
    files_url: str = ""
    """SINK_FILES_URL: file:///folder or s3://bucket/prefix."""
    elasticsearch_urls: tuple[str, ...] = field(default=(), repr=False)
    """ELASTICSEARCH_URL: https://host:9200, of one or more nodes, with commas between."""
    elasticsearch_api_key: str | None = field(default=None, repr=False)
    """ELASTICSEARCH_API_KEY: as Elasticsearch shows it encoded, once."""
    elasticsearch_username: str | None = None
    """ELASTICSEARCH_USERNAME, in place of an API key."""
    elasticsearch_password: str | None = field(default=None, repr=False)
    """ELASTICSEARCH_PASSWORD."""
    elasticsearch_ca_file: str | None = None
    """ELASTICSEARCH_CA_FILE: certificates to trust, where the system's are not enough."""


@dataclass(frozen=True)
class LogSettings:
    """How every process of the platform logs; see `logs`."""

    format: str = "console"
    """LOG_FORMAT: console, for people; json, a line per message for machines."""
    level: str | None = None
    """LOG_LEVEL: DEBUG, INFO, WARNING or ERROR; None is what suits the process."""


@dataclass(frozen=True)
class AlarmSettings:
    """Who is told of alarms, and how soon; see `alarms`."""

    webhook_url: str | None = field(default=None, repr=False)
    """ALARM_WEBHOOK_URL: where each alarm is posted; None keeps them here (`ingest alarm list`)."""
    webhook_secret: str | None = field(default=None, repr=False)
    """ALARM_WEBHOOK_SECRET: signs the bodies, so that the receiver knows the sender."""
    after_seconds: float = 300.0
    """ALARM_AFTER_SEC: what may pass by itself is an alarm after so long: a server that is away, a
    worker or a sensor that stands still."""
    warnings: bool = False
    """ALARM_WARNINGS: whether failed checks of severity WARN are alarms, too."""
    runbook_url: str = "docs/runbook.md"
    """ALARM_RUNBOOK_URL: where the alarms' next actions point to."""
    webserver_url: str | None = None
    """DAGSTER_WEBSERVER_URL: Dagster's pages, for links to runs, checks and sensors."""


@dataclass(frozen=True)
class Settings:
    """Where everything is. Build with `Settings.load()`; never printed with its secrets."""

    home: Path
    """Folder of the embedded default's data: broker address, lake, catalog, warehouse."""
    bootstrap_servers: str | None
    """Kafka's bootstrap servers; None means the embedded broker below `home`."""
    kafka: Mapping[str, str] = field(repr=False)
    """Further librdkafka properties, by their own names."""
    lake_url: str
    """file:///folder or s3://bucket/prefix; the lake's `topic=` folders lie directly below."""
    s3: Mapping[str, str] = field(repr=False)
    """endpoint, access_key_id, secret_access_key, region; only those that are set."""
    catalog: Mapping[str, str] = field(repr=False)
    """Properties of the PyIceberg catalog `lakehouse`."""
    dagster_home: Path
    drop_url: str
    """file:///folder or s3://bucket/prefix: the drop zones of the file source lie below."""
    drop_settle_seconds: float = 2.0
    """How long a dropped file must not have changed to be taken."""
    http_api: HttpApiSettings = field(default_factory=HttpApiSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    files: FileLimits = field(default_factory=FileLimits)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    trino: TrinoSettings | None = None
    """None without TRINO_HOST: all is done by the embedded engine."""
    sinks: SinkSettings = field(default_factory=SinkSettings)
    log: LogSettings = field(default_factory=LogSettings)
    alarms: AlarmSettings = field(default_factory=AlarmSettings)
    source: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables this was read from, without their values' secrets (for `doctor`)."""
    others: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secrets of Dagster's own settings (DAGSTER_POSTGRES_URL), which are not used here."""
    dotenv: frozenset[str] = frozenset()
    """Those of them that the `.env` file gave."""
    dotenv_file: Path | None = None
    """That file, where there is one."""

    @property
    def embedded(self) -> bool:
        """Whether the embedded broker stands in for Kafka."""
        return self.bootstrap_servers is None

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The values that must not be told to anybody, longest first; of an address also what in
        it is secret by itself."""
        given = {
            "sink_postgres_url": self.sinks.postgres_url or "",
            "elasticsearch_api_key": self.sinks.elasticsearch_api_key or "",
            "elasticsearch_password": self.sinks.elasticsearch_password or "",
            **{f"elasticsearch_url {n}": u for n, u in enumerate(self.sinks.elasticsearch_urls)},
            "alarm_webhook_url": self.alarms.webhook_url or "",
            "alarm_webhook_secret": self.alarms.webhook_secret or "",
        }
        groups = (self.kafka, self.s3, self.catalog, given, self.others)
        found = {v for group in groups for name, v in group.items() if is_secret(name)}
        found |= {part for value in found if "://" in value for part in _secret_parts(value)}
        found |= set(self.http_api.api_keys.values())
        return tuple(sorted(found - {""}, key=len, reverse=True))

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
        # Libraries (PyIceberg, dbt, Dagster) read the environment themselves: they see the same.
        export(dotenv)
        env |= dotenv
        if environ is None:  # what an earlier call has exported comes from the file as well
            _exported.update(dotenv)
            dotenv = {name: value for name, value in _exported.items() if env.get(name) == value}
        env = {k: v for k, v in env.items() if v.strip() != "" or k.startswith("KAFKA_SASL")}
        home = _folder(env, "PLATFORM_HOME", root / ".platform", root)
        return cls(
            home=home,
            bootstrap_servers=_bootstrap(env),
            kafka=_kafka(env),
            lake_url=_store_url(env, "LAKE_URL", home / "lake" / "master_dataset"),
            s3=_s3(env),
            catalog=_catalog(env, home),
            dagster_home=_folder(env, "DAGSTER_HOME", home / "dagster", root),
            drop_url=_store_url(env, "DROP_URL", home / "drop"),
            drop_settle_seconds=_seconds(env, "DROP_SETTLE_SECONDS", 2.0),
            http_api=_http_api(env),
            worker=_worker(env),
            files=_files(env),
            maintenance=_maintenance(env),
            trino=_trino(env),
            sinks=_sinks(env, home),
            log=_log(env),
            alarms=_alarms(env),
            source={name: _masked(name, value) for name, value in env.items() if _ours(name)},
            others={name: env[name] for name in ("DAGSTER_POSTGRES_URL",) if name in env},
            dotenv=frozenset(filter(_ours, dotenv)),
            dotenv_file=root / ".env" if environ is None and (root / ".env").is_file() else None,
        )


def own_definitions(
    environ: Mapping[str, str] | None = None, *, root: Path | None = None
) -> Path | None:
    """The folder PLATFORM_DOMAINS of streams that lie outside of the package; None when not set.

    Raises:
        SettingError: it is a file.
    """
    root = (root or Path.cwd()).absolute()
    env = dict(os.environ) if environ is None else dict(environ)
    env |= _dotenv(root, env) if environ is None else {}
    name = "PLATFORM_DOMAINS"
    return _folder(env, name, root / "domains", root) if env.get(name, "").strip() else None


def process_environment() -> dict[str, str]:
    """A copy of the environment, for processes that the platform starts."""
    return dict(os.environ)


def export(values: Mapping[str, str]) -> None:
    """Put values into this process's environment, for libraries that read it by themselves."""
    os.environ.update(values)


def keep_freed_memory() -> None:
    """Have Arrow's allocator keep what is freed for the next batch; call it before Arrow loads.

    Giving pages back and touching new ones costs a load a fifth of its time, more on virtual
    machines that get theirs lent. The process stays as large as its largest moment.
    """
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")


def is_secret(name: str) -> bool:
    """Whether the value of a setting or property of that name must not be shown."""
    return any(word in name.lower() for word in _SECRET_WORDS)


def _secret_parts(url: str) -> set[str]:
    """What of an address is secret wherever it stands: the password, and long parts of the path
    and the query, as webhooks have them."""
    parts = urlsplit(url)
    password = parts.password or ""
    words = re.split(r"[/?&=]", f"{parts.path}?{parts.query}") if parts.scheme[:4] == "http" else []
    return {password, unquote(password), *(word for word in words if len(word) >= 12)}


def _dotenv(root: Path, env: Mapping[str, str]) -> dict[str, str]:
    """What `root`/.env adds to the environment."""
    file = root / ".env"
    if not file.is_file():
        return {}
    from dotenv import dotenv_values

    return {k: v for k, v in dotenv_values(file).items() if v is not None and k not in env}


def _folder(env: Mapping[str, str], name: str, default: Path, root: Path) -> Path:
    folder = Path(env[name]).expanduser() if name in env else default
    folder = folder if folder.is_absolute() else root / folder
    if folder.exists() and not folder.is_dir():
        raise SettingError(name, f"{folder} is not a folder", example=str(default))
    return folder


def _bootstrap(env: Mapping[str, str]) -> str | None:
    name, example = "KAFKA_BOOTSTRAP_SERVERS", "broker-1:9092,broker-2:9092"
    value = env.get(name)
    if value is None:
        return None
    for server in value.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise SettingError(name, f"{server.strip()!r} is not host:port", example=example)
    return value


def _kafka(env: Mapping[str, str]) -> dict[str, str]:
    prefix = "KAFKA_"
    return {
        name.removeprefix(prefix).lower().replace("_", "."): value
        for name, value in env.items()
        if name.startswith(prefix) and name not in _NOT_LIBRDKAFKA
    }


def _store_url(env: Mapping[str, str], name: str, default: Path) -> str:
    value = env.get(name, default.as_uri()).rstrip("/")
    # Spark's and Hadoop's spelling of the same store.
    value = "s3://" + value.removeprefix("s3a://") if value.startswith("s3a://") else value
    url = urlsplit(value)
    examples = f"s3://bucket/{default.name}"
    if url.scheme not in ("file", "s3"):
        problem = f"{value!r} does not start with file:// or s3://"
        raise SettingError(name, problem, example=examples)
    if url.scheme == "s3" and not url.netloc:
        raise SettingError(name, f"{value!r} names no bucket", example=examples)
    if url.scheme == "file" and (url.netloc or not url.path.startswith("/")):
        problem = f"{value!r} is not an absolute file URL"
        raise SettingError(name, problem, example=f"file:///var/lib/{default.name}")
    return value


def _http_api(env: Mapping[str, str]) -> HttpApiSettings:
    limits: dict[str, int] = {}
    for limit in fields(HttpApiSettings):
        if isinstance(limit.default, int) and not isinstance(limit.default, bool):
            least = 0 if limit.name.startswith("rate_") or limit.name == "body_rate" else 1
            limits[limit.name] = _whole(env, f"HTTP_API_{limit.name.upper()}", limit.default, least)
    return HttpApiSettings(
        auth=_switch(env, "HTTP_API_AUTH", default=True),
        api_keys=_api_keys(env),
        trusted_proxies=_networks(env, "HTTP_API_TRUSTED_PROXIES"),
        **limits,
    )


def _networks(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Addresses and networks, separated by commas."""
    found = [each.strip() for each in env.get(name, "").split(",") if each.strip()]
    for each in found:
        try:
            ipaddress.ip_network(each)
        except ValueError:
            problem = f"{each!r} is neither an address nor a network"
            raise SettingError(name, problem, example="10.0.0.7,10.1.0.0/16") from None
    return tuple(found)


def _worker(env: Mapping[str, str]) -> WorkerSettings:
    default = WorkerSettings()
    return WorkerSettings(
        batch_size=_whole(env, "BATCH_SIZE", default.batch_size, 1),
        flush_seconds=_seconds(env, "FLUSH_INTERVAL_SEC", default.flush_seconds),
        flush_bytes=_whole(env, "FLUSH_BYTES", default.flush_bytes, 1),
        drop_seconds=_seconds(env, "DROP_INTERVAL_SEC", default.drop_seconds),
        report_seconds=_seconds(env, "REPORT_INTERVAL_SEC", default.report_seconds),
    )


def _files(env: Mapping[str, str]) -> FileLimits:
    default, name = FileLimits(), "FILES_MAX_SIZE"
    try:
        size = bytes_of(env.get(name, str(default.max_size)))
    except ValueError as error:
        raise SettingError(name, str(error), example="4GiB") from None
    return FileLimits(
        max_size=size,
        max_ratio=_whole(env, "FILES_MAX_RATIO", default.max_ratio, 1),
        max_records=_whole(env, "FILES_MAX_RECORDS", default.max_records, 1),
    )


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {f"{letter}iB".upper(): 1024**power for power, letter in enumerate("KMGT", 1)}


def bytes_of(text: str) -> int:
    """The bytes that a size says, such as `500MB`, `4 GiB` or a plain number of bytes.

    Raises:
        ValueError: it says none, or zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    size = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
    if size <= 0:
        raise ValueError(f"{text!r} is not a size such as 500MB or 4GiB")
    return size


def in_units(size: int) -> str:
    """A number of bytes as people write it, for example `4.0 GiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:,.1f} {unit}"
    return f"{size:,} bytes"


def _maintenance(env: Mapping[str, str]) -> MaintenanceSettings:
    default = MaintenanceSettings()
    return MaintenanceSettings(
        target_file_mb=_whole(env, "MAINTENANCE_TARGET_FILE_MB", default.target_file_mb, 1),
        orphan_hours=_whole(env, "MAINTENANCE_ORPHAN_HOURS", default.orphan_hours, 1),
        run_days=_whole(env, "MAINTENANCE_RUN_DAYS", default.run_days, 1),
    )


def _trino(env: Mapping[str, str]) -> TrinoSettings | None:
    host, name = env.get("TRINO_HOST"), "TRINO_PORT"
    if host is None:
        return None
    port = _whole(env, name, 8080, 1)
    if port > 65535:
        raise SettingError(name, f"{port} is no port", example="8080")
    user, catalog = env.get("TRINO_USER", TrinoSettings.user), env.get("TRINO_CATALOG", CATALOG)
    return TrinoSettings(host, port, user, catalog)


def _sinks(env: Mapping[str, str], home: Path) -> SinkSettings:
    name = "SINK_POSTGRES_URL"
    url = env.get(name)
    if url is not None and not (
        urlsplit(url).scheme in ("postgresql", "postgres") and urlsplit(url).path.strip("/")
    ):
        # The value itself is not shown: it may have a password.
        example = "postgresql://user:password@host:5432/database"
        raise SettingError(name, "is not the address of a PostgreSQL database", example=example)
    return SinkSettings(
        postgres_url=url,
        files_url=_store_url(env, "SINK_FILES_URL", home / "exports"),
        **_elasticsearch(env),
    )


def _elasticsearch(env: Mapping[str, str]) -> dict[str, Any]:
    prefix = "ELASTICSEARCH_"
    urls = tuple(url.strip().rstrip("/") for url in env.get(f"{prefix}URL", "").split(",") if url)
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            # The value itself is not shown: it may have a password.
            problem = "is not the address of an Elasticsearch node"
            raise SettingError(f"{prefix}URL", problem, example="https://search.example.org:9200")
    names = ("api_key", "username", "password", "ca_file")
    found = {name: env.get(f"{prefix}{name.upper()}") for name in names}
    if found["api_key"] and found["username"]:
        problem = "is set together with ELASTICSEARCH_USERNAME: only one of them can be used"
        raise SettingError(f"{prefix}API_KEY", problem, example="<the key alone>")
    if bool(found["username"]) != bool(found["password"]):
        missing = "password" if found["username"] else "username"
        problem = "is missing while its partner is set"
        raise SettingError(f"{prefix}{missing.upper()}", problem, example="...")
    if found["ca_file"] and not Path(found["ca_file"]).is_file():
        problem = f"there is no file {found['ca_file']}"
        raise SettingError(f"{prefix}CA_FILE", problem, example="/etc/ssl/certs/search.pem")
    return {"elasticsearch_urls": urls, **{f"elasticsearch_{k}": v for k, v in found.items()}}


def _log(env: Mapping[str, str]) -> LogSettings:
    default = LogSettings()
    chosen = env.get("LOG_FORMAT", default.format).strip().lower()
    if chosen not in LOG_FORMATS:
        problem = f"{chosen!r} is none of {', '.join(LOG_FORMATS)}"
        raise SettingError("LOG_FORMAT", problem, example="json")
    level = env.get("LOG_LEVEL", "").strip().upper() or None
    if level is not None and level not in LOG_LEVELS:
        problem = f"{level!r} is none of {', '.join(LOG_LEVELS)}"
        raise SettingError("LOG_LEVEL", problem, example="INFO")
    return LogSettings(chosen, level)


def _alarms(env: Mapping[str, str]) -> AlarmSettings:
    default = AlarmSettings()
    webhook = env.get("ALARM_WEBHOOK_URL")
    if webhook is not None and not _is_http(webhook):
        # The value itself is not shown: such addresses have their token in them.
        problem = "is not an address that starts with http:// or https://"
        raise SettingError("ALARM_WEBHOOK_URL", problem, example="https://alarms.example.com/hook")
    server = env.get("DAGSTER_WEBSERVER_URL")
    if server is not None and not _is_http(server):
        problem = f"{server!r} does not start with http:// or https://"
        raise SettingError("DAGSTER_WEBSERVER_URL", problem, example="http://127.0.0.1:3000")
    return AlarmSettings(
        webhook_url=webhook,
        webhook_secret=env.get("ALARM_WEBHOOK_SECRET"),
        after_seconds=_seconds(env, "ALARM_AFTER_SEC", default.after_seconds),
        warnings=_switch(env, "ALARM_WARNINGS", default=default.warnings),
        runbook_url=env.get("ALARM_RUNBOOK_URL", default.runbook_url).rstrip("/"),
        webserver_url=server and server.rstrip("/"),
    )


def _is_http(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).netloc)


def _whole(env: Mapping[str, str], name: str, default: int, least: int) -> int:
    value = env.get(name, str(default)).strip()
    if not value.isdecimal() or int(value) < least:
        problem = f"{value!r} is not a whole number of at least {least}"
        raise SettingError(name, problem, example=str(default))
    return int(value)


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    value = env.get(name, str(default)).strip()
    if not re.fullmatch(r"\d+(\.\d+)?", value):
        raise SettingError(name, f"{value!r} is no number of seconds", example=str(default))
    return float(value)


def _switch(env: Mapping[str, str], name: str, *, default: bool) -> bool:
    words = {"on": True, "off": False}
    value = env.get(name, "on" if default else "off").strip().lower()
    if value not in words:
        raise SettingError(name, f"{value!r} is neither on nor off", example="on")
    return words[value]


def _api_keys(env: Mapping[str, str]) -> dict[str, str]:
    name = "HTTP_API_KEYS"
    keys: dict[str, str] = {}
    for place, entry in enumerate(filter(None, map(str.strip, env.get(name, "").split(","))), 1):
        client, _, digest = entry.partition(":")
        # The entry itself is not shown: somebody may have put the key where its hash belongs.
        if not re.fullmatch(r"[\w.@-]+", client) or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            problem = f"entry {place} is not name:hash with a SHA-256 hash of 64 hex digits"
            raise SettingError(name, problem, example="<what `ingest serve --new-key NAME` prints>")
        if client in keys:
            raise SettingError(
                name, f"entry {place} repeats the name {client}", example="a:<hash>,b:<hash>"
            )
        keys[client] = digest.lower()
    return keys


def _s3(env: Mapping[str, str]) -> dict[str, str]:
    names = {
        "endpoint": "AWS_ENDPOINT_URL",
        "access_key_id": "AWS_ACCESS_KEY_ID",
        "secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "session_token": "AWS_SESSION_TOKEN",
        "region": "AWS_REGION",
    }
    found = {key: env[name] for key, name in names.items() if name in env}
    found.setdefault("region", env.get("AWS_DEFAULT_REGION", "us-east-1"))
    endpoint = found.get("endpoint")
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        problem = f"{endpoint!r} does not start with http:// or https://"
        raise SettingError("AWS_ENDPOINT_URL", problem, example="http://127.0.0.1:9000")
    if ("access_key_id" in found) != ("secret_access_key" in found):
        missing = "secret_access_key" if "access_key_id" in found else "access_key_id"
        raise SettingError(names[missing], "is missing while its partner is set", example="...")
    return found


def _catalog(env: Mapping[str, str], home: Path) -> dict[str, str]:
    found = {
        name.removeprefix(_CATALOG_PREFIX).lower().replace("__", ".").replace("_", "-"): value
        for name, value in env.items()
        if name.startswith(_CATALOG_PREFIX)
    }
    if not found:
        found = _catalog_of_file(env)
    if "uri" not in found and found.get("type", "sql") == "sql":
        found |= {"type": "sql", "uri": f"sqlite:///{home / 'catalog.db'}"}
    if found.get("type") == "sql":
        found.setdefault("warehouse", (home / "warehouse").as_uri())
    properties = {
        "endpoint": "s3.endpoint",
        "access_key_id": "s3.access-key-id",
        "secret_access_key": "s3.secret-access-key",
        "session_token": "s3.session-token",
        "region": "s3.region",
    }
    for key, value in _s3(env).items():
        found.setdefault(properties[key], value)
    return found


def _catalog_of_file(env: Mapping[str, str]) -> dict[str, str]:
    """The catalog's part of a `.pyiceberg.yaml`, found where PyIceberg looks for it."""
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
    prefixes = ("KAFKA_", "LAKE_", "AWS_", "PYICEBERG_", "DAGSTER_HOME", "PLATFORM_", "HTTP_API_")
    files = ("DROP_", "FILES_", "FLUSH_")
    others = ("ALARM_", "ELASTICSEARCH_", "LOG_", "SINK_", "TRINO_", "MAINTENANCE_")
    return name.startswith((*prefixes, *files, *others)) or name in _UNPREFIXED


def _masked(name: str, value: str) -> str:
    return "***" if is_secret(name) else value
