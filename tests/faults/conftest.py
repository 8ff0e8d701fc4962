"""A forking worker for the tests of faults, and the options that make them longer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from services import Services
from tests.support.processes import KILLED, Worker


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Imports once for all tests of this process."""
    with Worker(tmp_path_factory.mktemp("attempts")) as running:
        yield running


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Servers for tests that kill them, and leave them running."""
    services = Services(tmp_path_factory.mktemp("fragile") / "servers")
    try:
        services.up(["kafka", "minio", "postgres"])
        yield services
    finally:
        services.down(purge=True)


@pytest.fixture(autouse=True)
def _counted(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Says what was killed, for the summary of the whole run."""
    KILLED.clear()
    yield
    record_property("killed", {do: count for do, count in KILLED.items() if count})


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random, the same for the same `--seed` and test."""
    return random.Random(f"{request.config.getoption('seed')} {request.node.name}")
