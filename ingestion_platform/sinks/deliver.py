"""Delivery: make a target equal to its source, starting from the position of the target.

A target holds the newest row of each key that it accepts. It stores its own position, which is
compared with the source and moves together with the rows, by compare-and-set. So any number of
deliveries, also concurrent ones, end in the same content.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract import columns as c
from ingestion_platform.errors import Permanent, Transient, WriteConflict
from ingestion_platform.retries import DELIVERY, backoff
from ingestion_platform.sinks import ranges
from ingestion_platform.sinks.base import Applied, Change, Part, Reason, Rejection, Shape, Target
from ingestion_platform.sinks.declare import Delivery
from ingestion_platform.sinks.source import PLACE, BronzeRows, ModelRows, shape_of
from ingestion_platform.warehouse.commit import read_committed
from ingestion_platform.warehouse.committed import CommittedRanges, Span
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from ingestion_platform.platform import Platform

PATIENCE = 120.0
"""Seconds that a delivery waits for another one that makes progress."""
BYTES = 32 * 1024 * 1024
"""Approximate size of a change."""
LEAST, MOST = 1_000, 100_000
"""Bounds for the number of rows in a change."""
COUNTED = 1_000
"""Rejected rows are counted up to this number."""
KEYS = 20_000
"""Keys that are looked up together after rows have left the source."""


@dataclass
class Delivered:
    """Result of a delivery: rows written to the target, deleted there, and rejected by it."""

    name: str
    upserted: int = 0
    deleted: int = 0
    rejected: int = 0
    changes: int = 0
    position: str = ""
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    """Rejected rows by reason (code and message)."""

    def add(self, applied: Applied, rejections: Sequence[Rejection] = ()) -> None:
        """Count a change."""
        self.upserted += applied.upserted
        self.deleted += applied.deleted
        self.rejected += len(rejections)
        self.changes += 1
        for each in rejections:
            reason = str(each.reason)
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


def _ignore(_: Delivered) -> None:
    """Do nothing."""


def deliver(
    platform: Platform,
    delivery: Delivery,
    *,
    again: bool = False,
    on_change: Callable[[Delivered], None] = _ignore,
) -> Delivered:
    """Make the target equal to the current state of its source; do nothing without a table.

    `again` compares everything, whatever the position is: for a target that somebody else has
    changed, and to try rejected rows again.

    Raises:
        SinkUnavailable, CatalogUnavailable, StoreUnavailable: try again; what was done stays.
        SettingError: the settings do not say where the sink is.
        Permanent: the target cannot follow the source, or rejects the delivery.
    """
    began = time.monotonic()
    done = Delivered(delivery.name)
    with delivery.open(platform.settings) as target:
        for number in count(1):
            try:
                _attempt(platform, delivery, target, done, again, on_change)
            except WriteConflict as conflict:
                if number == DELIVERY.attempts:
                    raise Transient(
                        f"gave up after {number} attempts: {conflict.message}",
                        action="check which other deliveries write to the target",
                    ) from conflict
                _wait_for_other(target, backoff(DELIVERY, number))
            else:
                break
    done.seconds = time.monotonic() - began
    return done


def _wait_for_other(target: Target[Any], quiet: float) -> None:
    """Wait until the position has not moved for some seconds.

    The delivery that was faster is still writing, and would lose its work to one that starts now.
    """
    at, since = target.position(), time.monotonic()
    deadline = since + PATIENCE
    while time.monotonic() < min(since + quiet, deadline):
        time.sleep(min(quiet, 0.1))
        now = target.position()
        if now != at:
            at, since = now, time.monotonic()


def is_current(table: Table, delivery: Delivery, position: str) -> bool:
    """Return whether a target at that position is equal to the table as it is now."""
    if delivery.stream is not None:
        return not ranges.differences(read_committed(table), ranges.parse(position))
    return bool(position) and json.loads(position) == _current_position(table)


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """How far a target is behind its source, and what it holds."""

    current: bool
    """Whether it is equal to its source."""
    lag: int | None
    """Missing offsets; None for a model, which has none."""
    rows: int
    rejected: int
    """Rows in quarantine, COUNTED at most."""


def target_status(platform: Platform, delivery: Delivery) -> TargetStatus:
    """Return the status of a target; nothing is changed.

    Raises:
        SinkUnavailable, CatalogUnavailable: one of them does not answer.
        SettingError: the settings do not say where the sink is.
    """
    table = load_or_none(platform.catalog, delivery.table)
    with delivery.open(platform.settings) as target:
        position, rows = target.position(), target.rows()
        rejected = len(target.rejections(COUNTED))
    if table is None or table.current_snapshot() is None:
        return TargetStatus(True, 0 if delivery.stream else None, rows, rejected)
    if delivery.stream is None:
        return TargetStatus(is_current(table, delivery, position), None, rows, rejected)
    work = ranges.differences(read_committed(table), ranges.parse(position))
    return TargetStatus(not work, sum(w.span.end - w.span.start for w in work), rows, rejected)


def _current_position(table: Table) -> dict[str, Any]:
    """Return the position of a target that equals a model's table as it is now."""
    snapshot = table.current_snapshot()
    assert snapshot is not None, "the caller has checked"
    return {"table": str(table.metadata.table_uuid), "snapshot": snapshot.snapshot_id}


def _attempt(
    platform: Platform,
    delivery: Delivery,
    target: Target[Any],
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
    run = _Run(target, shape, uuid.uuid4().hex[:12], target.position(), done, on_change)
    if delivery.stream is None:
        _Model(run, table).deliver(again)
    else:
        _Bronze(run, table).deliver(again)
    done.position = run.position


@dataclass
class _Run:
    """One attempt: the position that the target is expected to have, and changes from there."""

    target: Target[Any]
    shape: Shape
    name: str
    position: str
    done: Delivered
    on_change: Callable[[Delivered], None]

    def change(
        self,
        position: str,
        *,
        upserts: pa.Table | None = None,
        deletes: pa.Table | None = None,
        forced: bool = False,
        rejected: list[Rejection] | None = None,
        settled: Sequence[Part] = (),
    ) -> list[int]:
        """Make a change; return the numbers of rows that the target rejects.

        Nothing has changed then, and these rows are added to `rejected`.
        """
        rejected = [] if rejected is None else rejected
        change = Change(
            self.shape.schema().empty_table() if upserts is None else upserts,
            self.shape.key_schema().empty_table() if deletes is None else deletes,
            base=self.position,
            position=position,
            delivery=self.name,
            forced=forced,
            rejected=tuple(rejected),
            settled=settled,
        )
        applied = self.target.apply(change)
        if not applied.rejected:
            self.position = position
            self.done.add(applied, rejected)
            self.on_change(self.done)
        for number, reason in applied.rejected.items():
            rejected.append(Rejection(_row(change.upserts, number), reason))
        return list(applied.rejected)

    def put(self, position: str, rows: pa.Table) -> None:
        """Write rows in the order of the log: the newest of each key that the target accepts."""
        rows, rejected = self._keyed(rows)
        upserts = _newest(rows, self.shape.key)
        while self.change(position, upserts=upserts, rejected=rejected):
            offsets = pa.array([each.row[c.OFFSET] for each in rejected], pa.int64())
            left = rows.filter(pc.invert(pc.is_in(rows[c.OFFSET], offsets)))
            upserts = _newest(left, self.shape.key)

    def replace(self, position: str, rows: pa.Table) -> None:
        """Write rows in place of those of the same keys; a rejected one deletes its key."""
        rows, rejected = self._keyed(rows)
        rows = _newest(rows, self.shape.key)
        deletes = self.shape.key_schema().empty_table()
        while bad := self.change(
            position, upserts=rows, deletes=deletes, forced=True, rejected=rejected
        ):
            deletes = pa.concat_tables([deletes, rows.take(bad).select(self.shape.key)])
            good = sorted({*range(rows.num_rows)} - {*bad})
            rows = rows.take(pa.array(good, pa.int64()))

    def _keyed(self, rows: pa.Table) -> tuple[pa.Table, list[Rejection]]:
        """Return the rows without nulls in the key, and rejections of the others."""
        rejected: list[Rejection] = []
        for name in self.shape.key:
            if rows[name].null_count:
                bad = pc.indices_nonzero(rows[name].is_null()).to_pylist()
                reason = Reason("null_in_key", f"{name}: is null")
                rejected += [Rejection(_row(rows, n), reason) for n in bad]
                rows = rows.filter(rows[name].is_valid())
        return rows, rejected


class _Bronze:
    """Delivery of a bronze table, by committed offset ranges."""

    def __init__(self, run: _Run, table: Table) -> None:
        self._run = run
        self._committed = read_committed(table)
        self._table = table
        self._size = LEAST * 10

    def deliver(self, again: bool) -> None:
        """Deliver missing ranges in the order of the log, then replace ranges that differ."""
        run = self._run
        held = _held_ranges(run)
        if again:  # no range counts as validated by the current contract
            held = {p: _renamed(committed, "?") for p, committed in held.items()}
        work = ranges.differences(self._committed, held)
        if not work:
            return
        held = ranges.parse(run.position)
        rows = BronzeRows(self._table, run.shape, ranges.ordinals(self._committed), run.name)
        for each in work:
            if each.fresh:
                for part, of_part in self._parts(rows, each):
                    if of_part.num_rows and not run.target.atomic:
                        self._claim(held, each.partition, part)
                        run.change(ranges.render(held))
                    held[each.partition] = _with_span(held, each.partition, part)
                    run.put(ranges.render(held), of_part)
        replaced = [each for each in work if not each.fresh]
        if replaced:
            self._replace(rows, held, replaced)

    def _replace(
        self, rows: BronzeRows, held: dict[int, CommittedRanges], replaced: Sequence[ranges.Work]
    ) -> None:
        """Replace spans that another contract validated, or that the table no longer has.

        They are claimed first, so that another delivery of the same spans starts again: the rows
        of the two could not be distinguished.
        """
        run = self._run
        for each in replaced:
            self._claim(held, each.partition, each.span)
        run.change(ranges.render(held))
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
                else ranges.without(committed, each.span)
            )
            run.change(ranges.render(held), settled=[where])

    def _claim(self, held: dict[int, CommittedRanges], partition: int, span: Span) -> None:
        """Mark a span as unfinished until its rows are written; see `Target.atomic`."""
        claim = Span(span.topic_id, span.start, span.end, f"~{self._run.name}")
        held[partition] = _with_span(held, partition, claim)

    def _recompute(self, rows: BronzeRows, keys: pa.Table) -> None:
        """Give keys whose row has left the source their newest remaining row, or delete them."""
        run = self._run
        rejected: list[Rejection] = []
        newest = rows.newest(keys, [])
        while run.change(
            run.position,
            upserts=newest,
            deletes=_missing(keys, newest, run.shape),
            forced=True,
            rejected=rejected,
        ):
            newest = rows.newest(keys, [each.row for each in rejected])

    def _parts(self, rows: BronzeRows, work: ranges.Work) -> Iterator[tuple[Span, pa.Table]]:
        """Yield the rows of a span in parts of about BYTES, estimated from the part before."""
        span, start = work.span, work.span.start
        while start < span.end:
            part = Span(span.topic_id, start, min(span.end, start + self._size), span.contract)
            found = rows.between(work.partition, part)
            if found.num_rows:
                self._size = int(min(MOST, max(LEAST, BYTES * found.num_rows // found.nbytes)))
            yield part, found
            start = part.end


def _held_ranges(run: _Run) -> dict[int, CommittedRanges]:
    try:
        return ranges.parse(run.position)
    except ValueError:
        raise Permanent(
            f"{run.shape.source}: the target holds a model, not a bronze table",
            action="deliver to another target, or drop this one: the next delivery creates it",
        ) from None


class _Model:
    """Delivery of a model's table, by snapshots.

    The position has the table and the snapshot that the target equals, and during a delivery the
    claim of that delivery. A delivery that finds the claim of another one compares everything.
    """

    def __init__(self, run: _Run, table: Table) -> None:
        self._run = run
        self._table = table
        self._now = _current_position(table)

    def deliver(self, again: bool) -> None:
        """Deliver only changes, if the snapshot that the target equals still exists."""
        run = self._run
        before = json.loads(run.position) if run.position else {}
        if before == self._now and not again:
            return
        rows = ModelRows(self._table, run.shape, run.name)
        known = before.get("table") == self._now["table"] and "claim" not in before
        since = int(before.get("snapshot", 0))
        run.change(json.dumps({**before, "claim": run.name}))
        if known and not again and self._table.snapshot_by_id(since) is not None:
            changed, gone = rows.since(since, MOST)
            for part in changed:
                run.replace(run.position, part)
            for keys in gone:
                run.change(run.position, deletes=keys)
            run.change(json.dumps(self._now))
            return
        for part in rows.all(MOST):
            run.replace(run.position, part)
        for strays in _grouped(run.target.held(without=run.name), KEYS):
            run.change(run.position, deletes=strays.select(run.shape.key))
        run.change(json.dumps(self._now), settled=[Part()])


def _with_span(held: ranges.ByPartition, partition: int, span: Span) -> CommittedRanges:
    return held.get(partition, CommittedRanges()).with_span(span)


def _renamed(committed: CommittedRanges, contract: str) -> CommittedRanges:
    return CommittedRanges(
        tuple(Span(s.topic_id, s.start, s.end, contract) for s in committed.spans)
    )


def _newest(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Return the last row of each key, in order."""
    if key == PLACE:  # all keys are distinct
        return rows
    numbered = rows.select(key).append_column("_n", pa.array(range(rows.num_rows), pa.int64()))
    last = numbered.group_by(list(key)).aggregate([("_n", "max")])["_n_max"].combine_chunks()
    return rows.take(last.sort()) if len(last) < rows.num_rows else rows


def _row(rows: pa.Table, number: int) -> dict[str, Any]:
    found: dict[str, Any] = rows.slice(number, 1).to_pylist()[0]
    return found


def _missing(keys: pa.Table, found: pa.Table, shape: Shape) -> pa.Table:
    """Return the keys that have no row in `found`."""
    if found.num_rows == 0:
        return keys
    names = list(shape.key)
    return keys.join(found.select(names), names, join_type="left anti").select(names)


def _grouped(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    for table in tables:
        for start in range(0, table.num_rows, size):
            yield table.slice(start, size)
