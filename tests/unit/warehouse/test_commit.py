"""Rows and positions in one commit, compared and swapped: conflicts of every kind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import IntegerType, LongType, NestedField, StringType

from ingestion_platform.errors import CatalogUnavailable, WriteConflict
from ingestion_platform.positions import Position
from ingestion_platform.settings import Settings
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.commit import Change, commit, read_committed
from ingestion_platform.warehouse.committed import PREFIX, CommittedRanges, Span
from ingestion_platform.warehouse.datafiles import write_data_files
from ingestion_platform.warehouse.tables import PROPERTIES, ensure_table

SCHEMA = Schema(
    NestedField(1, "_topic_id", StringType(), required=False),
    NestedField(2, "_partition", IntegerType(), required=False),
    NestedField(3, "_offset", LongType(), required=False),
    NestedField(4, "who", StringType(), required=False),
)
NAME = "bronze.things"
TOPIC_ID = "a-topic-id-of-22-chars"


@pytest.fixture
def table(local_settings: Settings) -> Table:
    """An empty table in an SQLite catalog."""
    return ensure_table(open_catalog(local_settings), NAME, lambda: (SCHEMA, PartitionSpec()))


def rows(span: Span, partition: int, who: str) -> pa.Table:
    """One row per offset of a span."""
    offsets = list(range(span.start, span.end))
    return pa.table(
        {
            "_topic_id": [span.topic_id] * len(offsets),
            "_partition": pa.array([partition] * len(offsets), pa.int32()),
            "_offset": pa.array(offsets, pa.int64()),
            "who": [who] * len(offsets),
        }
    )


def change(
    table: Table,
    start: int,
    end: int,
    *,
    base: CommittedRanges | None = None,
    partition: int = 0,
    contract: str = "x",
    who: str = "me",
    replace: bool = False,
) -> Change:
    """A change with its files written; based on the table's committed offsets, or on another."""
    if base is None:
        base = read_committed(table.refresh()).get(partition, CommittedRanges())
    span = Span(TOPIC_ID, start, end, contract)
    files = write_data_files(table, rows(span, partition, who))
    return Change(partition, base, span, files, replace)


def found(table: Table) -> list[tuple[int, int, str]]:
    """Partition, offset and maker of every row."""
    content = table.refresh().scan().to_arrow().select(["_partition", "_offset", "who"])
    return sorted(tuple(row.values()) for row in content.to_pylist())


def test_rows_and_position_are_one(table: Table) -> None:
    """The position is in the table's properties and in the snapshot's summary, with the rows."""
    commit(table.catalog, NAME, [change(table, 0, 3)])
    committed = CommittedRanges((Span(TOPIC_ID, 0, 3, "x"),))
    assert read_committed(table.refresh()) == {0: committed}
    assert table.properties[f"{PREFIX}0"] == committed.to_json()
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.additional_properties[f"{PREFIX}0"] == committed.to_json()
    assert found(table) == [(0, n, "me") for n in range(3)]


def test_no_rows_still_move_the_position(table: Table) -> None:
    """A span of nothing but gaps is committed as well, and rejected when it is stale."""
    nothing = Change(0, CommittedRanges(), Span(TOPIC_ID, 0, 5, "x"), (), replace=False)
    commit(table.catalog, NAME, [nothing])
    assert read_committed(table.refresh())[0].position == Position(TOPIC_ID, 5)
    with pytest.raises(WriteConflict):
        commit(table.catalog, NAME, [nothing])


def test_a_moved_position_rejects(table: Table) -> None:
    """What was made on an older committed offsets cannot land, whether it is ahead, behind or the
    same."""
    commit(table.catalog, NAME, [change(table, 0, 3)])
    for start, end in ((0, 3), (0, 9), (3, 6)):
        with pytest.raises(WriteConflict, match="log partition 0"):
            commit(table.catalog, NAME, [change(table, start, end, base=CommittedRanges())])
    assert found(table) == [(0, n, "me") for n in range(3)]


def test_one_stale_change_rejects_all(table: Table) -> None:
    """Several changes are made together or not at all."""
    commit(table.catalog, NAME, [change(table, 0, 3)])
    both = [change(table, 0, 4, partition=1), change(table, 0, 3, base=CommittedRanges())]
    with pytest.raises(WriteConflict):
        commit(table.catalog, NAME, both)
    assert 1 not in read_committed(table.refresh())


def test_changes_of_one_commit_follow_each_other(table: Table) -> None:
    """A later one is based on the committed offsets that the one ahead leaves."""
    first = change(table, 0, 3)
    second = change(table, 3, 5, base=CommittedRanges().with_span(first.span), who="again")
    commit(table.catalog, NAME, [first, second])
    assert read_committed(table.refresh())[0].position == Position(TOPIC_ID, 5)
    with pytest.raises(WriteConflict):  # not in the other order
        commit(
            table.catalog, NAME, [change(table, 8, 9, base=CommittedRanges()), change(table, 5, 8)]
        )


class Meddling:
    """A catalog in which something happens right after the table was loaded, once."""

    def __init__(self, catalog: Any, meddle: Any) -> None:
        self._catalog, self._meddle = catalog, meddle

    def load_table(self, name: str) -> Table:
        """The table as it was before."""
        table = self._catalog.load_table(name)
        meddle, self._meddle = self._meddle, lambda: None
        meddle()
        return table


def test_commit_to_other_rows_is_no_conflict(table: Table) -> None:
    """Another log partition, another engine's rows: both land."""
    catalog = table.catalog
    ours = change(table, 0, 3)
    other = change(table, 0, 2, partition=1, who="other")
    foreign = rows(Span(TOPIC_ID, 0, 1, ""), 9, "foreign")

    def meddle() -> None:
        commit(catalog, NAME, [other])
        catalog.load_table(NAME).append(foreign)

    commit(Meddling(catalog, meddle), NAME, [ours])  # type: ignore[arg-type]
    assert [who for *_, who in found(table)] == ["me"] * 3 + ["other"] * 2 + ["foreign"]
    assert set(read_committed(table)) == {0, 1}


def test_rolled_back_commit_is_no_conflict(table: Table) -> None:
    """The snapshot is the one that ours was made on, though its number is taken."""
    catalog = table.catalog
    commit(catalog, NAME, [change(table, 0, 3)])
    table.refresh()
    ours = change(table, 3, 6, base=read_committed(table)[0])

    def meddle() -> None:
        other = catalog.load_table(NAME)
        before = other.current_snapshot()
        assert before is not None
        other.append(rows(Span(TOPIC_ID, 0, 1, ""), 9, "foreign"))
        other.manage_snapshots().rollback_to_snapshot(before.snapshot_id).commit()

    commit(Meddling(catalog, meddle), NAME, [ours])  # type: ignore[arg-type]
    assert [who for *_, who in found(table)] == ["me"] * 6


@pytest.mark.parametrize("retries", ["0", "4"])
def test_the_same_range_in_between_is_a_conflict(table: Table, retries: str) -> None:
    """Also on a table that another engine made, by which PyIceberg would retry by itself."""
    catalog = table.catalog
    with table.transaction() as transaction:
        transaction.set_properties({"commit.retry.num-retries": retries})
    ours, theirs = change(table, 0, 3, who="me"), change(table, 0, 3, who="they")
    with pytest.raises(WriteConflict):
        commit(
            Meddling(catalog, lambda: commit(catalog, NAME, [theirs])),  # type: ignore[arg-type]
            NAME,
            [ours],
        )
    assert found(table) == [(0, n, "they") for n in range(3)]
    assert table.properties["commit.retry.num-retries"] == PROPERTIES["commit.retry.num-retries"]


def test_racing_threads_leave_one_copy_of_each_range(
    table: Table, local_settings: Settings
) -> None:
    """Four writers of the same twelve ranges: each range is some single writer's."""
    barrier = threading.Barrier(4)

    def write(who: str) -> int:
        catalog, landed = open_catalog(local_settings), 0
        mine = catalog.load_table(NAME)
        barrier.wait()
        for start in range(0, 36, 3):
            base = read_committed(mine.refresh()).get(0, CommittedRanges())
            if base.position is not None and base.position.offset > start:
                continue
            try:
                commit(catalog, NAME, [change(mine, start, start + 3, base=base, who=who)])
                landed += 1
            except (WriteConflict, CatalogUnavailable):
                continue
        return landed

    with ThreadPoolExecutor(4) as pool:
        landed = sum(pool.map(write, "abcd"))
    content = found(table)
    assert [at for _, at, _ in content] == list(range(len(content)))
    assert len(content) == 3 * landed
    for start in range(0, len(content), 3):
        assert len({who for *_, who in content[start : start + 3]}) == 1


def test_replacing_takes_exactly_the_span(table: Table) -> None:
    """Rows of other spans, partitions and writers in the same files stay."""
    everything = [
        rows(Span(TOPIC_ID, 0, 10, ""), 0, "old"),
        rows(Span(TOPIC_ID, 0, 10, ""), 1, "old"),
        rows(Span("another-topic-of-22-ch", 0, 10, ""), 0, "old"),
        rows(Span(TOPIC_ID, 0, 2, ""), 0, "foreign").set_column(
            2, "_offset", pa.nulls(2, pa.int64())
        ),
    ]
    span = Span(TOPIC_ID, 0, 10, "x")
    files = write_data_files(table, pa.concat_tables(everything))
    commit(table.catalog, NAME, [Change(0, CommittedRanges(), span, files, replace=False)])
    commit(table.catalog, NAME, [change(table, 4, 7, contract="y", who="new", replace=True)])
    content = table.refresh().scan().to_arrow().to_pylist()
    ours = {r["_offset"]: r["who"] for r in content if r["_topic_id"] == TOPIC_ID
            and r["_partition"] == 0 and r["_offset"] is not None}  # fmt: skip
    assert ours == {n: "new" if 4 <= n < 7 else "old" for n in range(10)}
    assert len(content) == 32
    assert sum(r["who"] == "foreign" for r in content) == 2
    spans = [(s.start, s.end, s.contract) for s in read_committed(table)[0].spans]
    assert spans == [(0, 4, "x"), (4, 7, "y"), (7, 10, "x")]


def test_a_catalog_that_is_down_is_transient(local_settings: Settings, table: Table) -> None:
    """And so is a warehouse that refuses to be written to."""
    catalog = open_catalog(local_settings)
    ours = change(table, 0, 3)

    class Down:
        def load_table(self, _: str) -> Table:
            from sqlalchemy.exc import OperationalError

            raise OperationalError("select", {}, Exception("connection refused"))

    with pytest.raises(CatalogUnavailable, match="PYICEBERG_CATALOG__LAKEHOUSE__URI"):
        commit(Down(), NAME, [ours])  # type: ignore[arg-type]
    commit(catalog, NAME, [ours])


def test_processes_create_one_catalog_concurrently(local_settings: Settings) -> None:
    """All of them get the catalog's tables, the namespace and the table made."""
    with ThreadPoolExecutor(6) as pool:
        made = pool.map(
            lambda _: ensure_table(
                open_catalog(local_settings), NAME, lambda: (SCHEMA, PartitionSpec())
            ),
            range(6),
        )
        assert len({table.metadata.table_uuid for table in made}) == 1
