"""Fixtures shared by all tests: real servers (one set per test run), settings, streams.

Servers start when the first test asks for them, serve every worker of the run, and end with it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from ingestion_platform.kafka import broker
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from services import Services, Unavailable
from tests.support.testbed import new_stream, separate_settings

NAMES = ("kafka", "minio", "postgres")
EXPENSIVE = {"fragile", "wheel", "watched", "described", "limited_door", "found", "manifest"}
"""Fixtures of a module or session that take seconds: tests that share one run on one worker."""
EMBEDDED = {"_embedded_home", "bare", "home", "platform"}
"""Fixtures with a broker or a catalog: tests that use one are none of the quick ones."""
_NOT_TESTED = "NOT TESTED"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that make tests longer."""
    group = parser.getgroup("faults")
    group.addoption(
        "--long", action="store_true", help="run tests marked long, and more examples of properties"
    )
    group.addoption(
        "--kills", type=int, default=12, help="kills that the tests of a kind share, about"
    )
    group.addoption(
        "--mutations", type=int, default=60, help="files and records that are broken at random"
    )
    group.addoption("--csv-mb", type=int, default=200, help="size of the large CSV file")
    group.addoption("--seed", type=int, default=1, help="seed of the instants of killing")


def pytest_configure(config: pytest.Config) -> None:
    """Set how many examples a property gets; a busy machine may take any time for one."""
    for name, examples in (("short", 40), ("long", 200)):
        hypothesis_settings.register_profile(name, max_examples=examples, deadline=None)
    hypothesis_settings.load_profile("long" if config.getoption("long") else "short")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, and deselect long ones.

    One worker runs the tests that share an expensive fixture.
    """
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & EMBEDDED:
            item.add_marker(pytest.mark.embedded)
        for name in EXPENSIVE & names:
            item.add_marker(pytest.mark.xdist_group(name))
    if not config.getoption("long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """What a test makes of this process's logging ends with it.

    Libraries that configure logging by file disable the loggers that are there, for good.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("ingestion_platform") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
    root, kafka = logging.getLogger(), logging.getLogger("ingestion_platform.kafka")
    before = root.level, list(root.handlers), kafka.level
    hooks = sys.excepthook, threading.excepthook
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    kafka.setLevel(before[2])
    sys.excepthook, threading.excepthook = hooks


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
    if killed := _killed(terminalreporter):
        seed = terminalreporter.config.getoption("seed")
        kinds = ", ".join(f"{do} {count:,}" for do, count in sorted(killed.items()))
        terminalreporter.write_line(f"{killed.total():,} processes killed (seed {seed}): {kinds}")


def _killed(terminalreporter: pytest.TerminalReporter) -> Counter[str]:
    """How many processes the tests of faults have killed at work, by what they did."""
    found: Counter[str] = Counter()
    for report in (report for some in terminalreporter.stats.values() for report in some):
        if getattr(report, "when", None) == "teardown":
            found.update(dict(report.user_properties).get("killed", {}))
    return found


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


@pytest.fixture(scope="session")
def trino(servers: Services) -> Services:
    """The shared servers with Trino beside them: see `trino_sql` for a catalog of one's own."""
    servers.up(["trino"])
    return servers


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


@pytest.fixture(scope="session")
def embedded(_embedded_home: Path) -> Settings:
    """Settings of the embedded broker only (one per worker)."""
    return Settings.load({"PLATFORM_HOME": str(_embedded_home)}, root=_embedded_home)


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
