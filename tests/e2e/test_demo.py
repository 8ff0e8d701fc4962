"""What a user does first, as it is started from a shell: `ingest demo`, and `ingest dev`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_platform.cli.dev import LOCATION
from ingestion_platform.kafka import broker
from ingestion_platform.orchestration.instance import prepare_dagster_home
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import DOMAINS_FOLDER, declared_streams
from ingestion_platform.warehouse.tables import load_or_none
from tests.support.live import answers, free_port, processes_of

ROOT = Path(__file__).parents[2]
OURS = ("KAFKA_", "LAKE_", "AWS_", "PYICEBERG_", "DAGSTER_", "PLATFORM_")
STREAMS = declared_streams(DOMAINS_FOLDER)
DOMAINS = {stream.domain for stream in STREAMS.values()}
STAR = "pgr_events"
SLICE = f"{datetime.now(UTC).date() - timedelta(days=1)}|3"
"""A slice that Dagster has without any data: partitions begin a week ago then."""
PROBLEM = re.compile(r"warn|Traceback|\berror", re.IGNORECASE)

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of the test's own; its broker ends with the test."""
    folder = tmp_path / "home"
    yield folder
    broker.stop(folder)


def environment(home: Path) -> dict[str, str]:
    """An environment without settings but for the home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return kept | {"PLATFORM_HOME": str(home), "PYTHONPATH": str(ROOT)}


def ingest(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ingest` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ingestion_platform", *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def result(home: Path, *arguments: str) -> Any:
    """The JSON of a command that must succeed."""
    done = ingest(home, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cells(out: str, title: str) -> Iterator[list[str]]:
    """The rows of the table of that title, without its head; a cell that is empty is missing."""
    below = out.partition(f"{title}")[2].partition("───")[2].partition("\n")[2]
    for line in below.splitlines():
        if not line.strip():
            return
        yield re.split(r"\s{2,}", line.strip())


def number(cell: str) -> int:
    """A number as the demo writes it."""
    return int(cell.replace(",", ""))


def shown_streams(out: str) -> dict[str, list[int]]:
    """Records of topic and files, and rows of lake, bronze and quarantine (rejected), by stream."""
    rows = cells(out, "Rows per layer")
    return {stream: list(map(number, counts)) for _, stream, *counts in rows}


def shows_model(out: str, table: str, rows: int) -> bool:
    """Whether the demo printed that a table of silver or gold has so many rows."""
    section = out.partition("Rows per model")[2].partition("Why records")[0]
    name = table.split("_", 2)[2]
    return re.search(rf"(?<!\S){name} +{rows:,}(?!\S)", section) is not None


def test_demo_takes_every_stream_to_gold_and_can_be_repeated(home: Path) -> None:
    """What the demo shows per layer is what the tables hold, also after a second run."""
    for times in (1, 2):
        done = ingest(home, "demo", "--count", "800")
        assert done.returncode == 0, done.stdout + done.stderr
        streams = shown_streams(done.stdout)
        assert streams.keys() == STREAMS.keys()
        for name, (topic, files, lake, bronze, quarantine) in streams.items():
            sent, bad = (800, 8) if name == STAR else (80, 1)
            dropped = 80 if name == STAR else 0
            assert (topic, files, quarantine) == (sent * times, dropped * times, bad * times), name
            assert lake == topic + files == bronze + quarantine, name
        for status in result(home, "status"):
            tables = [status["bronze_rows"], status["quarantine_rows"]]
            assert tables == streams[status["stream"]][3:], status["stream"]
            assert not any(partition["lag"] for partition in status["partitions"])
        models = model_rows(home)
        assert {tuple(name.split("_")[:2]) for name in models} == {
            (f"{layer}.{layer}", domain) for layer in ("silver", "gold") for domain in DOMAINS
        }
        for table, rows in models.items():
            assert rows > 0, table
            assert shows_model(done.stdout, table, rows), table
        reasons = list(cells(done.stdout, "Why records are in quarantine"))
        assert {STREAMS[stream].domain for stream, _, _ in reasons} == DOMAINS
        checks = list(cells(done.stdout, "Checks that hold"))
        assert {domain for domain, *_ in checks} == DOMAINS
        for _, *held in checks:
            assert all(number(good) == number(of) for good, of in (h.split(" of ") for h in held))
        assert "fails:" not in done.stdout
        assert "make dev" in done.stdout
    found = result(home, "verify", "--all")
    assert all(each["ok"] for each in found)
    assert sum(each["expected"] for each in found) == 2 * (800 + 15 * 80)
    assert [f for f in result(home, "doctor") if f["status"] == "fail"] == []
    check_column_lineage(home)


ORIGINS = {
    "gold/gold_learning_active_students_daily sessions": "bronze/learning_auth_events session_id",
    "gold/gold_pgr_case_lifecycle tenant_id": "bronze/service_events_raw tenant_id",
    "gold/gold_recomart_user_features spent": "bronze/recomart_products price",
    "gold/gold_telemetry_readings_hourly highest": "bronze/telemetry_sensor_readings value",
    "gold/gold_tmdb_catalogue genre": "bronze/tmdb_movie genres",
}
"""A column of gold of each domain, and a field of a contract that it is computed from."""


def origins(instance: dg.DagsterInstance, column: str) -> set[str]:
    """The columns that a column is computed from, directly or not, as the events tell it."""
    asset, _, name = column.partition(" ")
    event = instance.get_latest_materialization_event(dg.AssetKey(asset.split("/")))
    assert event is not None
    assert event.asset_materialization is not None
    lineage: Any = event.asset_materialization.metadata["dagster/column_lineage"].value
    found = set()
    for each in lineage.deps_by_column.get(name, []):
        parent = f"{each.asset_key.to_user_string()} {each.column_name}"
        found |= {parent}
        if not parent.startswith("lake/"):
            found |= origins(instance, parent)
    return found


def check_column_lineage(home: Path) -> None:
    """Assert that columns of gold are traced to fields of contracts, and these to the lake."""
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        for column, field in ORIGINS.items():
            found = origins(instance, column)
            assert field in found, column
            assert any(each.startswith("lake/") and each.endswith(" value") for each in found)


def model_rows(home: Path) -> dict[str, int]:
    """How many rows each table of silver and gold has."""
    listed = result(home, "query", "show all tables")
    names = [f"{t['schema']}.{t['name']}" for t in listed if t["schema"] in ("silver", "gold")]
    counts = " union all ".join(f"select '{n}' as name, count(*) as n from {n}" for n in names)
    return {row["name"]: row["n"] for row in result(home, "query", counts)}


def test_demo_does_not_write_to_a_real_kafka_unasked(home: Path) -> None:
    """With a Kafka in the settings the demo asks before it sends simulated events there."""
    env = environment(home) | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    command = [sys.executable, "-m", "ingestion_platform", "demo"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--on-kafka" in done.stderr


def ticks(port: int) -> list[tuple[str, str | None]]:
    """Return the code location and the last tick's status of each sensor, asked by GraphQL."""
    query = """{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name }
        sensors { sensorState { ticks(limit: 1) { status } } } } } } }"""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        repositories = json.load(answer)["data"]["repositoriesOrError"]["nodes"]
    return [
        (repository["location"]["name"], tick["status"] if tick else None)
        for repository in repositories
        for sensor in repository["sensors"]
        for tick in sensor["sensorState"]["ticks"] or [None]
    ]


def bronze_rows(home: Path) -> int:
    """How many rows the bronze table has; none while there is no table."""
    settings = Settings.load({"PLATFORM_HOME": str(home)}, root=home.parent)
    table = load_or_none(Platform(settings).catalog, STREAMS[STAR].bronze_table)
    return 0 if table is None else table.scan().count()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "rows"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_dev_ends_all_that_it_started(home: Path, number: signal.Signals, rows: int) -> None:
    """`ingest dev` starts Dagster, whose sensors load bronze, and leaves no process.

    It is ended when rows have come, or as soon as it answers. Nothing it prints is a warning.
    """
    port, log = free_port(), home.parent / "dev.log"
    command = [sys.executable, "-m", "ingestion_platform", "dev", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--rate", "20"],
        env=environment(home),
        stderr=subprocess.STDOUT,
        stdout=log.open("wb"),
        # As for what a shell runs in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        deadline = time.monotonic() + 120
        while not (answers(port) and bronze_rows(home) >= rows):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        assert {location for location, _ in ticks(port)} == {LOCATION}
        if rows:
            statuses = {status for _, status in ticks(port)}
            assert "SKIPPED" in statuses
            assert "FAILURE" not in statuses
        process.send_signal(number)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
    assert processes_of(home) == []
    assert not answers(port)
    assert broker.address(home) is None
    assert [line for line in log.read_text().splitlines() if PROBLEM.search(line)] == []


def test_dev_names_the_server_on_its_port(home: Path) -> None:
    """A taken port ends `ingest dev` before it starts anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = ingest(home, "dev", "--port", str(port))
    assert done.returncode == 1
    assert f"another server listens on port {port}" in done.stderr
    assert f"PORT={port + 1}" in done.stderr
    assert broker.address(home) is None


@pytest.mark.parametrize(
    "command",
    [
        ["dg", "check", "defs"],
        ["dg", "list", "defs"],
        ["dagster", "asset", "list", "-m", LOCATION],
        [*("dg", "launch", "--assets", 'key:"bronze/service_events_raw"'), "--partition", SLICE],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_dagsters_commands_print_no_warning(
    home: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's own commands find the code location, and nothing to warn of."""
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    prepare_dagster_home(Settings.load({"PLATFORM_HOME": str(home)}, root=home.parent))
    done = subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        cwd=ROOT,
        env=environment(home) | {"DAGSTER_HOME": str(home / "dagster")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if PROBLEM.search(line)] == []
