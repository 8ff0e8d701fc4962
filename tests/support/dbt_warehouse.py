"""A catalog of a test's own with bronze tables in it, and the dbt models of one domain on it."""

from __future__ import annotations

import datetime as dt
import json
import random
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from dbt.cli.main import dbtRunner, dbtRunnerResult
from pyiceberg.table import Table

from ingestion_platform.bronze.validate import Validator
from ingestion_platform.contract.schemas import bronze_arrow_schema
from ingestion_platform.produce.record import Record
from ingestion_platform.produce.simulators import simulate
from ingestion_platform.settings import Settings
from ingestion_platform.streams import declared_streams
from ingestion_platform.warehouse.catalog import open_catalog
from ingestion_platform.warehouse.reading import query
from ingestion_platform.warehouse.tables import ensure_bronze
from tests.support.reasons import reason_texts

PROJECT = Path(__file__).parents[2] / "dbt_project"
FIRST = dt.date(2026, 1, 1)
START = dt.datetime.combine(FIRST, dt.time(), dt.UTC)


WIDE = ((dt.date.min - FIRST).days, (dt.date.max - FIRST).days)
"""All ingest dates but the last one that a date can name, by number."""


def day(number: int) -> dt.date:
    """The days of the tests are numbered."""
    return FIRST + dt.timedelta(days=number)


@dataclass
class Warehouse:
    """A subclass names the domain whose models are run, and the tables that they make."""

    domain: ClassVar[str] = ""
    models: ClassVar[Mapping[str, str]] = {}

    home: Path
    manifest: Any = field(default=None, repr=False)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    only: list[str] = field(default_factory=list)
    """Some of the models: those that are run and looked at are all of the domain's otherwise."""

    @property
    def settings(self) -> Settings:
        """Those that dbt finds in the environment."""
        return Settings.load({"PLATFORM_HOME": str(self.home), **self.env})

    def table(self, name: str) -> Table:
        """A table as it is now."""
        return open_catalog(self.settings).load_table(name)

    def fill(self, stream: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make the bronze table of a declared stream hold exactly these rows."""
        contract, name = (
            declared_streams()[stream].contract,
            declared_streams()[stream].bronze_table,
        )
        table = ensure_bronze(open_catalog(self.settings), name, contract)
        table.overwrite(
            pa.Table.from_pylist([dict(r) for r in rows], bronze_arrow_schema(contract))
        )

    def dbt(self, *args: str, ingest_dates: tuple[int, int] | None = None) -> dbtRunnerResult:
        """Run dbt in this process; models and sources are those of the domain.

        The manifest is reused once there is one.
        """
        flags = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
        flags += ["--target-path", str(self.home / "target")]
        flags += ["--log-path", str(self.home / "logs"), "--log-level", "none", "--no-use-colors"]
        if args[0] not in ("parse", "docs"):  # documented are sources too, but not if selected
            flags += ["--select", *(self.only or [f"path:models/{self.domain}"])]
        if ingest_dates is not None:
            start, end = (day(number).isoformat() for number in ingest_dates)
            flags += ["--vars", json.dumps({"ingest_date_start": start, "ingest_date_end": end})]
        return dbtRunner(manifest=self.manifest).invoke([*args, *flags])

    def run(self, *ingest_dates: tuple[int, int]) -> list[Any]:
        """`dbt run` of everything, or of some ingest dates; gives the models' results."""
        result = self.dbt("run", ingest_dates=ingest_dates[0] if ingest_dates else None)
        assert result.success, [r.message for r in result.result or []] or result.exception
        return list(result.result)

    def build(self) -> list[Any]:
        """`dbt build`, models and all tests; gives their results, which must be good."""
        result = self.dbt("build")
        assert result.success, [(r.node.name, r.message) for r in result.result or []]
        return list(result.result)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query over the catalog."""
        return [tuple(row.values()) for row in query(self.settings, sql).to_pylist()]

    def content(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all models, in order."""
        return {
            model: self.rows(f"select * from {table} order by all")
            for model, table in self.models.items()
            if not self.only or table.rpartition(".")[2] in self.only
        }


def bronze_rows(stream: str, records: Iterable[Record]) -> list[dict[str, Any]]:
    """The rows of bronze that loading the records makes, by the stream's contract."""
    listed = list(records)
    parsed = Validator(declared_streams()[stream].contract).parse(
        pa.array([record.value for record in listed], pa.binary())
    )
    assert len(parsed.rejected) == 0, reason_texts(parsed.reasons)
    rows = dict(zip(parsed.valid.to_pylist(), parsed.rows.to_pylist(), strict=True))
    return [
        rows[place]
        | {
            "_ingest_date": dt.datetime.fromtimestamp(
                (record.timestamp_ms or 0) / 1000, dt.UTC
            ).date(),
            "_topic_id": "g",
            "_partition": zlib.crc32(record.key or b"") % 4,
            "_offset": place,
            "_ingested_at": dt.datetime(2026, 2, 1, tzinfo=dt.UTC),
            "_contract": "c",
        }
        for place, record in enumerate(listed)
    ]


Bronze = Mapping[str, list[dict[str, Any]]]
"""Rows of bronze by stream."""


def simulated_rows(counts: Mapping[str, int], *, days: float) -> Bronze:
    """So many simulated records of each stream over the first days, doubled and late ones too."""
    return {
        stream: bronze_rows(stream, simulate(stream, count, start=START, days=days, seed=3))
        for stream, count in counts.items()
    }


def scattered(pool: Bronze, seed: int) -> Bronze:
    """Few of the rows, so that days and ingest dates run empty; some far from their ingest date or
    doubled.

    Some are as if inserted by SQL.
    """
    rng = random.Random(seed)
    bronze: dict[str, list[dict[str, Any]]] = {}
    for stream, rows in pool.items():
        bronze[stream] = []
        for row in rng.sample(rows, min(len(rows), 40)):
            if rng.random() < 0.4:
                row = row | {"_ingest_date": day(rng.randint(0, 6))}
            elif rng.random() < 0.1:
                row = row | dict.fromkeys(("_ingest_date", "_topic_id", "_partition", "_offset"))
            bronze[stream].append(row)
            if rng.random() < 0.1:
                again = {"_ingest_date": day(rng.randint(0, 6)), "_topic_id": "g", "_partition": 0}
                bronze[stream].append(row | again | {"_offset": 10_000 + len(bronze[stream])})
    return bronze


def assert_any_order_equals_a_rebuild(
    warehouse: Warehouse, pool: Bronze, *, seed: int, rounds: int
) -> None:
    """Rows of a few ingest dates come and go; running each such ingest date once gives
    f(bronze)."""
    rng = random.Random(seed)
    now: Bronze = {
        stream: [row for row in rows if rng.random() < 0.6] for stream, rows in pool.items()
    }
    _fill_all(warehouse, now)
    ingest_dates = sorted(
        {ingest_date_of(stream, row) for stream, rows in pool.items() for row in rows}
    )
    warehouse.run()
    for _ in range(rounds):
        # Of the ingest dates that change first, one is late: when it is run, others have changed
        # too.
        *some, late = rng.sample(ingest_dates, 3)
        for changed, todo in ((*some, late), some), (some[:1], [*some[:1], late]):
            now = _edited(rng, now, pool, set(changed))
            _fill_all(warehouse, now)
            for number in rng.sample(todo, len(todo)):
                warehouse.run((number, number + 1))
        incremental = warehouse.content()
        warehouse.run()
        for model, rows in warehouse.content().items():
            assert rows, model
            assert incremental[model] == rows, model


def ingest_date_of(stream: str, row: Mapping[str, Any]) -> int:
    """The number of the ingest date that a run of it covers: an inserted row has that of its day,
    and where it has none, any will do."""
    day_column = next(iter(declared_streams()[stream].contract.partition_by), "")
    return int(((row["_ingest_date"] or row.get(day_column) or FIRST) - FIRST).days)


def _fill_all(warehouse: Warehouse, bronze: Bronze) -> None:
    for stream, rows in bronze.items():
        warehouse.fill(stream, rows)


def _edited(rng: random.Random, bronze: Bronze, pool: Bronze, ingest_dates: set[int]) -> Bronze:
    """Bronze after rows of some ingest dates left, often all, and others came (back)."""
    share = rng.choice([0, 0.5])
    edited = {}
    for stream, rows in pool.items():
        known = {id(row) for row in bronze[stream]}
        edited[stream] = [
            row
            for row in rows
            if (
                rng.random() < share
                if ingest_date_of(stream, row) in ingest_dates
                else id(row) in known
            )
        ]
    return edited
