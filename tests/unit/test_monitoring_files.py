"""What is provisioned: dashboards Grafana reads, files that are mounted, a page that is true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from ingestion_platform.operations.metrics.catalogue import API, PLATFORM

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "monitoring" / "grafana"
RULES = ROOT / "monitoring" / "prometheus" / "rules"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def unknown(ours: Any, theirs: Any, at: str = "") -> Iterator[str]:
    """What of a document has not survived being read as Grafana's model and written again."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            if not isinstance(theirs, dict) or key not in theirs:
                yield f"{at}.{key}"
            else:
                yield from unknown(value, theirs[key], f"{at}.{key}")
    elif isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            yield at
        else:
            for number, pair in enumerate(zip(ours, theirs, strict=True)):
                yield from unknown(*pair, f"{at}[{number}]")
    elif ours != theirs:
        yield at


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_grafana_knows_all_that_a_dashboard_says(file: Path) -> None:
    """By Grafana's own models: every panel, option and variable is one that it understands."""
    register_default_plugins()
    document = json.loads(file.read_text())
    back = json.loads(JSONEncoder().encode(Dashboard.from_json(document)))
    assert list(unknown(document, back)) == []


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_stand_side_by_side(file: Path) -> None:
    """No two panels share a number or a place, none leaves the grid, each says what it shows."""
    taken: set[tuple[int, int]] = set()
    panels = json.loads(file.read_text())["panels"]
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(0 <= x < 24 for x, _ in cells), panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_data_source_is_the_provisioned_one() -> None:
    """Every panel asks the source that is provisioned, by its id."""
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )["datasources"]
    for file in DASHBOARDS:
        uids = re.findall(r'"uid": "(.*?)"', file.read_text())
        assert set(uids) <= {source["uid"], json.loads(file.read_text())["uid"]}


def test_compose_mounts_what_is_there() -> None:
    """Each file or folder that the stack mounts is in the checkout, each setting in the example."""
    text = (ROOT / "docker" / "compose.yaml").read_text()
    stack = yaml.safe_load(text)
    for name in ("prometheus", "grafana"):
        for volume in stack["services"][name]["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / "docker" / source).exists(), volume
            else:
                assert source in stack["volumes"]
    example = (ROOT / "docker" / "example.env").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) <= set(re.findall(r"^(\w+)=", example, re.M))
    targets = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())["scrape_configs"]
    for target in targets[0]["static_configs"][0]["targets"]:
        assert target.split(":")[0] in stack["services"]


def test_rules_and_panels_ask_for_metrics_that_exist() -> None:
    """No query names a metric that the catalogue, or a recording rule, does not have."""
    rules = [
        rule
        for file in RULES.glob("*.yml")
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]
    known = {rule["record"] for rule in rules if "record" in rule}
    for metric in (*PLATFORM, *API):
        parts = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        known |= {metric.name + part for part in parts}
    panels = [p for file in DASHBOARDS for p in json.loads(file.read_text())["panels"]]
    queries = [rule["expr"] for rule in rules]
    queries += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    for query in queries:
        named = set(re.findall(r"\b(?:\w+:)?(?:ingest\w+|failed_\w+)(?::\w+)?", query))
        assert named <= known, query


def test_every_alert_leads_to_a_section_of_the_runbook() -> None:
    """Summary, description, severity, and a link to a heading that is there."""
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "runbook.md").read_text(), re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}
    (group,) = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbook.md"
        assert anchor in anchors, rule["alert"]
