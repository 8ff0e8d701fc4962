"""A domain is a folder: one more adds streams, one less breaks nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from ingestion_platform.errors import ContractError, UnknownStream
from ingestion_platform.http_api.app import build
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import (
    COMPONENT,
    DOMAINS_FOLDER,
    RESERVED_PATHS,
    declared_streams,
    stream_of,
)
from tests.support import missing_domain
from tests.support.api_lab import consumed, http_api_settings
from tests.support.command_line import in_this_process
from tests.support.contract_documents import document

ROOT = DOMAINS_FOLDER.parents[1]
DOMAINS = sorted(file.parent.name for file in DOMAINS_FOLDER.glob("*/defs.yaml"))
ORDER = {"order_id": 7, "drink": "tea"}
HTTP = {
    "path": "/orders",
    "echo": "order_id",
    "staging_path": "/internal/stage-order",
    "staging_file": "orders_api_staging.csv",
}
SIMULATOR = """
from __future__ import annotations

from dataclasses import dataclass

from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulation import Shape, Simulator


@dataclass
class Order:
    number: int


def _records(count, seed, start, days):
    for order in map(Order, range(count)):
        value = b'{"order_id":%d,"drink":"tea"}' % order.number
        yield Record(None, value, timestamp_ms=int(start.timestamp() * 1000))


SIMULATORS = {"cafe_orders": Simulator(_records, Shape(("order_id",), ("drink",)))}
"""
PAGES = """
def pages(streams):
    return {"menu.md": ", ".join(each.stream for each in streams)}
"""


def declaration(**changes: Any) -> dict[str, Any]:
    """The attributes of a stream of orders."""
    given = {"name": "cafe_orders", "topic": "cafe-orders", "files": {"folder": "cafe"}}
    return given | {"http": HTTP} | changes


@pytest.fixture
def cafe(tmp_path: Path) -> Path:
    """A domain with a stream, its own paths, a simulator and a page."""
    folder = tmp_path / "domains" / "cafe"
    folder.mkdir(parents=True)
    contract = document(
        {"name": "order_id", "logicalType": "integer", "required": True, "primaryKey": True},
        {"name": "drink", "logicalType": "string", "required": True},
        {"name": "extras", "logicalType": "object"},
        domain="cafe",
    )
    (folder / "cafe_orders.odcs.yaml").write_text(yaml.safe_dump(contract))
    component = {"type": COMPONENT, "attributes": declaration()}
    (folder / "defs.yaml").write_text(yaml.safe_dump(component))
    (folder / "simulator.py").write_text(SIMULATOR)
    (folder / "pages.py").write_text(PAGES)
    return folder


@pytest.fixture
def declared(cafe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The domain, declared by PLATFORM_DOMAINS."""
    monkeypatch.setenv("PLATFORM_DOMAINS", str(cafe.parent))
    return cafe


def test_added_simulator_makes_records(declared: Path) -> None:
    """Its records have the keys of the declaration, and faults when asked for."""
    records = list(simulate("cafe_orders", 10, bad_ratio=0.5))
    assert sum(record.fault is not None for record in records) == 5
    assert [record.key for record in records] == [str(n).encode() for n in range(10)]


def test_domain_without_simulator_names_simulated_streams(declared: Path) -> None:
    """The error says where a simulator belongs."""
    (declared / "simulator.py").unlink()
    with pytest.raises(UnknownStream, match="cafe has no simulator") as raised:
        simulate("cafe_orders", 1)
    assert "cafe/simulator.py" in raised.value.action
    assert "pgr_events" in raised.value.action


@pytest.fixture
def api(declared: Path, embedded_settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    """An API of the added stream."""
    streams = {"cafe_orders": declared_streams()["cafe_orders"]}
    with TestClient(build(http_api_settings(embedded_settings, tmp_path), streams)) as client:
        yield client


def test_added_path_sends_to_topic(api: TestClient, embedded_settings: Settings) -> None:
    """The answer echoes the declared field, as the API's description says."""
    answer = api.post("/orders", json=ORDER)
    assert (answer.status_code, answer.json()) == (201, {"status": "accepted", "order_id": 7})
    messages = consumed(embedded_settings, "cafe-orders")
    assert [json.loads(message.value()) for message in messages] == [ORDER]
    operation = api.get("/openapi.json").json()["paths"]["/orders"]["post"]
    schema = operation["responses"]["201"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["status", "order_id"]


def test_added_staging_path_appends_to_file(api: TestClient, tmp_path: Path) -> None:
    """A header and the record, in the stream's drop zone."""
    answer = api.post("/internal/stage-order", json=ORDER)
    assert (answer.status_code, answer.json()) == (201, {"status": "accepted", "order_id": 7})
    with (tmp_path / "drop zone" / "cafe" / "orders_api_staging.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["order_id", "drink", "extras"], ["7", "tea", ""]]


def test_added_page_is_exported(declared: Path, tmp_path: Path) -> None:
    """It gets the streams of its domain only."""
    output = str(tmp_path / "docs")
    done = in_this_process("contract", "export", "--format", "markdown", "--output", output)
    assert done.code == 0, done.err
    assert (tmp_path / "docs" / "menu.md").read_text() == "cafe_orders"
    page = (tmp_path / "docs" / "streams" / "cafe_orders.md").read_text()
    assert "POST /orders" in page


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"http": {"echo": "order_id"}}, "needs a path"),
        ({"http": HTTP | {"method": "PUT"}}, "no keys but"),
        ({"http": {"path": 5}}, "no text"),
        ({"topic": None}, "without a topic"),
        ({"http": {"path": "orders"}}, "'orders' is no path"),
        *(({"http": {"path": f"/{first}/x"}}, "own") for first in sorted(RESERVED_PATHS)),
        ({"http": {"path": "/orders", "staging_path": "/stage"}}, "without a file"),
        ({"http": HTTP | {"staging_file": "orders.csv"}}, "no name of a staging file"),
        ({"http": HTTP | {"staging_file": "../x_api_staging.csv"}}, "no name of a staging file"),
        ({"files": {"pattern": "*.jsonl"}}, "no name of a staging file"),
    ],
)
def test_wrong_paths_are_rejected(cafe: Path, changes: dict[str, Any], problem: str) -> None:
    """The error names the file and the attribute."""
    with pytest.raises(ContractError, match=problem) as raised:
        stream_of(declaration(**changes), cafe)
    assert "stream cafe_orders, http" in str(raised.value)


@pytest.mark.parametrize("echo", ["order", "extras"])
def test_echo_must_be_a_plain_field(cafe: Path, echo: str) -> None:
    """The error lists the fields that can be used."""
    stream = stream_of(declaration(http=HTTP | {"echo": echo}), cafe)
    with pytest.raises(ContractError, match=f"'{echo}' is") as raised:
        stream.contract  # noqa: B018
    assert "order_id, drink" in str(raised.value)


def test_streams_cannot_share_a_path(cafe: Path) -> None:
    """A second stream with a path of the first is refused."""
    contract = (cafe / "cafe_orders.odcs.yaml").read_text()
    (cafe / "cafe_refunds.odcs.yaml").write_text(contract)
    other = declaration(
        name="cafe_refunds", topic="refunds", http={"path": "/internal/stage-order"}
    )
    documents = [{"type": COMPONENT, "attributes": each} for each in (declaration(), other)]
    (cafe / "defs.yaml").write_text(yaml.safe_dump_all(documents))
    with pytest.raises(ContractError, match="HTTP path /internal/stage-order"):
        declared_streams(cafe.parent)


def test_reserved_paths_cover_own_routes(local_settings: Settings) -> None:
    """No path of the API itself can be declared by a stream."""
    routes = build(local_settings, {}).routes
    own = {route.path.split("/")[1].split(".")[0] for route in routes}  # type: ignore[attr-defined]
    assert own - {"openapi"} <= RESERVED_PATHS


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a copy of the platform offers without each domain."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("ingestion_platform", "dbt_project"):
        ignore = shutil.ignore_patterns("__pycache__", "logs")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for file in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(ROOT / file, copy)
    work = tmp_path_factory.mktemp("work")
    paths = os.pathsep.join(map(str, (copy, ROOT)))
    environment = os.environ | {"PYTHONPATH": paths, "PLATFORM_HOME": str(work / "home")}
    environment.pop("PLATFORM_DOMAINS", None)
    script = [sys.executable, missing_domain.__file__, str(work)]
    done = subprocess.run(script, env=environment, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((work / "offered.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
def test_missing_domain_breaks_nothing(offered: dict[str, Any], domain: str) -> None:
    """The other domains have their streams, simulators, paths, pages, assets and models."""
    found = offered[domain]
    others = [name for name in DOMAINS if name != domain]
    assert found["domains"] == others
    assert set(others) <= set(found["groups"])
    assert domain not in found["groups"]
    assert ("/users" in found["paths"]) == (domain != "recomart")
    assert ("event-schema-specification.md" in found["pages"]) == (domain != "learning")
    assert (found["main"] == "pgr_events") == (domain != "pgr")
