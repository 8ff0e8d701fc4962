"""Reconciliation: is every record of the lake in bronze or quarantine, once, and as the contract
says? Nothing is mended here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.bronze.load import Judge
from ingestion_platform.bronze.tokens import as_sent, with_json
from ingestion_platform.contract import columns as c
from ingestion_platform.contract.model import Field
from ingestion_platform.errors import PositionMoved
from ingestion_platform.lake.chain import Chain, Link
from ingestion_platform.lake.land import BYTES, ROWS
from ingestion_platform.lake.records import read
from ingestion_platform.lake.store import Store
from ingestion_platform.pipeline import Platform
from ingestion_platform.progress.positions import Position
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.commit import read_ledgers
from ingestion_platform.warehouse.dataset import TableDataset
from ingestion_platform.warehouse.decisions import discarded_of
from ingestion_platform.warehouse.inserted import count_inserted
from ingestion_platform.warehouse.ledger import Ledger, Span
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table

SHOWN = 20
ATTEMPTS = 10
_NONE = np.array([], np.int64)
# Made anew by each load, or by whichever call placed the record: no part of its content.
_VOLATILE = {c.INGESTED_AT, c.WINDOW, c.ORIGIN}


@dataclass(frozen=True, slots=True)
class Verification:
    """What the reconciliation of a stream found.

    `expected` counts the lake's records up to bronze's position, `gaps` the offsets without one;
    `missing` records are in neither table, `duplicated` ones more than once, `mismatched` ones
    in the wrong table or with other content, or in a table and not in the lake. Records judged
    by an earlier contract are counted in `stale`, and compared only by their place. Rows that
    others inserted into bronze, by SQL for instance, are counted in `inserted` alone.
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
    inserted: int = 0

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

    `decided` of the quarantined records were discarded (see `quarantine`), and stay there.

    `loaded` says whether bronze has come to the slice's end, `stale` whether another contract
    judged part of it.
    """

    records: int
    gaps: int
    bronze: int
    quarantined: int
    loaded: bool
    stale: bool
    decided: int = 0

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
    tally = _Tally(with_json(stream.contract.fields))
    bronze = load_or_none(platform.catalog, stream.bronze_table)
    quarantine = load_or_none(platform.catalog, stream.quarantine_table)
    datasets = [None if t is None else TableDataset(t) for t in (bronze, quarantine)]
    judge = Judge(stream.contract)
    ledgers = {} if bronze is None else read_ledgers(bronze)
    for partition in _partitions(Chain(platform.store, stream.topic)):
        ledger = ledgers.get(partition, Ledger())
        parts = _due_parts(platform.store, stream.topic, partition, ledger, judge.version)
        for batch in _batches(parts):
            expected = judge.rows(batch[0].link, pa.concat_tables(p.records for p in batch))
            found = [_rows(table, partition, _whole(batch)) for table in datasets]
            tally.compare(batch, expected, (found[0], found[1]))
            if on_progress is not None:
                on_progress(tally.expected)
    for table, counted in ((bronze, tally.bronze), (quarantine, tally.quarantined)):
        tally.surplus(table, counted)
    tally.inserted = count_inserted(bronze)
    return tally.result(stream.name)


def slice_counts(
    platform: Platform, stream: Stream, slices: Iterable[tuple[date, int]]
) -> dict[tuple[date, int], SliceCount]:
    """Count some slices, without looking at values: one read of two columns per table.

    Raises:
        StoreUnavailable, CatalogUnavailable: one of them does not answer.
    """
    wanted = list(slices)
    tables = [
        load_or_none(platform.catalog, name)
        for name in (stream.bronze_table, stream.quarantine_table)
    ]
    windows = [window for window, _ in wanted]
    counts = [_by_slice(table, windows) for table in tables]
    ledgers = {} if tables[0] is None else read_ledgers(tables[0])
    version = Judge(stream.contract).version
    chain = Chain(platform.store, stream.topic)
    found = {}
    for window, partition in wanted:
        ledger = ledgers.get(partition, Ledger())
        rows = [count.get((window, partition), 0) for count in counts]
        links = chain.slice(window, partition)
        count = _slice_count(platform.store, links, rows, ledger, version)
        if count.loaded and not count.ok:
            # Before the alarm: writers' clocks may differ, and merging may be under way.
            now = Chain(platform.store, stream.topic)
            rows = [_in_slice(table, now, window, partition) for table in tables]
            links = now.slice(window, partition)
            count = _slice_count(platform.store, links, rows, ledger, version)
        found[window, partition] = count
    decided = discarded_of(platform.catalog, stream.name, stream.quarantine_table, windows=windows)
    return {of: replace(count, decided=decided[of]) for of, count in found.items()}


def _slice_count(
    store: Store, links: list[Link], rows: list[int], ledger: Ledger, version: str
) -> SliceCount:
    """What there is of a slice of these links, with `rows` of it in the two tables."""
    once = [(link, start, _records_from(store, link, start)) for link, start in _once(links)]
    parts = [s for link in links for s in ledger.of(link.generation, link.gap_start, link.end)]
    return SliceCount(
        records=sum(records for _, _, records in once),
        gaps=sum(link.end - start - records for link, start, records in once),
        bronze=rows[0],
        quarantined=rows[1],
        loaded=all(_covers(ledger, link) for link in links),
        stale=any(part.contract != version for part in parts),
    )


def _records_from(store: Store, link: Link, start: int) -> int:
    """How many records a file has from an offset on."""
    if start <= link.start:
        return link.rows
    return int(pc.sum(pc.greater_equal(read(store, link)["offset"], start)).as_py() or 0)


def _in_slice(table: Table | None, chain: Chain, window: date, partition: int) -> int:
    """How many rows a table has of a slice, by offset: those of its files' offsets, whichever
    window they were loaded for, and those of its window that are of no file at all.

    Records that stand in two windows count in both, as they do among the lake's records.
    """
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan, Or

    if table is None:
        return 0
    own = _ranges(chain.slice(window, partition))
    others = _ranges(
        [k for day in chain.windows() if day != window for k in chain.slice(day, partition)]
    )
    near = And(
        GreaterThanOrEqual(c.OFFSET, min((span.start for span in own), default=0)),
        LessThan(c.OFFSET, max((span.end for span in own), default=0)),
    )
    condition = And(
        EqualTo(c.PARTITION, partition), Or(EqualTo(c.WINDOW, window.isoformat()), near)
    )
    fields = (c.WINDOW, c.GENERATION, c.OFFSET)
    with answering():
        rows = table.scan(row_filter=condition, selected_fields=fields).to_arrow()
    mine = _within(rows, own)
    strangers = (rows[c.WINDOW].to_numpy() == np.datetime64(window)) & ~_within(rows, others)
    return int(np.count_nonzero(mine | strangers))


def _ranges(links: list[Link]) -> list[Span]:
    """The offsets of links in order, as few spans as there are."""
    spans: list[Span] = []
    for link in links:
        last = spans[-1] if spans else None
        if last and last.generation == link.generation and link.gap_start <= last.end:
            spans[-1] = Span(last.generation, last.start, max(last.end, link.end), "")
        else:
            spans.append(Span(link.generation, link.gap_start, link.end, ""))
    return spans


def _within(rows: pa.Table, spans: list[Span]) -> np.ndarray:
    """Which rows are of one of the spans."""
    generations, offsets = rows[c.GENERATION].to_numpy(), rows[c.OFFSET].to_numpy()
    found = np.zeros(rows.num_rows, bool)
    for s in spans:
        found |= (generations == s.generation) & (offsets >= s.start) & (offsets < s.end)
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """What the tables must have of a file: its records in a span; `stale` says that another
    contract judged some of them."""

    link: Link
    span: Span
    records: pa.Table
    stale: bool


def _due_parts(
    store: Store, topic: str, partition: int, ledger: Ledger, version: str
) -> Iterator[_Part]:
    """All that bronze must have of a log partition, in order, once."""
    at: Position | None = None
    tries = 0
    while True:
        try:
            links = Chain(store, topic).after(partition, at)
            for link, span in _due(links, ledger.position, at):
                records = _between(read(store, link), "offset", span.start, span.end)
                parts = ledger.of(span.generation, span.start, span.end)
                yield _Part(link, span, records, any(p.contract != version for p in parts))
                at, tries = Position(span.generation, span.end), 0
        except PositionMoved:  # files are being merged
            tries += 1
            if tries == ATTEMPTS:
                raise
        else:
            return


def _batches(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Neighbouring parts together, so that many small files cost few scans of the tables."""
    batch: list[_Part] = []
    rows = size = 0
    for part in parts:
        rows, size = rows + part.records.num_rows, size + part.records.nbytes
        if batch and (rows > ROWS or size > BYTES or not _alike(batch[-1], part)):
            yield batch
            batch, rows, size = [], part.records.num_rows, part.records.nbytes
        batch.append(part)
    if batch:
        yield batch


def _alike(part: _Part, following: _Part) -> bool:
    """Whether two parts can be judged and compared as one."""
    kinds = [(p.span.generation, p.stale, _encoding(p.link)) for p in (part, following)]
    return kinds[0] == kinds[1] and part.span.end == following.span.start


def _encoding(link: Link) -> str | None:
    return None if link.file is None else link.file.encoding


def _whole(batch: list[_Part]) -> Span:
    first, last = batch[0].span, batch[-1].span
    return Span(first.generation, first.start, last.end, "")


def _partitions(chain: Chain) -> list[int]:
    return sorted({p for window in chain.windows() for p in chain.names(window)})


def _once(links: list[Link], at: Position | None = None) -> Iterator[tuple[Link, int]]:
    """Each link with the offset from which on neither a link ahead of it has the records, nor
    whoever was at a position."""
    generation, end = (at.topic_id, at.offset) if at is not None else ("", 0)
    for link in links:
        start = max(link.gap_start, end) if link.generation == generation else link.gap_start
        if start < link.end:
            yield link, start
            generation, end = link.generation, link.end


def _due(
    links: list[Link], position: Position | None, at: Position | None
) -> Iterator[tuple[Link, Span]]:
    """The parts of links behind `at` that a table at a position must have: all that lies before
    it."""
    order = list(dict.fromkeys(link.generation for link in links))
    if position is None or position.topic_id not in order:
        return
    present = order.index(position.topic_id)
    for link, start in _once(links, at):
        place = order.index(link.generation)
        end = min(link.end, position.offset) if place == present else link.end
        if place <= present and start < end:
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
    """Adds up what is found, batch by batch; `json` are the fields compared by their tokens."""

    json: tuple[Field, ...] = ()
    expected: int = 0
    bronze: int = 0
    quarantined: int = 0
    gaps: int = 0
    missing: int = 0
    duplicated: int = 0
    mismatched: int = 0
    stale: int = 0
    inserted: int = 0
    differences: list[str] = field(default_factory=list)

    def compare(
        self,
        batch: list[_Part],
        expected: tuple[pa.Table, pa.Table],
        found: tuple[pa.Table | None, pa.Table | None],
    ) -> None:
        """Compare what the tables have of a batch with what the contract makes of it."""
        present = [
            rows.slice(0, 0) if table is None else table
            for table, rows in zip(found, expected, strict=True)
        ]
        self.bronze += present[0].num_rows
        self.quarantined += present[1].num_rows
        every = _offsets(*expected)
        here = _offsets(*present)
        whole = _whole(batch)
        self.expected += len(every)
        self.gaps += whole.end - whole.start - len(every)
        unique, counts = np.unique(here, return_counts=True)
        self._note("missing", batch, np.setdiff1d(every, unique))
        self._note("duplicated", batch, unique[counts > 1])
        self._note("mismatched", batch, np.setdiff1d(unique, every))
        if batch[0].stale:
            self.stale += len(every)
            return
        both = np.intersect1d(every, unique[counts == 1])
        altered = _altered(self.json, batch, present[0]) if self.json else _NONE
        for wanted, got, more in zip(expected, present, (altered, _NONE), strict=True):
            found_here = np.union1d(_different(wanted, got), more)
            self._note("mismatched", batch, np.intersect1d(found_here, both))

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

    def _note(self, what: str, batch: list[_Part], offsets: np.ndarray) -> None:
        setattr(self, what, getattr(self, what) + len(offsets))
        starts = [part.span.start for part in batch]
        for offset in offsets[: max(0, SHOWN - len(self.differences))]:
            link = batch[bisect_right(starts, offset) - 1].link
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
            self.inserted,
        )


def _offsets(*tables: pa.Table) -> np.ndarray:
    return np.concatenate([table[c.OFFSET].to_numpy() for table in tables])


def _altered(fields: tuple[Field, ...], batch: list[_Part], got: pa.Table) -> np.ndarray:
    """The offsets of the rows of bronze that have other JSON tokens than their records."""
    records = pa.concat_tables(part.records for part in batch)
    values = dict(zip(records["offset"].to_pylist(), records["value"].to_pylist(), strict=True))
    rows = got.select([c.OFFSET, *(f.name for f in fields)])
    changed = [
        row[c.OFFSET]
        for part in rows.to_batches(max_chunksize=ROWS)
        for row in part.to_pylist()
        if (value := values.get(row[c.OFFSET])) is not None and not as_sent(fields, value, row)
    ]
    return np.array(changed, np.int64)


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
