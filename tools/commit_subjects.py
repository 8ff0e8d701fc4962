"""Check the subjects of the newest commits: imperative, capitalised, at most 72 characters.

Run as `python tools/commit_subjects.py`. It checks the commits since the branch left main, else
since the last tag, else the last twenty, and does nothing outside of a git repository.
"""

from __future__ import annotations

import subprocess
import sys

LONGEST = 72
_NEWEST = 20
_IMPERATIVES_IN_ING = {"Bring", "Ping", "Ring", "Swing"}
_IMPERATIVES_IN_ED = {"Bed", "Embed", "Feed", "Need", "Seed", "Shed", "Shred", "Speed", "Wed"}


def problems(subject: str) -> list[str]:
    """Return what is wrong with a subject; nothing for a good one."""
    first = subject.split(" ", 1)[0]
    found = []
    if len(subject) > LONGEST:
        found.append(f"has {len(subject)} characters, more than {LONGEST}")
    if not first[:1].isupper():
        found.append("does not begin with a capital letter")
    if first.endswith("ed") and first not in _IMPERATIVES_IN_ED:
        found.append(f"begins with the past tense {first!r} instead of an imperative")
    if first.endswith("ing") and first not in _IMPERATIVES_IN_ING:
        found.append(f"begins with {first!r} instead of an imperative")
    if subject.endswith("."):
        found.append("ends with a period")
    return found


def newest_subjects() -> list[str]:
    """Return the subjects to check, newest first; none without git or its history."""
    here = _git("rev-parse", "HEAD")
    if here is None:
        return []
    since = _git("merge-base", "main", "HEAD") or here
    since = _git("describe", "--tags", "--abbrev=0") if since == here else since
    chosen = [f"{since}..HEAD"] if since else [f"--max-count={_NEWEST}"]
    return (_git("log", "--no-merges", "--format=%s", *chosen) or "").splitlines()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def main() -> int:
    """Print each bad subject with its problems; return the exit code."""
    subjects = newest_subjects()
    if not subjects:
        print("commit subjects: no git history here, nothing checked")
    bad = [(subject, found) for subject in subjects if (found := problems(subject))]
    for subject, found in bad:
        print(f"commit subject {subject!r}: {'; '.join(found)}\n  -> git commit --amend, or rebase")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
