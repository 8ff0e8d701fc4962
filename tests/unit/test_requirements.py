"""The lock files: every package by its hashes, the same versions everywhere, no addresses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")

_PIN = re.compile(r"^([a-z0-9-]+)(==.+?) \\$", re.M)


def pins(lock: str) -> list[tuple[str, str]]:
    """The packages of a lock file, each with its version and the machines that it is for."""
    return _PIN.findall((ROOT / lock).read_text())


def packages(lock: str) -> set[str]:
    """The packages of a lock file."""
    return {name for name, _ in pins(lock)}


def names(requirements: list[str]) -> set[str]:
    """The packages that requirements ask for."""
    return {re.split(r"[^A-Za-z0-9._-]", each)[0].lower() for each in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_address(lock: str) -> None:
    """A lock file pins by version and hash, and names no index, folder or download."""
    text = (ROOT / lock).read_text()
    assert not re.search(
        r"://|--index|--extra-index|--find-links|--trusted-host|/(tmp|home)/", text
    )
    entries = re.split(r"\n(?=\S)", text)
    pinned = [entry for entry in entries if "==" in entry.split("\n")[0]]
    assert len(pinned) == len(pins(lock)) > 0
    for entry in pinned:
        assert "--hash=sha256:" in entry, entry.split("\n")[0]


def test_the_locks_agree() -> None:
    """Developers, users and the build itself have the same version of a package."""
    dev = set(pins("requirements-dev.lock"))
    for lock in LOCKS:
        assert set(pins(lock)) <= dev


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """Whoever adds a dependency also runs `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    assert names(project["project"]["dependencies"]) <= packages("requirements.lock")
    assert names(groups["dev"]) <= packages("requirements-dev.lock")
    assert names(groups["build"]) <= packages("requirements-build.lock")
    assert names(project["build-system"]["requires"]) <= packages("requirements-build.lock")
