"""Writes docs/formats.md from the tests' cases: `python docs/write_formats.py` (`make docs` does).

The cases are data below tests/formats; tests run each of them through readers and validation.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "formats.md"
MODULES = ("csv_cases", "jsonl_cases", "parquet_cases", "json_cases")

HEAD = """# Will my file be read?

Written by `make docs` from the cases that tests run (`tests/formats`): do not edit.

A file of a stream ends in `.csv`, `.jsonl` (`.ndjson`), `.json` or `.parquet`, or the stream
declares `format`. It may be compressed by gzip or zstd, whatever its name. Try it without landing
anything:

    ingest load STREAM FILE --dry-run

- **read**: its records are rows of bronze.
- **rejected**: a record goes to quarantine with its bytes and the reason; the rest of the file is
  read. [Quarantine](quarantine.md) shows how to repair it.
- **refused**: where records begin and end cannot be told, or the columns are not the contract's.
  Nothing of the file lands; it is kept in `_refused/` of the drop zone with the reason beside it,
  and no other file waits for it.

Columns are found by name. Those that the contract does not name stay in the lake and cost nothing;
required ones must be there. `FILES_MAX_SIZE` (or `max_size` below `files:`), `FILES_MAX_RATIO` and
`FILES_MAX_RECORDS` bound what is read.

## Settings for CSV

What a CSV file does not say of itself is declared below `files:` in the stream's `defs.yaml`.
Nothing is guessed: a byte order mark and a first line `sep=;` are the file's own word.

    files:
      folder: shop
      pattern: "*.csv"
      delimiter: ";"
      decimal: ","

| setting | default | meaning |
|---|---|---|
"""

SETTINGS = {
    "delimiter": ("`,`", "One ASCII character between values."),
    "quote": (
        '`"`',
        "One ASCII character around values that hold delimiters or line breaks, written twice "
        "inside them; `none` where values are never quoted.",
    ),
    "encoding": ("UTF-8", "Of files without a byte order mark, by a name that Python knows."),
    "header": ("the first row", "The names of the columns, for files whose first row is data."),
    "skip_lines": ("0", "How many lines stand ahead of the header."),
    "trim": ("false", "Whether blanks around values, and ahead of quotes, are no part of them."),
    "null_values": ("`['', NULL]`", "Unquoted values that are null."),
    "decimal": ("`.`", "`.` or `,`: what separates the fraction of a number."),
}

CONTRACT = """
The examples of files below have a contract with these fields: `id` (integer, required), `note`
(string), `price` (decimal(12,3)), `day` (date) and `at` (timestamp). Those of JSON records and
columns, which hold for topics and requests too, have `id` (integer), `open` (JSON) and `price`
(decimal(12,2)).
"""
OUTCOMES = {"read": "stored", "rejected": "reason", "refused": "problem"}


def cases() -> list[Any]:
    """All cases, in the order of the page."""
    sys.path.insert(0, str(ROOT))
    try:
        modules = [importlib.import_module(f"tests.formats.{name}") for name in MODULES]
    finally:
        sys.path.pop(0)
    return [case for module in modules for case in module.CASES]


def page() -> str:
    """The whole page."""
    lines = [HEAD.rstrip("\n")]
    lines += [f"| `{name}` | {default} | {means} |" for name, (default, means) in SETTINGS.items()]
    lines.append(CONTRACT)
    found = cases()
    for section in dict.fromkeys(case.section for case in found):
        lines.append(f"## {section}\n")
        for outcome, what in OUTCOMES.items():
            some = [c for c in found if (c.section, c.outcome) == (section, outcome)]
            lines += _table(outcome, what, some)
    return "\n".join(lines).rstrip() + "\n"


def _table(outcome: str, what: str, some: Iterable[Any]) -> list[str]:
    rows = [
        f"| {_cell(c.title)} | {_code(c.shown or _text(c.given))} | {_code(c.result)} "
        f"| {_code(c.setting)} |"
        for c in some
    ]
    if not rows:
        return []
    head = [f"### {outcome.capitalize()}\n", f"| what | input | {what} | setting |"]
    return [*head, "|---|---|---|---|", *rows, ""]


def _text(given: bytes) -> str:
    return given.decode(errors="replace")


def _code(text: str) -> str:
    """A text as code in a cell; line breaks and the like as the escapes that people know."""
    if not text:
        return ""
    for sign, shown in (("\r", "\\r"), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(sign, shown)
    quote = "``" if "`" in text else "`"
    edge = " " if "`" in (text[0], text[-1]) else ""
    return quote + edge + _cell(text) + edge + quote


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(ROOT)}: {len(cases())} cases")
