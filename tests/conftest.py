"""Fixtures shared by all tests: real servers (one set per test run), settings, streams.

Servers start when the first test asks for them, serve every worker of the run, and end with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from ingestion_platform.settings import Settings
from ingestion_platform.sources import broker
from ingestion_platform.sources.client import ensure_topic
from ingestion_platform.streams import DEFS, Stream
from services import Services, Unavailable

PGR = DEFS / "pgr" / "pgr_events.odcs.yaml"
NAMES = ("kafka", "minio", "postgres")
_NOT_TESTED = "NOT TESTED"

Edit = Callable[[dict[str, Any]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kills` and `--seed` make the kill tests as long, and as different, as one likes."""
    group = parser.getgroup("faults")
    group.addoption("--kills", type=int, default=54, help="how many processes to kill in all")
    group.addoption("--seed", type=int, default=1, help="seed of the instants of killing")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """A test whose servers this machine cannot run is skipped, and the summary says so."""
    try:
        yield
    except (Unavailable, BaseExceptionGroup) as error:
        if missing := _missing(error):
            pytest.skip(f"{_NOT_TESTED}: {missing}")
        raise


def _missing(error: BaseException) -> str:
    """What the machine lacks, if that is all that is wrong."""
    if isinstance(error, Unavailable):
        return str(error)
    assert isinstance(error, BaseExceptionGroup)
    absent, others = error.split(Unavailable)
    return "" if others or absent is None else "; ".join(map(str, absent.exceptions))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One loud line when real servers were missing."""
    reasons = []
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if _NOT_TESTED in reason:
            reasons.append(reason.partition(f"{_NOT_TESTED}: ")[2])
    if reasons:
        text = f"{_NOT_TESTED} against real servers: {len(reasons)} tests, because: {reasons[0]}"
        terminalreporter.write_line(text, red=True, bold=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The process that started the run ends the servers, after all its workers ended."""
    factory = getattr(config, "_tmp_path_factory", None)
    if hasattr(config, "workerinput") or factory is None:
        return
    # A run without servers may have no folder at all: do not make one.
    base = getattr(factory, "_basetemp", None)
    if base is not None and (base / "servers").is_dir():
        Services(base / "servers").down(purge=True)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Services:
    """Kafka, MinIO and Postgres, shared by the workers of a run: nobody may bounce them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    services = Services(shared / "servers")
    services.up(NAMES)  # held by a lock per server: the others find them running
    return services


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[Services]:
    """Servers of the test's own, which it may kill; they end with it."""
    services = Services(tmp_path / "own servers")
    try:
        services.up(NAMES)
        yield services
    finally:
        services.down(purge=True)


@pytest.fixture
def real_settings(servers: Services, tmp_path: Path) -> Settings:
    """The shared servers, with a lake, a warehouse and a catalog of the test's own."""
    return separate_settings(servers, tmp_path)


def separate_settings(services: Services, root: Path) -> Settings:
    """Settings of running servers whose lake, warehouse and catalog nobody else has."""
    return Settings.load(separate_environment(services), root=root)


def separate_environment(services: Services) -> dict[str, str]:
    """The variables of such settings."""
    env, own = services.env(), f"t{uuid.uuid4().hex[:12]}"
    prefix = "PYICEBERG_CATALOG__LAKEHOUSE__"
    uri = env[f"{prefix}URI"]
    with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {own}")
    return env | {
        "LAKE_URL": f"s3://bucket-0/{own}/master_dataset",
        f"{prefix}WAREHOUSE": f"s3://bucket-0/{own}/warehouse",
        f"{prefix}URI": f"{uri}?options=-csearch_path%3D{own}",
    }


@pytest.fixture
def local_settings(tmp_path: Path) -> Settings:
    """A lake and a catalog in a folder, without any broker."""
    return Settings.load({"PLATFORM_HOME": str(tmp_path / "home")}, root=tmp_path)


@pytest.fixture(scope="session")
def _embedded_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("embedded")
    broker.start(home)
    yield home
    broker.stop(home)


@pytest.fixture
def embedded_settings(_embedded_home: Path, tmp_path: Path) -> Settings:
    """The embedded broker (one per worker), with a lake and a catalog of the test's own."""
    env = {
        "PLATFORM_HOME": str(_embedded_home),
        "LAKE_URL": (tmp_path / "lake").as_uri(),
        "PYICEBERG_CATALOG__LAKEHOUSE__URI": f"sqlite:///{tmp_path / 'catalog.db'}",
        "PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE": (tmp_path / "warehouse").as_uri(),
    }
    return Settings.load(env, root=tmp_path)


@pytest.fixture
def make_stream(tmp_path: Path) -> Callable[..., Stream]:
    """Makes a stream with a topic and tables of its own; see `new_stream`."""

    def make(settings: Settings | None = None, **how: Any) -> Stream:
        return new_stream(tmp_path, settings, **how)

    return make


def new_stream(
    folder: Path,
    settings: Settings | None = None,
    *,
    contract: dict[str, Any] | None = None,
    edit: Edit | None = None,
    partitions: int = 4,
    **topic_config: str | int,
) -> Stream:
    """A stream of `contract` (an ODCS document; pgr's own by default), edited, in a new topic.

    Without settings no topic is created.
    """
    own = uuid.uuid4().hex[:12]
    document = contract or yaml.safe_load(PGR.read_text())
    document["schema"][0]["physicalName"] = f"events_{own}"
    if edit is not None:
        edit(document)
    file = folder / f"stream_{own}.odcs.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    stream = Stream(
        name=f"stream_{own}",
        domain="test",
        topic=f"topic-{own}",
        contract_file=file,
        group_id=f"group-{own}",
        partitions=partitions,
    )
    if settings is not None:
        ensure_topic(settings, stream.topic, partitions, **topic_config)
    return stream


def edited(stream: Stream, edit: Edit) -> Stream:
    """The stream after an edit of its contract; the file on disk stays as it is."""
    document = yaml.safe_load(stream.contract_file.read_text())
    edit(document)
    file = stream.contract_file.with_name(f"{uuid.uuid4().hex[:8]}.odcs.yaml")
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    names = ("name", "domain", "topic", "group_id", "partitions", "start_date")
    return Stream(contract_file=file, **{name: getattr(stream, name) for name in names})
