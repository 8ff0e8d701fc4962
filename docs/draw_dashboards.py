"""Draw the panels of the dashboards: the platform at work, a real Prometheus, no Grafana.

    uv run --with matplotlib --with-editable . python docs/draw_dashboards.py [MINUTES]

Records go by topic and HTTP API to tables and a target, some of them broken, for some minutes (6).
Then each panel of `monitoring/grafana/dashboards` is drawn from what Prometheus answers to the
panel's own queries. Titles, places, units and legends are the files'; the look is matplotlib's.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from starlette.testclient import TestClient

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ingestion_platform.http_api.app import build  # noqa: E402
from ingestion_platform.kafka import broker  # noqa: E402
from ingestion_platform.operations.metrics.read import Reader  # noqa: E402
from ingestion_platform.operations.metrics.serve import serving  # noqa: E402
from ingestion_platform.pipeline import run_stream  # noqa: E402
from ingestion_platform.platform import Platform  # noqa: E402
from ingestion_platform.produce.producer import produce  # noqa: E402
from ingestion_platform.produce.simulators import simulate  # noqa: E402
from ingestion_platform.settings import Settings  # noqa: E402
from ingestion_platform.sinks.declare import stream_deliveries  # noqa: E402
from ingestion_platform.sinks.deliver import deliver  # noqa: E402
from ingestion_platform.streams import Destination, declared_streams  # noqa: E402
from services import Services  # noqa: E402
from services.net import LOOPBACK, free_port  # noqa: E402

STREAMS = {"pgr_events": 0.02, "recomart_users": 0.0, "sensor_readings": 0.01, "video_events": 0.08}
"""What is sent, and how much of it is broken."""
BOARDS = {"ingestion": "metrics.png", "storage": "metrics-storage.png"}
BACK, PANEL, LINE, TEXT = "#111217", "#181b1f", "#2c3235", "#ccccdc"


def main() -> None:
    """Run, ask, draw."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 6.0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        address, began = _at_work(Path(folder), minutes, stack)
        for board, picture in BOARDS.items():
            file = ROOT / "monitoring" / "grafana" / "dashboards" / f"{board}.json"
            _draw(json.loads(file.read_text()), address, began, ROOT / "docs" / picture)


def _at_work(home: Path, minutes: float, stack: ExitStack) -> tuple[str, float]:
    """The platform at work for some minutes; where its Prometheus answers, and since when."""
    env = {"PLATFORM_HOME": str(home), "HTTP_API_AUTH": "off"}
    settings = Settings.load(env, root=home)
    broker.start(home)
    stack.callback(broker.stop, home)
    port = free_port()
    os.environ |= {"PROMETHEUS_TARGET": f"{LOOPBACK}:{port}", "PROMETHEUS_INTERVAL": "2s"}
    services = Services(home / "services")
    services.up(["prometheus"])
    stack.callback(services.down)
    streams = {name: declared_streams()[name] for name in STREAMS}
    streams["pgr_events"] = replace(streams["pgr_events"], deliver=(Destination("files"),))
    deliveries = stream_deliveries(streams["pgr_events"])
    reader = Reader(Platform(settings), list(streams.values()), deliveries)
    stack.enter_context(serving(settings, reader, LOOPBACK, port))
    http = stack.enter_context(TestClient(build(settings, streams)))
    platform, began = Platform(settings), time.time()
    for number in range(10**6):
        if time.time() - began > minutes * 60:
            break
        for name, bad in STREAMS.items():
            count = int(60 * (1.5 + math.sin(number / 9 + len(name))))
            records = list(simulate(name, count, seed=number, bad_ratio=bad, days=0.001))
            for record in records[: random.randint(1, 4)]:
                http.post(f"/v1/streams/{name}/records", content=record.value)
            produce(settings, streams[name].topic, records)
            if random.random() < 0.6:  # else they wait for the next turn
                run_stream(platform, streams[name])
        if number % 4 == 0:
            deliver(platform, deliveries[0])
    return services.env()["PROMETHEUS_URL"], began


def _draw(board: dict[str, Any], address: str, began: float, picture: Path) -> None:
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"])
    figure = plt.figure(figsize=(17, height * 0.36 + 0.6), facecolor=BACK)
    figure.text(0.01, 1 - 0.25 / (height * 0.36 + 0.6), board["title"], color="white", fontsize=15)
    top = height / (height + 1.7)
    for panel in board["panels"]:
        at = panel["gridPos"]
        place = (at["x"] / 24, top * (1 - (at["y"] + at["h"]) / height), at["w"] / 24)
        size = top * at["h"] / height
        if panel["type"] == "row":
            figure.text(
                0.008, place[1] + size * 0.3, f"v {panel['title']}", color=TEXT, fontsize=11
            )
            continue
        box = (place[0] + 0.004, place[1] + 0.003, place[2] - 0.008, size - 0.006)
        frame = figure.add_axes(box, facecolor=PANEL, xticks=[], yticks=[])
        frame.spines[:].set_color(LINE)
        frame.set_title(panel["title"], loc="left", color=TEXT, fontsize=9, y=1.0, pad=-12, x=0.01)
        low = 0.3 if panel["type"] == "timeseries" else 0.06
        inner = (box[0] + 0.04, box[1] + box[3] * low, box[2] - 0.05, box[3] * (0.86 - low))
        axes = figure.add_axes(inner, facecolor=PANEL)
        {"timeseries": _lines, "stat": _stat, "bargauge": _bars}[panel["type"]](
            axes, panel, address, began
        )
    figure.savefig(picture, dpi=80, facecolor=BACK)
    print(f"{picture.relative_to(ROOT)} drawn")


def _lines(axes: Axes, panel: dict[str, Any], address: str, began: float) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for legend, points in _series(panel, address, began):
        times = [datetime.fromtimestamp(at, UTC) for at, _ in points]
        axes.plot(times, [value for _, value in points], linewidth=1, label=legend)
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=TEXT, labelsize=7, length=2)
    axes.spines[:].set_visible(False)
    axes.grid(color=LINE, linewidth=0.5)
    axes.yaxis.set_major_formatter(lambda value, _: _told(value, unit))
    axes.xaxis.set_major_formatter(plt.matplotlib.dates.DateFormatter("%H:%M"))
    axes.locator_params(axis="y", nbins=5)
    lines, labels = axes.get_legend_handles_labels()
    shown = axes.legend(
        lines[:12],
        labels[:12],
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.12),
        ncols=4 if panel["gridPos"]["w"] > 10 else 3,
        fontsize=5.5,
        frameon=False,
        handlelength=1,
        columnspacing=0.8,
    )
    for text in shown.get_texts():
        text.set_color(TEXT)


def _stat(axes: Axes, panel: dict[str, Any], address: str, began: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    value = next(points[-1][1] for _, points in _series(panel, address, began))
    color = "#73bf69"
    for step in defaults.get("thresholds", {}).get("steps", ()):
        if step["value"] is None or value >= step["value"]:
            color = {"green": "#73bf69", "yellow": "#fade2a", "red": "#f2495c"}[step["color"]]
    mapped = defaults.get("mappings", [{}])[:1]
    named = mapped[0].get("options", {}).get(str(int(value)), {}) if mapped else {}
    axes.axis("off")
    said = named.get("text") or _told(value, defaults["unit"])
    axes.text(0.45, 0.45, said, color=color, fontsize=24, ha="center", va="center")


def _bars(axes: Axes, panel: dict[str, Any], address: str, began: float) -> None:
    found = [(legend, points[-1][1]) for legend, points in _series(panel, address, began)]
    axes.barh([name for name, _ in found], [value for _, value in found], color="#73bf69")
    for number, (name, value) in enumerate(found):
        axes.text(0, number, f" {name}  {value:,.0f}", color="white", fontsize=7, va="center")
    axes.axis("off")


def _series(
    panel: dict[str, Any], address: str, began: float
) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Legend and points of each series of a panel's queries."""
    now = time.time()
    for target in panel["targets"]:
        expression = target["expr"]
        variables = {"$stream": ".*", "$__rate_interval": "1m", "$__range": f"{now - began:.0f}s"}
        for variable, value in variables.items():
            expression = expression.replace(variable, value)
        asked = {"query": expression, "start": began + 20, "end": now, "step": 4}
        url = f"{address}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url) as answer:
            found = json.load(answer)["data"]["result"]
        for series in found:
            legend = target["legendFormat"]
            for name, value in series["metric"].items():
                legend = legend.replace(f"{{{{{name}}}}}", value)
            yield legend, [(float(at), float(value)) for at, value in series["values"]]


def _told(value: float, unit: str) -> str:
    """A value as Grafana would write it, nearly."""
    if unit == "percentunit":
        return f"{value:.1%}"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.0f} ms"
    if unit == "s":
        return f"{value:,.3g} s" if value < 100 else f"{value:,.0f} s"
    if unit == "bytes":
        return f"{value / 1024**2:.1f} MiB" if value >= 1024**2 else f"{value / 1024:.0f} KiB"
    suffix = {"rowsps": "/s", "reqps": "/s", "cpm": "/min"}.get(unit, "")
    number = f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"
    return f"{number}{suffix}"


if __name__ == "__main__":
    main()
