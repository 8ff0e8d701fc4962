"""The worker delivers what it has loaded, and what others have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings, SinkSettings
from ingestion_platform.sinks.declare import stream_deliveries
from ingestion_platform.sinks.deliver import target_status
from ingestion_platform.streams import Destination, Stream
from ingestion_platform.worker.loop import serve


@pytest.fixture
def settings(embedded_settings: Settings, tmp_path: Path) -> Settings:
    """Targets in a folder of the test's own."""
    return embedded_settings.replace(sinks=SinkSettings(files_url=(tmp_path / "exports").as_uri()))


@pytest.fixture
def stream(settings: Settings, make_stream: Callable[..., Stream]) -> Stream:
    """Delivered to a folder."""
    made = make_stream(settings)
    where = Destination("files", {"folder": f"test/{made.name}", "parts": 2})
    return replace(made, deliver=(where,))


@contextmanager
def serving(settings: Settings, stream: Stream) -> Iterator[None]:
    """A worker on a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(settings, [stream], (), stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def await_rows(settings: Settings, stream: Stream, count: int) -> None:
    """Wait until the target has so many rows, and all that bronze has."""
    delivery = stream_deliveries(stream)[0]
    deadline = time.monotonic() + 60
    while True:
        at = target_status(Platform(settings), delivery)
        if (at.rows, at.current) == (count, True):
            return
        assert time.monotonic() < deadline, at
        threading.Event().wait(0.1)


def send(settings: Settings, stream: Stream, count: int, seed: int) -> None:
    """Send events."""
    assert not produce(settings, stream.topic, simulate("pgr_events", count, seed=seed)).failed


def test_what_the_worker_loads_is_in_the_target(settings: Settings, stream: Stream) -> None:
    """What was there before it began, and what comes while it works."""
    send(settings, stream, 40, 1)
    run_stream(Platform(settings), stream)
    with serving(settings, stream):
        await_rows(settings, stream, 40)
        send(settings, stream, 60, 2)
        await_rows(settings, stream, 100)


def test_loading_goes_on_while_a_sink_is_away(
    settings: Settings, stream: Stream, tmp_path: Path
) -> None:
    """The target is brought up to date when the sink is back."""
    in_the_way = tmp_path / "exports"
    in_the_way.write_text("no folder")
    with serving(settings, stream):
        send(settings, stream, 50, 3)
        deadline = time.monotonic() + 60
        delivery = stream_deliveries(stream)[0]
        while target_status(Platform(settings), delivery).lag != 50:
            assert time.monotonic() < deadline
            threading.Event().wait(0.1)
        in_the_way.unlink()
        await_rows(settings, stream, 50)
