"""Load all parts of the platform once without each domain; prints what each then offers.

Runs as a script with a copy of the package first on PYTHONPATH, whose folders it may move.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from ingestion_platform.cli.app import app
from ingestion_platform.http_api.app import build
from ingestion_platform.orchestration import definitions
from ingestion_platform.produce.simulators import main_stream, simulate, simulated
from ingestion_platform.settings import Settings
from ingestion_platform.streams import DOMAINS_FOLDER, declared_streams


def _offered(settings: Settings, output: Path) -> dict[str, Any]:
    streams = declared_streams()
    for name in streams:
        assert len(list(simulate(name, 10, bad_ratio=0.5))) == 10
    routes = build(settings, streams).routes
    repository = definitions._built.__wrapped__().get_repository_def()
    assets = repository.asset_graph.asset_nodes
    for arguments in (
        ["--help"],
        ["contract", "export", "--format=markdown", f"--output={output}"],
    ):
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return {
        "domains": sorted({stream.domain for stream in streams.values()}),
        "groups": sorted({node.group_name for node in assets}),
        "paths": [route.path for route in routes],  # type: ignore[attr-defined]
        "pages": sorted(file.name for file in output.glob("*.md")),
        "main": main_stream(simulated(streams.values())).name,
    }


if __name__ == "__main__":
    work = Path(sys.argv[1])
    offered = {}
    for folder in [file.parent for file in sorted(DOMAINS_FOLDER.glob("*/defs.yaml"))]:
        folder.rename(work / folder.name)
        offered[folder.name] = _offered(Settings.load(), work / "without" / folder.name)
        (work / folder.name).rename(folder)
    (work / "offered.json").write_text(json.dumps(offered))
