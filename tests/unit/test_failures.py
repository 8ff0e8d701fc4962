"""Counts of failures outlive processes, and are exact among threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingestion_platform.errors import Permanent, StoreUnavailable, WriteConflict
from ingestion_platform.failures import counting_failures, counts, note
from ingestion_platform.kafka.topic_log import LogChanged
from ingestion_platform.pipeline import land_stream
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.streams import declared_streams
from ingestion_platform.worker.loop import CountFailures


def test_errors_are_counted_by_kind(tmp_path: Path) -> None:
    """What passes by itself, what waits for a person, what is a mistake; races are no errors."""
    for error in (StoreUnavailable("x"), Permanent("x"), KeyError("x"), WriteConflict("x")):
        with pytest.raises(type(error)), counting_failures(tmp_path, "a/b"):
            raise error
    kinds = ("transient", "permanent", "unexpected")
    assert counts(tmp_path) == {("a/b", kind): 1 for kind in kinds}


def test_no_count_is_lost_among_writers(tmp_path: Path) -> None:
    """Any number may count at once; nobody has to merge or lock."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(400):
            pool.submit(note, tmp_path, "s", StoreUnavailable("x"))
    assert counts(tmp_path) == {("s", "transient"): 400}


def test_counting_never_fails(tmp_path: Path) -> None:
    """Where nothing can be written, the error itself still arrives."""
    home = tmp_path / "a file"
    home.write_text("")
    with pytest.raises(KeyError), counting_failures(home, "s"):
        raise KeyError("s")
    assert counts(home) == {}


def test_a_failed_run_counts(tmp_path: Path) -> None:
    """A run of any kind (Dagster's, the command line's) that fails leaves a count behind."""
    settings = Settings.load({"PLATFORM_HOME": str(tmp_path)}, root=tmp_path)
    with pytest.raises(Exception, match="no embedded broker"):
        land_stream(Platform(settings), declared_streams()["pgr_events"])
    assert counts(tmp_path) == {("pgr_events", "transient"): 1}


def test_a_worker_s_failures_count(tmp_path: Path) -> None:
    """Each failed step of a line counts; a log that moved underneath is looked at again."""

    class Line:
        name, stream = "s files", "s"

        def step(self) -> float:
            raise next(errors)

        def close(self) -> None:
            """Nothing is open."""

    errors = iter([StoreUnavailable("x"), LogChanged("x"), StoreUnavailable("x"), KeyError("x")])
    line = CountFailures(Line(), tmp_path)
    for error in (StoreUnavailable, LogChanged, StoreUnavailable, KeyError):
        with pytest.raises(error):
            line.step()
    assert counts(tmp_path) == {("s", "transient"): 2, ("s", "unexpected"): 1}
