"""Writes docs/faults.md from the tests: `python docs/write_faults.py` (`make docs` does).

A fault is what a test's marker `fault(part, what)` says, and what must happen its docstring. Tests
are read, not run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"

PARTS = {
    "processes": "Processes that die, sleep, or are many",
    "worker": "The worker",
    "servers": "Servers",
    "log": "The log (Kafka)",
    "object store": "The object store",
    "catalog": "The catalog",
    "tables": "Tables that others change",
    "models": "Silver and gold",
    "sinks": "Sinks",
    "maintenance": "Maintenance",
    "files": "Files",
    "file_source": "The HTTP API",
    "disk": "Disks",
    "clocks": "Clocks",
    "other": "More",
}

HEAD = """# Faults, and what must happen

Written by `make docs` from the tests, on real Kafka, MinIO and Postgres: do not edit. In every test
an oracle that shares no code with the platform (`tests/support/oracle.py`) reads topic and tables
at the end: each record must be in bronze or in quarantine exactly once, with the right values, or
be a recorded loss that status, doctor and a check report. A proxy (`tests/support/proxy.py`)
causes network faults.

    make test                                    with everything else, in a short form
    make test-faults                             long: KILLS=1000 SEED=1 unless said otherwise
    make test-faults KILLS=5000 SEED=7           for hours; the same seed gives the same instants

At the end of a run stands how many processes were killed at work, by what they did. What is not
tried: a broker that loses records and then takes new ones at the same offsets before anybody looks
(they cannot be told from the old ones); and a clock that lies to all programs of a machine at once
(the writer is given one instead).
"""


@dataclass(frozen=True)
class Scenario:
    """One test of a fault."""

    part: str
    fault: str
    must: str
    file: Path
    test: str


def scenarios() -> list[Scenario]:
    """All there are: every test below tests/faults, and what is marked elsewhere."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [found for file in files for found in _of(file)]


def _of(file: Path) -> Iterator[Scenario]:
    ours = file.parent.name == "faults" and file.name != "test_proxy.py"
    text = file.read_text()
    if not ours and "mark.fault(" not in text:
        return
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        marks = [said for each in node.decorator_list if (said := _marked(each)) is not None]
        if not marks and ours:
            marks = [("other", node.name.removeprefix("test_").replace("_", " "))]
        must = " ".join((ast.get_docstring(node) or "").split())
        for part, fault in marks:
            yield Scenario(part, fault, must, file.relative_to(ROOT), node.name)


def _marked(decorator: ast.expr) -> tuple[str, str] | None:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
        part, fault = (ast.literal_eval(each) for each in decorator.args)
        return part, fault
    return None


def page() -> str:
    """The whole page."""
    found = scenarios()
    titles = PARTS | {each.part: each.part.capitalize() for each in found if each.part not in PARTS}
    lines = [HEAD]
    for part, title in titles.items():
        if rows := [each for each in found if each.part == part]:
            lines += [f"## {title}\n", "| fault | what must happen | test |", "|---|---|---|"]
            lines += [_row(each) for each in rows]
            lines.append("")
    return "\n".join(lines)


def _row(each: Scenario) -> str:
    name = each.test.removeprefix("test_").replace("_", " ")
    cells = (each.fault, each.must, f"[{name}](../{each.file.as_posix()})")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(ROOT)}: {len(scenarios())} scenarios")
