"""Land and load a stream, as the command line, the worker and the assets do it: one function each.

Conflicts with other writers are met by starting again from the positions, which the data keep.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from ingestion_platform.bronze.load import Item, Loaded, Loader
from ingestion_platform.errors import PositionMoved, Transient
from ingestion_platform.lake.chain import Chain
from ingestion_platform.lake.land import Landed, land
from ingestion_platform.lake.store import Store, open_store
from ingestion_platform.settings import Settings
from ingestion_platform.sources.kafka import Log, Moved
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import open_catalog

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

ATTEMPTS = 30


@dataclass
class Platform:
    """The stores that settings name, opened when first used."""

    settings: Settings

    @cached_property
    def store(self) -> Store:
        """The lake's object store."""
        return open_store(self.settings)

    @cached_property
    def catalog(self) -> Catalog:
        """The Iceberg catalog."""
        return open_catalog(self.settings)

    @contextmanager
    def log(self, stream: Stream) -> Iterator[Log]:
        """The stream's topic, opened for reading."""
        with Log(self.settings, stream.topic, stream.group_id) as log:
            yield log


@dataclass
class Outcome:
    """What a call landed and loaded."""

    landed: list[Landed] = field(default_factory=list)
    loaded: list[Loaded] = field(default_factory=list)


def land_stream(
    platform: Platform,
    stream: Stream,
    *,
    partitions: Iterable[int] | None = None,
    last: date | None = None,
    on_landed: Callable[[Landed], None] = lambda _: None,
) -> int:
    """Copy what the log has and the lake has not; gives the number of records.

    Raises:
        Transient: the log or the store does not answer, or other writers keep being quicker.
        Permanent: as `land`.
    """
    chosen = None if partitions is None else list(partitions)
    rows = 0

    def attempt() -> None:
        nonlocal rows
        with platform.log(stream) as log:
            for landed in land(log, platform.store, partitions=chosen, last=last):
                rows += landed.link.rows
                on_landed(landed)

    _persist(attempt)
    return rows


def load_stream(
    platform: Platform,
    stream: Stream,
    *,
    partitions: Iterable[int],
    windows: Iterable[date] = (),
    last: date | None = None,
    on_loaded: Callable[[Loaded], None] = lambda _: None,
) -> None:
    """Make bronze and quarantine equal to the lake under the present contract.

    New files up to window `last` are appended for `partitions`; of those already loaded, the
    slices of `windows` are replaced where another contract judged them.

    Raises:
        Transient, Permanent: as `Loader.load`.
    """
    chosen, days = list(partitions), list(windows)

    def attempt() -> None:
        loader = Loader(platform.catalog, platform.store, stream)
        chain = Chain(platform.store, stream.topic)
        slices = [(day, p) for p in chosen for day in days]
        for loaded in loader.load(loader.stale(chain, slices)):
            on_loaded(loaded)
        for loaded in loader.load(loader.behind(chain, chosen, last=last)):
            on_loaded(loaded)

    _persist(attempt)


def run_stream(
    platform: Platform,
    stream: Stream,
    *,
    on_landed: Callable[[Landed], None] = lambda _: None,
    on_loaded: Callable[[Loaded], None] = lambda _: None,
) -> None:
    """Land and load once, up to the end of the log as it is now.

    What is landed goes on to be loaded without being read back.

    Raises:
        Transient, Permanent: as `land` and `Loader.load`.
    """

    def attempt() -> None:
        loader = Loader(platform.catalog, platform.store, stream)
        with platform.log(stream) as log:
            for loaded in loader.load(_fresh(platform, stream, log, loader, on_landed)):
                on_loaded(loaded)
            commit_group(log, loader)

    _persist(attempt)


def _fresh(
    platform: Platform,
    stream: Stream,
    log: Log,
    loader: Loader,
    on_landed: Callable[[Landed], None],
) -> Iterator[Item]:
    """What the lake has and bronze lacks, then what is landed now."""
    topic = log.topic()
    yield from loader.behind(Chain(platform.store, stream.topic), topic.partitions)
    for landed in land(log, platform.store):
        on_landed(landed)
        yield Item(landed.link, landed.table)


def commit_group(log: Log, loader: Loader) -> None:
    """Commit the group's offsets after the data, so that ordinary lag tools see the truth."""
    topic = log.topic()
    at = {p: loader.position(p) for p in topic.partitions}
    log.commit({p: pos[1] for p, pos in at.items() if pos and pos[0] == topic.generation})


def _persist(attempt: Callable[[], None]) -> None:
    """Start again when another writer, or the log itself, moved underneath.

    Whoever loses waits, longer each time, so that the one ahead stays ahead.
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            attempt()
        except (PositionMoved, Moved) as moved:
            if number == ATTEMPTS:
                raise Transient(
                    f"gave up after {ATTEMPTS} attempts: {moved.message}",
                    action="see which other runs are at work on this stream",
                ) from moved
            time.sleep(random.uniform(0.05, min(2.0, 0.1 * 2**number)))
        else:
            return
