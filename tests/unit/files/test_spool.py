"""The spool: copies that go, whatever happened, and a disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_platform.errors import StoreUnavailable
from ingestion_platform.files.spool import Spool


def test_copies_are_gone_at_the_end(tmp_path: Path) -> None:
    """Also when what they were for has failed."""
    with pytest.raises(ZeroDivisionError), Spool(tmp_path / "spool") as spool:
        spool.new().write_text(str(1 // len(spool.new().name[32:])))
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_full_disk_passes_when_there_is_space_again(tmp_path: Path) -> None:
    """It is no fault of the file, nor a bug: a store that cannot keep anything, tried again."""
    with (
        pytest.raises(StoreUnavailable, match=r"spool cannot keep copies.*No space left") as caught,
        Spool(tmp_path / "spool"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert "PLATFORM_HOME" in caught.value.action
    assert list((tmp_path / "spool").iterdir()) == []


def test_other_errors_are_told_as_they_are(tmp_path: Path) -> None:
    """A file that is not there is somebody else's to explain."""
    with pytest.raises(FileNotFoundError), Spool(tmp_path / "spool"):
        (tmp_path / "nothing").read_text()
