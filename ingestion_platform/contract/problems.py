"""Collecting what is wrong with a contract file, so that its author sees all of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from ingestion_platform.errors import ContractError, PlatformError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend: where (path of the element in the file), what, and how."""

    element: str
    problem: str
    action: str


class ContractProblems(ContractError):
    """Everything that was found wrong in one contract file; `problems` has at least one item."""

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
    """The problems of one file so far."""

    file: str
    found: list[Problem] = field(default_factory=list)

    def add(self, element: str, problem: str, *, action: str) -> None:
        """Note a problem; reading goes on."""
        self.found.append(Problem(element, problem, action))

    def raise_if_any(self) -> None:
        """Stop here when something was noted.

        Raises:
            ContractProblems: with all that was noted.
        """
        if self.found:
            raise ContractProblems(self.file, self.found)


def suggestion(wrong: str, valid: Iterable[str]) -> str:
    """The next action for a misspelled name: the nearest valid one, or all there are."""
    names = sorted(valid)
    lowered = {name.lower(): name for name in names}
    near = get_close_matches(wrong.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{lowered[near[0]]}`?"
    return f"use one of: {', '.join(names)}" if names else "remove it"
