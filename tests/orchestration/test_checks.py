"""The checks of bronze: each fails when it should, and can be executed alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from pyiceberg.expressions import EqualTo

from ingestion_platform.bronze.inserted import Inserted
from ingestion_platform.lake.losses import Loss
from ingestion_platform.operations.slice_counts import SliceCount
from ingestion_platform.orchestration import checks
from ingestion_platform.orchestration.checks import Findings
from ingestion_platform.progress.status import PartitionStatus, StreamStatus
from ingestion_platform.streams import Stream, declared_streams
from tests.support.dagster_lab import TODAY, Lab, days_ago

ALL = {"quarantine_limit", "reconciliation", "lag", "losses", "freshness", "inserted"}


@pytest.fixture
def stream() -> Stream:
    """The declared stream of grievances: 5 % may be rejected, an hour is promised."""
    return declared_streams()["pgr_events"]


def _validate(name: str, stream: Stream, of: Findings) -> dg.AssetCheckResult:
    return checks.evaluate(name, stream, dg.AssetKey("bronze"), of)


def _count(records: int, bronze: int, rejected: int, *, loaded: bool = True) -> SliceCount:
    return SliceCount(records, 0, bronze, rejected, loaded=loaded, stale=False)


def _status(*partitions: PartitionStatus) -> StreamStatus:
    return StreamStatus("s", "t", False, "id", "id", "bronze.t", "quarantine.t", 0, 0, partitions)


def _partition(number: int, lag: int) -> PartitionStatus:
    return PartitionStatus(number, 0, lag + 10, 10, 10, 10, lag, lag)


def test_contract_fails_above_the_allowed_share_only(stream: Stream) -> None:
    """5 % of a slice may be in quarantine; one record more is too much, in any one slice."""
    good = {(TODAY, 0): _count(100, 95, 5), (TODAY, 1): _count(10_000, 10_000, 0)}
    assert _validate("quarantine_limit", stream, Findings(good)).passed
    bad = good | {(TODAY, 0): _count(100, 94, 6)}
    result = _validate(
        "quarantine_limit", stream, Findings(bad, {(TODAY, 0): Counter({"no date": 6})})
    )
    assert not result.passed
    assert f"{TODAY}|0: 6.00%" in (result.description or "")
    assert "no date" in result.metadata["reasons"].value
    assert checks.held_back(stream, good) == {}
    assert set(checks.held_back(stream, bad)) == {TODAY}


def test_a_few_records_hold_no_day_back(stream: Stream) -> None:
    """As a day begins, its slices are small: one bad record of two is no bad day, five are."""
    small = {(TODAY, 0): _count(2, 1, 1), (TODAY, 1): _count(9, 5, 4)}
    assert _validate("quarantine_limit", stream, Findings(small)).passed
    assert checks.held_back(stream, small) == {}
    assert set(checks.held_back(stream, {(TODAY, 0): _count(9, 4, 5)})) == {TODAY}


def test_inserted_rows_that_break_the_contract_are_told(stream: Stream) -> None:
    """They are in the table already: a few are a warning, more than the allowed share an error."""
    assert _validate("inserted", stream, Findings({})).passed
    assert _validate("inserted", stream, Findings({}, inserted=Inserted(100, 100))).passed
    reasons = Counter({"status: no": 1})
    few = _validate("inserted", stream, Findings({}, inserted=Inserted(100, 100, 5, reasons)))
    assert (few.passed, few.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "5 of 100 inserted rows" in (few.description or "")
    assert "status: no" in few.metadata["reasons"].value
    many = _validate("inserted", stream, Findings({}, inserted=Inserted(900, 100, 6, reasons)))
    assert (many.passed, many.severity) == (False, dg.AssetCheckSeverity.ERROR)


def test_reconciliation_fails_when_a_loaded_slice_lacks_a_record(stream: Stream) -> None:
    """A record in neither table is a failure, and one too many as well."""
    for bronze in (98, 100):
        counts = {(TODAY, 0): _count(100, bronze, 1), (TODAY, 1): _count(5, 5, 0)}
        result = _validate("reconciliation", stream, Findings(counts))
        assert not result.passed
        assert f"{TODAY}|0: 100 records" in (result.description or "")
        assert set(checks.held_back(stream, counts)) == {TODAY}


def test_reconciliation_lets_what_is_not_loaded_yet_wait(stream: Stream) -> None:
    """A slice that bronze has not come to the end of is no failure, and is named."""
    counts = {(TODAY, 0): _count(100, 50, 0, loaded=False)}
    result = _validate("reconciliation", stream, Findings(counts))
    assert result.passed
    assert result.metadata["waiting"].value == [f"{TODAY}|0"]
    assert checks.held_back(stream, counts) == {}


def test_lag_fails_when_a_log_partition_has_too_much_waiting(stream: Stream) -> None:
    """More than a full lake file of one partition: runs do not keep up."""
    level = _status(*(_partition(p, checks.LAG_LIMIT) for p in range(4)))
    assert _validate("lag", stream, Findings({}, status=level)).passed
    behind = _status(_partition(0, 0), _partition(1, checks.LAG_LIMIT + 1))
    result = _validate("lag", stream, Findings({}, status=behind))
    assert not result.passed
    assert "log partition 1" in (result.description or "")


def test_lag_fails_when_the_topic_has_partitions_without_assets(stream: Stream) -> None:
    """What nobody lands is told of, with the line to write."""
    wide = _status(*(_partition(p, 0) for p in range(6)))
    result = _validate("lag", stream, Findings({}, status=wide))
    assert not result.passed
    assert "partitions: 6" in (result.description or "")


def test_freshness_fails_when_a_record_waits_longer_than_promised(stream: Stream) -> None:
    """The contract promises an hour."""
    assert _validate("freshness", stream, Findings({}, waits={0: 3599.0})).passed
    result = _validate("freshness", stream, Findings({}, waits={0: 10.0, 2: 3700.0}))
    assert not result.passed
    assert "log partition 2: a record has waited 1:01:40" in (result.description or "")


def test_losses_fail_for_a_week(stream: Stream) -> None:
    """Records that were gone before they were landed are an error, a recreated topic a warning."""
    now = datetime.now(UTC)

    def validated(*losses: Loss) -> dg.AssetCheckResult:
        return _validate("losses", stream, Findings({}, status=replace(_status(), losses=losses)))

    gone, again = Loss(2, 0, 100, 150, now), Loss(1, 0, 100, None, now - timedelta(days=6))
    assert validated().passed
    lost = validated(gone, again)
    assert not lost.passed
    assert lost.severity is dg.AssetCheckSeverity.ERROR
    assert "log partition 2: 50 records lost, offsets 100 to before 150" in (lost.description or "")
    assert "runbook" in (lost.description or "")
    assert lost.metadata["lost"].value == 50
    recreated = validated(again)
    assert not recreated.passed
    assert recreated.severity is dg.AssetCheckSeverity.WARN
    assert "was recreated" in (recreated.description or "")
    old = replace(gone, noticed=now - timedelta(days=8))
    assert validated(old).passed
    assert not validated(replace(old, noticed=None)).passed  # nothing has noted it yet


def test_lag_and_freshness_are_unknown_without_the_log(stream: Stream) -> None:
    """A broker that is away is a warning, not a promise kept or broken."""
    for name in ("lag", "losses", "freshness"):
        result = _validate(name, stream, Findings({}))
        assert not result.passed
        assert result.severity == dg.AssetCheckSeverity.WARN


def test_a_contract_without_a_promise_has_no_freshness_check(lab: Lab) -> None:
    """What is not promised is not checked."""

    def edit(document: dict[str, Any]) -> None:
        levels = document["slaProperties"]
        document["slaProperties"] = [x for x in levels if x["property"] != "freshness"]

    quiet = lab.under(edit)
    assert {spec.name for spec in checks.specs(quiet.stream, quiet.bronze)} == ALL - {"freshness"}


def test_every_run_of_bronze_evaluates_all_checks(lab: Lab) -> None:
    """Checks come with the materialization, in the same step."""
    lab.produce(40, TODAY)
    told = lab.materialize((TODAY, 0), (TODAY, 3))
    assert told.checks.keys() == ALL
    assert all(check.passed for check in told.checks.values())


def test_checks_alone_look_at_everything_and_load_nothing(lab: Lab) -> None:
    """Executed alone they validate all slices of the lake, and change no table."""
    lab.produce(40, days_ago(2))
    lab.produce(40, TODAY)
    lab.materialize((TODAY, 0), (TODAY, 3))
    lab.produce(40, TODAY)
    told = lab.check()
    assert told.checks.keys() == ALL
    assert told.events == []
    assert told.checks["reconciliation"].metadata["records"].value == 80
    assert told.checks["lag"].metadata["lag"].value == 40
    assert lab.rows() == 80


def test_checks_alone_find_rows_that_somebody_deleted(lab: Lab) -> None:
    """Reconciliation compares with the lake, whatever happened to the table since."""
    lab.produce(60, TODAY)
    lab.materialize((TODAY, 0), (TODAY, 3))
    table = lab.platform.catalog.load_table(lab.stream.bronze_table)
    table.delete(EqualTo("_partition", 1))
    told = lab.check()
    assert not told.checks["reconciliation"].passed
    assert f"{TODAY}|1" in (told.checks["reconciliation"].description or "")


def test_checks_alone_find_a_record_that_waits_too_long(lab: Lab) -> None:
    """A backlog of yesterday breaks the promise of an hour."""
    lab.produce(10, TODAY)
    lab.materialize((TODAY, 0), (TODAY, 3))
    lab.produce(40, days_ago(1))
    told = lab.check()
    assert not told.checks["freshness"].passed
