"""Counters through all that takes rows out of a table: repairs, maintenance, decisions,
rollbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestion_platform.operations.maintenance import maintain_stream
from ingestion_platform.operations.metrics.catalogue import REJECTED, ROWS
from ingestion_platform.operations.metrics.exposition import PlatformCollector
from ingestion_platform.operations.metrics.read import Reader
from ingestion_platform.operations.quarantine import Choice, discard, overview
from ingestion_platform.pipeline import load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.retention import KEEP_PROPERTY
from tests.support.grievances import GOOD
from tests.support.lake_files import DAY, put, segment_of
from tests.support.testbed import edited, new_stream

REPAIRABLE = GOOD.replace(b'"WEB"', b'"PIGEON"')


@dataclass
class World:
    """A stream whose lake is put by hand, and what its counters must say."""

    platform: Platform
    stream: Stream
    topic_id: int = 0
    end: int = 0
    previous: tuple[str, int] | None = None
    good: int = 0
    rejected: int = 0
    pigeons: bool = False
    log: list[str] = field(default_factory=list)

    def load(self, *ingest_dates: object) -> None:
        """Make the tables equal to the lake."""
        load_stream(self.platform, self.stream, partitions=[0], ingest_dates=ingest_dates)  # type: ignore[arg-type]

    def arrive(self) -> None:
        """Ten records: six good ones, three that a contract may come to allow, a bad one."""
        values = [GOOD] * 6 + [REPAIRABLE] * 3 + [b"bad"]
        name = f"g{self.topic_id}"
        segment = segment_of(
            self.stream.topic,
            self.end,
            self.end + 10,
            topic_id=name,
            ordinal=self.topic_id,
            previous=self.previous,
        )
        put(self.platform.store, segment, values)
        self.end, self.previous = segment.end, (name, segment.end)
        self.good += 9 if self.pigeons else 6
        self.rejected += 1 if self.pigeons else 4
        self.load()

    def repair(self) -> None:
        """The contract changes, and all is validated again: rows leave or enter quarantine."""
        self.pigeons = not self.pigeons
        self.stream = edited(self.stream, allow if self.pigeons else forbid)
        self.load(DAY)

    def decide(self) -> None:
        """What is in quarantine is discarded."""
        if overview(self.platform, self.stream).open:
            discard(self.platform, self.stream, Choice(ingest_dates=(DAY,)), because="old", by="me")

    def tidy(self) -> None:
        """Files are compacted, snapshots expire."""
        maintain_stream(self.platform, self.stream)

    def recreate(self) -> None:
        """The topic starts again at offset 0."""
        self.topic_id += 1
        self.end = 0

    def counted(self) -> tuple[float, float]:
        """What a new exporter tells: as after a restart."""
        reader = Reader(self.platform, [self.stream])
        facts = reader.read()
        reader.close()
        found = {
            family.name: family.samples for family in PlatformCollector(lambda: facts).collect()
        }
        rows, rejected = (found[each.name.removesuffix("_total")] for each in (ROWS, REJECTED))
        return rows[0].value, rejected[0].value


def allow(document: dict) -> None:
    """Pigeons may carry complaints."""
    channel(document)["enum"].append({"value": "PIGEON"})


def forbid(document: dict) -> None:
    """They may not."""
    channel(document)["enum"] = [v for v in channel(document)["enum"] if v["value"] != "PIGEON"]


def channel(document: dict) -> dict:
    """The field that says how a complaint came."""
    (found,) = (f for f in document["schema"][0]["properties"] if f["name"] == "channel")
    return found


@pytest.fixture
def make_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], World]:
    """Worlds in folders of their own; without a topic, so that nobody asks for a broker."""

    def make() -> World:
        root = tmp_path_factory.mktemp("world")
        platform = Platform(Settings.load({"PLATFORM_HOME": str(root / "home")}, root=root))
        return World(platform, new_stream(root, partitions=0))

    return make


STEPS = ("arrive", "repair", "decide", "tidy", "recreate")


@pytest.mark.slow
@settings(
    max_examples=2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=3, max_size=5))
@example(steps=["repair", "decide", "arrive", "recreate", "tidy", "repair"])
def test_counters_tell_first_judgements(make_world: Callable[[], World], steps: list[str]) -> None:
    """Whatever happens to rows afterwards, counters are what was validated, each record once."""
    world = make_world()
    for step in ("arrive", *steps, "arrive"):
        getattr(world, step)()
        world.log.append(step)
        assert world.counted() == (world.good, world.rejected), world.log


def test_counters_survive_expiry_and_rollback(make_world: Callable[[], World]) -> None:
    """A rollback takes rows and positions back, and counters stay; what is loaded again is work
    that was done again."""
    world = make_world()
    world.arrive()
    first = world.platform.catalog.load_table(world.stream.bronze_table)
    with first.transaction() as change:
        change.set_properties({KEEP_PROPERTY: "2"})
    for _ in range(2):
        world.arrive()
    before = world.counted()
    table = world.platform.catalog.load_table(world.stream.bronze_table)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert len(table.metadata.snapshots) <= 3
    assert snapshot.parent_snapshot_id is not None
    table.manage_snapshots().rollback_to_snapshot(snapshot.parent_snapshot_id).commit()
    assert world.counted() == before
    world.load()
    assert world.counted() == (before[0] + 6, before[1])
