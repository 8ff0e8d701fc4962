"""The runbook on what metrics tell: the fault, the steps as the page has them, and the end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ingestion_platform.cli.app import app
from ingestion_platform.operations.metrics.exposition import PlatformCollector
from ingestion_platform.operations.metrics.read import Reader
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import stream_deliveries
from ingestion_platform.streams import Destination
from tests.support.testbed import new_stream

PAGE = Path(__file__).parents[2] / "docs" / "runbook.md"
DECLARED = """type: ingestion_platform.orchestration.Stream
attributes: {{name: {name}, topic: {topic}, contract: {contract}, deliver: [files]}}
"""


def steps(heading: str) -> list[list[str]]:
    """The commands below a heading, without `ingest`."""
    (part,) = (p for p in PAGE.read_text().split("\n## ") if p.startswith(heading))
    (block,) = re.findall(r"^```sh\n(.*?)^```$", part, re.M | re.S)
    return [shlex.split(line)[1:] for line in block.splitlines()]


class Scene:
    """A declared stream with a target, for commands in this process."""

    def __init__(self, settings: Settings, defs: Path) -> None:
        self.platform = Platform(settings)
        stream = new_stream(defs, settings, partitions=4)
        (defs / "defs.yaml").write_text(
            DECLARED.format(
                name=stream.name, topic=stream.topic, contract=stream.contract_file.name
            )
        )
        self.stream = replace(stream, domain=defs.name, deliver=(Destination("files"),))

    def work(self, seed: int) -> None:
        """A few records to bronze, and not to the target."""
        records = simulate("pgr_events", 20, seed=seed, days=0.01)
        assert not produce(self.platform.settings, self.stream.topic, records).failed
        run_stream(self.platform, self.stream)

    def told(self, metric: str) -> float:
        """The sum of a metric now."""
        reader = Reader(self.platform, [self.stream], stream_deliveries(self.stream))
        facts = reader.read(thorough=True)
        reader.close()
        (family,) = (f for f in PlatformCollector(lambda: facts).collect() if f.name == metric)
        return sum(sample.value for sample in family.samples)

    def follow(self, heading: str) -> str:
        """Do what the page says; gives what was printed."""
        printed = ""
        for words in steps(heading):
            words = [self.stream.name if word == "$STREAM" else word for word in words]
            done = CliRunner().invoke(app, words, prog_name="ingest")
            printed += done.output
            assert done.exit_code == 0 or words == ["doctor"], printed
        return printed


@pytest.fixture
def scene(
    embedded_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Scene]:
    """Makes the scene, and points the command line at it."""
    defs = tmp_path / "domains" / "shop"
    defs.mkdir(parents=True)
    environment = {
        "PLATFORM_HOME": str(embedded_settings.home),
        "PLATFORM_DOMAINS": str(defs.parent),
        "LAKE_URL": embedded_settings.lake_url,
        "SINK_FILES_URL": (tmp_path / "out").as_uri(),
        "PYICEBERG_CATALOG__LAKEHOUSE__URI": embedded_settings.catalog["uri"],
        "PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE": embedded_settings.catalog["warehouse"],
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return lambda: Scene(Settings.load(root=tmp_path), defs)


def test_targets_files_and_metrics(scene: Callable[[], Scene]) -> None:
    """A target that is behind is level afterwards, small files are few, metrics are shown."""
    at = scene()
    for seed in range(5):
        at.work(seed)
    assert at.told("ingestion_sink_lag_records") == 100
    assert at.told("ingestion_table_small_files") >= 5
    at.follow("A target is behind or refuses")
    assert at.told("ingestion_sink_lag_records") == 0
    at.follow("Files are not compacted")
    assert at.told("ingestion_table_small_files") == 0
    shown = at.follow("Metrics are not read")
    assert f'ingested_rows_total{{stream="{at.stream.name}"}} 100.0' in shown
    at.follow("Attempts fail")
    assert "broker" in at.follow("The HTTP API is slow or fails")
