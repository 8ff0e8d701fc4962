"""The check of commit subjects in `make lint`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "commit_subjects.py"


def git(folder: Path, *arguments: str) -> None:
    """Run git as somebody, without the configuration of this machine."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def check(folder: Path) -> tuple[int, str]:
    """Exit code and output of the check there."""
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        ("Seed the demo with a day of events", ""),
        ("add a sink", "capital letter"),
        ("Added a sink", "past tense 'Added'"),
        ("Adding a sink", "'Adding' instead of an imperative"),
        ("Add a sink.", "ends with a period"),
        ("Add a sink " + "x" * 62, "73 characters"),
    ],
)
def test_a_bad_subject_fails(tmp_path: Path, subject: str, problem: str) -> None:
    """Of a commit on a branch; those of main before it are not checked again."""
    git(tmp_path, "init", "--initial-branch=main")
    git(tmp_path, "commit", "--allow-empty", "-m", "was merged like this.")
    git(tmp_path, "switch", "-c", "branch")
    git(tmp_path, "commit", "--allow-empty", "-m", subject)
    code, out = check(tmp_path)
    assert (code, problem in out) == (1 if problem else 0, True)
    assert "merged" not in out


def test_on_main_the_newest_are_checked(tmp_path: Path) -> None:
    """All of them while there is no tag, afterwards those since the last one."""
    git(tmp_path, "init", "--initial-branch=main")
    git(tmp_path, "commit", "--allow-empty", "-m", "bad")
    assert check(tmp_path)[0] == 1
    git(tmp_path, "tag", "v1")
    git(tmp_path, "commit", "--allow-empty", "-m", "Add a sink")
    assert check(tmp_path) == (0, "")


def test_without_git_nothing_is_checked(tmp_path: Path) -> None:
    """An exported tree passes, and the output says so."""
    code, out = check(tmp_path)
    assert (code, "nothing checked" in out) == (0, True)
