"""How the commands speak: tables for people, JSON for machines, progress and errors on stderr.

Nothing a command says in an error goes out with the value of a secret setting in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ingestion_platform.errors import PlatformError
from ingestion_platform.escaping import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

# A table in a pipe is never cut to fit an ingest date that is not there.
_UNBOUNDED = 100_000
_CELL = 80  # characters of a value that a table shows
_MARKS = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]"}


@dataclass
class Terminal:
    """Standard output and error of one command; the object of the typer context."""

    quiet: bool = False
    """No progress and no remarks; results and errors only."""
    debug: bool = False
    """Unexpected errors with their traceback."""

    @cached_property
    def out(self) -> Console:
        """Where results go."""
        return _console(stderr=False)

    @cached_property
    def err(self) -> Console:
        """Where everything else goes."""
        return _console(stderr=True)

    def json(self, value: Any) -> None:
        """Print a result for machines; the only thing on standard output then."""
        sys.stdout.write(visible_json(value, indent=2, default=plain) + "\n")

    def table(self, table: Table) -> None:
        """Print a result for people."""
        self.out.print(table)

    def say(self, text: str) -> None:
        """Remark on what happens, on stderr; not when quiet. `text` may have rich's markup."""
        if not self.quiet:
            self.err.print(text, highlight=False, soft_wrap=True)

    def error(self, error: PlatformError | str) -> None:
        """Tell an error and its next action, without the values of secrets."""
        message, action = (error, "") if isinstance(error, str) else (error.message, error.action)
        self.err.print(f"[bold red]error:[/] {_told(message)}", soft_wrap=True)
        if action:
            self.err.print(f"  [cyan]->[/] {_told(action)}", soft_wrap=True)

    @contextmanager
    def progress(self, *, total: bool = True) -> Iterator[Progress]:
        """A progress display, only where somebody may be looking."""
        from rich import progress as p

        shown = [p.BarColumn(), p.MofNCompleteColumn()] if total else [p.MofNCompleteColumn()]
        columns = (p.SpinnerColumn(), p.TextColumn("{task.description}"), *shown)
        off = self.quiet or not self.err.is_terminal
        with p.Progress(
            *columns, p.TimeElapsedColumn(), console=self.err, disable=off, transient=True
        ) as progress:
            yield progress


def _console(*, stderr: bool) -> Console:
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        """Escapes controls in whatever is printed, also where `literal` was forgotten."""

        def render(self, *given: Any, **named: Any) -> Iterator[Segment]:
            for segment in super().render(*given, **named):
                if segment.control:
                    yield segment
                else:
                    yield Segment(visible(segment.text, lines=True), segment.style)

    console = SafeConsole(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def new_table(title: str, columns: Iterable[str], *, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns of `numbers` are set to the right."""
    from rich import box
    from rich.table import Table

    right = set(numbers)
    table = Table(
        title=title or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        pad_edge=False,
    )
    for column in columns:
        table.add_column(literal(column), justify="right" if column in right else "left")
    return table


def rows_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table of a query's result; long values are cut, which JSON never does."""
    rows = list(rows)
    numbers = {n for i, n in enumerate(names) if rows and isinstance(rows[0][i], (int, float))}
    table = new_table("", names, numbers=numbers)
    for row in rows:
        table.add_row(*("[dim]null[/]" if v is None else literal(shortened(v, _CELL)) for v in row))
    return table


def mark(status: str) -> str:
    """A status (ok, warn, fail) in its colour."""
    return _MARKS[status]


def count(number: int | None) -> str:
    """A number of records, readable; a dash for None."""
    return "-" if number is None else f"{number:,}"


def literal(value: str, *, lines: bool = False) -> str:
    """Return text from outside for a message: markup and controls in it are shown, not obeyed.

    `lines` keeps line feeds, for text that is set out in lines.
    """
    from rich.markup import escape

    return escape(visible(value, lines=lines))


def shortened(value: Any, length: int) -> str:
    """A value as text of at most `length` characters."""
    shown = text(value)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def plain(value: Any) -> Any:
    """A value of a table as JSON has it; what JSON lacks becomes text."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    return str(value)


def text(value: Any) -> str:
    """A value of a table as a cell shows it."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, default=plain, ensure_ascii=False)
    return value if isinstance(value, str) else str(plain(value))


def _told(message: str) -> str:
    # Engines and contracts tell in several lines; none but the first begins at the margin.
    return literal(redacted(message).replace("\n", "\n  "), lines=True)


def redacted(message: str) -> str:
    """A message with the values of secret settings masked, should a library have put them in."""
    from ingestion_platform.errors import SettingError
    from ingestion_platform.logs import masked
    from ingestion_platform.settings import Settings

    try:
        return masked(message, Settings.load().secrets)
    except SettingError:
        return message
