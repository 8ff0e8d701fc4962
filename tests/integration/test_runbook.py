"""The runbook, alarm by alarm: the fault is made, the alarm is there, the page's steps are done as
a reader pastes them, and the alarm is gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import yaml
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from typer.testing import CliRunner, Result

from ingestion_platform.cli.app import app
from ingestion_platform.errors import PlatformError
from ingestion_platform.kafka.client import ensure_topic
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from services import Services
from tests.support.testbed import new_stream, separate_environment

pytestmark = [pytest.mark.services, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "runbook.md"
OURS = ("KAFKA_", "LAKE_", "AWS_", "PYICEBERG_", "DAGSTER_", "PLATFORM_", "HTTP_API_", "DROP_")
CATALOG_URI = "PYICEBERG_CATALOG__LAKEHOUSE__URI"
DECLARED = """type: ingestion_platform.orchestration.Stream
attributes: {{name: {name}, topic: {topic}, contract: {contract}}}
"""


def sections() -> dict[str, list[str]]:
    """The page's headings, each with its blocks of commands."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]:
        heading = part.partition("\n")[0]
        found[heading] = re.findall(r"^```sh\n(.*?)^```$", part, re.M | re.S)
    return found


@dataclass
class Operator:
    """Somebody at a command line, who looks after one stream."""

    environment: dict[str, str]
    settings: Settings
    stream: Stream
    folder: Path
    admin: AdminClient

    @property
    def platform(self) -> Platform:
        """The stores, opened again."""
        return Platform(self.settings)

    def send(self, count: int = 200, seed: int = 1) -> None:
        """Produce good events."""
        records = simulate("pgr_events", count, seed=seed, days=0.5)
        assert not produce(self.settings, self.stream.topic, records).failed

    def shell(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands as they are pasted; the last one's exit code."""
        return subprocess.run(
            ["bash", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def follow(self, heading: str) -> None:
        """Do what the page says below a heading; its last command must succeed."""
        (commands,) = sections()[heading]
        done = self.shell(commands)
        assert done.returncode == 0, done.stdout + done.stderr

    def ingest(self, *arguments: str) -> Result:
        """A command that the page does not show, in this process: that is quicker."""
        with mock.patch.dict(os.environ, self.environment, clear=True):
            return CliRunner().invoke(app, arguments, prog_name="ingest")

    def doctor(self) -> list[dict[str, str]]:
        """What `ingest doctor` finds."""
        return list(json.loads(self.ingest("doctor", "--json").stdout))

    def alarms(self) -> list[str]:
        """What it says of this stream that is not ok."""
        ours = (self.stream.name, self.stream.topic)
        return [
            finding["message"]
            for finding in self.doctor()
            if finding["status"] != "ok" and any(name in finding["message"] for name in ours)
        ]

    def run(self) -> Result:
        """One run of the stream."""
        return self.ingest("run", self.stream.name)


@pytest.fixture
def operator(servers: Services, tmp_path: Path) -> Operator:
    """A declared stream that is loaded."""
    return at_work(separate_environment(servers), tmp_path)


def at_work(env: dict[str, str], folder: Path) -> Operator:
    """An operator of a new stream, declared in a folder, on some servers."""
    settings = Settings.load(env, root=folder)
    defs = folder / "domains" / "shop"
    defs.mkdir(parents=True)
    stream = new_stream(defs, settings, edit=lambda document: document.update(id=folder.name))
    (defs / "defs.yaml").write_text(
        DECLARED.format(name=stream.name, topic=stream.topic, contract=stream.contract_file.name)
    )
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    programs = {
        "ingest": "-m ingestion_platform",
        "pyiceberg": "-c 'from pyiceberg.cli.console import run; run()'",
    }
    for name, arguments in programs.items():
        command = bin_folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment = (
        kept
        | env
        | {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PLATFORM_DOMAINS": str(folder / "domains"),
            "PLATFORM_HOME": str(folder / "home"),
            "STREAM": stream.name,
            "TABLE": stream.bronze_table,
        }
    )
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    found = Operator(environment, settings, stream, folder, admin)
    found.send()
    assert found.run().exit_code == 0
    return found


def test_every_alarm_has_a_section() -> None:
    """The table's links lead to headings, and each heading is in the table."""
    text = PAGE.read_text()
    segments = re.findall(r"\]\(#([a-z-]+)\)", text.partition("## ")[0])
    anchors = [re.sub(r"[^a-z -]", "", h.lower()).replace(" ", "-") for h in sections()]
    assert segments == anchors


def test_the_first_look(operator: Operator) -> None:
    """The commands at the top succeed on a platform that is well."""
    (block,) = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text().partition("## ")[0], re.M | re.S)
    done = operator.shell(block.replace("pgr_events", operator.stream.name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert operator.stream.topic in done.stdout
    assert operator.alarms() == []


def test_records_wait(operator: Operator) -> None:
    """Lag is told, and gone after a run."""
    operator.send(seed=2)
    (alarm,) = operator.alarms()
    assert "200 records behind the log" in alarm
    operator.follow("Records wait")
    assert operator.alarms() == []


def test_partitions_were_added(operator: Operator) -> None:
    """The topic's number is told until it is declared; records come in meanwhile."""
    topic = operator.stream.topic
    operator.admin.create_partitions([NewPartitions(topic, 6)])[topic].result()
    assert any("assets are declared for 4" in alarm for alarm in operator.alarms())
    operator.send(seed=3)
    operator.follow("Partitions were added")
    declared = operator.folder / "domains" / "shop" / "defs.yaml"
    document = yaml.safe_load(declared.read_text())
    document["attributes"]["partitions"] = 6
    declared.write_text(yaml.safe_dump(document))
    assert operator.alarms() == []


def test_records_were_lost(operator: Operator) -> None:
    """The offsets are told, the reconciliation is ok, and new records come in behind the gap."""
    operator.send(seed=4)
    topic = operator.stream.topic
    marks = stream_status(operator.platform, operator.stream).partitions
    ends = [TopicPartition(topic, p.partition, p.log_end) for p in marks]
    for deleted in operator.admin.delete_records(ends).values():
        deleted.result()
    told = [alarm for alarm in operator.alarms() if "lost, offsets" in alarm]
    assert len(told) == len([p for p in marks if p.lag])
    operator.send(seed=5)
    assert operator.run().exit_code == 0
    operator.follow("Records were lost")
    noted = [alarm for alarm in operator.alarms() if "(seen on" in alarm]
    assert len(noted) == len(told)  # for a week
    assert stream_status(operator.platform, operator.stream).lost == 200


def recreate(operator: Operator) -> None:
    """Delete the topic and create it again, with records."""
    topic = operator.stream.topic
    operator.admin.delete_topics([topic])[topic].result()
    deadline = time.monotonic() + 60
    while True:
        try:
            ensure_topic(operator.settings, topic, 4)
            operator.send(seed=6)
        except (PlatformError, AssertionError):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def test_a_topic_was_recreated(operator: Operator) -> None:
    """A warning until the week is over; runs go on."""
    recreate(operator)
    assert any("was recreated" in alarm for alarm in operator.alarms())
    operator.follow("A topic was recreated")
    alarms = operator.alarms()
    assert alarms
    assert all("was recreated (seen on" in alarm for alarm in alarms)


def test_rows_and_lake_disagree(operator: Operator) -> None:
    """Rows that somebody deleted are told, and there again when the table was dropped."""
    table = operator.platform.catalog.load_table(operator.stream.bronze_table)
    table.delete("_partition = 0")
    (alarm,) = operator.alarms()
    assert "more or fewer rows" in alarm
    operator.follow("Rows and lake disagree")
    assert operator.alarms() == []


def test_rows_and_lake_disagree_until_the_table_is_rolled_back(operator: Operator) -> None:
    """What the page advises first heals as well."""
    table = operator.platform.catalog.load_table(operator.stream.bronze_table)
    before = table.current_snapshot()
    assert before is not None
    table.delete("_partition = 0")
    assert operator.alarms()
    table.manage_snapshots().rollback_to_snapshot(before.snapshot_id).commit()
    assert operator.alarms() == []
    operator.send(seed=7)
    operator.follow("Records wait")


def test_files_of_the_lake_are_missing(operator: Operator) -> None:
    """The file is named; restored from a backup, all is well."""
    operator.send(seed=8)
    assert operator.run().exit_code == 0
    store = operator.platform.store
    entries = sorted(store.files(f"topic={operator.stream.topic}"), key=lambda each: each.path)
    backup = {each.path: store.read(each.path) for each in entries}
    ours = [path for path in backup if "partition=0/0" in path]
    store.remove(ours[0])
    done = operator.ingest("verify", operator.stream.name)
    assert done.exit_code == 1
    assert "restore it from a backup" in done.output
    for path, data in backup.items():
        store.write(path, data)
    operator.follow("Files of the lake are missing")
    assert operator.alarms() == []


@pytest.mark.parametrize("wrong", ["store", "catalog"])
def test_credentials_are_rejected(operator: Operator, wrong: str) -> None:
    """A run says which setting; with the right ones all goes on."""
    good = operator.environment
    uri = good[CATALOG_URI]
    bad = {
        "store": {"AWS_SECRET_ACCESS_KEY": "x"},
        "catalog": {CATALOG_URI: uri.replace("@", "x@")},
    }
    operator.environment = good | bad[wrong]
    done = operator.run()
    assert done.exit_code == 1
    assert "refuses" in done.output
    assert {"store": "AWS_SECRET_ACCESS_KEY", "catalog": CATALOG_URI}[wrong] in done.output
    operator.environment = good
    operator.follow("Credentials are rejected")


def test_servers_that_do_not_answer(own_servers: Services, tmp_path: Path) -> None:
    """Each is told by doctor and by a run; when it is back, all goes on. A broker that lost its
    records is told as that, until the topic is made again."""
    operator = at_work(own_servers.env(), tmp_path)
    for server, check in (("kafka", "broker"), ("minio", "lake"), ("postgres", "catalog")):
        own_servers.kill(server)
        assert "fail" in {f["status"] for f in operator.doctor() if f["check"] == check}
        assert operator.run().exit_code == 1
        own_servers.start(server)
        operator.follow("A server does not answer")
        assert operator.alarms() == []
    own_servers.stop("kafka")
    for folder in (own_servers.directory / "kafka" / "data").glob(f"{operator.stream.topic}-*"):
        shutil.rmtree(folder)
    own_servers.start("kafka")
    assert any("the broker lost records" in alarm for alarm in operator.alarms())
    assert "the broker lost records" in operator.run().output
    recreate(operator)
    operator.follow("The broker lost records")
