"""The real Prometheus on real data: every query of every panel, the rules, and restarts."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from ingestion_platform import failures
from ingestion_platform.errors import StoreUnavailable
from ingestion_platform.http_api.app import build
from ingestion_platform.operations.metrics.catalogue import API, PLATFORM
from ingestion_platform.operations.metrics.read import Reader
from ingestion_platform.operations.metrics.serve import serving
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import stream_deliveries
from ingestion_platform.sinks.deliver import deliver
from ingestion_platform.streams import Destination
from services import Services
from services.net import LOOPBACK, free_port
from services.prometheus import program
from tests.support.testbed import new_stream

pytestmark = [pytest.mark.services]

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
PATIENCE = 120.0


@dataclass
class Watched:
    """A small platform, its endpoint, and the Prometheus that scrapes it each second."""

    settings: Settings
    port: int
    prometheus: str = ""
    seeds: Iterator[int] = field(default_factory=lambda: iter(range(100)))

    def __post_init__(self) -> None:
        root = self.settings.home
        self.streams = [
            replace(new_stream(root, self.settings), deliver=(Destination("files"),)),
            new_stream(root, self.settings),
        ]
        self.platform = Platform(self.settings)
        self.deliveries = stream_deliveries(self.streams[0])

    def work(self) -> None:
        """Records by topic and source, some of them bad, to tables and target; and a failure."""
        app = build(self.settings, {stream.name: stream for stream in self.streams})
        with TestClient(app) as http:
            for stream in self.streams:
                records = simulate("pgr_events", 60, seed=next(self.seeds), bad_ratio=0.2, days=0.1)
                records = list(records)
                path = f"/v1/streams/{stream.name}/records"
                assert http.post(path, content=records[0].value).status_code in (201, 422)
                assert not produce(self.settings, stream.topic, records).failed
                run_stream(self.platform, stream)
        for each in self.deliveries:
            deliver(self.platform, each)
        failures.note(self.settings.home, self.streams[0].name, StoreUnavailable("tried"))

    @contextmanager
    def endpoint(self) -> Iterator[None]:
        """A process's worth of `ingest metrics`, with a memory of its own."""
        reader = Reader(Platform(self.settings), self.streams, self.deliveries)
        with serving(self.settings, reader, LOOPBACK, self.port):
            yield

    def text(self) -> str:
        """What the endpoint tells."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/metrics") as answer:
            return str(answer.read().decode())

    def ask(self, path: str, **parameters: str) -> Any:
        """Prometheus's answer; an error of a query is one of the test."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def until(self, expression: str) -> None:
        """Wait until an expression has a series."""
        deadline = time.monotonic() + PATIENCE
        while not self.query(expression):
            assert time.monotonic() < deadline, f"{expression} has no series"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def watched(_embedded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two rounds of work, the second one seen by Prometheus; the endpoint still serves."""
    root = tmp_path_factory.mktemp("watched")
    (root / "home").mkdir()
    (root / "home" / "broker.json").write_bytes((_embedded_home / "broker.json").read_bytes())
    env = {
        "PLATFORM_HOME": str(root / "home"),
        "SINK_FILES_URL": (root / "out").as_uri(),
        "HTTP_API_AUTH": "off",
    }
    made = Watched(Settings.load(env, root=root), free_port())
    services = Services(root / "servers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMETHEUS_TARGET", f"{LOOPBACK}:{made.port}")
        patch.setenv("PROMETHEUS_INTERVAL", "1s")
        services.up(["prometheus"])
    made.prometheus = services.env()["PROMETHEUS_URL"]
    try:
        made.work()
        with made.endpoint():
            made.until("count_over_time(ingested_rows_total[1m]) >= 2")
        made.work()
        with made.endpoint():
            made.until("stream:failed_validations:ratio1h > 0")
            made.until("source:ingestion_http_api_errors:ratio5m")
            made.until("stream:ingestion_commit_duration_seconds:p95_15m > 0")
            yield made
    finally:
        services.down(purge=True)


@pytest.fixture(scope="module")
def promtool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs promtool below monitoring/prometheus."""
    path = program("promtool")

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(path), *words],
            cwd=MONITORING / "prometheus",
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards by file."""
    files = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
    return {file.name: json.loads(file.read_text()) for file in files}


def panels() -> list[tuple[str, str]]:
    """Every query, with what it is called."""
    return [
        (f"{name}: {panel['title']}", target["expr"])
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


def filled(expression: str) -> str:
    """A query as Grafana sends it, with all streams chosen."""
    values = {"$stream": ".*", "$__rate_interval": "1m", "$__range": "1h"}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def test_every_panel_shows_data(watched: Watched) -> None:
    """No query of any panel has an error, or nothing to show."""
    found = panels()
    assert len(found) > 35
    empty = [name for name, expression in found if not watched.query(filled(expression))]
    assert empty == []
    for board in dashboards().values():
        (variable,) = board["templating"]["list"]
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
        names = {series[label] for series in watched.ask("series", **{"match[]": metric})}
        assert names == {stream.name for stream in watched.streams}


def test_every_metric_is_told(watched: Watched) -> None:
    """What the catalogue lists is there, and nothing else; a promise is told where there is one."""
    told = set(re.findall(r"^# TYPE (\S+)", watched.text(), re.M))
    assert told == {metric.name for metric in (*PLATFORM, *API)}


def test_the_endpoint_is_clean(watched: Watched, promtool: Callable[..., Any]) -> None:
    """promtool has nothing to say about names, types and texts."""
    done = promtool("check", "metrics", stdin=watched.text())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_rules_are_evaluated(watched: Watched) -> None:
    """Prometheus has loaded every rule, and evaluates it without an error."""
    watched.until('ingestion_build_info{job="ingestion"}')
    rules = [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]
    written = [
        rule
        for file in (MONITORING / "prometheus" / "rules").glob("*.yml")
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len(rules) == len(written)
    assert {rule["health"] for rule in rules} == {"ok"}


def test_the_rules_do_what_they_say(promtool: Callable[..., Any]) -> None:
    """Configuration and rules are sound, and each alert fires when it should, and not before."""
    for words in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules/recording.yml", "rules/alerts.yml"),
        ("test", "rules", "tests/rules.yml"),
    ):
        done = promtool(*words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_counter_goes_back(watched: Watched) -> None:
    """Prometheus has seen no reset, though endpoint, sources and runs have begun again in
    between."""
    for metric in (*PLATFORM, *API):
        if metric.kind != "gauge":
            name = metric.name + ("_bucket" if metric.kind == "histogram" else "")
            (sample,) = watched.query(f"sum(resets({name}[10m]))")
            assert (metric.name, sample["value"][1]) == (metric.name, "0")
