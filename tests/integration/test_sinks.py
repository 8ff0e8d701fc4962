"""What every sink must do, whatever it is: its content equals bronze by key, after anything that
happens to the source, to the delivery or to the target.
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

from ingestion_platform.errors import Permanent, Transient
from ingestion_platform.operations.maintenance import maintain_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks import deliver as deliver_module
from ingestion_platform.sinks.declare import model_deliveries, stream_deliveries
from ingestion_platform.sinks.deliver import Delivered, deliver
from ingestion_platform.streams import Stream
from services import Services
from tests.support import delivered
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
    """A scene on the shared servers."""
    return Scene(HARNESSES[request.param](servers, tmp_path), tmp_path / "scene")


@pytest.fixture(params=sorted(HARNESSES))
def own_scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A scene whose target may be stopped."""
    services = Services(tmp_path / "own servers")
    try:
        services.up(SERVERS[request.param])
        yield Scene(HARNESSES[request.param](services, tmp_path), tmp_path / "scene")
    finally:
        services.down(purge=True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small changes instead of few large ones."""
    make_small(monkeypatch.setattr)


def make_small(set_: Callable[[Any, str, int], None]) -> None:
    """Set the sizes of changes."""
    set_(deliver_module, "LEAST", 10)
    set_(deliver_module, "MOST", 100)
    set_(deliver_module, "KEYS", 50)


def test_the_newest_row_of_each_key_is_delivered_once(scene: Scene, small: None) -> None:
    """Keys that come again, within a change, between changes and in other log partitions."""
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
def test_old_slices_that_are_validated_again_do_not_overwrite_newer_rows(
    scene: Scene, small: None
) -> None:
    """Rows leave and enter by a changed contract: the target follows, to the row."""
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


def test_a_target_follows_a_changed_contract(scene: Scene) -> None:
    """A column more, a wider one, a renamed one."""
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
def test_a_recreated_topic_goes_on_at_offset_0(scene: Scene) -> None:
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
def test_a_compaction_of_the_source_changes_nothing(scene: Scene) -> None:
    """Other files with the same rows are no news; what comes after them is."""
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
def test_a_rolled_back_table_takes_its_rows_back(scene: Scene) -> None:
    """What the table has no more leaves the target, keys with older rows come back to these."""
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


@pytest.mark.fault("sinks", "the target refuses some rows")
def test_rejected_rows_are_kept_with_reasons_and_the_others_pass(scene: Scene, small: None) -> None:
    """A key whose newest row is rejected keeps the newest that the target takes."""
    if not scene.harness.rejects:
        pytest.skip("it takes every row")
    rejected = scene.harness.rejects
    bad = {5, 77, 78, 79, 180}
    scene.log.append(item(k, k) for k in range(200))
    # Twice in a row: the older row of the same change steps in, or the one delivered before.
    scene.log.append(
        item(k, 1000 + n, **(rejected if k in bad else {})) for k in range(200) for n in range(2)
    )
    scene.log.append([item(500, 1), item(500, 2, **rejected), item(600, 1, **rejected)])
    scene.log.load()
    done = scene.deliver()
    ((name, value),) = rejected.items()

    def is_bad(row: dict[str, Any]) -> bool:
        return bool(plain(row)[name] == value)

    scene.assert_equal(without=is_bad)
    assert done.rejected == len(done.reasons) * done.rejected > 0
    with scene.delivery.open(scene.settings) as target:
        kept = target.rejections(100)
    assert len(kept) >= len(bad) + 2
    assert all(name in each.reason for each in kept)
    assert {json.loads(each.row)["id"] for each in kept} == bad | {500, 600}
    scene.deliver(again=True)
    scene.assert_equal(without=is_bad)


@pytest.mark.fault(
    "sinks", "several deliveries to one target at once, beside loads and replacements"
)
def test_two_deliveries_at_once_do_what_one_does(scene: Scene, small: None) -> None:
    """Four at the same target, while rows come in and old ones are replaced."""
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
    """Deliver in small changes; `began` is set at the first one."""
    make_small(setattr)
    platform = Platform(Settings.load(env, root=Path(root)))
    deliver(platform, stream_deliveries(stream)[0], on_change=lambda _: began.set())


@pytest.mark.fault(
    "sinks", "kill -9 of a delivery to any kind of sink, also while an old range is replaced"
)
def test_killed_deliveries_lose_and_double_nothing(
    scene: Scene, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Processes are killed at instants of their seed, in the middle of changes and between them;
    half of them while an old range is replaced."""
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
        assert began.wait(60) or not process.is_alive()
        process.join(chance.uniform(0, 0.4))
        killed += process.is_alive()
        process.kill()
        process.join()
    assert killed > KILLS // 3, f"only {killed} were killed at work (--seed {seed})"
    scene.deliver()
    scene.assert_equal()


@pytest.mark.slow
@pytest.mark.fault("sinks", "the target's server is killed in the middle of a delivery")
def test_a_target_that_stops_in_the_middle_is_delivered_to_when_it_is_back(
    own_scene: Scene, small: None
) -> None:
    """The delivery says that it may be tried again; then nothing lacks and nothing is double."""
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


def test_a_changed_key_is_rejected_with_the_way_out(scene: Scene) -> None:
    """Rows kept by one key cannot be kept by another; nothing is changed."""
    scene.log.append(item(k, k) for k in range(10))
    scene.log.load()
    scene.deliver()

    def other(document: dict[str, Any]) -> None:
        document["version"] = "2.0.0"
        document["schema"][0]["properties"][1].pop("primaryKey")
        document["schema"][0]["properties"][1].pop("primaryKeyPosition")

    scene.log.stream = scene.edit(other)
    with pytest.raises(Permanent, match="kept by id, kind"):
        scene.deliver()
    assert len(scene.content()) == 10
    assert delivered.KEY == ("id", "kind")


class ModelScene:
    """A table as a dbt model makes it, delivered to a target of its own."""

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
        """A file of rows whose n decides their content."""
        rows = [
            {"id": i, "kind": "ab"[i % 2], "n": n + i, "tags": ["x", None, str(n)], "_offset": i}
            for i in ids
        ]
        self.table.append(pa.Table.from_pylist(rows, self.table.schema().as_arrow()))
        self.rows |= {(row["id"], row["kind"]): plain(row) for row in rows}

    def replace(self, first: int, last: int, n: int, *, left_out: Iterable[int] = ()) -> None:
        """Replace the rows of some ids, as an incremental model does."""
        self.remove(first, last)
        self.write(sorted(set(range(first, last)) - set(left_out)), n)

    def remove(self, first: int, last: int) -> None:
        """Remove the rows of some ids."""
        self.table.delete(f"id >= {first} and id < {last}")
        self.rows = {key: row for key, row in self.rows.items() if not first <= key[0] < last}

    def deliver(self, **how: Any) -> Delivered:
        """Deliver what there is."""
        return deliver(self.platform, self.delivery, **how)

    def assert_equal(self) -> None:
        """The target holds what the model does."""
        assert self.harness.content(self.settings, self.delivery) == self.rows


@pytest.fixture(params=sorted(HARNESSES))
def model(request: pytest.FixtureRequest, servers: Services, tmp_path: Path) -> ModelScene:
    """A model on the shared servers."""
    return ModelScene(HARNESSES[request.param](servers, tmp_path), tmp_path)


def test_of_a_model_only_what_changed_is_delivered(model: ModelScene, small: None) -> None:
    """Rows that came, changed and went; what was only written again is no change."""
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
def test_a_model_whose_snapshots_are_gone_is_compared_as_a_whole(
    model: ModelScene, small: None
) -> None:
    """Rows that went meanwhile leave the target, others stay."""
    model.write(range(250), 0)
    model.deliver()
    model.remove(50, 90)
    model.write(range(500, 520), 3)
    model.table.overwrite(model.table.scan().to_arrow())
    old = [s.snapshot_id for s in model.table.snapshots()][:-1]
    model.table.maintenance.expire_snapshots().by_ids(old).commit()
    assert model.deliver().deleted == 40
    model.assert_equal()


@pytest.mark.fault("sinks", "a delivery of a model is cut off between its changes")
def test_a_model_delivery_that_died_is_made_good(model: ModelScene, small: None) -> None:
    """One that was cut off between its changes, in both kinds of deliveries."""
    for round_ in range(3):
        model.replace(0, 300, round_, left_out=range(round_ * 100))
        model.write(range(1000 * round_ + 1000, 1000 * round_ + 1100), 0)

        class Cut(Exception):
            """In the place of a kill."""

        def cut(done: Delivered) -> None:
            if done.changes == 3:
                raise Cut

        with pytest.raises(Cut):
            model.deliver(on_change=cut)
        model.remove(1000 * round_ + 1000, 1000 * round_ + 1050)
        model.deliver()
        model.assert_equal()
