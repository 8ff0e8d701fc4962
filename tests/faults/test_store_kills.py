"""Runs of dbt's models killed at any instant: silver and gold follow bronze, and no reader ever
meets a part of a run.

`--kills N --seed S` kills more, and elsewhere.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table

from ingestion_platform.produce.producer import produce
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from services import Services
from tests.support.oracle import read_table
from tests.support.processes import Worker
from tests.support.scene import Scene, no_calls, together
from tests.support.testbed import PGR, edited, separate_environment

pytestmark = [pytest.mark.services]

SILVER = "silver.silver_pgr_events"
CASES = "gold.gold_pgr_case_lifecycle"
FUNNEL = "gold.gold_pgr_funnel_daily"
DAYS, CHUNK = 6, 100
FIRST = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=60)
BRONZE = ("tenant_id", "entity_id", "event_type", "event_date", "event_time")
EVENT = (
    *BRONZE,
    *("service", "entity_type", "status", "actor_type", "actor_id", "channel", "ward_id"),
    *("locality_id", "attributes_json"),
)
PLACE = ("_ingest_date", "_partition", "_offset", "_topic_id")


class Modelled(Scene):
    """Grievances whose days pass, under the models of pgr."""

    coming: Iterator[Record]
    stale: set[date]
    """The ingest dates that changed since the models were run to their end."""
    contents: dict[str, set[int]]
    """What each model's table may hold: what bronze made of it, at any time so far."""

    def begin(self, turns: int) -> None:
        """Enough records for so many turns, some turns to a day."""
        self.coming = simulate("pgr_events", turns * CHUNK, start=FIRST, days=DAYS, bad_ratio=0.05)
        self.stale, self.contents = set(), defaultdict(set)

    def arrive(self) -> None:
        """Some more records are loaded."""
        records = list(islice(self.coming, CHUNK))
        assert not produce(self.settings, self.stream.topic, records).failed
        stamps = [record.timestamp_ms or 0 for record in records]
        self.stale |= {datetime.fromtimestamp(stamp / 1000, UTC).date() for stamp in stamps}
        together([self.start("run")])
        self.remember()

    def validate_again(self, stricter: bool) -> None:
        """Rows of all ingest dates leave bronze, or come back."""
        together([self.start("replace", edited(self.stream, no_calls) if stricter else None)])
        rows = read_table(self.settings, self.stream.bronze_table)
        self.stale |= set(rows["_ingest_date"].to_pylist())
        self.remember()

    def ingest_dates(self) -> tuple[str, str]:
        """Those that the models have not seen as they are, as dbt is told."""
        end = max(self.stale) + timedelta(days=1)
        return min(self.stale).isoformat(), end.isoformat()

    def remember(self) -> None:
        """What the models hold, once they are run on bronze as it is now."""
        bronze = read_table(self.settings, self.stream.bronze_table).to_pylist()
        for table, content in expected(bronze).items():
            self.contents[table].add(hash(content))

    def table(self, name: str) -> Table:
        """A table as it is now, opened without the platform."""
        return load_catalog("lakehouse", **self.settings.catalog).load_table(name)

    def check_history(self) -> None:
        """Each snapshot that there ever was is what bronze made of the model at some time, so that
        nobody can have read a part of a run."""
        for name, states in self.contents.items():
            table = self.table(name)
            assert len(table.snapshots()) > 1
            for snapshot in table.snapshots():
                rows = table.scan(
                    snapshot_id=snapshot.snapshot_id, selected_fields=COLUMNS[name]
                ).to_arrow()
                content = frozenset(SUMMARIES[name](rows.to_pylist()))
                assert hash(content) in states, f"{name}: snapshot {snapshot}"

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All that the models hold, in order."""
        found = {}
        for name in COLUMNS:
            rows = self.table(name).scan().to_arrow().to_pylist()
            found[name] = sorted(rows, key=lambda row: str(sorted(row.items())))
        return found


def expected(bronze: list[dict[str, Any]]) -> dict[str, frozenset[Hashable]]:
    """What tells the content of each model, worked out by hand: the first copy of each event, the
    events of each case, the cases of each day."""
    copies: dict[Hashable, dict[str, Any]] = {}
    for row in sorted(bronze, key=lambda row: [row[name] for name in PLACE]):
        copies.setdefault(tuple(row[name] for name in EVENT), row)
    cases: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
    for row in copies.values():
        cases[row["tenant_id"], row["entity_id"]].append(row)
    days: dict[date, int] = defaultdict(int)
    for events in cases.values():
        opened = [e["event_time"] for e in events if e["event_type"] == "CaseSubmitted"]
        days[min(opened or [e["event_time"] for e in events]).date()] += 1
    return {
        SILVER: frozenset(places(copies.values())),
        CASES: frozenset((*case, len(events)) for case, events in cases.items()),
        FUNNEL: frozenset(days.items()),
    }


def places(rows: Iterable[dict[str, Any]]) -> Iterator[Hashable]:
    """Day and origin of each event."""
    return ((row["event_date"], *(row[name] for name in PLACE)) for row in rows)


def counts(rows: Iterable[dict[str, Any]]) -> Iterator[Hashable]:
    """Each case with the number of its events."""
    return ((row["tenant_id"], row["entity_id"], row["event_count"]) for row in rows)


def totals(rows: Iterable[dict[str, Any]]) -> Iterator[Hashable]:
    """Each day with the number of its cases."""
    days: dict[date, int] = defaultdict(int)
    for row in rows:
        days[row["opened_date"]] += row["cases"]
    return iter(days.items())


COLUMNS = {
    SILVER: ("event_date", *PLACE),
    CASES: ("tenant_id", "entity_id", "event_count"),
    FUNNEL: ("opened_date", "cases"),
}
SUMMARIES = {SILVER: places, CASES: counts, FUNNEL: totals}


@pytest.fixture
def scene(servers: Services, worker: Worker, tmp_path: Path) -> Modelled:
    """A new stream that the models take for their own."""
    env = separate_environment(servers) | {"PLATFORM_HOME": str(tmp_path / "home")}
    name = PGR.read_text().partition("physicalName: ")[2].split()[0]

    def as_modelled(document: dict[str, Any]) -> None:
        document["schema"][0]["physicalName"] = name

    made = Modelled.new(worker, env, tmp_path, edit=as_modelled)
    assert isinstance(made, Modelled)
    return made


@pytest.mark.fault("models", "kill -9 of a run of the models, at any instant, again and again")
def test_kills_while_storing(
    scene: Modelled, rng: random.Random, request: pytest.FixtureRequest
) -> None:
    """Each table is at any time what bronze made of it at some time, and in the end what a rebuild
    makes: no reader meets a part of a day, and no day is left behind."""
    kills = max(1, int(request.config.getoption("kills")) // 6)
    scene.begin(2 * kills + 20)
    scene.arrive()
    scene.measure("store", ingest_dates=scene.ingest_dates())
    done = turn = 0
    while done < kills:
        turn += 1
        if turn % 9 == 2:
            scene.validate_again(stricter=turn % 18 == 2)
        elif turn % 3 == 1 or not scene.stale:
            scene.arrive()
        everything = rng.random() < 0.2
        killed = scene.kill(rng, "store", ingest_dates=None if everything else scene.ingest_dates())
        done += killed
        if not killed:
            scene.stale = set()
    print(f"{scene.phases.total()} kills hit: {dict(scene.phases)}")  # noqa: T201
    scene.arrive()
    together([scene.start("store", ingest_dates=scene.ingest_dates())])
    scene.check_history()
    before = scene.rows()
    for name, rows in before.items():
        content = frozenset(SUMMARIES[name](rows))
        bronze = read_table(scene.settings, scene.stream.bronze_table).to_pylist()
        assert content == expected(bronze)[name]
    together([scene.start("store")])
    assert scene.rows() == before
