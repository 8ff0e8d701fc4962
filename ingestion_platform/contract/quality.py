"""Read the ODCS quality checks that apply to a single record: constraints and row rules.

Checks over many rows (uniqueness, row counts) belong to dbt tests and are rejected by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ingestion_platform.contract.model import Rule
from ingestion_platform.contract.problems import Problems, suggestion

if TYPE_CHECKING:
    from open_data_contract_standard.model import DataQuality

ENGINE = "ingestion-platform"
_CUSTOM = f'`type: custom`, `engine: {ENGINE}`, `implementation: "<SQL expression>"`'
_OPERATORS = (
    "mustBe",
    "mustNotBe",
    "mustBeGreaterThan",
    "mustBeGreaterOrEqualTo",
    "mustBeLessThan",
    "mustBeLessOrEqualTo",
    "mustBeBetween",
    "mustNotBeBetween",
)
_ARGUMENTS = {
    "nullValues": set[str](),
    "missingValues": {"missingValues"},
    "invalidValues": {"validValues", "pattern"},
}
_READ = {
    "text": set[str](),
    "library": {"metric", "rule", "arguments", *_OPERATORS},
    "custom": {"engine", "implementation"},
}
"""The keys that are read for each type of check, besides those that only describe it."""


@dataclass
class Quality:
    """The combined checks of one element; `rules` pairs each rule with its path."""

    required: bool = False
    allowed: list[Any] | None = None
    pattern: str | None = None
    rules: list[tuple[str, Rule]] = field(default_factory=list)


def read_quality(
    checks: list[DataQuality] | None, at: str, problems: Problems, column: str | None
) -> Quality:
    """Return the combined checks of the element at path `at`.

    `column` is the element's name if it is a top-level column, else None. Adds a problem for each
    check that needs more than one record or another engine.
    """
    quality = Quality()
    for i, check in enumerate(checks or ()):
        here = f"{at}.quality[{i}]"
        kind = check.type or ("library" if check.metric or check.rule else "text")
        if kind in _READ and not _check_keys(check, kind, here, problems):
            continue
        if kind == "custom":
            _custom(check, here, problems, quality)
        elif kind == "library":
            _library(check, here, problems, quality, column)
        elif kind == "sql":
            problems.add(
                f"{here}.type",
                "SQL queries over the whole table are not run on records",
                action=f"write it as an expression over one row: {_CUSTOM}",
            )
        elif kind != "text":
            action = suggestion(kind, ("text", "library", "sql", "custom"))
            problems.add(f"{here}.type", f"unknown type {kind!r}", action=action)
    return quality


def _check_keys(check: DataQuality, kind: str, here: str, problems: Problems) -> bool:
    """Return whether the platform reads all keys of a check; add a problem for each other key."""
    known = len(problems.found)
    if kind != "text" and check.severity not in (None, "error"):
        problems.add(
            f"{here}.severity",
            f"{check.severity!r} is not supported: a record that breaks a rule is quarantined",
            action="use `severity: error`, or make it a dbt test",
        )
    for key in sorted(set().union(*_READ.values(), {"query"}) - _READ[kind]):
        if getattr(check, key) is None:
            continue
        if kind == "custom" and key in _OPERATORS:
            problem = "a row rule is true or false by itself"
            action = "remove it; put the comparison into `implementation`"
        else:
            problem = f"is not read from a check of type {kind}"
            others = [f"`type: {other}`" for other, keys in _READ.items() if key in keys]
            action = " or ".join(["remove it", *(f"use {each}" for each in others)])
        problems.add(f"{here}.{key}", problem, action=action)
    return len(problems.found) == known


def _custom(check: DataQuality, here: str, problems: Problems, quality: Quality) -> None:
    if check.engine != ENGINE:
        problem = f"engine {check.engine!r} is not run by the platform"
        problems.add(f"{here}.engine", problem, action=f"use {_CUSTOM}")
        return
    if not check.name:
        problems.add(here, "a rule needs a name", action="add `name: ...`, shown with each reason")
    elif not isinstance(check.implementation, str) or not check.implementation.strip():
        problems.add(
            f"{here}.implementation",
            "is not a SQL expression",
            action='for example `implementation: "amount > 0"`',
        )
    else:
        rule = Rule(check.name, check.implementation.strip(), (check.description or "").strip())
        quality.rules.append((f"{here} ({check.name})", rule))


def _library(
    check: DataQuality, here: str, problems: Problems, quality: Quality, column: str | None
) -> None:
    metric = check.metric or check.rule or ""
    if metric in ("duplicateValues", "rowCount"):
        problems.add(
            f"{here}.metric",
            f"{metric} needs more than one record",
            action="make it a dbt test of the silver model, which also removes duplicates",
        )
        return
    if metric not in _ARGUMENTS:
        action = suggestion(metric, _ARGUMENTS)
        problems.add(f"{here}.metric", f"unknown metric {metric!r}", action=action)
        return
    given = [name for name in _OPERATORS if getattr(check, name) is not None]
    if given != ["mustBe"] or check.mustBe != 0 or isinstance(check.mustBe, bool):
        problems.add(
            f"{here}.{given[0] if given else 'mustBe'}",
            f"{metric} is decided per record, so only `mustBe: 0` is supported",
            action="use `mustBe: 0`; a tolerated share goes to slaProperties `quarantineShare`",
        )
    arguments = _ARGUMENTS[metric]
    for name in sorted(set(check.arguments or {}) - arguments):
        action = suggestion(name, arguments)
        problems.add(f"{here}.arguments.{name}", "unknown argument", action=action)
    if metric == "nullValues":
        quality.required = True
    elif metric == "missingValues":
        _missing(check, here, problems, quality, column)
    else:
        _invalid(check, here, problems, quality)


def _missing(
    check: DataQuality, here: str, problems: Problems, quality: Quality, column: str | None
) -> None:
    values = (check.arguments or {}).get("missingValues", [None])
    if not isinstance(values, list):
        problems.add(
            f"{here}.arguments.missingValues", "is not a list", action="for example [null, '']"
        )
        return
    quality.required |= None in values
    texts = [value for value in values if value is not None]
    if not texts:
        return
    if column is None or not all(isinstance(value, str) for value in texts):
        problems.add(
            f"{here}.arguments.missingValues",
            "values other than null are supported for strings at the top level only",
            action="use logicalTypeOptions `minLength`, `pattern` or `minimum`",
        )
        return
    words = ", ".join("'" + value.replace("'", "''") + "'" for value in texts)
    rule = Rule(f"{column}_not_missing", f'"{column}" NOT IN ({words})', check.description or "")
    quality.rules.append((here, rule))


def _invalid(check: DataQuality, here: str, problems: Problems, quality: Quality) -> None:
    arguments = check.arguments or {}
    values, pattern = arguments.get("validValues"), arguments.get("pattern")
    if isinstance(values, list) and any(value is not None for value in values):
        quality.allowed = [value for value in values if value is not None]
    elif values is not None or not isinstance(pattern, str):
        problems.add(
            f"{here}.arguments",
            "invalidValues needs a list of values or a pattern",
            action="add `validValues: [...]` or `pattern: ...`",
        )
    if isinstance(pattern, str):
        quality.pattern = pattern
