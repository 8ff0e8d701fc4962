"""Running `ingest` in this process, for the tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from ingestion_platform.cli.app import app


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


Ingest = Callable[..., Answer]


def in_this_process(*arguments: str) -> Answer:
    """Run `ingest` with these arguments."""
    result = CliRunner().invoke(app, arguments, prog_name="ingest")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)
