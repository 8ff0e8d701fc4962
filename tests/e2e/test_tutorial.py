"""The tutorial, step by step: its commands as a reader pastes them, and what it says they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_platform.kafka import broker

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial-new-stream.md"
OURS = ("KAFKA_", "LAKE_", "AWS_", "PYICEBERG_", "DAGSTER_", "PLATFORM_", "HTTP_API_", "DROP_")
STEP_ENDS = "----- step ends -----"

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to work in; a broker that was started there ends with the test."""
    folder = tmp_path / "work"
    folder.mkdir()
    yield folder
    broker.stop(folder / ".platform")


def steps() -> list[tuple[str, list[str]]]:
    """The page's commands, block by block, each with the lines that it says they show."""
    found: list[tuple[str, list[str]]] = []
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        if kind == "sh":
            found.append((block, []))
        elif kind == "text":
            found[-1][1].extend(block.splitlines())
    return found


def environment(folder: Path) -> dict[str, str]:
    """An environment without settings, in which `ingest` and `python` are those under test."""
    commands = folder.parent / "bin"
    commands.mkdir()
    for name, arguments in (("python", ""), ("ingest", "-m ingestion_platform")):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return kept | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
    }


def test_the_tutorial_does_what_it_says(folder: Path) -> None:
    """Each command succeeds, and prints each line that the page shows, blanks aside."""
    script = "".join(f"{commands}\necho '{STEP_ENDS}'\n" for commands, _ in steps())
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    printed = done.stdout.split(STEP_ENDS)
    assert len(steps()) > 8
    for (commands, shown), out in zip(steps(), printed, strict=False):
        lines = [_plain(line) for line in out.splitlines()]
        for line in shown:
            assert any(each.startswith(_plain(line)) for each in lines), (commands, line, out)


def _plain(line: str) -> str:
    """A line without the blanks that lay it out."""
    return " ".join(line.split())


def test_dagster_has_the_streams_of_the_users_folder(folder: Path) -> None:
    """A stream below PLATFORM_DOMAINS has assets beside those of the platform's own streams."""
    stream = folder / "domains" / "shop"
    stream.mkdir(parents=True)
    own = ROOT / "ingestion_platform" / "domains" / "pgr" / "pgr_events.odcs.yaml"
    text = own.read_text().replace("service_events_raw", "shop_events")
    (stream / "shop_events.odcs.yaml").write_text(text)
    (stream / "defs.yaml").write_text(
        "type: ingestion_platform.orchestration.Stream\n"
        "attributes: {name: shop_events, topic: shop-events}\n"
    )
    told = (
        "from ingestion_platform.definitions import defs\n"
        "keys = defs().resolve_asset_graph().get_all_asset_keys()\n"
        "print(*sorted(key.to_user_string() for key in keys))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", told],
        cwd=folder,
        env=environment(folder) | {"PLATFORM_DOMAINS": "domains"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    keys = done.stdout.split()
    assert {"lake/shop_events", "bronze/shop_events"} <= set(keys)
    assert {"lake/pgr_events", "bronze/service_events_raw"} & set(keys)
