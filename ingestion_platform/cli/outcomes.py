"""Report the results and errors of several streams, and set the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from ingestion_platform.cli.terminal import redacted
from ingestion_platform.errors import (
    ContractError,
    PlatformError,
    SettingError,
    Unexpected,
    UnknownStream,
)

if TYPE_CHECKING:
    from ingestion_platform.cli.terminal import Terminal
    from ingestion_platform.each import Attempt

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
_MISUSE = (ContractError, SettingError, UnknownStream)


def exit_code(errors: Sequence[PlatformError]) -> int:
    """Return the exit code for errors: 2 if each is an error of usage."""
    return WRONG_USE if all(isinstance(error, _MISUSE) for error in errors) else FAILED


def error_dict(error: PlatformError | None) -> dict[str, str] | None:
    """Return an error as plain data, for JSON, with secrets masked; None without an error."""
    if error is None:
        return None
    found = {"code": error.code, "message": error.message, "action": error.action}
    return {name: redacted(text) for name, text in found.items()}


def finish(terminal: Terminal, attempts: Sequence[Attempt[Any, Any]]) -> None:
    """Report the errors of attempts, equal ones once, and end the command.

    Raises:
        typer.Exit: at least one attempt has an error.
    """
    failed = [(each.item.name, each.error) for each in attempts if each.error is not None]
    if not failed:
        return
    names: dict[tuple[str, str], list[str]] = {}
    for name, error in failed:
        if terminal.debug and isinstance(error, Unexpected) and error.__cause__ is not None:
            raise error.__cause__
        names.setdefault((error.message, error.action), []).append(name)
    for (message, action), of in names.items():
        prefix = f"{', '.join(of)}: " if len(attempts) > 1 else ""
        terminal.error(PlatformError(f"{prefix}{message}", action=action))
    every = len(failed) == len(attempts)
    raise typer.Exit(exit_code([error for _, error in failed]) if every else FAILED)
