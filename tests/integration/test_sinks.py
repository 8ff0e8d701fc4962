"""Behaviour of every sink: its content equals bronze by key, whatever happens to the source, to the
delivery or to the target.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.types import LongType

from ingestion_platform.errors import Permanent, Transient
from ingestion_platform.operations.maintenance import maintain_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks import deliver as deliver_module
from ingestion_platform.sinks.declare import model_deliveries, stream_deliveries
from ingestion_platform.sinks.deliver import Delivered, deliver
from ingestion_platform.streams import Stream
from services import Services
from tests.support.delivered import (
    HARNESSES,
    SERVERS,
    Harness,
    item,
    plain,
)
from tests.support.sink_scene import Scene

pytestmark = [pytest.mark.services]

KILLS = 8


@pytest.fixture(params=sorted(HARNESSES))
def scene(request: pytest.FixtureRequest, servers: Services, tmp_path: Path) -> Scene:
    """Return a scene on the shared servers."""
    return Scene(HARNESSES[request.param](servers, tmp_path), tmp_path / "scene")


@pytest.fixture(params=sorted(HARNESSES))
def own_scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """Return a scene whose server may be stopped."""
    services = Services(tmp_path / "own servers")
    try:
        services.up(SERVERS[request.param])
        yield Scene(HARNESSES[request.param](services, tmp_path), tmp_path / "scene")
    finally:
        services.down(purge=True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver in many small changes."""
    make_small(monkeypatch.setattr)


def make_small(set_: Callable[[Any, str, int], None]) -> None:
    """Set the sizes of changes."""
    set_(deliver_module, "LEAST", 10)
    set_(deliver_module, "MOST", 100)
    set_(deliver_module, "KEYS", 50)


def test_newest_row_of_each_key_is_delivered(scene: Scene, small: None) -> None:
    """Keys repeat within a change, between changes and in other log partitions."""
    scene.log.append((item(k % 150, n) for n, k in enumerate(range(1000))), partition=0)
    scene.log.append(item(k, 5000 + k) for k in range(100))
    scene.log.append((item(k, 9000 + k) for k in range(120, 260)), partition=1)
    scene.log.load()
    done = scene.deliver()
    assert done.rejected == 0 < done.upserted
    scene.assert_equal()
    again = scene.deliver()
    assert (again.upserted, again.deleted, again.changes) == (0, 0, 0)

    scene.log.append((item(k, 20_000) for k in (3, 130, 900)), partition=0)
    scene.log.load()
    assert scene.deliver().upserted == 2  # in partition 1 there is a newer 130
    scene.assert_equal()


@pytest.mark.fault(
    "sinks", "slices are validated again by another contract, under newer rows of the same keys"
)
def test_revalidated_slices_keep_newer_rows(scene: Scene, small: None) -> None:
    """Rows leave and enter bronze by a changed contract, and the target follows."""
    scene.log.append(item(k, n) for n, k in enumerate([*range(300), *range(100, 200)]))
    scene.log.append(item(k, 1000 + k) for k in range(50))
    scene.log.load()
    scene.deliver()

    def stricter(document: dict[str, Any]) -> None:
        document["version"] = "2.0.0"
        document["schema"][0]["properties"][2]["logicalTypeOptions"] = {"maximum": 349}

    scene.log.load(scene.edit(stricter), again=True)
    done = scene.deliver()
    # 50 keys of which only an older row is left come back to it, and 50 newest ones of the rest.
    assert done.deleted == 0
    scene.assert_equal()

    def much_stricter(document: dict[str, Any]) -> None:
        document["version"] = "3.0.0"
        document["schema"][0]["properties"][2]["logicalTypeOptions"] = {"maximum": 99}

    scene.log.load(scene.edit(much_stricter), again=True)
    assert scene.deliver().deleted == 200
    scene.assert_equal()

    def lenient(document: dict[str, Any]) -> None:
        document["version"] = "4.0.0"
        document["schema"][0]["properties"][2].pop("logicalTypeOptions")

    scene.log.load(scene.edit(lenient), again=True)
    scene.deliver()
    scene.assert_equal()


def test_target_follows_changed_contract(scene: Scene) -> None:
    """With a new column, a wider one and a renamed one."""
    scene.log.append(item(k, k) for k in range(40))
    scene.log.load()
    scene.deliver()

    def change(document: dict[str, Any]) -> None:
        document["version"] = "2.0.0"
        properties = document["schema"][0]["properties"]
        properties[2]["physicalType"] = "bigint"
        properties[3]["name"] = "remark"
        properties[3]["customProperties"] = [{"property": "previousNames", "value": ["note"]}]
        properties[4]["physicalType"] = "decimal(18,2)"
        properties.append({"name": "colour", "logicalType": "string"})

    stream = scene.edit(change)
    scene.log.append(item(k, 2**40 + k, colour="red") for k in range(30, 60))
    scene.log.load(stream)
    scene.deliver()
    scene.assert_equal()
    assert scene.content()[35, "b"]["colour"] == "red"
    scene.log.load(stream, again=True)
    scene.deliver()
    scene.assert_equal()


@pytest.mark.fault("sinks", "the topic is created again between deliveries")
def test_recreated_topic_starts_at_offset_0(scene: Scene) -> None:
    """The new topic's records are newer than all of the old one's."""
    scene.log.append(item(k, k) for k in range(100))
    scene.log.load()
    scene.deliver()
    scene.log.recreate()
    scene.log.append(item(k, 500 + k) for k in range(20))
    scene.log.load()
    scene.deliver()
    scene.assert_equal()
    scene.log.append(item(k, 900 + k) for k in range(90, 110))
    scene.log.load()
    assert scene.deliver().upserted == 20
    scene.assert_equal()


@pytest.mark.fault("sinks", "bronze is compacted between deliveries")
def test_compaction_of_source_changes_nothing(scene: Scene) -> None:
    """Only rows that are loaded later are delivered."""
    for start in range(0, 300, 30):
        scene.log.append(item(k, k) for k in range(start, start + 30))
        scene.log.load()
        if start == 120:
            scene.deliver()
    maintain_stream(scene.platform, scene.log.stream)
    done = scene.deliver()
    assert done.upserted == 150
    maintain_stream(scene.platform, scene.log.stream)
    assert scene.deliver().changes == 0
    scene.assert_equal()


@pytest.mark.fault("sinks", "bronze is rolled back after its rows were delivered")
def test_rolled_back_rows_leave_the_target(scene: Scene) -> None:
    """Keys with older rows get these back."""
    scene.log.append(item(k, k) for k in range(100))
    scene.log.load()
    table = scene.platform.catalog.load_table(scene.log.stream.bronze_table)
    good = table.current_snapshot().snapshot_id
    scene.log.append(item(k, 700 + k) for k in range(50, 150))
    scene.log.load()
    scene.deliver()
    scene.assert_equal()
    table = scene.platform.catalog.load_table(scene.log.stream.bronze_table)
    table.manage_snapshots().rollback_to_snapshot(good).commit()
    assert scene.deliver().deleted == 50
    scene.assert_equal()


@pytest.mark.fault("sinks", "the target rejects some rows")
def test_rejected_rows_go_to_quarantine(scene: Scene, small: None) -> None:
    """A key whose newest row is rejected keeps the newest one that the target accepts."""
    bad = {5, 77, 78, 79, 180}
    scene.log.append(item(k, k) for k in range(200))
    # Twice in a row: the row before is in the same change, or was delivered before.
    scene.log.append(
        item(k, 1000 + n, **(scene.harness.rejects if k in bad else {}))
        for k in range(200)
        for n in range(2)
    )
    rejects = scene.harness.rejects
    scene.log.append([item(500, 1), item(500, 2, **rejects), item(600, 1, **rejects)])
    scene.log.load()
    done = scene.deliver()
    scene.assert_equal(without=scene.is_rejected)
    assert sum(done.reasons.values()) == done.rejected
    with scene.delivery.open(scene.settings) as target:
        quarantine = target.rejections(100)
    if not rejects:  # the target accepts every row
        assert (done.rejected, quarantine) == (0, [])
        return
    assert len(quarantine) >= len(bad) + 2
    assert {each.code for each in quarantine} == {scene.harness.code}
    assert all(each.message for each in quarantine)
    assert {json.loads(each.row)["id"] for each in quarantine} == bad | {500, 600}
    scene.deliver(again=True)
    scene.assert_equal(without=scene.is_rejected)


def test_row_without_key_goes_to_quarantine(model: ModelScene) -> None:
    """Every sink rejects a null in the key, with a code; it leaves when the model mends it."""
    model.write(range(10), 0)
    model.table.append(model.arrow([{"id": None, "kind": "a", "n": 7}]))
    done = model.deliver()
    assert (done.upserted, done.rejected) == (10, 1)
    with model.delivery.open(model.settings) as target:
        (rejected,) = target.rejections(10)
    assert (rejected.code, json.loads(rejected.row)["n"]) == ("null_in_key", 7)
    model.assert_equal()
    model.table.delete("n = 7 and id is null")
    model.deliver(again=True)
    with model.delivery.open(model.settings) as target:
        assert target.rejections(10) == []
    model.assert_equal()


def test_dropped_column_stays_in_the_target(model: ModelScene) -> None:
    """New rows have nulls there; a new column by the old name of a renamed one is added."""
    model.write(range(10), 0)
    model.deliver()
    with model.table.update_schema() as update:
        update.delete_column("tags")
        update.rename_column("n", "old_n")
    with model.table.update_schema() as update:
        update.add_column("n", LongType())
    model.table.append(model.arrow([{"id": 50, "kind": "a", "old_n": 1, "n": 2}]))
    model.deliver()
    content = model.harness.content(model.settings, model.delivery)
    assert content[50, "a"] == {"id": 50, "kind": "a", "old_n": 1, "n": 2, "tags": None}
    assert content[4, "a"] == {
        "id": 4,
        "kind": "a",
        "old_n": 4,
        "n": None,
        "tags": ["x", None, "0"],
    }


@pytest.mark.fault(
    "sinks", "several deliveries to one target at once, beside loads and replacements"
)
def test_concurrent_deliveries_agree(scene: Scene, small: None) -> None:
    """Four deliveries to one target, while rows are loaded and replaced."""
    scene.log.append(item(k % 400, k) for k in range(1500))
    scene.log.load()

    def stricter(document: dict[str, Any]) -> None:
        document["version"] = "2.0.0"
        document["schema"][0]["properties"][2]["logicalTypeOptions"] = {"maximum": 1200}

    stream = scene.edit(stricter)
    delivery = scene.delivery

    def run(_: int) -> None:
        platform = Platform(scene.settings)
        for _ in range(2):
            deliver(platform, delivery)

    with ThreadPoolExecutor(5) as pool:
        runs = [pool.submit(run, number) for number in range(4)]
        scene.log.append(item(k % 400, k) for k in range(1100, 1300))
        scene.log.load(stream, again=True)
        for each in runs:
            each.result()
    scene.deliver()
    scene.assert_equal()


def _in_a_process(env: dict[str, str], root: str, stream: Stream, began: Any) -> None:
    """Deliver in small changes; set `began` after the first one."""
    make_small(setattr)
    platform = Platform(Settings.load(env, root=Path(root)))
    deliver(platform, stream_deliveries(stream)[0], on_change=lambda _: began.set())


@pytest.mark.fault(
    "sinks", "kill -9 of a delivery to any kind of sink, also while an old range is replaced"
)
def test_killed_deliveries_lose_nothing(
    scene: Scene, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Processes are killed at random times (of a seed), half of them while a range is replaced."""
    seed = int(pytestconfig.getoption("--seed"))
    chance = random.Random(seed)
    scene.log.append(item(k % 3000, k) for k in range(6000))
    scene.log.load()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "psycopg", "duckdb", "pyarrow.csv"])
    env = {"PLATFORM_HOME": str(scene.settings.home)} | scene.harness.environment()
    killed = 0
    for number in range(KILLS):
        if number == KILLS // 2:

            def stricter(document: dict[str, Any]) -> None:
                document["version"] = "2.0.0"
                document["schema"][0]["properties"][2]["logicalTypeOptions"] = {"maximum": 4500}

            scene.log.load(scene.edit(stricter), again=True)
        began = context.Event()
        stream = replace(scene.log.stream)
        process = context.Process(
            target=_in_a_process, args=(env, str(tmp_path), stream, began), daemon=True
        )
        process.start()
        assert began.wait(180) or not process.is_alive()
        process.join(chance.uniform(0, 0.4))
        killed += process.is_alive()
        process.kill()
        process.join()
    assert killed > KILLS // 3, f"only {killed} were killed at work (--seed {seed})"
    scene.deliver()
    scene.assert_equal()


@pytest.mark.slow
@pytest.mark.fault("sinks", "the target's server is killed in the middle of a delivery")
def test_delivery_continues_after_server_outage(own_scene: Scene, small: None) -> None:
    """The error is transient; the next delivery completes the target."""
    scene = own_scene
    scene.log.append(item(k % 700, k) for k in range(2000))
    scene.log.load()
    stopped = threading.Event()

    def stop(done: Delivered) -> None:
        if done.changes == 3 and not stopped.is_set():
            stopped.set()
            scene.harness.stop()

    with pytest.raises(Transient):
        scene.deliver(on_change=stop)
    assert stopped.is_set()
    with pytest.raises(Transient):
        scene.deliver()
    scene.harness.start()
    scene.deliver()
    scene.assert_equal()


def test_changed_key_is_rejected(scene: Scene) -> None:
    """Nothing is changed, and the error names both keys."""
    scene.log.append(item(k, k) for k in range(10))
    scene.log.load()
    scene.deliver()

    def other(document: dict[str, Any]) -> None:
        document["version"] = "2.0.0"
        document["schema"][0]["properties"][1].pop("primaryKey")
        document["schema"][0]["properties"][1].pop("primaryKeyPosition")

    scene.log.stream = scene.edit(other)
    with pytest.raises(Permanent, match="its key is id, kind, not id"):
        scene.deliver()
    assert len(scene.content()) == 10


class ModelScene:
    """A table as a dbt model writes it, and its own target."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        env = {"PLATFORM_HOME": str(folder / "home")} | harness.environment()
        self.harness = harness
        self.settings = Settings.load(env, root=folder)
        self.platform = Platform(self.settings)
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        catalog = self.platform.catalog
        catalog.create_namespace_if_not_exists("silver")
        schema = pa.schema(
            [
                *(("id", pa.int64()), ("kind", pa.string()), ("n", pa.int64())),
                *(("tags", pa.list_(pa.string())), ("_offset", pa.int64())),
            ]
        )
        self.table = catalog.create_table("silver.things", schema=schema)
        self.delivery = model_deliveries(
            {
                "model": "silver.things",
                "key": ["id", "kind"],
                "deliver": [{harness.sink: harness.options()}],
            },
            folder / "test",
        )[0]

    def write(self, ids: Iterable[int], n: int) -> None:
        """Write a file of rows whose content follows from n."""
        rows = [
            {"id": i, "kind": "ab"[i % 2], "n": n + i, "tags": ["x", None, str(n)], "_offset": i}
            for i in ids
        ]
        self.table.append(self.arrow(rows))
        self.rows |= {(row["id"], row["kind"]): plain(row) for row in rows}

    def arrow(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Return rows as the table stores them."""
        return pa.Table.from_pylist(rows, self.table.schema().as_arrow())

    def replace(self, first: int, last: int, n: int, *, left_out: Iterable[int] = ()) -> None:
        """Replace the rows of some ids, as an incremental model does."""
        self.remove(first, last)
        self.write(sorted(set(range(first, last)) - set(left_out)), n)

    def remove(self, first: int, last: int) -> None:
        """Remove the rows of some ids."""
        self.table.delete(f"id >= {first} and id < {last}")
        self.rows = {key: row for key, row in self.rows.items() if not first <= key[0] < last}

    def deliver(self, **how: Any) -> Delivered:
        """Deliver the current source."""
        return deliver(self.platform, self.delivery, **how)

    def assert_equal(self) -> None:
        """Check that the target holds the rows of the model."""
        assert self.harness.content(self.settings, self.delivery) == self.rows


@pytest.fixture(params=sorted(HARNESSES))
def model(request: pytest.FixtureRequest, servers: Services, tmp_path: Path) -> ModelScene:
    """Return a model on the shared servers."""
    return ModelScene(HARNESSES[request.param](servers, tmp_path), tmp_path)


def test_only_changes_of_model_are_delivered(model: ModelScene, small: None) -> None:
    """New, changed and removed rows; rows that were only rewritten are no change."""
    model.write(range(300), 0)
    model.write(range(300, 400), 0)
    assert model.deliver().upserted == 400
    model.assert_equal()
    model.replace(100, 200, 7, left_out=(150, 151))
    model.write(range(400, 410), 0)
    done = model.deliver()
    assert (done.upserted, done.deleted) == (108, 2)
    model.assert_equal()
    model.replace(200, 300, 0)  # the same content in another file
    assert (done := model.deliver()).upserted == 0
    assert done.deleted == 0
    assert model.deliver().changes == 0
    model.assert_equal()


@pytest.mark.fault("sinks", "the snapshots between two deliveries of a model have expired")
def test_model_without_old_snapshots_is_compared(model: ModelScene, small: None) -> None:
    """Rows that were removed meanwhile leave the target, others stay."""
    model.write(range(250), 0)
    model.deliver()
    model.remove(50, 90)
    model.write(range(500, 520), 3)
    model.table.overwrite(model.table.scan().to_arrow())
    old = [s.snapshot_id for s in model.table.snapshots()][:-1]
    model.table.maintenance.expire_snapshots().by_ids(old).commit()
    assert model.deliver().deleted == 40
    model.assert_equal()


@pytest.mark.fault("sinks", "a delivery of a model is interrupted between its changes")
def test_interrupted_model_delivery_is_completed(model: ModelScene, small: None) -> None:
    """The first delivery and a later one are interrupted between their changes."""
    for round_ in range(3):
        model.replace(0, 300, round_, left_out=range(round_ * 100))
        model.write(range(1000 * round_ + 1000, 1000 * round_ + 1100), 0)

        class Cut(Exception):
            """Stands for a kill."""

        def cut(done: Delivered) -> None:
            if done.changes == 3:
                raise Cut

        with pytest.raises(Cut):
            model.deliver(on_change=cut)
        model.remove(1000 * round_ + 1000, 1000 * round_ + 1050)
        model.deliver()
        model.assert_equal()
