"""Output of the commands: tables or JSON on stdout, progress and errors on stderr.

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
    """Print results and errors only."""
    debug: bool = False
    """Print the traceback of unexpected errors."""

    @cached_property
    def out(self) -> Console:
        """The console of results."""
        return _console(stderr=False)

    @cached_property
    def err(self) -> Console:
        """The console of everything else."""
        return _console(stderr=True)

    def json(self, value: Any) -> None:
        """Print a result as JSON, with nothing else on stdout."""
        sys.stdout.write(visible_json(value, indent=2, default=plain) + "\n")

    def table(self, table: Table) -> None:
        """Print a table."""
        self.out.print(table)

    def say(self, text: str) -> None:
        """Print a remark with rich's markup to stderr, unless quiet."""
        if not self.quiet:
            self.err.print(text, highlight=False, soft_wrap=True)

    def error(self, error: PlatformError | str) -> None:
        """Print an error and its next action, with secrets masked."""
        message, action = (error, "") if isinstance(error, str) else (error.message, error.action)
        self.err.print(f"[bold red]error:[/] {_told(message)}", soft_wrap=True)
        if action:
            self.err.print(f"  [cyan]->[/] {_told(action)}", soft_wrap=True)

    @contextmanager
    def progress(self, *, total: bool = True) -> Iterator[Progress]:
        """Return a progress display, visible in a terminal only."""
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
        """Escape control characters in all output, even without `literal`."""

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
    """Return an empty table; the columns of `numbers` are right-aligned."""
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
    """Return a query's result as a table; long values are cut, unlike in JSON."""
    rows = list(rows)
    numbers = {n for i, n in enumerate(names) if rows and isinstance(rows[0][i], (int, float))}
    table = new_table("", names, numbers=numbers)
    for row in rows:
        table.add_row(*("[dim]null[/]" if v is None else literal(shortened(v, _CELL)) for v in row))
    return table


def mark(status: str) -> str:
    """Return a status (ok, warn, fail) in its colour."""
    return _MARKS[status]


def count(number: int | None) -> str:
    """Return a number with thousands separators; a dash for None."""
    return "-" if number is None else f"{number:,}"


def literal(value: str, *, lines: bool = False) -> str:
    """Return foreign text for a message, with markup and control characters escaped.

    `lines` keeps line feeds, for text that is set out in lines.
    """
    from rich.markup import escape

    return escape(visible(value, lines=lines))


def shortened(value: Any, length: int) -> str:
    """Return a value as text of at most `length` characters."""
    shown = text(value)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def plain(value: Any) -> Any:
    """Return a value for JSON; other types become text."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    return str(value)


def text(value: Any) -> str:
    """Return a value as the text of a cell."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, default=plain, ensure_ascii=False)
    return value if isinstance(value, str) else str(plain(value))


def _told(message: str) -> str:
    # Engines and contracts tell in several lines; none but the first begins at the margin.
    return literal(redacted(message).replace("\n", "\n  "), lines=True)


def redacted(message: str) -> str:
    """Return a message with the values of secret settings masked."""
    from ingestion_platform.errors import SettingError
    from ingestion_platform.logs import masked
    from ingestion_platform.settings import Settings

    try:
        return masked(message, Settings.load().secrets)
    except SettingError:
        return message
