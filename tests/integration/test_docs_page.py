"""The page /docs in a real browser (Debian's chromium) that can reach nothing but the API."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_platform.settings import Settings
from tests.support.api_process import ApiProcess, api_process

CHROMIUM = shutil.which("chromium")
ALONE = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


@pytest.fixture
def file_source(embedded_settings: Settings, tmp_path: Path) -> Iterator[ApiProcess]:
    """A source with the declared streams."""
    with api_process({"PLATFORM_HOME": str(embedded_settings.home)}, tmp_path) as running:
        yield running


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_docs_work_without_internet(file_source: ApiProcess, tmp_path: Path) -> None:
    """The page shows every operation, opens one, and asks no other server for anything."""
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ALONE)
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{file_source.url}/docs")
        page.wait_for_selector("#operations-send-send_recomart_users", timeout=60_000)
        assert page.locator(".opblock").count() >= 15
        page.locator("#operations-send-send_recomart_users .opblock-summary").click()
        page.wait_for_selector(".opblock-body .btn.try-out__btn", timeout=60_000)
        page.screenshot(path=tmp_path / "docs.png", full_page=False)
        browser.close()
    assert [url for url in asked if not url.startswith((file_source.url, "data:"))] == []
    assert said == []
