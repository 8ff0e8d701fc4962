"""Help: complete, and quick because nothing heavy is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.command_line import Ingest

COMMANDS = [
    "demo",
    "dev",
    "broker",
    "broker stop",
    "new",
    "produce",
    "run",
    "stream",
    "serve",
    "status",
    "verify",
    "query",
    "doctor",
    "contract lint",
]
HEAVY = {
    "confluent_kafka",
    "dagster",
    "dbt",
    "duckdb",
    "fastapi",
    "numpy",
    "obstore",
    "open_data_contract_standard",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyiceberg",
    "sqlalchemy",
    "structlog",
    "uvicorn",
}

_TELL_MODULES = f"""
import sys
from ingestion_platform.cli import main
try:
    main()
finally:
    sys.stderr.write(" ".join({HEAVY!r} & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    """The help of every command leaves out the packages that take long to import."""
    arguments = [sys.executable, "-c", _TELL_MODULES, *command.split(), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ingest {command}".strip() in done.stdout


def test_help_lists_every_command(bare: Ingest) -> None:
    """The first screen shows all commands, each with a line on what it does."""
    out = bare("--help").out
    for command in COMMANDS:
        assert f" {command.split()[0]} " in out


def test_without_a_command_the_help_is_shown(bare: Ingest) -> None:
    """Bare `ingest` is wrong use, and shows the help."""
    answer = bare()
    assert answer.code == 2
    assert "Commands" in answer.out + answer.err


def test_module_and_version() -> None:
    """`python -m ingestion_platform` is `ingest`, and tells the version."""
    from ingestion_platform import __version__

    command = [sys.executable, "-m", "ingestion_platform", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"ingest {__version__}\n"


@pytest.mark.parametrize("words", ["ingest status pgr", "ingest run pgr", "ingest produce pgr"])
def test_shells_complete_streams(words: str) -> None:
    """Shell completion knows the declared streams."""
    env = os.environ | {
        "_INGEST_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": "2",
    }
    command = [sys.executable, "-c", "from ingestion_platform.cli import main; main()"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "pgr_events" in done.stdout.split()


def test_an_unknown_command_is_wrong_use(bare: Ingest) -> None:
    """A mistyped command exits with 2."""
    answer = bare("statsu")
    assert answer.code == 2
    assert "statsu" in answer.err
