"""Collect the problems of a contract file, so that its author sees all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from ingestion_platform.errors import ContractError, PlatformError


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: where (path of the element in the file), what, and how to fix it."""

    element: str
    problem: str
    action: str


class ContractProblems(ContractError):
    """All problems of one contract file; `problems` is not empty."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        first = problems[0]
        if len(problems) == 1:
            super().__init__(file, first.element, first.problem, action=first.action)
        else:
            lines = [f"{p.element}: {p.problem}\n    -> {p.action}" for p in problems]
            message = "\n  ".join([f"{file}: {len(problems)} problems", *lines])
            PlatformError.__init__(self, message)
            self.file, self.element = file, first.element
        self.problems = tuple(problems)


@dataclass
class Problems:
    """The problems found in one file so far."""

    file: str
    found: list[Problem] = field(default_factory=list)

    def add(self, element: str, problem: str, *, action: str) -> None:
        """Add a problem without stopping."""
        self.found.append(Problem(element, problem, action))

    def raise_if_any(self) -> None:
        """Raise an error if any problem was added.

        Raises:
            ContractProblems: with all problems that were added.
        """
        if self.found:
            raise ContractProblems(self.file, self.found)


def suggestion(wrong: str, valid: Iterable[str]) -> str:
    """Return the next action for a misspelled name: use the nearest valid name, or one of all."""
    names = sorted(valid)
    lowered = {name.lower(): name for name in names}
    near = get_close_matches(wrong.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{lowered[near[0]]}`?"
    return f"use one of: {', '.join(names)}" if names else "remove it"
