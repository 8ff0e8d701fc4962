"""Delivery: make a target equal to what its source says, from wherever the target is.

A target holds the newest row of each key that it takes. How far it is, it knows itself: its
position is compared with the source, moves together with the rows, and only from where it was
read. So any number of deliveries, at any time, end in the same content.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.errors import Permanent, Transient, WriteConflict
from ingestion_platform.sinks import plan
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.sinks.interface import (
    Applied,
    Change,
    Part,
    Rejection,
    Shape,
    Target,
)
from ingestion_platform.sinks.source import PLACE, BronzeRows, ModelRows, shape_of
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from ingestion_platform.platform import Platform

ATTEMPTS = 30
QUIET, PATIENCE = 20.0, 120.0
"""Seconds without news after which another delivery is taken to be dead, at most (fewer at first);
and to wait for one that is not."""
BYTES = 32 * 1024 * 1024
"""Rows of about so much are read and delivered as one change."""
LEAST, MOST = 1_000, 100_000
"""Rows of a change, whatever their size."""
COUNTED = 1_000
"""Rejected rows that are counted to tell where a target is."""
KEYS = 20_000
"""Keys whose rows are looked up together when rows went away."""


@dataclass
class Delivered:
    """What a delivery did: rows put into the target, taken out, and rejected by it."""

    name: str
    upserted: int = 0
    deleted: int = 0
    rejected: int = 0
    changes: int = 0
    position: str = ""
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, applied: Applied, rejections: Sequence[Rejection] = ()) -> None:
        """Count a change."""
        self.upserted += applied.upserted
        self.deleted += applied.deleted
        self.rejected += len(rejections)
        self.changes += 1
        for each in rejections:
            self.reasons[each.reason] = self.reasons.get(each.reason, 0) + 1


def _nothing(_: Delivered) -> None:
    """Nobody listens."""


def deliver(
    platform: Platform,
    delivery: Delivery,
    *,
    again: bool = False,
    on_change: Callable[[Delivered], None] = _nothing,
) -> Delivered:
    """Make the target equal to its source as it is now; a source without a table changes nothing.

    `again` compares all of it, whatever the position says: for a target that somebody else
    changed, and to have rejected rows tried again.

    Raises:
        SinkUnavailable, CatalogUnavailable, StoreUnavailable: try again; what was done is kept.
        SettingError: the settings do not tell where the sink is.
        Permanent: the target cannot follow the source, or refuses altogether.
    """
    began = time.monotonic()
    done = Delivered(delivery.name)
    with delivery.open(platform.settings) as target:
        for number in range(1, ATTEMPTS + 1):
            try:
                _attempt(platform, delivery, target, done, again, on_change)
            except WriteConflict as moved:
                if number == ATTEMPTS:
                    raise Transient(
                        f"gave up after {ATTEMPTS} attempts: {moved.message}",
                        action="see which other deliveries are at work",
                    ) from moved
                _let_pass(target, random.uniform(0.5, 1.0) * min(QUIET, 0.1 * 2**number))
            else:
                break
    done.seconds = time.monotonic() - began
    return done


def _let_pass(target: Target, quiet: float) -> None:
    """Wait until the target has been where it is for some seconds: whoever was quicker is at work,
    and would lose its work to one that begins now. The position keeps them apart in any case."""
    at, since = target.position(), time.monotonic()
    deadline = since + PATIENCE
    while time.monotonic() < min(since + quiet, deadline):
        time.sleep(min(quiet, 0.1))
        now = target.position()
        if now != at:
            at, since = now, time.monotonic()


def is_current(table: Table, delivery: Delivery, position: str) -> bool:
    """Whether a target at that position has all that a table has now."""
    if delivery.stream is not None:
        return not plan.differences(read_committed(table), plan.parse(position))
    return bool(position) and json.loads(position) == _present(table)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a target is: whether it has all that its source has, how many offsets it lacks (None
    for a model, which has none), its rows, and how many it rejected (COUNTED at most)."""

    current: bool
    lag: int | None
    rows: int
    rejected: int


def standing(platform: Platform, delivery: Delivery) -> Standing:
    """Look where a target is; nothing is changed.

    Raises:
        SinkUnavailable, CatalogUnavailable: one of them does not answer.
        SettingError: the settings do not tell where the sink is.
    """
    table = load_or_none(platform.catalog, delivery.table)
    with delivery.open(platform.settings) as target:
        position, rows = target.position(), target.rows()
        rejected = len(target.rejections(COUNTED))
    if table is None or table.current_snapshot() is None:
        return Standing(True, 0 if delivery.stream else None, rows, rejected)
    current = is_current(table, delivery, position)
    if delivery.stream is None:
        return Standing(current, None, rows, rejected)
    work = plan.differences(read_committed(table), plan.parse(position))
    return Standing(current, sum(w.span.end - w.span.start for w in work), rows, rejected)


def _present(table: Table) -> dict[str, Any]:
    """The position of a target that equals a model's table as it is."""
    snapshot = table.current_snapshot()
    assert snapshot is not None, "the caller has looked"
    return {"table": str(table.metadata.table_uuid), "snapshot": snapshot.snapshot_id}


def _attempt(
    platform: Platform,
    delivery: Delivery,
    target: Target,
    done: Delivered,
    again: bool,
    on_change: Callable[[Delivered], None],
) -> None:
    table = load_or_none(platform.catalog, delivery.table)
    if table is None or table.current_snapshot() is None:
        return
    contract = delivery.stream.contract if delivery.stream else None
    shape = shape_of(table, delivery.key, contract)
    target.ensure(shape)
    run = _Run(target, shape, uuid.uuid4().hex[:12], done, on_change)
    if delivery.stream is None:
        _Model(run, table).deliver(again)
    else:
        _Bronze(run, table).deliver(again)
    done.position = run.position


class _Run:
    """One attempt: the position that the target is known to be at, and changes from there."""

    def __init__(
        self,
        target: Target,
        shape: Shape,
        name: str,
        done: Delivered,
        on_change: Callable[[Delivered], None],
    ) -> None:
        self.target = target
        self.shape = shape
        self.name = name
        self.position = target.position()
        self._done = done
        self._on_change = on_change
        self._no_rows = shape.schema().empty_table()
        self._no_keys = shape.key_schema().empty_table()

    def move(self, position: str, *, settled: Sequence[Part] = ()) -> None:
        """Only another position."""
        self.change(position, settled=settled)

    def change(
        self,
        position: str,
        *,
        upserts: pa.Table | None = None,
        deletes: pa.Table | None = None,
        forced: bool = False,
        rejected: Sequence[Rejection] = (),
        settled: Sequence[Part] = (),
    ) -> dict[int, str]:
        """Make a change; gives the rows that the target rejected, and then nothing has changed."""
        change = Change(
            self._no_rows if upserts is None else upserts,
            self._no_keys if deletes is None else deletes,
            base=self.position,
            position=position,
            delivery=self.name,
            forced=forced,
            rejected=rejected,
            settled=settled,
        )
        applied = self.target.apply(change)
        if not applied.rejected:
            self.position = position
            self._done.add(applied, rejected)
            self._on_change(self._done)
        return applied.rejected

    def put(self, position: str, rows: pa.Table) -> None:
        """Rows in the order of the log: the newest of each key that the target takes."""
        rows, rejected = self._keyed(rows)
        while True:
            newest = _newest(rows, self.shape.key)
            upserts = rows if newest is None else rows.take(newest)
            bad = self.change(position, upserts=upserts, rejected=rejected)
            if not bad:
                return
            rejected += [Rejection(_row(upserts, number), why) for number, why in bad.items()]
            numbers = [number if newest is None else newest[number].as_py() for number in bad]
            rows = _without(rows, numbers)

    def replace(self, position: str, rows: pa.Table, gone: pa.Table | None = None) -> None:
        """Rows in place of whatever the target has of their keys; a rejected one leaves nothing."""
        rows, rejected = self._keyed(rows)
        newest = _newest(rows, self.shape.key)
        rows = rows if newest is None else rows.take(newest)
        deletes = self._no_keys if gone is None else gone
        while True:
            bad = self.change(
                position, upserts=rows, deletes=deletes, forced=True, rejected=rejected
            )
            if not bad:
                return
            rejected += [Rejection(_row(rows, number), why) for number, why in bad.items()]
            dropped = rows.take(list(bad)).select(self.shape.key)
            deletes = pa.concat_tables([deletes, dropped])
            rows = _without(rows, list(bad))

    def _keyed(self, rows: pa.Table) -> tuple[pa.Table, list[Rejection]]:
        """The rows whose key is whole, and rejections of the others."""
        rejected: list[Rejection] = []
        for name in self.shape.key:
            if rows[name].null_count:
                bad = pc.indices_nonzero(rows[name].is_null()).to_pylist()
                rejected += [Rejection(_row(rows, n), f"{name}: is null in the key") for n in bad]
                rows = rows.filter(rows[name].is_valid())
        return rows, rejected


class _Bronze:
    """Deliveries of a bronze table, by committed offsets."""

    def __init__(self, run: _Run, table: Table) -> None:
        self._run = run
        self._committed_by_partition = read_committed(table)
        self._table = table
        self._size = LEAST * 10

    def deliver(self, again: bool) -> None:
        """What is missing first, in the order of the log; then what is to be replaced."""
        run = self._run
        held = _committed_by_partition(run)
        if again:  # nothing that the target holds counts as validated by the present contract
            held = {p: _renamed(committed, "?") for p, committed in held.items()}
        work = plan.differences(self._committed_by_partition, held)
        if not work:
            return
        held = plan.parse(run.position)
        rows = BronzeRows(
            self._table, run.shape, plan.ordinals(self._committed_by_partition), run.name
        )
        for each in work:
            if each.fresh:
                for part, of_part in self._parts(rows, each):
                    if of_part.num_rows and not run.target.atomic:
                        self._claim(held, each.partition, part)
                    held[each.partition] = held.get(each.partition, CommittedRanges()).with_span(
                        part
                    )
                    run.put(plan.render(held), of_part)
        replaced = [each for each in work if not each.fresh]
        if replaced:
            self._replace(rows, held, replaced)

    def _replace(
        self, rows: BronzeRows, held: dict[int, CommittedRanges], replaced: Sequence[plan.Work]
    ) -> None:
        """Spans that others validated, or that the table has no more.

        They are claimed first, so that whoever else is at them starts again: what the two would
        write could not be told apart.
        """
        run = self._run
        for each in replaced:
            held[each.partition] = self._claimed(held, each.partition, each.span)
        run.move(plan.render(held))
        for each in replaced:
            if each.span.contract:
                for _, of_part in self._parts(rows, each):
                    run.put(run.position, of_part)
        for each in replaced:
            where = Part(each.partition, each.span)
            for keys in _grouped(run.target.held(where, without=run.name), KEYS):
                self._recompute(rows, keys.select(run.shape.key))
            committed = held[each.partition]
            held[each.partition] = (
                committed.with_span(each.span)
                if each.span.contract
                else plan.without(committed, each.span)
            )
            run.move(plan.render(held), settled=[where])

    def _claim(self, held: dict[int, CommittedRanges], partition: int, span: Span) -> None:
        """Call a span unfinished, until its rows are there: whoever comes next replaces it."""
        claimed = {**held, partition: self._claimed(held, partition, span)}
        self._run.move(plan.render(claimed))

    def _claimed(
        self, held: dict[int, CommittedRanges], partition: int, span: Span
    ) -> CommittedRanges:
        claim = Span(span.topic_id, span.start, span.end, f"~{self._run.name}")
        return held.get(partition, CommittedRanges()).with_span(claim)

    def _recompute(self, rows: BronzeRows, keys: pa.Table) -> None:
        """Keys whose row is there no more get the newest one that is left, or go."""
        run = self._run
        rejected: list[Rejection] = []
        newest = rows.newest(keys, [])
        while True:
            gone = _missing(keys, newest, run.shape)
            bad = run.change(
                run.position, upserts=newest, deletes=gone, forced=True, rejected=rejected
            )
            if not bad:
                return
            rejected += [Rejection(_row(newest, number), why) for number, why in bad.items()]
            newest = rows.newest(keys, [each.row for each in rejected])

    def _parts(self, rows: BronzeRows, work: plan.Work) -> Iterator[tuple[Span, pa.Table]]:
        """The rows of a span in parts of bounded size, as far as sizes can be foreseen."""
        span, start = work.span, work.span.start
        while start < span.end:
            part = Span(span.topic_id, start, min(span.end, start + self._size), span.contract)
            found = rows.between(work.partition, part)
            if found.num_rows:
                self._size = int(min(MOST, max(LEAST, BYTES * found.num_rows // found.nbytes)))
            yield part, found
            start = part.end


def _committed_by_partition(run: _Run) -> dict[int, CommittedRanges]:
    try:
        return plan.parse(run.position)
    except ValueError:
        raise Permanent(
            f"{run.shape.source}: the target holds a model, which rows of a log cannot replace",
            action="deliver to a target of another name, or drop this one: it is made again",
        ) from None


class _Model:
    """Deliveries of a model's table, by snapshots.

    Its position names the table and the snapshot that the target equals; while a delivery is at
    work, also which one. One that finds the claim of another (which may have died) trusts nothing.
    """

    def __init__(self, run: _Run, table: Table) -> None:
        self._run = run
        self._table = table
        self._now = _present(table)

    def deliver(self, again: bool) -> None:
        """Only what changed, if the snapshot that the target equals is still known."""
        run = self._run
        before = json.loads(run.position) if run.position else {}
        if before == self._now and not again:
            return
        rows = ModelRows(self._table, run.shape, run.name)
        known = before.get("table") == self._now["table"] and "claim" not in before
        since = int(before.get("snapshot", 0))
        run.move(json.dumps({**before, "claim": run.name}))
        if known and not again and self._table.snapshot_by_id(since) is not None:
            changed, gone = rows.since(since, MOST)
            for part in changed:
                run.replace(run.position, part)
            for keys in gone:
                run.change(run.position, deletes=keys)
            run.move(json.dumps(self._now))
            return
        for part in rows.all(MOST):
            run.replace(run.position, part)
        for strays in _grouped(run.target.held(without=run.name), KEYS):
            run.change(run.position, deletes=strays.select(run.shape.key))
        run.move(json.dumps(self._now), settled=[Part()])


def _renamed(committed: CommittedRanges, contract: str) -> CommittedRanges:
    return CommittedRanges(
        tuple(Span(s.topic_id, s.start, s.end, contract) for s in committed.spans)
    )


def _newest(rows: pa.Table, key: tuple[str, ...]) -> pa.Array | None:
    """The numbers of the last row of each key, in order; None when each row has a key of its own
    by its nature."""
    if key == PLACE:
        return None
    numbered = rows.select(key).append_column("_n", pa.array(range(rows.num_rows), pa.int64()))
    last = numbered.group_by(list(key)).aggregate([("_n", "max")])["_n_max"].combine_chunks()
    return last.sort() if len(last) < rows.num_rows else None


def _without(rows: pa.Table, numbers: Iterable[int]) -> pa.Table:
    gone = set(numbers)
    return rows.take(pa.array([n for n in range(rows.num_rows) if n not in gone], pa.int64()))


def _row(rows: pa.Table, number: int) -> dict[str, Any]:
    found: dict[str, Any] = rows.slice(number, 1).to_pylist()[0]
    return found


def _missing(keys: pa.Table, found: pa.Table, shape: Shape) -> pa.Table:
    """The keys that no row was found for."""
    if found.num_rows == 0:
        return keys
    names = list(shape.key)
    return keys.join(found.select(names), names, join_type="left anti").select(names)


def _grouped(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    for table in tables:
        for start in range(0, table.num_rows, size):
            yield table.slice(start, size)
