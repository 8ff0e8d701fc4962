"""A contract changes: what the next load makes of the table, and how old and new rows read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from pyiceberg.expressions import EqualTo, GreaterThan

from ingestion_platform import Client
from ingestion_platform.bronze.load import Loader
from ingestion_platform.contract.problems import ContractProblems
from ingestion_platform.errors import Permanent, WriteConflict
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.verify import verify_stream
from ingestion_platform.pipeline import load_stream
from ingestion_platform.platform import Platform
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse import evolve as evolution
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.evolve import Step, plan
from ingestion_platform.warehouse.reading import query
from tests.support.lake_files import DAY, put, segment_of

Edit = Callable[[dict[str, Any]], None]
Properties = dict[str, dict[str, Any]]


def prop(name: str, logical: str, physical: str | None = None, **more: Any) -> dict[str, Any]:
    """A property of a contract."""
    types = {"logicalType": logical} | ({"physicalType": physical} if physical else {})
    return {"name": name, **types, **more}


def was(*names: str) -> dict[str, Any]:
    """The part of a property that says what it was called."""
    return {"customProperties": [{"property": "previousNames", "value": list(names)}]}


DOCUMENT = {
    "apiVersion": "v3.2.0",
    "kind": "DataContract",
    "id": "things",
    "version": "1.0.0",
    "status": "active",
    "domain": "test",
}
FIRST = [
    prop("id", "integer", "int"),
    prop("price", "number", "decimal(5,2)"),
    prop("speed", "number", "float"),
    prop("ward", "string", required=True),
    prop("day", "date", partitioned=True),
    prop("status", "string", enum=[{"value": "open"}, {"value": "closed"}]),
    prop("place", "object", properties=[prop("lat", "number", "float"), prop("city", "string")]),
    prop(
        "items",
        "array",
        items=prop("i", "object", properties=[prop("sku", "string"), prop("n", "integer", "int")]),
    ),
    prop("tags", "array", items=prop("t", "integer", "int")),
]


def old(i: int, **changes: Any) -> bytes:
    """A record under the first contract."""
    record = {
        "id": i,
        "price": i / 4,
        "speed": i + 0.5,
        "ward": f"w{i}",
        "day": f"2026-11-{10 + i % 3}",
        "status": "open",
        "place": {"lat": 1.5, "city": f"c{i}"},
        "items": [{"sku": f"s{i}", "n": i}] if i % 2 else None,
        "tags": [i],
    }
    return json.dumps(record | changes).encode()


@pytest.fixture
def stream(make_stream: Callable[..., Stream]) -> Stream:
    """A stream of things, under the first contract."""
    table = {"name": "things", "properties": FIRST}
    return make_stream(contract=json.loads(json.dumps(DOCUMENT | {"schema": [table]})))


@pytest.fixture
def loaded(platform: Platform, stream: Stream) -> Stream:
    """The stream with ten old records in its tables."""
    append(platform, stream, [old(i) for i in range(10)])
    return stream


def append(platform: Platform, stream: Stream, values: list[bytes]) -> None:
    """Land some records behind those that there are, and load them."""
    tail = SegmentLog(platform.store, stream.topic).tails([0]).get(0)
    start = tail.end if tail is not None else 0
    previous = ("A", start) if start else None
    segment = segment_of(stream.topic, start, start + len(values), previous=previous)
    put(platform.store, segment, values)
    load_stream(platform, stream, partitions=[0])


def under(stream: Stream, *edits: Callable[[Properties], None], version: str = "1.1.0") -> Stream:
    """The stream under a changed contract; edits see its properties by name."""
    from tests.support.testbed import edited

    def edit(document: dict[str, Any]) -> None:
        document["version"] = version
        properties = {each["name"]: each for each in document["schema"][0]["properties"]}
        for change in edits:
            change(properties)
        document["schema"][0]["properties"] = list(properties.values())

    return edited(stream, edit)


def put_in(*new: dict[str, Any]) -> Callable[[Properties], None]:
    """Add properties, or put others in the place of those of the same name."""
    return lambda properties: properties.update({each["name"]: each for each in new})


def rename(before: str, after: str) -> Callable[[Properties], None]:
    """A property gets another name, and says so."""

    def edit(properties: Properties) -> None:
        pairs = [
            (after, each | {"name": after} | was(before)) if name == before else (name, each)
            for name, each in properties.items()
        ]
        properties.clear()
        properties.update(pairs)

    return edit


def leave_out(name: str) -> Callable[[Properties], None]:
    """A property goes."""
    return lambda properties: properties.pop(name)  # type: ignore[return-value]


def steps(platform: Platform, stream: Stream) -> list[str]:
    """What the next load would do."""
    return [
        str(step)
        for step in plan(platform.catalog.load_table(stream.bronze_table), stream.contract)
    ]


def rows(platform: Platform, stream: Stream, what: str, rest: str = "") -> list[tuple[Any, ...]]:
    """Rows of bronze, as DuckDB reads them, in the order of the log by default."""
    sql = f"SELECT {what} FROM {stream.bronze_table} {rest or 'ORDER BY _offset'}"
    return [tuple(row.values()) for row in query(platform.settings, sql).to_pylist()]


def assert_verified(platform: Platform, stream: Stream, expected: int, *, stale: int) -> None:
    """Nothing is lost, doubled or different."""
    found = verify_stream(platform, stream)
    assert found.ok, found
    assert (found.expected, found.stale) == (expected, stale)


EVERYTHING: list[Callable[[Properties], None]] = [
    put_in(
        prop("id", "integer", "bigint"),
        prop("price", "number", "decimal(12,2)"),
        prop("speed", "number", "double"),
        prop(
            "place",
            "object",
            properties=[
                prop("zip", "string"),
                prop("lat", "number", "double"),
                prop("town", "string", **was("city")),
            ],
        ),
        prop(
            "items",
            "array",
            items=prop(
                "i",
                "object",
                properties=[
                    prop("code", "string", **was("sku")),
                    prop("price", "number"),
                    prop("n", "integer", "bigint"),
                ],
            ),
        ),
        prop("tags", "array", items=prop("t", "integer", "bigint")),
        prop("ward", "string", required=True, description="Where it was."),
        prop("note", "string"),
        prop("day", "date"),
    ),
    lambda properties: properties["id"].update(partitioned=True),
    rename("ward", "area"),
]


def new(i: int) -> bytes:
    """A record under the contract after everything changed."""
    record = {
        "id": 2**40 + i,
        "price": 1234567.25,
        "speed": 1e300,
        "area": f"a{i}",
        "day": "2026-11-12",
        "status": "closed",
        "place": {"zip": "z", "lat": 1e300, "town": "t"},
        "items": [{"code": "q", "price": 1.5, "n": 2**40}],
        "tags": [2**40],
        "note": "n",
    }
    return json.dumps(record).encode()


def test_everything_at_once_is_one_change_and_old_rows_stay(
    platform: Platform, loaded: Stream
) -> None:
    """Added, widened, renamed, described, partitioned again: told beforehand, done by the load."""
    after = under(loaded, *EVERYTHING)
    assert steps(platform, after) == [
        "widen id from int to long",
        "widen price from decimal(5,2) to decimal(12,2)",
        "widen speed from float to double",
        "rename ward to area",
        "describe area: Where it was.",
        "add place.zip (string)",
        "widen place.lat from float to double",
        "rename city to place.town",
        "rename sku to items.element.code",
        "add items.element.price (double)",
        "widen items.element.n from int to long",
        "widen tags.element from int to long",
        "add note (string)",
        "partition by id from now on (was: day)",
    ]
    before = platform.catalog.load_table(loaded.bronze_table)
    append(platform, after, [new(i) for i in range(10)])
    table = platform.catalog.load_table(loaded.bronze_table)
    assert len(table.schemas()) == len(before.schemas()) + 1
    assert steps(platform, after) == []
    assert table.schema().find_field("area").field_id == before.schema().find_field("ward").field_id
    assert table.schema().column_names[-7:-6] == ["note"]
    assert_verified(platform, after, 20, stale=10)
    found = rows(platform, after, "id, price, speed, area, place, items, tags, note")
    assert found[3] == (
        3, Decimal("0.75"), 3.5, "w3", {"zip": None, "lat": 1.5, "town": "c3"},
        [{"code": "s3", "price": None, "n": 3}], [3], None,
    )  # fmt: skip
    assert found[4][5] is None
    assert found[12] == (
        2**40 + 2, Decimal("1234567.25"), 1e300, "a2", {"zip": "z", "lat": 1e300, "town": "t"},
        [{"code": "q", "price": 1.5, "n": 2**40}], [2**40], "n",
    )  # fmt: skip


def test_filters_find_old_and_new_rows(platform: Platform, loaded: Stream) -> None:
    """On widened and renamed columns, on those of either partitioning, and inside of objects."""
    after = under(loaded, *EVERYTHING)
    append(platform, after, [new(i) for i in range(10)])
    counts = {
        "id > 5": 14,
        "id > 100": 10,
        "id = 3": 1,
        "price > 1.5": 13,
        "price = 0.75": 1,
        "speed < 8": 8,
        "area = 'w7'": 1,
        "area >= 'w8'": 2,
        "area IS NULL": 0,
        "day = DATE '2026-11-12'": 13,
        "note IS NULL": 10,
        "\"place\".town = 'c3'": 1,
        "tags[1] > 5": 14,
    }
    found = {where: rows(platform, after, "count(*)", f"WHERE {where}")[0][0] for where in counts}
    assert found == counts
    table = platform.catalog.load_table(after.bronze_table)
    assert table.scan(row_filter=GreaterThan("id", 5)).count() == 14
    assert table.scan(row_filter=EqualTo("area", "w7")).count() == 1
    assert Client(platform.settings).read(after.bronze_table).num_rows == 20


def test_materializing_old_slices_reads_old_names_and_fills_what_is_new(
    platform: Platform, loaded: Stream
) -> None:
    """Rows in files of the old schema and partitions are replaced; a rename loses no value."""
    note = put_in(prop("note", "string", transformLogic="'of ' || area"))
    after = under(loaded, *EVERYTHING, note)
    append(platform, after, [new(i) for i in range(10)])
    assert rows(platform, after, "area, note")[3] == ("w3", None)
    load_stream(platform, after, partitions=[0], ingest_dates=[DAY])
    assert_verified(platform, after, 20, stale=0)
    assert rows(platform, after, "area, note")[3] == ("w3", "of w3")
    assert rows(platform, after, '"place".town, items[1].code')[3] == ("c3", "s3")
    table = platform.catalog.load_table(after.bronze_table)
    assert set(table.inspect.files()["spec_id"].to_pylist()) == {1}


def test_rows_that_are_kept_move_to_the_present_schema(platform: Platform, loaded: Stream) -> None:
    """A file of two slices, written under the first contract, loses one to a replacement."""
    append(platform, loaded, [old(i) for i in range(10, 20)])
    table = platform.catalog.load_table(loaded.bronze_table)
    table.overwrite(table.scan().to_arrow())  # as a compaction does
    after = under(loaded, *EVERYTHING)
    loader = Loader(platform.catalog, platform.store, after)
    (first, _) = loader.stale(SegmentLog(platform.store, after.topic), [(DAY, 0)])
    assert len(list(loader.load([first]))) == 1
    assert_verified(platform, after, 20, stale=10)
    assert rows(platform, after, "area, tags")[13] == ("w13", [13])
    assert rows(platform, after, "count(*)", "WHERE id >= 10") == [(10,)]


def test_files_written_after_a_rename_are_read_by_arrow_alone(
    platform: Platform, loaded: Stream
) -> None:
    """Only those of before need the slower way, so that a rename does not cost for ever."""
    after = under(loaded, rename("ward", "area"))
    append(platform, after, [old(i, area="x") for i in range(3)])
    planned = TableDataset(platform.catalog.load_table(after.bronze_table))._plan(None)
    assert sum(f.count_rows() for f in planned.fast.get_fragments()) == 3
    assert sum(task.file.record_count for task in planned.slow) == 10


def test_a_column_that_the_contract_leaves_out_stays(platform: Platform, loaded: Stream) -> None:
    """With its old values; new rows have null there, until the contract has it again."""
    after = under(loaded, leave_out("ward"))
    assert steps(platform, after) == []
    append(platform, after, [old(99)])
    assert rows(platform, after, "ward")[9:] == [("w9",), (None,)]
    assert_verified(platform, after, 11, stale=10)
    append(platform, loaded, [old(98)])
    assert rows(platform, loaded, "ward")[9:] == [("w9",), (None,), ("w98",)]


def test_a_new_enum_value_brings_rows_back_from_quarantine(
    platform: Platform, loaded: Stream
) -> None:
    """Old slices are validated again when they are materialized, and nothing else changes."""
    append(platform, loaded, [old(10, status="reopened")])
    values = [{"value": value} for value in ("open", "closed", "reopened")]
    after = under(loaded, put_in(prop("status", "string", enum=values)))
    assert steps(platform, after) == []
    quarantine = platform.catalog.load_table(loaded.quarantine_table)
    assert quarantine.scan().count() == 1
    load_stream(platform, after, partitions=[0])
    assert quarantine.refresh().scan().count() == 1
    load_stream(platform, after, partitions=[0], ingest_dates=[DAY])
    assert quarantine.refresh().scan().count() == 0
    assert rows(platform, after, "status")[10] == ("reopened",)
    assert_verified(platform, after, 11, stale=0)


def test_required_and_optional_are_the_contracts_alone(platform: Platform, loaded: Stream) -> None:
    """The table's columns are optional anyway: records move between the tables, no more."""
    append(platform, loaded, [old(10, ward=None), old(11)])
    optional = under(loaded, put_in(prop("ward", "string")))
    assert steps(platform, optional) == []
    load_stream(platform, optional, partitions=[0], ingest_dates=[DAY])
    assert rows(platform, optional, "ward")[10:] == [(None,), ("w11",)]
    load_stream(platform, loaded, partitions=[0], ingest_dates=[DAY])
    assert rows(platform, loaded, "count(*)", "WHERE _offset >= 0") == [(11,)]
    assert_verified(platform, loaded, 12, stale=0)


def test_a_partition_column_may_be_widened_and_renamed(
    platform: Platform, make_stream: Callable[..., Stream]
) -> None:
    """Old partition values are read as the new type, under the new name."""
    table = {"name": "things", "properties": [prop("n", "integer", "int", partitioned=True)]}
    stream = make_stream(contract=DOCUMENT | {"schema": [table]})
    append(platform, stream, [b'{"n":%d}' % n for n in range(4)])
    after = under(
        stream, put_in(prop("n", "integer", "bigint", partitioned=True)), rename("n", "m")
    )
    append(platform, after, [b'{"m":%d}' % (2**40 + n) for n in range(4)])
    for where, count in {"m = 2": 1, "m > 100": 4, "m < 100": 4, f"m = {2**40}": 1}.items():
        assert rows(platform, after, "count(*)", f"WHERE {where}") == [(count,)], where
    load_stream(platform, after, partitions=[0], ingest_dates=[DAY])
    assert_verified(platform, after, 8, stale=0)
    assert [n for (n,) in rows(platform, after, "m")][:4] == [0, 1, 2, 3]


REJECTIONS: dict[str, tuple[list[Callable[[Properties], None]], str, str, str]] = {
    "another type": (
        [put_in(prop("ward", "integer"))], "property ward", "is long in the contract, but string",
        "add a column under a new name",
    ),
    "an object that was a string": (
        [put_in(prop("ward", "object", properties=[prop("x", "string")]))], "property ward",
        "is struct in the contract, but string", "new name",
    ),
    "an array's items": (
        [put_in(prop("tags", "array", items=prop("t", "string")))], "property tags.element",
        "is string", "new name",
    ),
    "a decimal's scale": (
        [put_in(prop("price", "number", "decimal(9,3)"))], "property price",
        "is decimal(9,3) in the contract, but decimal(5,2)", "decimal(9,2)",
    ),
    "a decimal's precision": (
        [put_in(prop("price", "number", "decimal(4,2)"))], "property price", "decimal(4,2)",
        "keep `physicalType: decimal(5,2)`",
    ),
    "inside an array": (
        [put_in(prop("items", "array", items=prop("i", "object",
         properties=[prop("n", "number")])))], "property items.element.n", "is double",
        "new name",
    ),
    "a zone": (
        [put_in(prop("day", "timestamp"))], "property day", "is timestamptz", "new name",
    ),
    "only its case": (
        [leave_out("ward"), put_in(prop("Ward", "string"))], "property Ward", "the table has ward",
        "`ward`",
    ),
    "onto a column": (
        [leave_out("ward"), put_in(prop("status", "string", **was("ward")))], "property status",
        "the table has both", "unused",
    ),
    "two columns to one": (
        [leave_out("ward"), leave_out("status"),
         put_in(prop("x", "string", **was("ward", "status")))],
        "property x", "the table has ward and status", "keep one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTIONS)
def test_what_would_lose_data_is_rejected_before_anything_is_written(
    platform: Platform, loaded: Stream, name: str
) -> None:
    """The error names file, field, what both say, and the way out; the table stays as it is."""
    edits, element, problem, action = REJECTIONS[name]
    after = under(loaded, *edits)
    before = platform.catalog.load_table(loaded.bronze_table).metadata_location
    with pytest.raises(ContractProblems) as caught:
        load_stream(platform, after, partitions=[0], ingest_dates=[DAY])
    (found,) = caught.value.problems
    assert isinstance(caught.value, Permanent)
    assert after.contract.file in str(caught.value)
    assert found.element == element
    assert problem in found.problem
    assert action in found.action
    assert platform.catalog.load_table(loaded.bronze_table).metadata_location == before
    with pytest.raises(ContractProblems):
        plan(platform.catalog.load_table(loaded.bronze_table), after.contract)


def test_narrowing_is_rejected_and_the_wider_type_advised(
    platform: Platform, loaded: Stream
) -> None:
    """A column once widened stays so, unless the contract is an older one (see below)."""
    wide = under(loaded, put_in(prop("id", "integer", "bigint")), version="1.1.0")
    append(platform, wide, [old(2**40)])
    narrow = under(loaded, put_in(prop("id", "integer", "int")), version="1.2.0")
    with pytest.raises(ContractProblems, match="is int in the contract, but long") as caught:
        load_stream(platform, narrow, partitions=[0])
    assert "keep `physicalType: bigint`" in caught.value.problems[0].action


def test_a_name_that_was_given_up_is_not_used_for_something_else(
    platform: Platform, loaded: Stream
) -> None:
    """Neither that of a renamed column, nor with another type that of a dropped one."""
    renamed = under(loaded, rename("ward", "area"))
    append(platform, renamed, [old(1, area="x")])
    with pytest.raises(ContractProblems, match="has renamed this column to area"):
        load_stream(platform, under(loaded, version="1.2.0"), partitions=[0])
    back = under(loaded, put_in(prop("ward", "string", **was("area"))), version="1.3.0")
    append(platform, back, [old(2)])
    assert rows(platform, back, "ward")[9:] == [("w9",), ("x",), ("w2",)]
    with platform.catalog.load_table(loaded.bronze_table).update_schema() as update:
        update.delete_column("status")
    number = under(back, put_in(prop("status", "integer")), version="1.4.0")
    with pytest.raises(ContractProblems, match="a dropped column of that name was string"):
        load_stream(platform, number, partitions=[0])
    append(platform, back, [old(3)])
    assert rows(platform, back, "status")[9:] == [(None,), (None,), (None,), ("open",)]


def test_loaders_that_evolve_at_once_do_not_fail_each_other(
    platform: Platform, loaded: Stream
) -> None:
    """All of them find the table as the contract wants it, changed once."""
    after = under(loaded, *EVERYTHING)
    before = len(platform.catalog.load_table(loaded.bronze_table).schemas())
    platforms = [Platform(platform.settings) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda p: Loader(p.catalog, p.store, after), platforms))
    table = platform.catalog.load_table(after.bronze_table)
    assert (len(table.schemas()), len(table.specs())) == (before + 1, 2)
    assert steps(platform, after) == []


def test_a_change_that_meets_another_commit_is_planned_again(
    platform: Platform, loaded: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another loader evolves, or appends, between the plan and the commit."""
    others: Iterator[Callable[[], None]] = iter(
        [
            lambda: append(platform, under(loaded, put_in(prop("note", "string"))), [old(2)]),
            lambda: append(platform, loaded, [old(1)]),
        ]
    )
    stage = evolution._stage

    def late(*given: Any) -> None:
        stage(*given)
        monkeypatch.setattr(evolution, "_stage", stage)
        if (other := next(others, None)) is not None:
            other()
            monkeypatch.setattr(evolution, "_stage", late)

    monkeypatch.setattr(evolution, "_stage", late)
    after = under(loaded, put_in(prop("note", "string"), prop("more", "string")))
    append(platform, after, [old(3)])
    assert_verified(platform, after, 13, stale=13)
    assert steps(platform, after) == []


def test_files_of_an_earlier_partitioning_are_written_anew(
    platform: Platform, loaded: Stream
) -> None:
    """A loader that wrote while another one changed the partitions starts again, and is exact."""
    loader = Loader(platform.catalog, platform.store, loaded)
    put(
        platform.store,
        segment_of(loaded.topic, 10, 12, previous=("A", 10)),
        [old(10), old(11)],
    )
    by_ward = under(
        loaded,
        lambda properties: properties["day"].pop("partitioned"),
        lambda properties: properties["ward"].update(partitioned=True),
    )
    Loader(platform.catalog, platform.store, by_ward)
    with pytest.raises(WriteConflict, match="partitions changed"):
        list(loader.load(loader.behind(SegmentLog(platform.store, loaded.topic), [0])))
    load_stream(platform, by_ward, partitions=[0])
    assert_verified(platform, by_ward, 12, stale=10)


def test_an_older_contract_undoes_nothing(platform: Platform, loaded: Stream) -> None:
    """A process that still has it goes on where its rows fit, and is told where they do not."""
    wide = under(
        loaded, put_in(prop("id", "integer", "bigint", description="Its number.")), *EVERYTHING[1:2]
    )
    append(platform, wide, [old(10)])
    assert steps(platform, loaded) == []
    append(platform, loaded, [old(11)])
    assert rows(platform, wide, "id")[10:] == [(10,), (11,)]
    renamed = under(wide, rename("ward", "area"), version="1.2.0")
    append(platform, renamed, [old(12, area="x")])
    with pytest.raises(ContractProblems, match=r"version 1\.2\.0 has changed the table"):
        load_stream(platform, wide, partitions=[0])


def test_a_table_of_other_hands_lets_its_required_columns_be_null(
    platform: Platform, stream: Stream
) -> None:
    """What others made required is made optional, since rows may lack it; the rest is added."""
    from pyiceberg.schema import Schema
    from pyiceberg.types import IntegerType, NestedField

    platform.catalog.create_namespace("bronze")
    schema = Schema(NestedField(1, "id", IntegerType(), required=True))
    platform.catalog.create_table(stream.bronze_table, schema)
    assert Step("optional", "id", "required", "optional") in plan(
        platform.catalog.load_table(stream.bronze_table), stream.contract
    )
    append(platform, stream, [old(1, id=None), old(2)])
    assert rows(platform, stream, "id, ward") == [(None, "w1"), (2, "w2")]
    assert_verified(platform, stream, 2, stale=0)
