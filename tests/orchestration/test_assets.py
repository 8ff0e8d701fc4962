"""Lake and bronze, materialized slice by slice and in ranges."""

from __future__ import annotations

import threading

import dagster as dg
import pytest

from ingestion_platform.kafka.topic_log import Log
from ingestion_platform.lake.segments import SegmentLog
from ingestion_platform.operations.verify import verify_stream
from tests.support.dagster_lab import TODAY, Lab, days_ago

EVERY = {"rows", "bytes", "offsets", "lag", "dagster/partition_row_count", "dagster/uri"}
BRONZE = {
    "dagster/row_count",
    "dagster/column_schema",
    "dagster/column_lineage",
    "dagster/table_name",
    "quarantined",
    "reasons",
}


def test_a_rectangle_of_slices_is_one_run_with_an_event_each(lab: Lab) -> None:
    """A range of ingest dates and log partitions materializes all its slices, empty ones too."""
    lab.produce(60, days_ago(2))
    lab.produce(40, TODAY)
    told = lab.materialize((days_ago(2), 0), (TODAY, 3))
    wanted = {(days_ago(d), p) for d in (2, 1, 0) for p in range(4)}
    for key in (lab.lake, lab.bronze):
        events = told.of(key)
        assert events.keys() == wanted
        assert sum(e["rows"] for e in events.values()) == 100
        assert all(events[days_ago(1), p]["rows"] == 0 for p in range(4))
        assert all(e.keys() >= EVERY for e in events.values())
    assert all(e.keys() >= BRONZE for e in told.of(lab.bronze).values())
    assert len(lab.instance.get_runs()) == 1


def test_the_latest_event_of_bronze_has_rows_and_shows_some(lab: Lab) -> None:
    """Overviews show the newest event: it is one of a slice with rows, and has a preview."""
    lab.produce(30, days_ago(1))
    told = lab.materialize((days_ago(1), 0), (TODAY, 3))
    last = [e for e in told.events if e.asset_key == lab.bronze][-1]
    assert last.metadata["rows"].value
    assert "CMP_" in str(last.metadata["preview"].value)
    assert " nan " not in str(last.metadata["preview"].value)


def test_one_slice_leaves_other_partitions_and_later_ingest_dates(lab: Lab) -> None:
    """Materializing a slice of lake touches its log partition up to its ingest date, no more."""
    lab.produce(50, days_ago(1))
    lab.produce(50, TODAY)
    lab.materialize((days_ago(1), 2), only=[lab.lake])
    segment_log = SegmentLog(lab.platform.store, lab.stream.topic)
    assert segment_log.ingest_dates() == [days_ago(1)]
    assert list(segment_log.names(days_ago(1))) == [2]


def test_ingest_dates_before_the_requested_one_are_landed_and_told(lab: Lab) -> None:
    """The log is landed in its order; slices that had to come first are told of as well."""
    lab.produce(50, days_ago(3))
    lab.produce(50, TODAY)
    partitions = range(4)
    told = lab.materialize((TODAY, 0), (TODAY, 3))
    for key in (lab.lake, lab.bronze):
        assert {(days_ago(3), p) for p in partitions} <= told.of(key).keys()
    assert lab.rows() == 100


def test_older_records_land_on_the_first_date(lab: Lab) -> None:
    """Records from before the declared start have a partition in Dagster: its first ones."""
    lab.produce(20, days_ago(700))
    lab.produce(20, TODAY)
    told = lab.materialize((TODAY, 0), (TODAY, 3))
    assert {ingest_date for ingest_date, _ in told.of(lab.bronze)} == {lab.stream.first_date, TODAY}
    assert lab.rows() == 40


def test_materializing_again_changes_nothing(lab: Lab) -> None:
    """Bronze that is equal to its input is left alone: no new snapshot, the same event."""
    lab.produce(50, TODAY, bad=0.04)
    first = lab.materialize((TODAY, 0), (TODAY, 3)).of(lab.bronze)
    table = lab.platform.catalog.load_table(lab.stream.bronze_table)
    again = lab.materialize((TODAY, 0), (TODAY, 3), only=[lab.bronze]).of(lab.bronze)
    assert lab.platform.catalog.load_table(lab.stream.bronze_table).snapshots() == table.snapshots()
    counted = ("rows", "quarantined", "offsets", "reasons")
    for of, event in first.items():
        assert [event[name] for name in counted] == [again[of][name] for name in counted]


def test_bronze_can_be_materialized_without_its_log(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lake has can be loaded while the broker is away; the lag is then unknown."""
    lab.produce(20, TODAY)
    lab.materialize((TODAY, 0), (TODAY, 3), only=[lab.lake])
    monkeypatch.setattr(Log, "topic", _silent)
    told = lab.materialize((TODAY, 0), (TODAY, 3), only=[lab.bronze])
    assert lab.rows() == 20
    assert not told.checks["lag"].passed
    assert told.checks["lag"].severity == dg.AssetCheckSeverity.WARN
    assert told.checks["reconciliation"].passed


def _silent(_: Log) -> None:
    from ingestion_platform.errors import SourceUnavailable

    raise SourceUnavailable("nobody answers")


def test_runs_at_the_same_time_double_nothing(lab: Lab) -> None:
    """A person and the sensor may materialize the same slices at once."""
    lab.produce(400, TODAY, bad=0.02)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with dg.DagsterInstance.ephemeral() as own:
                Lab(lab.stream, lab.settings, own).materialize((TODAY, 0), (TODAY, 3))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    found = verify_stream(lab.platform, lab.stream)
    assert found.ok
    assert found.expected == 400


def test_a_lasting_error_fails_the_run_with_its_next_action(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only a person can mend is not tried again, and the failure says what to do."""
    from ingestion_platform.errors import Permanent

    calls = []

    def reject(*_: object, **__: object) -> None:
        calls.append(1)
        raise Permanent("the bucket is gone", action="create it")

    monkeypatch.setattr(assets_module(), "land_stream", reject)
    with pytest.raises(dg.Failure, match="create it"):
        lab.materialize((TODAY, 0), (TODAY, 3))
    assert calls == [1]


def assets_module() -> object:
    """The module whose names are replaced."""
    from ingestion_platform.orchestration import assets

    return assets
