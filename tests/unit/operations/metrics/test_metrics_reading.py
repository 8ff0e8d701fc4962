"""A reading costs what has changed, tells what it could not read, and scrapes never wait long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_platform.errors import StoreUnavailable
from ingestion_platform.operations.metrics import exposition
from ingestion_platform.operations.metrics.exposition import Latest, PlatformCollector
from ingestion_platform.operations.metrics.lake import RECOUNT
from ingestion_platform.operations.metrics.read import Reader, Samples
from ingestion_platform.operations.metrics.streams import POLL
from ingestion_platform.pipeline import run_stream
from ingestion_platform.platform import Platform
from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.declare import stream_deliveries
from ingestion_platform.sinks.deliver import deliver
from ingestion_platform.streams import Destination, Stream


class Spy:
    """A store that counts what is asked of it; or does not answer."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls = 0
        self.away = False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise StoreUnavailable("away")
        if name != "url":
            self.calls += 1
        return getattr(self._store, name)


class Bench:
    """A stream with a target, its reader, and a clock that tests move."""

    def __init__(self, settings: Settings, stream: Stream) -> None:
        self.platform = Platform(settings)
        self.stream = replace(stream, deliver=(Destination("files"),))
        (self.delivery,) = stream_deliveries(self.stream)
        self.now = 1_000_000.0
        self.spy = Spy(self.platform.store)
        self.platform.__dict__["store"] = self.spy
        self.reader = Reader(self.platform, [self.stream], [self.delivery], clock=lambda: self.now)

    def send(self, count: int, *, bad_ratio: float = 0.0) -> None:
        """Produce events."""
        records = simulate("pgr_events", count, seed=count, bad_ratio=bad_ratio, days=0.1)
        assert not produce(self.platform.settings, self.stream.topic, records).failed

    def read(self, later: float = 0.0) -> dict[str, dict[tuple[str, ...], float]]:
        """The samples by metric and label values, some seconds later."""
        self.now += later
        facts = self.reader.read()
        return {
            family.name: {tuple(s.labels.values()): s.value for s in family.samples}
            for family in PlatformCollector(lambda: facts).collect()
        }


@pytest.fixture
def bench(
    embedded_settings: Settings, make_stream: Callable[..., Stream], tmp_path: Path
) -> Iterator[Bench]:
    """On the embedded broker."""
    sinks = embedded_settings.sinks.replace(files_url=(tmp_path / "out").as_uri())
    settings = embedded_settings.replace(sinks=sinks)
    made = Bench(settings, make_stream(settings))
    yield made
    made.reader.close()


def test_a_stream_from_nothing_to_delivered(bench: Bench) -> None:
    """Zeros before the first record, lag while records wait, positions and sizes afterwards."""
    name = bench.stream.name
    told = bench.read()
    assert told["ingested_rows"] == {(name,): 0}
    assert sum(told["ingestion_lag_records"].values()) == 0
    bench.send(40, bad_ratio=0.2)
    told = bench.read(POLL + 1)
    assert sum(told["ingestion_lag_records"].values()) == 40
    assert told["ingestion_sink_lag_records"] == {("files", bench.delivery.label, name): 0}
    run_stream(bench.platform, bench.stream)
    told = bench.read(POLL + 1)
    rejected = told["failed_validations"][name,]
    assert rejected == 8
    assert told["ingested_rows"] == {(name,): 32}
    assert told["ingestion_lag_records"].keys() == {(name, str(p)) for p in range(4)}
    assert not any(told["ingestion_lag_records"].values())
    assert told["ingestion_oldest_wait_seconds"] == {(name,): 0}
    assert told["ingestion_quarantine_rows"] == {(name, "open"): 8, (name, "discarded"): 0}
    ends = [told[f"ingestion_{at}_end_offset"] for at in ("log", "bronze")]
    assert ends[0] == ends[1]
    assert told["ingestion_lake_end_offset"].items() <= ends[0].items()
    assert sum(told["ingestion_lake_end_offset"].values()) == 40
    assert told["ingestion_lake_files"][name,] >= 1
    rows = told["ingestion_table_rows"]
    assert sorted(rows.values()) == [8, 32]
    target = ("files", bench.delivery.label, name)
    assert told["ingestion_sink_lag_records"] == {target: 40}
    deliver(bench.platform, bench.delivery)
    told = bench.read(POLL + 1)
    assert told["ingestion_sink_lag_records"] == {target: 0}
    assert told["ingestion_sink_rejected_rows"] == {target: 0}


def test_an_unchanged_lake_is_not_read_again(bench: Bench) -> None:
    """However often it is scraped; hours later days gone by are listed once, for maintenance's
    sake."""
    bench.send(20)
    run_stream(bench.platform, bench.stream)
    bench.read()
    bench.read(POLL + 1)
    bench.spy.calls = 0
    for _ in range(20):
        bench.read(POLL + 1)
    assert bench.spy.calls == 0
    bench.read(RECOUNT)
    assert bench.spy.calls > 0


def test_what_cannot_be_read_is_told(bench: Bench) -> None:
    """A store that is away is told as such; the rest goes on, and no counter falls to zero."""
    bench.send(20)
    run_stream(bench.platform, bench.stream)
    before = bench.read()
    bench.send(10)
    bench.spy.away = True
    told = bench.read(POLL + 1)
    name = bench.stream.name
    assert told["ingestion_up"] == {(name, "tables"): 1, (name, "lake"): 0, (name, "log"): 1}
    assert sum(told["ingestion_lag_records"].values()) == 10
    assert told["ingested_rows"] == before["ingested_rows"]
    assert told["ingestion_lake_files"] == before["ingestion_lake_files"]
    bench.spy.away = False
    assert all(bench.read(POLL + 1)["ingestion_up"].values())


def test_a_broken_contract_hides_nothing_else(bench: Bench, tmp_path: Path) -> None:
    """Its stream is told to be unreadable; the others are told as ever."""
    wrong = tmp_path / "wrong.odcs.yaml"
    wrong.write_text("schema: {}")
    broken = replace(bench.stream, name="broken", contract_file=wrong, deliver=())
    bench.reader.close()
    bench.reader = Reader(bench.platform, [broken, bench.stream], clock=lambda: bench.now)
    told = bench.read()
    assert told["ingestion_up"]["broken", "tables"] == 0
    assert told["ingestion_up"][bench.stream.name, "tables"] == 1
    assert told["ingested_rows"] == {(bench.stream.name,): 0}


def test_a_scrape_does_not_wait_for_a_slow_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets what was read before; the reading goes on, and is there for the next scrape."""
    monkeypatch.setattr(exposition, "FRESH", 0.0)
    go = threading.Event()
    go.set()
    count = iter(range(1, 10))

    class Slow:
        def read(self) -> Samples:
            go.wait(30)
            return Samples(read_at=float(next(count)))

    latest = Latest(Slow(), patience=0.2)  # type: ignore[arg-type]
    assert latest().read_at == 1
    go.clear()
    assert [latest().read_at, latest().read_at] == [1, 1]
    go.set()
    assert latest().read_at == 2
