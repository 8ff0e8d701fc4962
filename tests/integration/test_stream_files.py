"""The worker and drop zones: files that come in while it works, beside the topic."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.progress.status import stream_status
from ingestion_platform.settings import Settings, WorkerSettings
from ingestion_platform.streams import FileSource, Stream
from ingestion_platform.worker.loop import serve

PATIENCE = 60.0
LIMITS = WorkerSettings(flush_seconds=0.1, drop_seconds=0.2)


@contextmanager
def working(settings: Settings, stream: Stream) -> Iterator[None]:
    """A worker of one stream; it ends well."""
    stop, outcomes = threading.Event(), []
    hasty = settings.replace(worker=LIMITS, drop_settle_seconds=0.1)

    def work() -> None:
        outcomes.append(serve(hasty, [stream], [], stop))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert (outcomes[0].failed, outcomes[0].abandoned) == ({}, [])


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.05)


def lines(count: int, seed: int) -> bytes:
    """A JSON Lines file of good records."""
    return b"\n".join(r.value or b"" for r in simulate("pgr_events", count, seed=seed))


def rows(platform: Platform, stream: Stream) -> int:
    """Rows in bronze, as far as the table is there."""
    catalog = platform.catalog
    if not catalog.table_exists(stream.bronze_table):
        return 0
    return int(catalog.load_table(stream.bronze_table).scan().count())


def test_files_come_in_beside_a_topic(
    embedded_settings: Settings,
    make_stream: Callable[..., Stream],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each content once; one that cannot be parsed is told, moved aside, and stops nobody."""
    settings = embedded_settings.replace(drop_url=f"{embedded_settings.lake_url}-drop")
    stream = replace(make_stream(settings), files=FileSource("zone"))
    platform = Platform(settings)
    zone = platform.file_source(stream).zone
    with caplog.at_level(logging.WARNING), working(settings, stream):
        assert not produce(settings, stream.topic, simulate("pgr_events", 100, seed=1)).failed
        content = lines(50, 2)
        platform.drop.write("zone/a.jsonl", content)
        until(lambda: rows(platform, stream) == 150, "topic and file loaded")
        platform.drop.write("zone/broken.csv", b"\x00\xff")
        platform.drop.write("zone/copy-of-a.jsonl", content)
        platform.drop.write("zone/b.jsonl", lines(30, 3))
        assert not produce(settings, stream.topic, simulate("pgr_events", 20, seed=4)).failed
        until(lambda: rows(platform, stream) == 200, "what came in later loaded")
        until(lambda: not zone.waiting(), "zone empty")
    assert "broken.csv refused" in caplog.text
    assert stream_status(platform, stream).lag == 0
    assert verify_stream(platform, stream).ok


def test_a_stream_of_files_alone(
    local_settings: Settings, make_stream: Callable[..., Stream]
) -> None:
    """No broker is needed, or asked for."""
    stream = replace(make_stream(), partitions=0, files=FileSource("zone"))
    platform = Platform(local_settings)
    with working(local_settings, stream):
        platform.drop.write("zone/a.jsonl", lines(50, 2))
        until(lambda: rows(platform, stream) == 50, "loaded")
    assert verify_stream(platform, stream).ok
