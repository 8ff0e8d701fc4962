"""The dbt project on its embedded target: what it builds, how it commits, by the example of pgr."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from pyiceberg.table import Table

from services import Services
from tests.support import dbt_warehouse
from tests.support.dbt_warehouse import FIRST, PROJECT, day
from tests.support.testbed import separate_environment

# PyIceberg warns when bronze is emptied that is empty.
pytestmark = pytest.mark.filterwarnings("ignore:Delete operation did not match")

BRONZE = "bronze.service_events_raw"
MODELS = {
    "silver": "silver.silver_pgr_events",
    "lifecycle": "gold.gold_pgr_case_lifecycle",
    "funnel": "gold.gold_pgr_funnel_daily",
}
STEPS = {
    "CaseSubmitted": "OPEN",
    "CaseAssigned": "ASSIGNED",
    "CaseInProgress": "IN_PROGRESS",
    "CaseResolved": "RESOLVED",
    "CaseReopened": "REOPENED",
    "CaseClosed": "CLOSED",
}


@dataclass(frozen=True)
class Event:
    """A row of bronze; `ingest date` None is a row that was inserted by SQL."""

    case: int
    hours: float
    """Event time, from the beginning of day 0."""
    step: str = "CaseSubmitted"
    ingest_date: int | None = 0
    offset: int = 0
    sla_hours: float | None = 24
    ward: str | None = "W1"

    def row(self) -> dict[str, Any]:
        time = dt.datetime.combine(FIRST, dt.time()) + dt.timedelta(hours=self.hours)
        loaded = self.ingest_date is not None
        attributes = {"complaint_type": "Water", "priority": "LOW", "sla_hours": self.sla_hours}
        return {
            "event_date": time.date(),
            "event_time": time,
            "tenant_id": f"T{self.case % 2}",
            "service": "PGR",
            "entity_type": "complaint",
            "entity_id": f"CMP_{self.case}",
            "event_type": self.step,
            "status": STEPS[self.step],
            "actor_type": "EMPLOYEE",
            "actor_id": "E1",
            "channel": "WEB",
            "ward_id": self.ward,
            "locality_id": "L1",
            "attributes_json": json.dumps(attributes),
            "_ingest_date": day(self.ingest_date) if self.ingest_date is not None else None,
            "_topic_id": "g" if loaded else None,
            "_partition": self.case % 3 if loaded else None,
            "_offset": self.offset if loaded else None,
            "_ingested_at": dt.datetime(2026, 2, 1, tzinfo=dt.UTC) if loaded else None,
            "_contract": "c" if loaded else None,
        }


@dataclass
class Warehouse(dbt_warehouse.Warehouse):
    """The grievances: bronze as the tests write it, and the models on it."""

    domain: ClassVar[str] = "pgr"
    models: ClassVar[dict[str, str]] = MODELS

    def set_bronze(self, events: Iterable[Event]) -> None:
        """Make bronze hold exactly these rows."""
        self.fill("pgr_events", [event.row() for event in events])


def two_cases() -> list[Event]:
    """A case resolved in time and one that stays open, over three days."""
    return [
        Event(1, 1, "CaseSubmitted", 0, 0),
        Event(1, 2, "CaseAssigned", 0, 1),
        Event(1, 20, "CaseResolved", 0, 2),
        Event(2, 30, "CaseSubmitted", 1, 3),
        Event(2, 60, "CaseAssigned", 2, 4),
    ]


def test_a_build_makes_every_model_and_passes_every_test(warehouse: Warehouse) -> None:
    """Models, unit tests and data tests of the project succeed on real rows."""
    warehouse.set_bronze(two_cases())
    result = warehouse.dbt("build")
    assert result.success, [(r.node.name, r.message) for r in result.result if r.failures]
    kinds = {r.node.resource_type for r in result.result}
    assert {"model", "test", "unit_test"} <= kinds
    assert {r.status for r in result.result} <= {"success", "pass"}
    cases = warehouse.rows(
        "select entity_id, current_stage, hours_to_resolve, sla_breached from"
        " gold.gold_pgr_case_lifecycle order by 1"
    )
    assert cases == [("CMP_1", "resolved", 19.0, False), ("CMP_2", "assigned", None, True)]


def test_results_tell_what_was_written(warehouse: Warehouse) -> None:
    """rows_affected and the snapshot are in dbt's run results."""
    warehouse.set_bronze(two_cases())
    first = warehouse.run()[0]
    table = warehouse.table(MODELS["silver"])
    assert first.adapter_response["rows_affected"] == 5
    assert first.adapter_response["code"] == "full"
    assert str(table.current_snapshot().snapshot_id) in first.adapter_response["_message"]
    assert warehouse.run((1, 2))[0].adapter_response["code"] == "replace"


def test_a_run_is_one_snapshot_per_model(warehouse: Warehouse) -> None:
    """Readers never see a half-replaced table; properties of other tools survive."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    for name in MODELS.values():
        table = warehouse.table(name)
        assert len(table.snapshots()) == 1
        with table.transaction() as transaction:
            transaction.set_properties({"someone.position": "7"})
    warehouse.set_bronze([*two_cases(), Event(3, 5, "CaseSubmitted", 0, 9)])
    warehouse.run((0, 1))
    for name in MODELS.values():
        table = warehouse.table(name)
        assert len(table.snapshots()) == 2
        assert table.properties["someone.position"] == "7"


def test_the_same_run_again_changes_nothing(warehouse: Warehouse) -> None:
    """Full and windowed runs are idempotent."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    before = warehouse.content()
    warehouse.run((0, 3))
    assert warehouse.content() == before
    warehouse.run()
    assert warehouse.content() == before


def test_descriptions_reach_the_tables(warehouse: Warehouse) -> None:
    """Every column's description is its doc in Iceberg, for any engine to show."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    for name in MODELS.values():
        table = warehouse.table(name)
        assert table.properties["comment"]
        assert [f.name for f in table.schema().fields if not f.doc] == []


def test_late_data_rewrites_only_the_dates_that_it_touches(warehouse: Warehouse) -> None:
    """A late event lands on its own date; files of other dates stay as they are."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    before = files_by_date(warehouse.table(MODELS["silver"]))
    warehouse.set_bronze([*two_cases(), Event(1, 0.5, "CaseReopened", 5, 9)])
    warehouse.run((5, 6))
    after = files_by_date(warehouse.table(MODELS["silver"]))
    assert before.keys() == after.keys()
    assert [number for number in before if before[number] != after[number]] == [_number(0)]
    assert warehouse.rows(
        "select first_ingest_date, last_ingest_date from gold.gold_pgr_case_lifecycle"
        " where entity_id = 'CMP_1'"
    ) == [(day(0), day(5))]


def files_by_date(table: Table) -> dict[int, set[str]]:
    """Data files by partition of event_date, in days since 1970."""
    found: dict[int, set[str]] = {}
    for task in table.scan().plan_files():
        found.setdefault(task.file.partition[0], set()).add(task.file.file_path)
    return found


def _number(number: int) -> int:
    return (day(number) - dt.date(1970, 1, 1)).days


def test_an_inserted_row_belongs_to_the_ingest_date_of_its_date(warehouse: Warehouse) -> None:
    """A row without an ingest date is picked up by the run of its date, and not by another's."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    warehouse.set_bronze([*two_cases(), Event(5, 100, ingest_date=None)])
    inserted = "select _ingest_date from silver.silver_pgr_events where entity_id = 'CMP_5'"
    warehouse.run((3, 4))
    assert warehouse.rows(inserted) == []
    warehouse.run((4, 5))
    assert warehouse.rows(inserted) == [(day(4),)]
    assert len(warehouse.content()["lifecycle"]) == 3


def test_rows_that_left_bronze_leave_every_model(warehouse: Warehouse) -> None:
    """An ingest date's rows that went to quarantine take their case and its day in the funnel
    along."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    warehouse.set_bronze([event for event in two_cases() if event.case == 1])
    warehouse.run((1, 3))
    content = warehouse.content()
    assert {row[0] for row in warehouse.rows(f"select entity_id from {MODELS['silver']}")} == {
        "CMP_1"
    }
    assert len(content["lifecycle"]) == len(content["funnel"]) == 1
    warehouse.run()
    assert warehouse.content() == content


def test_a_date_shared_with_a_later_ingest_date_stays_whole(warehouse: Warehouse) -> None:
    """An ingest date's run that meets rows of a later ingest date on its dates counts them in every
    model."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    shared = [Event(3, 5, "CaseSubmitted", 5, 8), Event(4, 6, "CaseSubmitted", 6, 9)]
    warehouse.set_bronze([*two_cases(), *shared])
    warehouse.run((5, 6))
    events = warehouse.rows(f"select count(*) from {MODELS['silver']}")
    assert warehouse.rows("select sum(event_count) from gold.gold_pgr_case_lifecycle") == events


def test_a_first_run_counts_what_it_takes_of_earlier_ingest_dates(warehouse: Warehouse) -> None:
    """A date is taken as a whole; models that are made then know all of it, too."""
    shared = [Event(3, 5, "CaseSubmitted", 5, 8), Event(4, 6, "CaseSubmitted", 6, 9)]
    warehouse.set_bronze(shared)
    warehouse.run((6, 7))
    assert warehouse.rows(f"select count(*) from {MODELS['silver']}") == [(2,)]
    assert warehouse.rows("select sum(event_count) from gold.gold_pgr_case_lifecycle") == [(2,)]


def test_an_open_case_breaches_when_time_passes_elsewhere(warehouse: Warehouse) -> None:
    """An event of another case moves the clock, and the open case is validated by it."""
    events = [Event(1, 0, sla_hours=48), Event(2, 1, sla_hours=48, offset=1)]
    warehouse.set_bronze(events)
    warehouse.run()
    breached = "select entity_id, sla_breached from gold.gold_pgr_case_lifecycle order by 1"
    assert warehouse.rows(breached) == [("CMP_1", False), ("CMP_2", False)]
    warehouse.set_bronze([*events, Event(4, 48.5, ingest_date=2, offset=2)])
    warehouse.run((2, 3))
    assert warehouse.rows(breached) == [("CMP_1", True), ("CMP_2", False), ("CMP_4", False)]


def test_empty_bronze_makes_empty_tables(warehouse: Warehouse) -> None:
    """Before the first event everything is there, without rows, and the tests pass."""
    warehouse.set_bronze([])
    assert warehouse.dbt("build", "--exclude-resource-type", "unit_test").success
    assert warehouse.content() == {"silver": [], "lifecycle": [], "funnel": []}
    warehouse.run((0, 3))
    assert warehouse.content() == {"silver": [], "lifecycle": [], "funnel": []}


def test_a_first_ingest_date_without_rows_makes_the_tables(warehouse: Warehouse) -> None:
    """Whatever reads the models finds them, if empty."""
    warehouse.set_bronze(two_cases())
    warehouse.run((100, 101))
    assert warehouse.content() == {"silver": [], "lifecycle": [], "funnel": []}


def test_a_ingest_date_without_rows_touches_nothing(warehouse: Warehouse) -> None:
    """No commit is made for an ingest date in which nothing happened."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    warehouse.run((100, 101))
    assert [len(warehouse.table(name).snapshots()) for name in MODELS.values()] == [1, 1, 1]


def test_the_first_run_may_be_a_ingest_date(warehouse: Warehouse) -> None:
    """Ingest dates one after the other build what a full run builds."""
    warehouse.set_bronze(two_cases())
    for number in (2, 0, 1):
        warehouse.run((number, number + 1))
    content = warehouse.content()
    warehouse.run()
    assert warehouse.content() == content


def test_a_failing_query_leaves_everything_as_it_was(warehouse: Warehouse) -> None:
    """A file of bronze that cannot be read fails the run, without a snapshot or an orphan."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    before = warehouse.content()
    warehouse.set_bronze([*two_cases(), Event(7, 100, ingest_date=4, offset=9)])
    broken = max(files_by_date(warehouse.table(BRONZE)).items())[1].pop()
    path = Path(broken.removeprefix("file://"))
    path.write_bytes(b"PAR1" + bytes(path.stat().st_size - 8) + b"PAR1")
    files = set((warehouse.home / "warehouse" / "silver").rglob("*.parquet"))
    result = warehouse.dbt("run")
    assert not result.success
    assert [r.status for r in result.result] == ["error", "skipped", "skipped"]
    assert warehouse.content() == before
    assert set((warehouse.home / "warehouse" / "silver").rglob("*.parquet")) == files


def test_rows_without_identity_are_left_out_and_reported(warehouse: Warehouse) -> None:
    """An INSERT may lack what makes an event; a test warns of it, nothing breaks."""
    rows = [event.row() for event in two_cases()]
    rows.append(replace(two_cases()[0], ingest_date=None).row() | {"tenant_id": None})
    warehouse.fill("pgr_events", rows)
    result = warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    assert result.success
    warned = [r.node.name for r in result.result if r.status == "warn"]
    assert warned == ["bronze_rows_without_identity"]
    assert len(warehouse.content()["silver"]) == 5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ingest_date_start": "2026-01-01"}, "ingest_date_end"),
        ({"ingest_date_start": "1.1.2026", "ingest_date_end": "2026-01-02"}, "1.1.2026"),
    ],
)
def test_wrong_ingest_dates_are_rejected(
    warehouse: Warehouse, given: dict[str, str], says: str
) -> None:
    """A run never guesses which ingest dates were meant."""
    warehouse.set_bronze(two_cases())
    result = warehouse.dbt("run", "--vars", json.dumps(given))
    assert not result.success
    assert says in str(result.exception or [r.message for r in result.result])


def test_docs_list_every_column_of_every_table(warehouse: Warehouse) -> None:
    """The catalog that dbt documents holds source and models with types, and all is described."""
    warehouse.set_bronze(two_cases())
    warehouse.run()
    result = warehouse.dbt("docs", "generate")
    assert result.success
    found = {**result.result.nodes, **result.result.sources}
    described = {**warehouse.manifest.nodes, **warehouse.manifest.sources}
    assert len(found) == 4
    for name, table in found.items():
        documented = described[name].columns
        assert [c for c in table.columns if not documented[c].description] == []
        assert set(documented) == set(table.columns)
        assert all(column.type for column in table.columns.values())


def test_freshness_of_bronze_is_measured(warehouse: Warehouse) -> None:
    """Freshness reads when rows were loaded; inserted rows do not count."""
    warehouse.set_bronze([*two_cases(), Event(9, 1, ingest_date=None)])
    (result,) = warehouse.dbt("source", "freshness").result
    assert str(result.max_loaded_at).startswith("2026-02-01")


def random_history(rng: random.Random) -> list[Event]:
    """Events of many cases: in time, late, doubled in other ingest dates, inserted."""
    events = []
    for case in range(12):
        hours = rng.uniform(0, 120)
        for step in rng.sample(list(STEPS), rng.randint(1, 6)):
            ingest_date = min(int(hours // 24) + rng.choice([0, 0, 0, 1, 3]), 9)
            event = Event(
                case,
                round(hours, 2),
                step,
                rng.choice([ingest_date, ingest_date, ingest_date, None]),
                len(events),
                rng.choice([2, 24, 72, None]),
                rng.choice(["W1", "W2", None]),
            )
            events.append(event)
            if rng.random() < 0.3:
                events.append(replace(event, ingest_date=rng.randint(0, 9), offset=len(events)))
            hours += rng.expovariate(1 / 15)
    return events


def ingest_date_of(event: Event) -> int:
    """The ingest date that a run of it covers."""
    return event.ingest_date if event.ingest_date is not None else int(event.hours // 24)


def edited(rng: random.Random, events: list[Event], pool: list[Event]) -> list[Event]:
    """Bronze after some rows left it and others came (back)."""
    kept = [event for event in events if rng.random() > 0.25]
    absent = [event for event in pool if event not in kept]
    return kept + [event for event in absent if rng.random() < 0.4]


def span(rng: random.Random, number: int) -> tuple[int, int]:
    """A range of ingest dates around one."""
    return max(0, number - rng.randint(0, 1)), number + 1 + rng.randint(0, 2)


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 5))]
)
def test_runs_of_ingest_dates_in_any_order_equal_a_full_rebuild(
    warehouse: Warehouse, seed: int
) -> None:
    """After rows came and went, running every changed ingest date once gives f(bronze)."""
    rng = random.Random(seed)
    pool = random_history(rng)
    now = [event for event in pool if rng.random() < 0.6]
    warehouse.set_bronze(now)
    stale = {ingest_date_of(event) for event in now}
    for edit in range(3):
        todo = sorted(stale)
        rng.shuffle(todo)
        # Before the last edit some ingest dates stay behind, as when a run is late or failed.
        for number in todo if edit == 2 else todo[: len(todo) // 2]:
            if number in stale:
                start, end = span(rng, number)
                warehouse.run((start, end))
                stale -= set(range(start, end))
        if edit < 2:
            before, now = now, edited(rng, now, pool)
            warehouse.set_bronze(now)
            stale |= {ingest_date_of(event) for event in set(before) ^ set(now)}
    assert not stale
    incremental = warehouse.content()
    warehouse.run()
    full = warehouse.content()
    for model in MODELS:
        assert incremental[model] == full[model], model
    assert len({row[0] for row in full["silver"]}) == len(full["silver"])


@pytest.mark.services
def test_the_same_on_an_object_store_and_a_shared_catalog(
    servers: Services, tmp_path: Path, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On MinIO and Postgres runs of ingest dates and full runs agree, and tests pass."""
    env = {"PLATFORM_HOME": str(tmp_path), **separate_environment(servers)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    warehouse = Warehouse(tmp_path, manifest, env)
    warehouse.set_bronze(two_cases())
    assert warehouse.dbt("build").success
    late = [
        *two_cases(),
        Event(1, 0.5, "CaseReopened", 5, 9),
        Event(3, 130, ingest_date=5, offset=10),
    ]
    warehouse.set_bronze(late)
    warehouse.run((5, 6))
    incremental = warehouse.content()
    assert len(incremental["silver"]) == 7
    warehouse.run()
    assert warehouse.content() == incremental
    assert warehouse.table(MODELS["silver"]).location().startswith("s3://")
    DuckDBConnectionManager.close_all_connections()


@pytest.mark.slow
def test_the_command_line_prints_no_noise(tmp_path: Path) -> None:
    """As Dagster runs it: a process of its own that finds the settings in the environment."""
    Warehouse(tmp_path).set_bronze(two_cases())
    env = os.environ | {
        "PLATFORM_HOME": str(tmp_path),
        "PYTHONPATH": str(PROJECT.parent),
        "DBT_TARGET_PATH": str(tmp_path / "target"),
        "DBT_LOG_PATH": str(tmp_path / "logs"),
    }
    command = [str(Path(sys.executable).with_name("dbt")), "run", "--quiet"]
    command += ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
    command += ["--select", "path:models/pgr"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    results = json.loads((tmp_path / "target" / "run_results.json").read_text())
    assert [r["status"] for r in results["results"]] == ["success"] * 3
