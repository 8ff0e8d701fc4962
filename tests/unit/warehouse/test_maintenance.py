"""Maintenance changes how a table is kept and nothing of what it holds, whatever happens beside
it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import EqualTo
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import IntegerType, ListType, LongType, NestedField, StringType

from ingestion_platform.positions import Position
from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.commit import Change, commit, read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.maintenance import rewrite
from ingestion_platform.warehouse.maintenance.choose import MOST_ROWS, groups, runs
from ingestion_platform.warehouse.maintenance.compact import compact
from ingestion_platform.warehouse.maintenance.live import LiveReader
from ingestion_platform.warehouse.maintenance.orphans import SEEN, FilesMissing, remove_orphans
from ingestion_platform.warehouse.maintenance.table import (
    TARGET,
    TableMaintenance,
    condition,
    maintenance,
)
from ingestion_platform.warehouse.replace import ContentChanged, Replacement, Shape
from ingestion_platform.warehouse.retention import AGE_PROPERTY, KEEP_PROPERTY, expendable
from ingestion_platform.warehouse.snapshots import SMALL, begin
from ingestion_platform.warehouse.tables import ensure_table
from tests.support.iceberg_deletes import delete_positions

NAME = "bronze.things"
TOPIC_ID = "a-topic-id-of-22-chars"
SCHEMA = Schema(
    NestedField(1, "_topic_id", StringType(), required=False),
    NestedField(2, "_partition", IntegerType(), required=False),
    NestedField(3, "_offset", LongType(), required=False),
    NestedField(4, "who", StringType(), required=False),
    NestedField(5, "tags", ListType(6, StringType(), element_required=False), required=False),
)
SPEC = PartitionSpec(PartitionField(4, 1000, IdentityTransform(), "who"))
AT_ONCE = timedelta(0)
Row = tuple[int | None, int | None, str, tuple[str, ...] | None]


@pytest.fixture
def catalog(local_settings: Settings) -> Catalog:
    """An SQLite catalog."""
    return open_catalog(local_settings)


@pytest.fixture
def table(catalog: Catalog) -> Table:
    """An empty table, partitioned by who made the rows."""
    return ensure_table(catalog, NAME, lambda: (SCHEMA, SPEC))


def rows(span: Span, partition: int | None, who: str) -> pa.Table:
    """One row per offset of a span; without a partition, as somebody's INSERT makes them."""
    offsets = list(range(span.start, span.end))
    own = partition is not None
    return pa.table(
        {
            "_topic_id": pa.array([span.topic_id if own else None] * len(offsets), pa.string()),
            "_partition": pa.array([partition] * len(offsets), pa.int32()),
            "_offset": pa.array(offsets if own else [None] * len(offsets), pa.int64()),
            "who": [who] * len(offsets),
            "tags": pa.array([tags(o) for o in offsets], pa.list_(pa.string())),
        }
    )


def tags(offset: int) -> list[str] | None:
    """Null, empty and other lists in turn."""
    return None if offset % 3 == 0 else [f"t{n}" for n in range(offset % 3 - 1)]


def load(
    table: Table, partition: int, start: int, end: int, *, who: str = "a", replace: bool = False
) -> None:
    """Append, or replace, the rows of a span of offsets."""
    base = read_committed(table.refresh()).get(partition, CommittedRanges())
    span = Span(TOPIC_ID, start, end, who)
    files = write_data_files(table, rows(span, partition, who))
    commit(table.catalog, NAME, [Change(partition, base, span, files, replace)])


def insert(table: Table, count: int, who: str = "sql") -> None:
    """Rows by another writer, which knows no positions."""
    table.refresh().append(table_of(table, rows(Span("", 0, count, ""), None, who)))


def table_of(table: Table, content: pa.Table) -> pa.Table:
    """With the types that PyIceberg's own append asks for."""
    return content.cast(table.schema().as_arrow())


def content(table: Table, snapshot_id: int | None = None) -> Counter[Row]:
    """All rows of a snapshot, the present one by default."""
    from ingestion_platform.warehouse.dataset import TableDataset

    table.refresh()
    if table.current_snapshot() is None:
        return Counter()
    found = TableDataset(table, snapshot_id).scanner().to_table()
    columns = [found[name].to_pylist() for name in ("_partition", "_offset", "who", "tags")]
    return Counter(
        (p, o, w, None if t is None else tuple(t)) for p, o, w, t in zip(*columns, strict=True)
    )


def done(catalog: Catalog, **how: Any) -> TableMaintenance:
    """The outcome of maintenance."""
    outcome = maintenance(catalog, NAME, **how)
    assert outcome is not None
    return outcome


def keep(table: Table, count: int) -> None:
    """Have the table keep so few snapshots, however young they are."""
    with table.transaction() as transaction:
        transaction.set_properties({KEEP_PROPERTY: str(count), AGE_PROPERTY: "0"})


def data_files(table: Table) -> list[str]:
    """The paths of the live data files."""
    return [task.file.file_path for task in table.refresh().scan().plan_files()]


def test_small_files_are_compacted_per_partition(catalog: Catalog, table: Table) -> None:
    """The rows are the same, in the order of the log, and null lists stay null."""
    for turn in range(8):
        for partition in (1, 0):
            load(table, partition, turn * 5, turn * 5 + 5, who="ab"[turn % 2])
    before = content(table)
    outcome = done(catalog)
    assert (outcome.rewritten, outcome.written, outcome.given_up) == (16, 2, 0)
    assert outcome.after.files == len(data_files(table)) == 2
    assert content(table) == before
    for task in table.refresh().scan(row_filter="who == 'a'").plan_files():
        with table.io.new_input(task.file.file_path).open() as file:
            read = pa.parquet.read_table(pa.BufferReader(file.read()))
        places = list(zip(read["_partition"].to_pylist(), read["_offset"].to_pylist(), strict=True))
        assert places == sorted(places)
        assert len(places) == 40
        assert read.schema.field("tags").metadata[b"PARQUET:field_id"] == b"5"


def test_what_is_fine_is_left_alone(catalog: Catalog, table: Table) -> None:
    """A second maintenance finds nothing to do, commits nothing, and says so."""
    for turn in range(12):
        load(table, 0, turn, turn + 1)
    assert not done(catalog).idle
    at = table.refresh().metadata_location
    again = done(catalog)
    assert again.idle
    assert again.before.fine
    assert table.refresh().metadata_location == at


def test_a_dry_run_changes_nothing_and_tells_all(catalog: Catalog, table: Table) -> None:
    """`before` says what would be done."""
    for turn in range(12):
        load(table, 0, turn, turn + 1)
    at = table.refresh().metadata_location
    outcome = done(catalog, dry_run=True, orphan_wait=AT_ONCE)
    assert (outcome.before.small_files, outcome.rewritten) == (12, 0)
    assert table.refresh().metadata_location == at


def test_maintenance_of_a_table_that_is_not_there(catalog: Catalog) -> None:
    """There is nothing to do, and that is no error."""
    assert maintenance(catalog, "bronze.nothing") is None
    assert condition(catalog, "bronze.nothing") is None


def test_deletes_are_applied_and_their_files_go(catalog: Catalog, table: Table) -> None:
    """After a MERGE, rewritten files have the rows that are left, and no deletes lie upon them."""
    for turn in range(6):
        load(table, 0, turn * 10, turn * 10 + 10)
    for path in data_files(table)[:3]:
        file = next(t.file for t in table.refresh().scan().plan_files() if t.file.file_path == path)
        delete_positions(table.refresh(), file, [0, 7])
    before = content(table)
    assert before.total() == 54
    outcome = done(catalog)
    assert (outcome.before.delete_files, outcome.after.delete_files) == (3, 0)
    assert content(table) == before
    snapshot = table.refresh().current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.operation is Operation.REPLACE
    assert snapshot.summary.additional_properties["total-records"] == "54"


def test_a_file_whose_rows_are_all_deleted_goes(catalog: Catalog, table: Table) -> None:
    """Nothing is written in its place."""
    load(table, 0, 0, 4)
    file = next(iter(table.refresh().scan().plan_files())).file
    delete_positions(table.refresh(), file, [0, 1, 2, 3])
    outcome = done(catalog)
    assert (outcome.rewritten, outcome.written, outcome.after.files) == (1, 0, 0)
    assert content(table).total() == 0
    assert read_committed(table)[0].position == Position(TOPIC_ID, 4)


def test_files_of_an_older_schema_and_spec(catalog: Catalog, table: Table) -> None:
    """New columns are null, renamed ones keep their values, and each file keeps its partition."""
    for turn in range(6):
        load(table, 0, turn, turn + 1)
    with table.refresh().update_schema() as schema:
        schema.add_column("note", StringType())
        schema.rename_column("who", "maker")
    with table.refresh().update_spec() as spec:
        spec.remove_field("who")
    table.refresh().append(
        pa.table({"maker": ["b"] * 3, "note": ["new"] * 3}).cast(
            table.schema().select("maker", "note").as_arrow()
        )
    )
    before = sorted(map(repr, table.refresh().scan().to_arrow().to_pylist()))
    outcome = done(catalog)
    assert (outcome.rewritten, outcome.written) == (6, 1)
    assert sorted(map(repr, table.refresh().scan().to_arrow().to_pylist())) == before
    assert table.scan(row_filter="maker == 'a'").to_arrow().num_rows == 6


class Meddling:
    """A catalog in which something happens right after a table was loaded, once."""

    def __init__(self, catalog: Any, meddle: Any) -> None:
        self._catalog, self._meddle = catalog, meddle

    def load_table(self, name: str) -> Table:
        """The table as it was before."""
        table: Table = self._catalog.load_table(name)
        meddle, self._meddle = self._meddle, lambda: None
        meddle()
        return table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catalog, name)


def prepared(table: Table) -> list[Any]:
    """The compaction of a table, written and not committed."""
    live = LiveReader().read(table.refresh())
    return [compact(table, group) for group in groups(live.tasks.values(), table.schema(), TARGET)]


def test_appends_beside_a_compaction_do_not_matter(catalog: Catalog, table: Table) -> None:
    """Whether they come before its commit or into the middle of it."""
    for turn in range(6):
        load(table, 0, turn, turn + 1)
    written = prepared(table)
    load(table, 0, 6, 7)
    meddling: Any = Meddling(catalog, lambda: load(table, 0, 7, 8))
    landed, rejected = rewrite.replace_files(meddling, NAME, written)
    assert (len(landed), rejected) == (1, [])
    assert len(data_files(table)) == 3
    assert sorted(o for _, o, _, _ in content(table)) == list(range(8))
    assert read_committed(table.refresh())[0].position == Position(TOPIC_ID, 8)


def replaced(table: Table) -> None:
    """A contract validates some of the rows again."""
    load(table, 0, 2, 4, who="b", replace=True)


def deleted(table: Table) -> None:
    """A MERGE deletes a row."""
    file = next(iter(table.refresh().scan().plan_files())).file
    delete_positions(table.refresh(), file, [0])


@pytest.mark.parametrize("change", [replaced, deleted])
@pytest.mark.parametrize("amid", [False, True])
def test_compaction_skips_files_changed_by_others(
    catalog: Catalog, table: Table, change: Any, amid: bool
) -> None:
    """The other's rows stand; files of another partition value are compacted all the same."""
    for turn in range(6):
        load(table, 0, turn, turn + 1, who="a")
        load(table, 1, turn, turn + 1, who="other")
    written = prepared(table)
    assert len(written) == 2
    spare = [w for w in written if w.group.partition[0] == "other"]
    if change is deleted:
        change = lambda table: delete_positions(  # noqa: E731
            table.refresh(),
            next(t.file for t in table.scan().plan_files() if t.file.partition[0] == "a"),
            [0],
        )
    where: Any = Meddling(catalog, lambda: change(table)) if amid else catalog
    if not amid:
        change(table)
    landed, rejected = rewrite.replace_files(where, NAME, written)
    assert landed == spare
    assert len(rejected) == 1
    found = content(table)
    assert sum(n for (p, *_), n in found.items() if p == 1) == 6
    mine = sorted((o or 0, who) for (p, o, who, _), n in found.items() if p == 0 for _ in range(n))
    wanted = [(o, "b" if 2 <= o < 4 else "a") for o in range(6)]
    assert mine == wanted if change is replaced else len(mine) == 5


def test_two_compactions_of_the_same_files(catalog: Catalog, table: Table) -> None:
    """The second finds the files gone, and leaves nothing behind."""
    for turn in range(6):
        load(table, 0, turn, turn + 1)
    first, second = prepared(table), prepared(table)
    assert len(rewrite.replace_files(catalog, NAME, first)[0]) == 1
    assert rewrite.replace_files(catalog, NAME, second) == ([], second)
    assert content(table).total() == 6


def test_a_sleeping_writer_meets_a_compaction(catalog: Catalog, table: Table) -> None:
    """Its files still land, once: no position moved."""
    for turn in range(6):
        load(table, 0, turn, turn + 1)
    base = read_committed(table.refresh())[0]
    span = Span(TOPIC_ID, 6, 9, "a")
    files = write_data_files(table, rows(span, 0, "a"))
    change = Change(0, base, span, files, replace=False)
    commit(Meddling(catalog, lambda: done(catalog)), NAME, [change])  # type: ignore[arg-type]
    assert sorted(o or 0 for _, o, _, _ in content(table).elements()) == list(range(9))


@pytest.mark.parametrize("partition", ["mine", "other"])
def test_a_model_is_replaced_beside_a_compaction(
    catalog: Catalog, table: Table, partition: str
) -> None:
    """It lands if other rows were compacted, and is to be run again if its own were."""
    for turn in range(6):
        for who in ("mine", "other"):
            table.append(table_of(table, rows(Span("", turn, turn + 1, ""), None, who)))
    with table.transaction() as transaction:
        transaction.set_properties({"commit.retry.num-retries": "4"})
    base = catalog.load_table(NAME)
    files = [t.file for t in base.scan(row_filter="who == 'mine'").plan_files()]
    batch = rows(Span("", 0, 2, ""), None, "mine")
    compacted = [w for w in prepared(table) if w.group.partition[0] == partition]
    with Replacement(catalog, ("bronze", "things"), base, batch.schema, Shape()) as replacement:
        replacement.write(batch.to_batches())
        replacement.remove(files)
        assert len(rewrite.replace_files(catalog, NAME, compacted)[0]) == 1
        conflicts = EqualTo("who", "mine")
        if partition == "other":
            replacement.commit(conflicts)
        else:
            with pytest.raises(ContentChanged):
                replacement.commit(conflicts)
    count = Counter(who for _, _, who, _ in content(table).elements())
    assert count == {"other": 6, "mine": 2 if partition == "other" else 6}


def test_commits_keep_manifests_and_snapshots_few(catalog: Catalog, table: Table) -> None:
    """Also when no maintenance ever runs."""
    keep(table, 5)
    count = SMALL + 10
    for turn in range(count):
        load(table.refresh(), 0, turn, turn + 1)
    table.refresh()
    assert len(table.snapshots()) == 6  # those that stay, and the newest itself
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert len(snapshot.manifests(table.io)) < count - 20
    assert len(data_files(table)) == count
    assert content(table).total() == count


def test_many_manifests_become_few(catalog: Catalog, table: Table) -> None:
    """Those that other writers left."""
    for _ in range(9):
        insert(table, 1)
    before = content(table)
    assert rewrite.merge_manifests(catalog, NAME) == 8
    snapshot = table.refresh().current_snapshot()
    assert snapshot is not None
    assert len(snapshot.manifests(table.io)) == 1
    assert content(table) == before
    assert rewrite.merge_manifests(catalog, NAME) == 0


def test_positions_survive_expired_snapshots(catalog: Catalog, table: Table) -> None:
    """After a rollback, and any number of others' commits, expired or not."""
    load(table, 0, 0, 5)
    behind = table.refresh().current_snapshot()
    assert behind is not None
    load(table, 0, 5, 9)
    table.refresh().manage_snapshots().rollback_to_snapshot(behind.snapshot_id).commit()
    keep(table.refresh(), 2)
    for _ in range(6):
        insert(table, 1)
        rewrite.expire(catalog, NAME)
        assert read_committed(table.refresh())[0].position == Position(TOPIC_ID, 5)
    load(table, 0, 5, 6)
    load(table, 0, 6, 7)
    rewrite.expire(catalog, NAME)
    assert len(table.refresh().snapshots()) == 2
    assert read_committed(table)[0].position == Position(TOPIC_ID, 7)


def test_rollback_before_first_position_survives_expiry(catalog: Catalog, table: Table) -> None:
    """The property tells of rows that are gone; nobody may believe it."""
    insert(table, 1)
    insert(table, 1)
    empty = table.refresh().current_snapshot()
    assert empty is not None
    load(table, 0, 0, 5)
    table.refresh().manage_snapshots().rollback_to_snapshot(empty.snapshot_id).commit()
    keep(table.refresh(), 1)
    for _ in range(4):
        insert(table, 1)
        rewrite.expire(catalog, NAME)
        assert read_committed(table.refresh()).get(0, CommittedRanges()).position is None
    load(table, 0, 0, 5)
    assert content(table).total() == 11


def test_tags_and_branches_stay(catalog: Catalog, table: Table) -> None:
    """With their content, though everything else of their time is gone."""
    load(table, 0, 0, 3)
    tagged = table.refresh().current_snapshot()
    assert tagged is not None
    with table.manage_snapshots() as manage:
        manage.create_tag(tagged.snapshot_id, "audit").create_branch(tagged.snapshot_id, "trial")
    keep(table.refresh(), 1)
    for turn in range(3, 12):
        load(table, 0, turn, turn + 1)
    done(catalog, orphan_wait=AT_ONCE)
    done(catalog, orphan_wait=AT_ONCE)
    assert set(table.refresh().refs()) == {"main", "audit", "trial"}
    assert content(table, tagged.snapshot_id).total() == 3
    assert content(table).total() == 12


def test_a_tag_set_at_the_last_moment_is_kept(catalog: Catalog, table: Table) -> None:
    """An expiry that had chosen its snapshot is rejected, and starts over."""
    load(table, 0, 0, 1)
    load(table, 0, 1, 2)
    keep(table.refresh(), 1)
    (chosen,) = expendable(table.refresh().metadata)
    before = catalog.load_table(NAME)
    table.manage_snapshots().create_tag(chosen, "mine").commit()
    with pytest.raises(CommitFailedException):
        begin(before, expired=[chosen]).commit_transaction()
    assert rewrite.expire(catalog, NAME) == 0
    assert content(table, table.refresh().refs()["mine"].snapshot_id).total() == 1


def test_two_expiries_at_once(catalog: Catalog, table: Table) -> None:
    """The second finds its snapshots gone, and is rejected."""
    load(table, 0, 0, 1)
    load(table, 0, 1, 2)
    keep(table.refresh(), 1)
    before = catalog.load_table(NAME)
    assert rewrite.expire(catalog, NAME) == 1
    with pytest.raises(CommitFailedException):
        begin(before, expired=expendable(before.metadata)).commit_transaction()
    assert content(table).total() == 2


def test_young_snapshots_stay(table: Table) -> None:
    """As long as the table's property says, however many they are."""
    for turn in range(4):
        load(table, 0, turn, turn + 1)
    with table.refresh().transaction() as transaction:
        transaction.set_properties({KEEP_PROPERTY: "1", AGE_PROPERTY: "60000"})
    newest = table.refresh().metadata.last_updated_ms
    assert expendable(table.metadata, now_ms=newest + 1_000) == []
    assert len(expendable(table.metadata, now_ms=newest + 120_000)) == 3


def files_on_disk(table: Table) -> set[str]:
    """The names of all files of a table."""
    from pathlib import Path
    from urllib.parse import urlsplit

    root = Path(urlsplit(table.location()).path)
    return {str(p) for p in root.rglob("*") if p.is_file() and p.name != SEEN}


def test_orphans_go_when_both_gates_have_passed(catalog: Catalog, table: Table) -> None:
    """What was compacted away stays for its readers, and what is not committed yet for its
    writer."""
    keep(table, 1)
    for turn in range(6):
        load(table, 0, turn, turn + 1)
    old = set(data_files(table))
    files = write_data_files(table, rows(Span(TOPIC_ID, 6, 7, "a"), 0, "a"))
    done(catalog)
    load(table, 0, 6, 7)
    a_day = remove_orphans(catalog, NAME, wait=timedelta(days=1))
    assert (a_day.files, a_day.waiting) == (0, 0)
    seen = remove_orphans(catalog, NAME, wait=AT_ONCE, dry_run=True)
    assert seen.files >= 7
    assert {f"{p}" for p in old} <= {f"file://{p}" for p in files_on_disk(table)}
    removed = remove_orphans(catalog, NAME, wait=AT_ONCE)
    assert removed.files == seen.files
    assert removed.bytes > 0
    left = {f"file://{p}" for p in files_on_disk(table)}
    assert not left & (old | {file.file_path for file in files})
    assert content(table).total() == 7
    assert remove_orphans(catalog, NAME, wait=AT_ONCE).files == 0


def test_orphan_is_deleted_after_waiting_time(catalog: Catalog, table: Table) -> None:
    """However long ago it was written."""
    import os
    import time
    from pathlib import Path
    from urllib.parse import urlsplit

    keep(table, 1)
    for turn in range(6):
        load(table, 0, turn, turn + 1)
    old = [Path(urlsplit(path).path) for path in data_files(table)]
    for path in old:
        os.utime(path, (time.time() - 10**6,) * 2)
    done(catalog)
    load(table, 0, 6, 7)
    wait = timedelta(hours=24)
    assert remove_orphans(catalog, NAME, wait=wait).waiting == 6
    assert all(path.exists() for path in old)
    marks = next(Path(urlsplit(table.location()).path).rglob(SEEN))
    marks.write_text(marks.read_text().replace("2026-", "2025-").replace("2027-", "2025-"))
    assert remove_orphans(catalog, NAME, wait=wait).files == 6
    assert not any(path.exists() for path in old)


def test_nothing_is_deleted_with_incomplete_listing(catalog: Catalog, table: Table) -> None:
    """The folder may be the wrong one; every file in it would look like an orphan."""
    from pathlib import Path
    from urllib.parse import urlsplit

    load(table, 0, 0, 1)
    load(table, 0, 1, 2)
    lost, *_ = data_files(table)
    Path(urlsplit(lost).path).unlink()
    there = files_on_disk(table)
    with pytest.raises(FilesMissing, match=NAME):
        remove_orphans(catalog, NAME, wait=AT_ONCE)
    assert files_on_disk(table) == there


@given(st.lists(st.integers(1, 10**9), max_size=60), st.integers(2, 9))
def test_what_is_merged_at_least_doubles(sizes: list[int], fan: int) -> None:
    """So that rewriting comes to an end, and no item is rewritten often."""
    floor = 1000
    for run in runs(sizes, lambda size: size, fan=fan, floor=floor):
        assert len(run) >= fan
        assert all(size <= max(floor, sum(run) - size) for size in run)


def a_task(number: int, partition: int, size: int, count: int, deletes: int) -> Any:
    """A file that there is not."""
    file = SimpleNamespace(
        file_path=f"f{number}",
        spec_id=0,
        partition=Record(partition),
        file_size_in_bytes=size,
        record_count=count,
        lower_bounds=None,
        upper_bounds=None,
    )
    deleted = [SimpleNamespace(record_count=1) for _ in range(deletes)]
    return SimpleNamespace(file=file, delete_files=deleted)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(1, 2 * TARGET),
            st.integers(1, 2 * MOST_ROWS),
            st.sampled_from([0, 0, 0, 1, 4]),
        ),
        max_size=40,
    )
)
def test_groups_have_one_partition_and_limited_rows(files: list[tuple[int, ...]]) -> None:
    """No file is in two of them, and a large one is in none unless deletes lie upon it."""
    tasks = [a_task(number, *file) for number, file in enumerate(files)]
    found = groups(tasks, SCHEMA, TARGET)
    chosen = [task.file.file_path for group in found for task in group.tasks]
    assert len(chosen) == len(set(chosen))
    for group in found:
        assert {task.file.partition for task in group.tasks} == {group.partition}
        if len(group.tasks) == 1:
            assert group.tasks[0].delete_files
            continue
        assert group.bytes <= TARGET
        assert sum(task.file.record_count for task in group.tasks) <= MOST_ROWS
        for task in group.tasks:
            assert task.delete_files or task.file.file_size_in_bytes < TARGET


def test_compaction_work_grows_logarithmically() -> None:
    """A thousand arrivals of ten files each: no byte is rewritten more than a dozen times."""
    mega, files, work, arrived = 1024 * 1024, [], 0, 0
    for _ in range(1000):
        files += [mega // 10] * 10
        arrived += mega // 10 * 10
        for run in runs([f for f in files if f < 96 * mega], lambda f: f, fan=5, floor=mega):
            for size in run:
                files.remove(size)
            files.append(sum(run))
            work += sum(run)
    assert work < 12 * arrived
    assert len([f for f in files if f < 96 * mega]) < 20


@dataclass
class Model:
    """What the table must hold, and what it would go back to."""

    rows: Counter[Row] = field(default_factory=Counter)
    ends: dict[int, int] = field(default_factory=dict)
    history: dict[int, tuple[Counter[Row], dict[int, int]]] = field(default_factory=dict)
    tags: dict[str, Counter[Row]] = field(default_factory=dict)


PARTITIONS = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("append"), PARTITIONS, st.integers(1, 4)),
    st.tuples(st.just("append"), PARTITIONS, st.integers(1, 4)),
    st.tuples(st.just("replace"), PARTITIONS, st.integers(0, 20)),
    st.tuples(st.just("insert"), st.just(0), st.integers(1, 2)),
    st.tuples(st.just("delete"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("compact"), st.just(0), st.just(0)),
    st.tuples(st.just("expire"), st.just(0), st.just(0)),
    st.tuples(st.just("orphans"), st.just(0), st.just(0)),
    st.tuples(st.just("rollback"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("tag"), st.integers(0, 9), st.just(0)),
)
_numbers: Iterator[int] = iter(range(10**9))


@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(STEPS, min_size=5, max_size=25))
def test_writes_and_maintenance_keep_rows_and_positions(
    catalog: Catalog, steps: list[tuple[str, int, int]]
) -> None:
    """Content, committed offsets, and what a rollback brings back are those of a model without
    maintenance."""
    name = f"bronze.model_{next(_numbers)}"
    table = ensure_table(catalog, name, lambda: (SCHEMA, SPEC))
    keep(table, 3)
    model = Model()
    for what, first, second in steps:
        act(catalog, name, table.refresh(), model, what, first, second)
        table.refresh()
        snapshot = table.current_snapshot()
        if snapshot is not None:
            model.history[snapshot.snapshot_id] = (model.rows.copy(), dict(model.ends))
        assert content(table) == model.rows, what
        found = {p: committed.position for p, committed in read_committed(table).items()}
        ends = {p: pos.offset for p, pos in found.items() if pos is not None}
        assert ends == {p: end for p, end in model.ends.items() if end}, what
        for tag, tagged in model.tags.items():
            assert content(table, table.refs()[tag].snapshot_id) == tagged


def act(
    catalog: Catalog, name: str, table: Table, model: Model, what: str, first: int, second: int
) -> None:
    """One step, on the table and on the model."""
    steps: dict[str, Callable[[], object]] = {
        "append": lambda: append(table, name, model, first, second),
        "replace": lambda: replace(table, name, model, first, second),
        "insert": lambda: add_foreign(table, model, second),
        "delete": lambda: delete_first_row(table, model, first),
        "compact": lambda: maintenance(catalog, name),
        "expire": lambda: rewrite.expire(catalog, name),
        "orphans": lambda: remove_orphans(catalog, name, wait=AT_ONCE),
        "rollback": lambda: roll_back(table, model, first),
        "tag": lambda: tag_present(table, model, f"t{first}"),
    }
    steps[what]()


def append(table: Table, name: str, model: Model, partition: int, count: int) -> None:
    """Load the next offsets of a log partition."""
    start = model.ends.get(partition, 0)
    change_span(table, name, partition, (start, start + count), "a", replace=False)
    model.rows += made(partition, start, start + count, "a")
    model.ends[partition] = start + count


def replace(table: Table, name: str, model: Model, partition: int, start: int) -> None:
    """Validate the offsets from one on again."""
    end = model.ends.get(partition, 0)
    if start >= end:
        return
    change_span(table, name, partition, (start, end), "b", replace=True)
    gone = Counter(
        {
            row: count
            for row, count in model.rows.items()
            if row[0] == partition and row[1] is not None and row[1] >= start
        }
    )
    model.rows = model.rows - gone + made(partition, start, end, "b")


def add_foreign(table: Table, model: Model, count: int) -> None:
    """Rows of another writer."""
    table.append(table_of(table, rows(Span("", 0, count, ""), None, "sql")))
    model.rows += made(None, 0, count, "sql")


def tag_present(table: Table, model: Model, tag: str) -> None:
    """Name the present snapshot."""
    snapshot = table.current_snapshot()
    if snapshot is not None and tag not in model.tags:
        table.manage_snapshots().create_tag(snapshot.snapshot_id, tag).commit()
        model.tags[tag] = model.rows.copy()


def made(partition: int | None, start: int, end: int, who: str) -> Counter[Row]:
    """The rows that `rows` makes."""
    return Counter(
        (
            partition,
            None if partition is None else o,
            who,
            None if tags(o) is None else tuple(tags(o) or ()),
        )
        for o in range(start, end)
    )


def change_span(
    table: Table, name: str, partition: int, span: tuple[int, int], who: str, *, replace: bool
) -> None:
    """Commit a span's rows."""
    base = read_committed(table).get(partition, CommittedRanges())
    whole = Span(TOPIC_ID, *span, who)
    files = write_data_files(table, rows(whole, partition, who))
    commit(table.catalog, name, [Change(partition, base, whole, files, replace)])


def delete_first_row(table: Table, model: Model, number: int) -> None:
    """Delete the first row of some file that has no deletes yet, as a MERGE does."""
    tasks = sorted(
        (t for t in table.scan().plan_files() if not t.delete_files), key=lambda t: t.file.file_path
    )
    if not tasks:
        return
    before = content(table)
    delete_positions(table, tasks[number % len(tasks)].file, [0])
    after = content(table)
    assert before.total() - after.total() == 1
    model.rows = after


def roll_back(table: Table, model: Model, number: int) -> None:
    """Go back to some ancestor that is still there."""
    ancestors = []
    snapshot = table.current_snapshot()
    while snapshot is not None:
        ancestors.append(snapshot.snapshot_id)
        parent = snapshot.parent_snapshot_id
        snapshot = None if parent is None else table.snapshot_by_id(parent)
    known = [s for s in ancestors[1:] if s in model.history]
    if known:
        target = known[number % len(known)]
        table.manage_snapshots().rollback_to_snapshot(target).commit()
        before, ends = model.history[target]
        model.rows, model.ends = before.copy(), dict(ends)
