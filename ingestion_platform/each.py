"""Call a function for several streams (or deliveries), with a result or an error for each.

All code that covers several streams uses this module, so that the error of one stream does not hide
the results of the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from ingestion_platform.errors import PlatformError, Unexpected

LOG = logging.getLogger("ingestion_platform.each")


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Attempt(Generic[Item, Result]):
    """The outcome of one item: a result in `found`, or an error."""

    item: Item
    found: Result | None
    error: PlatformError | None = None

    @property
    def result(self) -> Result:
        """The result.

        Raises:
            PlatformError: the item's error.
        """
        if self.error is not None:
            raise self.error
        return cast(Result, self.found)


def attempt(call: Callable[[Item], Result], item: Item) -> Attempt[Item, Result]:
    """Call for one item; return exceptions as errors of the attempt."""
    try:
        return Attempt(item, call(item))
    except Exception as error:
        if not isinstance(error, PlatformError):
            LOG.debug("unexpected error of %s", getattr(item, "name", item), exc_info=error)
        return Attempt(item, None, as_platform_error(error))


def for_each(
    call: Callable[[Item], Result], items: Iterable[Item], *, at_once: int = 1
) -> Iterator[Attempt[Item, Result]]:
    """Call for every item, `at_once` at a time; yield attempts in the order of the items."""
    if at_once == 1:
        yield from (attempt(call, item) for item in items)
        return
    with ThreadPoolExecutor(at_once, thread_name_prefix="each") as pool:
        yield from pool.map(lambda item: attempt(call, item), items)


def results(attempts: Iterable[Attempt[Any, Result]]) -> list[Result]:
    """Return the results of the attempts without an error."""
    return [each.result for each in attempts if each.error is None]


def as_platform_error(error: Exception) -> PlatformError:
    """Return a PlatformError as it is; wrap any other error in Unexpected, as its cause."""
    if isinstance(error, PlatformError):
        return error
    found = Unexpected(
        f"{type(error).__name__}: {error}",
        action="run `ingest --debug ...` for the traceback; please report it",
    )
    found.__cause__ = error
    return found
