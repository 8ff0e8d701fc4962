"""Streams whose derived names would be mixed up: rejected with both, before anything is mixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingestion_platform.cli.contract import of_declarations
from ingestion_platform.contract.lint import lint
from ingestion_platform.errors import ContractError
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import declared_deliveries
from ingestion_platform.streams import COMPONENT, declared_streams, file_conflict
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.tables import ensure_bronze
from tests.support.testbed import PGR

Declare = Callable[..., Path]


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declares streams of a domain of PLATFORM_DOMAINS: attributes, and a table's name if given."""
    monkeypatch.setenv("PLATFORM_DOMAINS", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def declared(*streams: dict[str, Any]) -> Path:
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        documents = []
        for attributes in streams:
            name = attributes["name"]
            contract = yaml.safe_load(PGR.read_text())
            contract["id"] = f"urn:{name}"
            contract["schema"][0]["physicalName"] = attributes.pop("table", name.lower())
            file = attributes.get("contract", f"{name}.odcs.yaml")
            (folder / file).write_text(yaml.safe_dump(contract))
            documents.append({"type": COMPONENT, "attributes": attributes})
        (folder / "defs.yaml").write_text(yaml.safe_dump_all(documents))
        return tmp_path

    return declared


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (
            {"name": "x", "topic": "a.b"},
            {"name": "y", "topic": "a_b"},
            "its topic 'a_b' differs only",
        ),
        (
            {"name": "x", "topic": "Orders"},
            {"name": "y", "topic": "orders"},
            "differs only in case",
        ),
        (
            {"name": "x", "topic": "a-b"},
            {"name": "y", "topic": "a_b"},
            "differs only in case, dots",
        ),
        ({"name": "Ab", "topic": "s"}, {"name": "ab", "topic": "t", "table": "z"}, "its name 'ab'"),
        ({"name": "x", "topic": "t"}, {"name": "y", "topic": "t"}, "its topic 't' is also that of"),
        ({"name": "t_1", "files": {}}, {"name": "y", "topic": "t.1"}, "its topic 't.1' differs"),
        (
            {"name": "x", "topic": "s", "contract": "c.odcs.yaml"},
            {"name": "y", "topic": "t", "contract": "c.odcs.yaml"},
            "its contract c.odcs.yaml, and so its table",
        ),
    ],
)
def test_names_that_would_be_mixed_up(
    declare: Declare, one: dict[str, Any], other: dict[str, Any], said: str
) -> None:
    """Nothing loads them; lint says which two, and in what."""
    root = declare(one, other)
    with pytest.raises(ContractError, match=r"stream (y|ab)"):
        declared_streams(root)
    (found,) = of_declarations()
    assert said in found.problem
    assert f"stream {one['name']} of mine" in found.problem


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"name": "a-b", "topic": "t"}, "name: has characters other"),
        ({"name": "a", "topic": "a/b"}, "not a valid Kafka topic"),
        ({"name": "a", "topic": ".."}, "not a valid Kafka topic"),
        ({"name": "a", "topic": "t" * 250}, "not a valid Kafka topic"),
    ],
)
def test_names_that_something_cannot_take(
    declare: Declare, attributes: dict[str, Any], said: str
) -> None:
    """Dagster's names, Kafka's topics, folders of the lake."""
    with pytest.raises(ContractError, match=said):
        declared_streams(declare(attributes))


def test_one_physical_name_of_two_contracts(declare: Declare) -> None:
    """Lint refuses the second; were it loaded all the same, its rows would not come in."""
    root = declare(
        {"name": "x", "topic": "s", "table": "events"},
        {"name": "y", "topic": "t", "table": "events"},
    )
    found = lint(sorted(root.glob("mine/*.odcs.yaml")))
    assert "the table 'events' is also that of" in next(
        f.problem for f in found if f.severity == "error"
    )
    x, y = declared_streams(root).values()
    settings = Settings.load({"PLATFORM_HOME": str(root / "home")}, root=root)
    catalog = open_catalog(settings)
    for _ in range(2):
        ensure_bronze(catalog, x.bronze_table, x.contract)
    with pytest.raises(ContractError, match=r"belongs to another contract, urn:x.*mixed"):
        ensure_bronze(catalog, y.bronze_table, y.contract)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ({"folder": "shop"}, {"folder": "shop"}, True),
        ({"folder": "shop"}, {"folder": "shop/users"}, True),
        ({"folder": "shop", "pattern": "*.csv"}, {"folder": "shop"}, True),
        (
            {"folder": "shop", "pattern": "*user*"},
            {"folder": "shop", "pattern": "*USER*.csv"},
            True,
        ),
        ({"folder": "shop", "pattern": "*user*"}, {"folder": "shop", "pattern": "*sale*"}, False),
        ({"folder": "shop"}, {"folder": "shop2"}, False),
    ],
)
def test_drop_zones_of_two_streams(
    declare: Declare, one: dict[str, Any], other: dict[str, Any], clash: bool
) -> None:
    """No file is taken by whichever of them looks first."""
    root = declare({"name": "x", "files": one}, {"name": "y", "files": other})
    x, y = declared_streams(root).values()
    assert bool(file_conflict(x, y)) == bool(file_conflict(y, x)) == clash
    found = [f for f in of_declarations() if "whichever looks first" in f.problem]
    assert len(found) == clash


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ({"files": {"folder": "out"}}, {"files": {"folder": "out/users"}}, True),
        ({"files": {"folder": "Out"}}, {"files": {"folder": "out"}}, True),
        ({"postgres": {"table": "s.Users"}}, {"postgres": {"table": "s.users"}}, True),
        ({"postgres": {"table": "s.users_x"}}, {"postgres": {"table": "s_users.x"}}, False),
        ({"elasticsearch": {"index": "a-b"}}, {"elasticsearch": {"index": "a_b"}}, False),
    ],
)
def test_targets_of_two_deliveries(
    declare: Declare, one: dict[str, Any], other: dict[str, Any], clash: bool
) -> None:
    """One server or file system may see two names as one, or one within the other."""
    root = declare(
        {"name": "x", "topic": "s", "deliver": [one]},
        {"name": "y", "topic": "t", "deliver": [other]},
    )
    found = [f for f in of_declarations() if "nested with" in f.problem]
    assert len(found) == clash
    if clash:
        with pytest.raises(ContractError, match="nested with"):
            declared_deliveries(root)


def test_declared_streams_are_apart() -> None:
    """The platform's own."""
    assert of_declarations() == []
