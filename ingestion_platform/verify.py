"""Reconciliation: is every record of the lake in bronze or quarantine, once, and as the contract
says? Nothing is mended here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.load import Judge
from ingestion_platform.contract import columns as c
from ingestion_platform.lake.chain import Chain, Link
from ingestion_platform.pipeline import Platform
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_ledgers
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.ledger import Ledger, Span
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table

SHOWN = 20
# Made anew by each load, or by whichever call placed the record: no part of its content.
_VOLATILE = {c.INGESTED_AT, c.WINDOW, c.ORIGIN}


@dataclass(frozen=True, slots=True)
class Verification:
    """What the reconciliation of a stream found.

    `expected` counts the lake's records up to bronze's position, `gaps` the offsets without one;
    `missing` records are in neither table, `duplicated` ones more than once, `mismatched` ones
    in the wrong table or with other content, or in a table and not in the lake. Records judged
    by an earlier contract are counted in `stale`, and compared only by their place.
    """

    stream: str
    expected: int
    bronze: int
    quarantined: int
    gaps: int
    missing: int
    duplicated: int
    mismatched: int
    stale: int
    differences: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, duplicated or mismatched."""
        return not (self.missing or self.duplicated or self.mismatched)

    def as_dict(self) -> dict[str, Any]:
        """The verification as plain data, for JSON."""
        return {"stream": self.stream, "ok": self.ok, **asdict(self)}


@dataclass(frozen=True, slots=True)
class SliceCount:
    """A slice by numbers: the lake's records and gaps, and what the tables have of them.

    `loaded` says whether bronze has come to the slice's end, `stale` whether another contract
    judged part of it.
    """

    records: int
    gaps: int
    bronze: int
    quarantined: int
    loaded: bool
    stale: bool

    @property
    def ok(self) -> bool:
        """Whether every record is in one of the tables."""
        return self.records == self.bronze + self.quarantined


def verify_stream(
    platform: Platform, stream: Stream, *, on_progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare the whole lake of a stream with its tables, by position and by value.

    `on_progress` gets the number of records compared so far.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
        ChainBroken: the lake itself lacks files.
    """
    tally = _Tally()
    bronze = load_or_none(platform.catalog, stream.bronze_table)
    quarantine = load_or_none(platform.catalog, stream.quarantine_table)
    datasets = [None if t is None else TableDataset(t) for t in (bronze, quarantine)]
    judge = Judge(stream.contract)
    chain = Chain(platform.store, stream.topic)
    ledgers = {} if bronze is None else read_ledgers(bronze)
    for partition in _partitions(chain):
        ledger = ledgers.get(partition, Ledger())
        for link, span in _due(chain.after(partition, None), ledger.position):
            records = judge.read(platform.store, link)
            records = _between(records, "offset", span.start, span.end)
            found = [_rows(table, partition, span) for table in datasets]
            expected = judge.rows(link, records)
            stale = any(
                s.contract != judge.version
                for s in ledger.of(span.generation, span.start, span.end)
            )
            tally.gaps += span.end - span.start - records.num_rows
            tally.compare(link, expected, (found[0], found[1]), stale=stale)
            if on_progress is not None:
                on_progress(tally.expected)
    for table, counted in ((bronze, tally.bronze), (quarantine, tally.quarantined)):
        tally.surplus(table, counted)
    return tally.result(stream.name)


def slice_counts(
    platform: Platform, stream: Stream, slices: Iterable[tuple[date, int]]
) -> dict[tuple[date, int], SliceCount]:
    """Count some slices, without looking at values: one read of two columns per table.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    wanted = list(slices)
    bronze = load_or_none(platform.catalog, stream.bronze_table)
    quarantine = load_or_none(platform.catalog, stream.quarantine_table)
    windows = [window for window, _ in wanted]
    counts = [_by_slice(table, windows) for table in (bronze, quarantine)]
    ledgers = {} if bronze is None else read_ledgers(bronze)
    version = Judge(stream.contract).version
    chain = Chain(platform.store, stream.topic)
    found = {}
    for window, partition in wanted:
        links = chain.slice(window, partition)
        ledger = ledgers.get(partition, Ledger())
        parts = [s for link in links for s in ledger.of(link.generation, link.gap_start, link.end)]
        found[window, partition] = SliceCount(
            records=sum(link.rows for link in links),
            gaps=sum(link.gaps for link in links),
            bronze=counts[0].get((window, partition), 0),
            quarantined=counts[1].get((window, partition), 0),
            loaded=all(_covers(ledger, link) for link in links),
            stale=any(part.contract != version for part in parts),
        )
    return found


def _partitions(chain: Chain) -> list[int]:
    return sorted({p for window in chain.windows() for p in chain.names(window)})


def _once(links: list[Link]) -> Iterator[tuple[Link, int]]:
    """Each link with the offset from which on no link ahead of it has the records."""
    generation, end = "", 0
    for link in links:
        start = max(link.gap_start, end) if link.generation == generation else link.gap_start
        if start < link.end:
            yield link, start
            generation, end = link.generation, link.end


def _due(links: list[Link], position: tuple[str, int] | None) -> Iterator[tuple[Link, Span]]:
    """The parts of links that a table at a position must have: all that lies before it."""
    order = list(dict.fromkeys(link.generation for link in links))
    if position is None or position[0] not in order:
        return
    present = order.index(position[0])
    for link, start in _once(links):
        at = order.index(link.generation)
        end = min(link.end, position[1]) if at == present else link.end
        if at <= present and start < end:
            yield link, Span(link.generation, start, end, "")


def _covers(ledger: Ledger, link: Link) -> bool:
    """Whether all of a link was loaded, by whichever contract."""
    parts = ledger.of(link.generation, link.start, link.end)
    return sum(part.end - part.start for part in parts) == link.end - link.start


def _between(table: pa.Table, column: str, start: int, end: int) -> pa.Table:
    values = table[column]
    return table.filter(pc.and_(pc.greater_equal(values, start), pc.less(values, end)))


def _rows(table: TableDataset | None, partition: int, span: Span) -> pa.Table | None:
    """The rows of a span, in the order of their offsets."""
    if table is None:
        return None
    rows = (
        (pc.field(c.PARTITION) == partition)
        & (pc.field(c.GENERATION) == span.generation)
        & (pc.field(c.OFFSET) >= span.start)
        & (pc.field(c.OFFSET) < span.end)
    )
    with answering():
        return table.scanner(filter=rows).to_table().sort_by(c.OFFSET)


def _by_slice(table: Table | None, windows: list[date]) -> dict[tuple[date, int], int]:
    from pyiceberg.expressions import And, GreaterThanOrEqual, LessThanOrEqual

    if table is None or not windows:
        return {}
    condition = And(
        GreaterThanOrEqual(c.WINDOW, min(windows).isoformat()),
        LessThanOrEqual(c.WINDOW, max(windows).isoformat()),
    )
    fields = (c.WINDOW, c.PARTITION)
    with answering():
        rows = table.scan(row_filter=condition, selected_fields=fields).to_arrow()
    groups = rows.group_by([c.WINDOW, c.PARTITION]).aggregate([([], "count_all")]).to_pylist()
    return {(g[c.WINDOW], g[c.PARTITION]): g["count_all"] for g in groups}


@dataclass
class _Tally:
    """Adds up what is found, file by file."""

    expected: int = 0
    bronze: int = 0
    quarantined: int = 0
    gaps: int = 0
    missing: int = 0
    duplicated: int = 0
    mismatched: int = 0
    stale: int = 0
    differences: list[str] = field(default_factory=list)

    def compare(
        self,
        link: Link,
        expected: tuple[pa.Table, pa.Table],
        found: tuple[pa.Table | None, pa.Table | None],
        *,
        stale: bool,
    ) -> None:
        """Compare what the tables have of a file with what the contract makes of it."""
        present = [
            rows.slice(0, 0) if table is None else table
            for table, rows in zip(found, expected, strict=True)
        ]
        self.bronze += present[0].num_rows
        self.quarantined += present[1].num_rows
        every = _offsets(*expected)
        here = _offsets(*present)
        self.expected += len(every)
        unique, counts = np.unique(here, return_counts=True)
        self._note("missing", link, np.setdiff1d(every, unique))
        self._note("duplicated", link, unique[counts > 1])
        self._note("mismatched", link, np.setdiff1d(unique, every))
        if stale:
            self.stale += len(every)
            return
        both = np.intersect1d(every, unique[counts == 1])
        for wanted, got in zip(expected, present, strict=True):
            self._note("mismatched", link, np.intersect1d(_different(wanted, got), both))

    def surplus(self, table: Table | None, counted: int) -> None:
        """Rows of the log that a table has beyond those that the lake accounts for."""
        from pyiceberg.expressions import NotNull

        if table is None:
            return
        with answering():
            rows = table.scan(row_filter=NotNull(c.OFFSET), selected_fields=(c.OFFSET,)).to_arrow()
        beyond = rows.num_rows - counted
        if beyond > 0:
            self.mismatched += beyond
            name = ".".join(table.name())
            self.differences.append(f"mismatched: {beyond} rows of {name} are not in the lake")

    def _note(self, what: str, link: Link, offsets: np.ndarray) -> None:
        setattr(self, what, getattr(self, what) + len(offsets))
        for offset in offsets[: max(0, SHOWN - len(self.differences))]:
            place = f"partition {link.name.partition}, offset {offset}"
            self.differences.append(f"{what}: {place} ({link.name.path})")

    def result(self, stream: str) -> Verification:
        """What was found."""
        return Verification(
            stream,
            self.expected,
            self.bronze,
            self.quarantined,
            self.gaps,
            self.missing,
            self.duplicated,
            self.mismatched,
            self.stale,
            tuple(self.differences),
        )


def _offsets(*tables: pa.Table) -> np.ndarray:
    return np.concatenate([table[c.OFFSET].to_numpy() for table in tables])


def _different(wanted: pa.Table, got: pa.Table) -> np.ndarray:
    """The offsets at which two tables, sorted by offset, do not have the same rows."""
    names = [name for name in wanted.schema.names if name not in _VOLATILE]
    wanted = wanted.select(names).sort_by(c.OFFSET).combine_chunks()
    got = got.select(names).cast(wanted.schema).combine_chunks()
    if wanted.equals(got):
        return np.array([], np.int64)
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    connection.register("wanted", wanted)
    connection.register("got", got)
    query = f"""
        SELECT coalesce(w.{c.OFFSET}, g.{c.OFFSET}) AS place
        FROM wanted w FULL JOIN got g ON w.{c.OFFSET} = g.{c.OFFSET}
        WHERE w IS DISTINCT FROM g"""
    places: np.ndarray = connection.execute(query).to_arrow_table()["place"].to_numpy()
    return places
