"""Report errors and warnings of contract files, for people and for `make lint`.

Errors are those that loading raises. Warnings are good practice that loading does not require.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ingestion_platform.contract.exact import is_epoch
from ingestion_platform.contract.model import Contract, Field, Kind
from ingestion_platform.contract.odcs import load_contract
from ingestion_platform.contract.problems import ContractProblems
from ingestion_platform.contract.properties import elements
from ingestion_platform.contract.propose import PLACEHOLDER


class Severity(StrEnum):
    """Whether a finding prevents the use of the contract."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: the place, the problem and the next action."""

    file: str
    element: str
    problem: str
    action: str
    severity: Severity


def lint(files: Iterable[Path]) -> list[Finding]:
    """Return the findings of all files in order; errors of a file come before its warnings."""
    findings: list[Finding] = []
    contracts: list[Contract] = []
    for file in files:
        try:
            contract = load_contract(file)
        except ContractProblems as error:
            findings += [
                Finding(error.file, p.element, p.problem, p.action, Severity.ERROR)
                for p in error.problems
            ]
            continue
        findings += _shared(contract, contracts)
        findings += [
            Finding(contract.file, element, problem, action, Severity.WARNING)
            for element, problem, action in (*_practice(contract), *_zones(contract))
        ]
        contracts.append(contract)
    return findings


def _shared(contract: Contract, others: Iterable[Contract]) -> Iterator[Finding]:
    names = (("id", "id"), ("stream", "the file's name"), ("table", "schema[0]"))
    for other in others:
        for attribute, element in names:
            value = getattr(contract, attribute)
            if value == getattr(other, attribute):
                yield Finding(
                    contract.file,
                    element,
                    f"the {attribute} {value!r} is also that of {other.file}",
                    f"give one of them a {attribute} of its own",
                    Severity.ERROR,
                )


def _practice(contract: Contract) -> Iterator[tuple[str, str, str]]:
    """Yield element, problem and action for each thing that readers of the contract need."""
    if not contract.description:
        yield "description.purpose", "is missing", "say what the data is for"
    elif contract.description.startswith(PLACEHOLDER):
        yield "description.purpose", "is still a placeholder", "say what the data is for"
    if not contract.owner:
        yield "team", "no owner", "name the team or person to ask"
    if contract.freshness_seconds is None:
        action = "promise `freshness` (value, unit), so that staleness can be noticed"
        yield "slaProperties", "no freshness", action
    if not any(field.required for field in contract.fields):
        yield "schema[0].properties", "nothing is required", "mark what every record has"
    for element, field in elements(contract.fields, "schema[0].properties"):
        is_item = element.endswith(".items")
        if not field.description and not is_item:
            yield element, "no description", "say what the value means"
        elif field.description.startswith(PLACEHOLDER):
            yield element, "the description is still a placeholder", "say what the value means"
        if _wants_example(field) and not is_item:
            yield element, "no example", "add one to `examples`"


def _zones(contract: Contract) -> Iterator[tuple[str, str, str]]:
    """Yield element, problem and action for each timestamp without a declared default zone.

    Its times without a zone are silently read as UTC.
    """
    for element, field in elements(contract.fields, "schema[0].properties"):
        sent = field.kind is Kind.TIMESTAMP and field.derived is None and not is_epoch(field)
        if sent and not field.zone_declared:
            problem = "a time without a zone is read as UTC, by default"
            action = "say so: `logicalTypeOptions: {defaultTimezone: UTC}`, a named zone, or none"
            yield element, problem, action


def _wants_example(field: Field) -> bool:
    obvious = field.kind in (Kind.BOOLEAN, Kind.OBJECT) or field.allowed or field.derived
    return not obvious and not field.examples
