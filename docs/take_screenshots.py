"""Take the pictures of this folder: the platform live, in a real browser (Debian's chromium).

    python docs/take_screenshots.py

Runs `ingest dev` on the embedded default in a folder of its own, waits until events have reached
gold by themselves, and saves what Dagster shows.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
GOLD = ["gold", "gold_pgr_funnel_daily"]
PATIENCE = 420.0

PAGES = {
    "lineage.png": "/locations/ingestion_platform.definitions/asset-groups/pgr/lineage",
    "bronze.png": "/assets/bronze/service_events_raw?view=overview",
    "slices.png": "/assets/bronze/service_events_raw?view=partitions",
    "checks.png": "/assets/bronze/service_events_raw?view=checks",
    "gold.png": "/assets/gold/gold_pgr_funnel_daily?view=overview",
    "runs.png": "/runs",
}


def main() -> None:
    """Run the platform, wait for gold, take the pictures."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        _platform(Path(home)) as address,
    ):
        _wait_for_gold(address)
        _take(address)


@contextmanager
def _platform(home: Path) -> Iterator[str]:
    port = _free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KAFKA_", "PYICEBERG_"))}
    env |= {"PLATFORM_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
    command = [sys.executable, "-m", "ingestion_platform", "dev", "--port", str(port)]
    with (home / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--rate", "20"],
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _wait_for_gold(address: str) -> None:
    """Until the last model has been materialized twice, by nobody but sensor and automation."""
    query = """query($key: AssetKeyInput!) { assetOrError(assetKey: $key) {
        ... on Asset { assetMaterializations(limit: 2) { timestamp } } } }"""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = _graphql(address, query, {"key": {"path": GOLD}})
        asset = (found or {}).get("assetOrError") or {}
        if len(asset.get("assetMaterializations", [])) >= 2:
            return
        time.sleep(1)
    raise SystemExit(f"{'/'.join(GOLD)} was not materialized within {PATIENCE:.0f} s")


def _graphql(address: str, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(
        f"{address}/graphql", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            data: dict[str, Any] = json.load(reply)["data"]
            return data
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def _take(address: str) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no chromium: apt-get install chromium")
    slice_key = f"{datetime.now(UTC).date()}|0"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        # Wide enough for Dagster's side panels, and twice the pixels: readable when zoomed in.
        page = browser.new_page(viewport={"width": 1440, "height": 900}, device_scale_factor=2)
        for name, path in PAGES.items():
            suffix = f"&partition={slice_key}" if name == "slices.png" else ""
            page.goto(address + path + suffix, wait_until="domcontentloaded")
            page.wait_for_load_state("load")
            page.wait_for_timeout(10_000)  # the page draws its graph after it has loaded
            page.screenshot(path=FOLDER / name)
            print(FOLDER / name)
        browser.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
