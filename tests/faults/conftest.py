"""A forking worker for the tests of faults, and the options that make them longer."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from faults.processes import Worker


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Imports once for all tests of this process."""
    with Worker(tmp_path_factory.mktemp("attempts")) as running:
        yield running


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random, the same for the same `--seed` and test."""
    return random.Random(f"{request.config.getoption('seed')} {request.node.name}")
