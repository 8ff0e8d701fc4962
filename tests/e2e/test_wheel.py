"""The built wheel, installed by itself: the first commands work in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.live import answers, free_port

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
OURS = ("KAFKA_", "LAKE_", "AWS_", "PYICEBERG_", "DAGSTER_", "PLATFORM_", "PYTHONPATH", "UV_")

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [UV, "build", "--wheel", "--no-build-isolation", "--offline", "-o", folder, ROOT],
        check=True,
        capture_output=True,
        env=os.environ | {"UV_PYTHON": sys.executable},
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder with an environment that has the wheel, and what the wheel asks for."""
    folder = tmp_path_factory.mktemp("standalone")
    pins = folder.parent / "pins.txt"
    lock = (ROOT / "requirements.lock").read_text()
    pins.write_text(re.sub(r" \\\n +--hash=\S+", "", lock))
    venv = folder / ".venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--constraints", pins, wheel],
        check=True,
        env=os.environ | {"UV_PYTHON": str(venv / "bin" / "python"), "VIRTUAL_ENV": str(venv)},
    )
    yield folder
    subprocess.run([venv / "bin" / "ingest", "broker", "stop"], cwd=folder, env=environment())


def environment() -> dict[str, str]:
    """The environment of a user who set nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def test_wheel_holds_project_files_only(wheel: Path) -> None:
    """The dbt project and Dagster's files are there once; tests and build products are not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    project = "ingestion_platform/_project"
    assert {f"{project}/dagster.yaml", f"{project}/workspace.yaml"} <= names
    assert f"{project}/dbt_project/dbt_project.yml" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ingestion_platform"}
    assert not [name for name in names if "/target/" in name or "__pycache__" in name]


def test_demo_runs_from_wheel(folder: Path) -> None:
    """`ingest demo` takes all domains to gold, and writes below the working directory only."""
    venv = folder / ".venv"
    before = {file for file in venv.rglob("*") if file.suffix != ".pyc"}
    done = subprocess.run(
        [venv / "bin" / "ingest", "demo", "--count", "100"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Checks that hold" in done.stdout
    assert "ingest dev" in done.stdout
    assert "make " not in done.stdout
    after = {file for file in venv.rglob("*") if file.suffix != ".pyc"}
    assert {file for file in after - before if file.name != "__pycache__"} == set()
    assert {entry.name for entry in folder.iterdir()} == {".venv", ".platform"}


def test_dev_runs_from_wheel(folder: Path) -> None:
    """`ingest dev` brings up Dagster's web server and ends when asked to."""
    port = free_port()
    log = folder.parent / "dev.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [folder / ".venv" / "bin" / "ingest", "dev", "--port", str(port), "--rate", "0"],
            cwd=folder,
            env=environment(),
            stdout=out,
            stderr=out,
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
