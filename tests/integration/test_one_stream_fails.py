"""Commands that cover several streams, where one has no topic and others are damaged."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from ingestion_platform import streams as declarations
from ingestion_platform.cli.app import app
from ingestion_platform.kafka.client import client_config, ensure_topic
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.metrics.serve import reader_of, text
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream, declared_streams
from services import Services
from tests.support.testbed import new_stream, separate_environment

NAMES = ("good", "never", "lake", "table", "contract")
DAMAGED = {
    "lake": "segment_log_broken",
    "table": "table_unreadable",
    "contract": "contract_problems",
}
RECORDS = 30


@dataclass
class Scene:
    """Five streams on real servers, known by their part: `never` has no topic."""

    settings: Settings
    streams: dict[str, Stream]
    records: list[Record]

    def send(self, *names: str) -> None:
        """Send records, some of them invalid, to some streams' topics."""
        for name in names:
            ensure_topic(self.settings, self.streams[name].topic, 1)
            assert not produce(self.settings, self.streams[name].topic, self.records).failed

    def ingest(self, *arguments: str) -> tuple[int, Any]:
        """Run `ingest` with --json: the exit code, and what it printed, by stream."""
        result = CliRunner().invoke(app, [*arguments, "--json"], prog_name="ingest")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, json.loads(result.stdout)

    def errors(self, *arguments: str) -> tuple[int, dict[str, str | None]]:
        """The exit code, and each stream's error code."""
        code, told = self.ingest(*arguments)
        known = {of.get("stream", of.get("name")): of["error"] for of in told}
        return code, {name: error and error["code"] for name, error in known.items()}

    def damage(self) -> None:
        """Damage the last lake file of one stream, the table of another, a third's contract."""
        platform = Platform(self.settings)
        tail = SegmentLog(platform.store, self.streams["lake"].topic).tails([0])[0]
        platform.store.remove(tail.name.path)
        platform.store.write(tail.name.path, b"no Parquet")
        table = platform.catalog.load_table(self.streams["table"].bronze_table)
        with table.io.new_output(table.metadata_location).create(overwrite=True) as file:
            file.write(b"{")
        self.streams["contract"].contract_file.write_text("kind: DataContract\n")


@pytest.fixture
def scene(servers: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Declared streams of this test alone, all but one with records that are loaded."""
    records = list(simulate("pgr_events", RECORDS, seed=1, bad_ratio=0.2))
    folder = tmp_path / "domains" / "own"
    folder.mkdir(parents=True)
    documents = []
    for name in NAMES:
        made = new_stream(folder, partitions=1, edit=lambda of, own=name: of.update(id=own))
        attributes = {"name": name, "topic": made.topic, "contract": made.contract_file.name}
        documents.append(
            {"type": declarations.COMPONENT, "attributes": {**attributes, "partitions": 1}}
        )
    (folder / "defs.yaml").write_text(yaml.safe_dump_all(documents))
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(declarations, "DOMAINS_FOLDER", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    own = {"PLATFORM_DOMAINS": str(folder.parent), "PLATFORM_HOME": str(tmp_path / "home")}
    for name, value in (separate_environment(servers) | own).items():
        monkeypatch.setenv(name, value)
    made_scene = Scene(Settings.load(), declared_streams(), records)
    assert tuple(made_scene.streams) == NAMES
    made_scene.send(*(name for name in NAMES if name != "never"))
    return made_scene


def test_topic_that_does_not_exist_yet(scene: Scene) -> None:
    """It is no failure of any command, and its records are loaded once there are some."""
    code, ran = scene.ingest("run", "--all")
    assert code == 0
    assert {of["stream"]: of["landed"] for of in ran} == dict.fromkeys(NAMES, RECORDS) | {
        "never": 0
    }
    assert [of["stream"] for of in ran if of["no_topic_yet"]] == ["never"]
    for command in (("status",), ("verify", "--all"), ("contract", "plan", "--all")):
        code, errors = scene.errors(*command)
        assert (code, set(errors.values())) == (0, {None}), command
    _, status = scene.ingest("status")
    assert [of["stream"] for of in status if of["no_topic_yet"]] == ["never"]
    code, findings = scene.ingest("doctor")
    assert [f for f in findings if f["status"] == "fail"] == []
    assert any("no topic" in f["message"] for f in findings if f["status"] == "warn")
    assert up(scene)["never"] == {"log": 1.0, "lake": 1.0, "tables": 1.0}
    scene.send("never")
    _, ran = scene.ingest("run", "never")
    assert (ran[0]["landed"], ran[0]["no_topic_yet"]) == (RECORDS, False)


def up(scene: Scene) -> dict[str, dict[str, float]]:
    """Which parts of each stream could be read for the metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    reader = reader_of(scene.settings)
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text(scene.settings, reader).decode()):
        for sample in family.samples:
            if sample.name == "ingestion_up":
                labels = sample.labels
                found.setdefault(labels["stream"], {})[labels["part"]] = sample.value
    reader.close()
    return found


def test_damaged_streams_hide_no_others(scene: Scene) -> None:
    """Each command handles every stream, has the error beside its stream, and exits with 1."""
    assert scene.ingest("run", "--all")[0] == 0
    scene.send("good")
    scene.damage()
    fine = {"good": None, "never": None}
    expected: dict[tuple[str, ...], dict[str, str | None]] = {
        ("status",): fine | DAMAGED,
        ("run", "--all"): fine | DAMAGED,
        ("verify", "--all"): fine | DAMAGED,
        ("quarantine", "list", "--all"): fine | {"contract": "contract_problems"},
        ("contract", "plan", "--all"): fine | DAMAGED,
        ("maintain", "--all"): fine | DAMAGED | {"lake": None},
    }
    for command, errors in expected.items():
        code, found = scene.errors(*command)
        own = {name: error for name, error in found.items() if name in NAMES}
        own |= {} if command[0] != "quarantine" else {"lake": None, "table": None}
        assert own == {"lake": None, "table": None} | errors, command
        assert code == 1, command
    _, status = scene.ingest("status")
    good = next(of for of in status if of["stream"] == "good")
    assert good["bronze_rows"] + good["quarantine_rows"] == 2 * RECORDS


def test_damaged_streams_in_doctor_and_metrics(scene: Scene) -> None:
    """The report goes on, and a part that cannot be read is down for its stream alone."""
    assert scene.ingest("run", "--all")[0] == 0
    scene.damage()
    code, findings = scene.ingest("doctor")
    assert code == 1
    told = [(f["check"], f["message"]) for f in findings]
    assert any(check == "streams" and "good: up to date" in said for check, said in told)
    failed = [said for check, said in told if check == "streams" and "cannot" not in said]
    assert failed
    for name in ("lake", "table"):
        assert any(
            f["status"] == "fail" and f["message"].startswith(f"{name}:") for f in findings
        ), name
    parts = up(scene)
    assert set(parts) == set(NAMES)
    assert parts["good"] == parts["never"] == {"log": 1.0, "lake": 1.0, "tables": 1.0}
    assert parts["lake"]["lake"] == 0.0
    assert parts["table"]["tables"] == parts["contract"]["tables"] == 0.0


def test_topic_that_is_gone_is_an_error(scene: Scene) -> None:
    """Records of it were landed, so its absence is no "not yet"; the others are shown."""
    assert scene.ingest("run", "--all")[0] == 0
    topic = scene.streams["lake"].topic
    client = AdminClient(client_config(scene.settings))
    client.delete_topics([topic])[topic].result()
    deadline = time.monotonic() + 30
    while scene.errors("status")[0] == 0:  # the brokers take a moment
        assert time.monotonic() < deadline
    code, errors = scene.errors("status")
    assert (code, errors) == (1, dict.fromkeys(NAMES) | {"lake": "topic_missing"})
