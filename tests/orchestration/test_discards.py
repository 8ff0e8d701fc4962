"""Discarded records and the gate: what people have decided about holds no day back."""

from __future__ import annotations

from ingestion_platform.operations.quarantine import Choice, discard, overview, undo
from tests.support.dagster_lab import Lab, days_ago

DAY = days_ago(1)
WHOLE_DAY = ((DAY, 0), (DAY, 3))


def test_a_day_is_released_once_its_bad_records_are_discarded(lab: Lab) -> None:
    """By materializing it again, though nothing was loaded; taken back, it would be held again."""
    lab.produce(100, DAY, bad=0.6)
    told = lab.materialize(*WHOLE_DAY)
    assert not told.checks["quarantine_limit"].passed
    assert lab.released() == set()
    rows = lab.rows()
    choice = Choice(ingest_dates=(DAY,))
    _, records = discard(lab.platform, lab.stream, choice, because="a load test", by="ann")
    assert records == 60
    told = lab.materialize(*WHOLE_DAY, only=[lab.bronze])
    assert told.checks["quarantine_limit"].passed
    assert told.checks["quarantine_limit"].metadata["discarded"].value == 60
    assert told.checks["reconciliation"].passed
    assert lab.released() == {DAY}
    assert lab.rows() == rows
    assert overview(lab.platform, lab.stream).records == 60
    undo(lab.platform, lab.stream, choice, because="by mistake", by="ann")
    assert not lab.check().checks["quarantine_limit"].passed


def test_a_few_discarded_records_leave_the_others_to_count(lab: Lab) -> None:
    """Only what is decided is left out of the share."""
    lab.produce(100, DAY, bad=0.6)
    lab.materialize(*WHOLE_DAY)
    slices = overview(lab.platform, lab.stream).by_slice
    discard(lab.platform, lab.stream, Choice(reason="value"), because="poison", by="ann")
    left = overview(lab.platform, lab.stream)
    assert 0 < left.open < 60
    assert len(slices) == 4
    told = lab.materialize(*WHOLE_DAY, only=[lab.bronze])
    assert not told.checks["quarantine_limit"].passed
    assert lab.released() == set()
