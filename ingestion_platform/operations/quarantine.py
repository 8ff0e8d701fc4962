"""Rejected records as people handle them: looked at, validated again, or discarded with a reason.

No record's bytes ever go: discarding is a decision beside them (see `warehouse.decisions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from ingestion_platform.bronze.load import Loaded
from ingestion_platform.bronze.validate import code_version
from ingestion_platform.contract import columns as c
from ingestion_platform.contract.reasons import Reason, label_sql, reasons_of
from ingestion_platform.errors import Permanent
from ingestion_platform.lake.names import partition_label
from ingestion_platform.pipeline import reload_slices
from ingestion_platform.platform import Platform
from ingestion_platform.positions import Slice
from ingestion_platform.streams import Stream
from ingestion_platform.warehouse.catalog import answering
from ingestion_platform.warehouse.decisions import (
    DISCARD,
    UNDO,
    Decision,
    Place,
    decide,
    discarded,
)
from ingestion_platform.warehouse.reading import register
from ingestion_platform.warehouse.tables import load_or_none

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Row = Mapping[str, Any]

_PLACE = f"{c.TOPIC_ID}, {c.PARTITION}, {c.OFFSET}"
_ORDER = f"{c.INGEST_DATE}, {c.PARTITION}, {c.TOPIC_ID}, {c.OFFSET}"
# A row that somebody inserted by SQL has no place.
_REJECTED = f"""
    SELECT q.*, d.decided IS NOT NULL AS decided
    FROM quarantined q LEFT JOIN discarded d USING ({_PLACE})
    WHERE {c.OFFSET} IS NOT NULL"""
_GROUPS = f"""
    count(*) AS records, count(*) FILTER (WHERE decided) AS decided,
        min({c.INGEST_DATE}) AS first_ingest_date, max({c.INGEST_DATE}) AS last_ingest_date,
        list_sort(list(DISTINCT {c.PARTITION})) AS partitions,
        min({c.TIMESTAMP}) AS first_seen, max({c.TIMESTAMP}) AS last_seen"""
_REASONS = f"[{{code: x.code, label: {label_sql('x')}}} FOR x IN {c.REASONS}]"
_BY_REASON = f"""
    SELECT reason.code AS code, reason.label AS name, {_GROUPS}
    FROM (SELECT *, unnest(list_distinct({_REASONS})) AS reason FROM rejected)
    GROUP BY reason
    ORDER BY sum(count(*)) OVER (PARTITION BY reason.code) DESC, code, records DESC, name"""
_BY_SLICE = f"""
    SELECT name, {_GROUPS}
    FROM (SELECT *, {c.INGEST_DATE}::VARCHAR || '|' || {c.PARTITION} AS name FROM rejected)
    GROUP BY name ORDER BY first_ingest_date, partitions"""


class NotInQuarantine(Permanent):
    """No rejected record matches the choice."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rejected records grouped by a reason or a slice (`name`); `decided` of them are discarded.

    `first_seen` and `last_seen` are broker timestamps.
    """

    name: str
    records: int
    decided: int
    first_ingest_date: date
    last_ingest_date: date
    partitions: tuple[int, ...]
    first_seen: datetime | None
    last_seen: datetime | None
    code: str = ""
    """Of the reason; empty for a slice."""

    @property
    def open(self) -> int:
        """The number of records without a decision."""
        return self.records - self.decided


@dataclass(frozen=True, slots=True)
class Overview:
    """A stream's quarantine by reason and by slice.

    Reasons are sorted by code, the code with most records first; a record may have several reasons.
    """

    stream: str
    table: str
    records: int
    decided: int
    by_reason: tuple[Group, ...] = ()
    by_slice: tuple[Group, ...] = ()

    @property
    def open(self) -> int:
        """The number of records without a decision."""
        return self.records - self.decided


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected record as it was sent, with its place, reasons and decision.

    `timestamp` is the broker's; None outside the years 1970 to 9999. `headers` are empty if the
    client could not read them (null in the lake).
    """

    stream: str
    ingest_date: date
    topic_id: str
    partition: int
    offset: int
    timestamp: datetime | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]
    reasons: tuple[Reason, ...]
    origin: str
    ingested_at: datetime
    contract: str
    decision: Decision | None

    @property
    def place(self) -> Place:
        """The permanent identity of the record."""
        return self.topic_id, self.partition, self.offset


@dataclass(frozen=True, slots=True)
class Choice:
    """Selects rejected records that match all given criteria.

    `places` holds pairs of log partition and offset; `reason` is the code of one of a record's
    reasons, or part of its text in any case of letters.
    """

    places: tuple[tuple[int, int], ...] = ()
    topic_id: str | None = None
    reason: str | None = None
    ingest_dates: tuple[date, ...] = ()
    decided: bool | None = None

    @property
    def empty(self) -> bool:
        """Whether it selects all records."""
        return self == Choice(decided=self.decided)


@dataclass(slots=True)
class Replayed:
    """The result of a replay.

    Of `slices` with rejected records, `unchanged` ones were already validated by the present
    contract and parser.
    """

    stream: str
    slices: int
    unchanged: int
    before: int
    came_back: int = 0
    newly_rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def after(self) -> int:
        """The number of rejected records after the replay."""
        return self.before - self.came_back + self.newly_rejected

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data, for JSON."""
        figures = ("slices", "unchanged", "before", "came_back", "newly_rejected", "after")
        counts = {name: getattr(self, name) for name in figures}
        return {"stream": self.stream, **counts, "reasons": dict(self.reasons)}


def overview(platform: Platform, stream: Stream) -> Overview:
    """Count a stream's rejected records; their bytes are not read.

    Raises:
        CatalogUnavailable, StoreUnavailable: one of them does not answer.
    """
    with _rejected_records(platform, stream, Choice()) as ask:
        (totals,) = ask("SELECT count(*) AS records, count(*) FILTER (WHERE decided) AS decided"
                        " FROM rejected")  # fmt: skip
        return Overview(
            stream.name,
            stream.quarantine_table,
            **totals,
            by_reason=tuple(_group(row) for row in ask(_BY_REASON)),
            by_slice=tuple(_named_for_slice(_group(row)) for row in ask(_BY_SLICE)),
        )


def find(
    platform: Platform, stream: Stream, choice: Choice, *, limit: int | None = None
) -> list[Rejected]:
    """Return the chosen rejected records with their bytes, in log order.

    Raises:
        CatalogUnavailable, StoreUnavailable: one of them does not answer.
    """
    decisions = discarded(platform.catalog, stream.name)
    most = "" if limit is None else f"LIMIT {limit}"
    with _rejected_records(platform, stream, choice) as ask:
        rows = ask(f"SELECT * FROM rejected ORDER BY {_ORDER} {most}")
    return [_rejected(stream, row, decisions.get(_place(row))) for row in rows]


def discard(
    platform: Platform, stream: Stream, choice: Choice, *, because: str, by: str
) -> tuple[Decision, int]:
    """Discard the chosen rejected records; return the decision and their number.

    They stay in quarantine, and no longer count against the contract's quarantine limit.

    Raises:
        NotInQuarantine: a named record is not in quarantine, or no chosen record is open.
        Permanent: no reason, or no choice, was given.
        CatalogUnavailable, StoreUnavailable: one of them does not answer.
    """
    return _decide(platform, stream, choice, DISCARD, because, by)


def undo(
    platform: Platform, stream: Stream, choice: Choice, *, because: str, by: str
) -> tuple[Decision, int]:
    """Undo the discarding of the chosen records; raises as `discard`."""
    return _decide(platform, stream, choice, UNDO, because, by)


def replay(
    platform: Platform,
    stream: Stream,
    *,
    ingest_dates: Sequence[date] = (),
    on_loaded: Callable[[Loaded], None] = lambda _: None,
) -> Replayed:
    """Validate slices with rejected records again if contract or parser have changed.

    Whole slices are reloaded, valid rows included, as materializing them does.

    Raises:
        Transient, Permanent: as `pipeline.load_stream`.
    """
    before = _places(platform, stream, ingest_dates)
    version = code_version(stream.contract)
    stale = {of for of, rows in before.items() if {row[1] for row in rows} != {version}}
    result = Replayed(
        stream.name,
        slices=len(before),
        unchanged=len(before) - len(stale),
        before=sum(map(len, before.values())),
    )

    def count_reasons(loaded: Loaded) -> None:
        result.reasons.update(loaded.reasons)
        on_loaded(loaded)

    if not stale:
        return result
    reload_slices(platform, stream, sorted(stale), on_loaded=count_reasons)
    after = _places(platform, stream, sorted({ingest_date for ingest_date, _ in stale}))
    then = {place for of in stale for place, _ in before[of]}
    now = {place for of in stale for place, _ in after.get(of, ())}
    result.came_back = len(then - now)
    result.newly_rejected = len(now - then)
    return result


def _decide(
    platform: Platform, stream: Stream, choice: Choice, action: str, because: str, by: str
) -> tuple[Decision, int]:
    if not because.strip():
        raise Permanent("a decision needs a reason", action="give one in a few words")
    if choice.empty:
        raise Permanent(
            "no records are chosen",
            action="give a reason, ingest dates, or a log partition and offsets",
        )
    with _rejected_records(platform, stream, choice) as ask:
        rows = ask(f"SELECT {c.INGEST_DATE}, {_PLACE}, decided FROM rejected ORDER BY {_ORDER}")
    _check_named(stream, choice, rows)
    due = [row for row in rows if row["decided"] == (action == UNDO)]
    if not due:
        state = "discarded" if action == UNDO else "open"
        raise NotInQuarantine(
            f"{stream.quarantine_table} has no {state} record of this choice ({len(rows)} in all)",
            action=f"list the records with `ingest quarantine list {stream.name}`",
        )
    records = [(row[c.INGEST_DATE], _place(row)) for row in due]
    made = decide(
        platform.catalog, stream.name, records, action=action, because=because.strip(), by=by
    )
    return made, len(records)


def _check_named(stream: Stream, choice: Choice, rows: Sequence[Row]) -> None:
    """Raise if a named record is missing, or exists for several topic ids."""
    topic_ids: dict[tuple[int, int], set[str]] = {place: set() for place in choice.places}
    for row in rows:
        if choice.places:
            topic_ids[row[c.PARTITION], row[c.OFFSET]].add(row[c.TOPIC_ID])
    for (partition, offset), found in topic_ids.items():
        where = f"offset {offset} of log partition {partition_label(partition)}"
        if not found:
            raise NotInQuarantine(
                f"{stream.quarantine_table} has no record at {where}",
                action=f"list the records with `ingest quarantine show {stream.name}`",
            )
        if len(found) > 1:
            raise Permanent(
                f"{where}: the topic was recreated, and {len(found)} topic ids have this offset",
                action=f"choose one with --topic-id: {', '.join(sorted(found))}",
            )


def _places(
    platform: Platform, stream: Stream, ingest_dates: Sequence[date]
) -> dict[Slice, list[tuple[Place, str]]]:
    """Return the places of rejected records by slice, with the contract of each."""
    found: dict[Slice, list[tuple[Place, str]]] = {}
    with _rejected_records(platform, stream, Choice(ingest_dates=tuple(ingest_dates))) as ask:
        for row in ask(f"SELECT {c.INGEST_DATE}, {_PLACE}, {c.CONTRACT} FROM rejected"):
            of = Slice(row[c.INGEST_DATE], row[c.PARTITION])
            found.setdefault(of, []).append((_place(row), row[c.CONTRACT]))
    return found


Ask = Callable[[str], list[dict[str, Any]]]


@contextmanager
def _rejected_records(platform: Platform, stream: Stream, choice: Choice) -> Iterator[Ask]:
    """Give a function that runs SQL over `rejected`, the chosen records; `decided` if discarded."""
    import duckdb
    import pyarrow as pa

    from ingestion_platform.contract.schemas import quarantine_arrow_schema

    table = load_or_none(platform.catalog, stream.quarantine_table)
    places = discarded(platform.catalog, stream.name) if table is not None else {}
    columns = zip(*places, strict=True) if places else ([], [], [])
    names, types = _PLACE.split(", "), (pa.string(), pa.int32(), pa.int64())
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        decided = pa.repeat(True, len(places))
        connection.register("discarded", pa.table([*arrays, decided], names=[*names, "decided"]))
        if table is None:
            connection.register("quarantined", quarantine_arrow_schema().empty_table())
        else:
            register(connection, "quarantined", table)
        where = " AND ".join(["true", *_conditions(choice)])
        given = {"reason": choice.reason, "topic_id": choice.topic_id}
        used = {name: value for name, value in given.items() if value is not None}

        def ask(sql: str) -> list[dict[str, Any]]:
            with answering():
                return _rows(
                    connection, sql.replace(" rejected", f" ({_REJECTED} AND {where})"), used
                )

        yield ask


def _rows(
    connection: DuckDBPyConnection, sql: str, parameters: Mapping[str, str]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = connection.execute(sql, parameters).to_arrow_table().to_pylist()
    return rows


def _conditions(choice: Choice) -> Iterator[str]:
    """Yield an SQL condition for each criterion; texts are parameters."""
    if choice.ingest_dates:
        days = ", ".join(f"DATE '{ingest_date}'" for ingest_date in choice.ingest_dates)
        yield f"{c.INGEST_DATE} IN ({days})"
    if choice.topic_id is not None:
        yield f"{c.TOPIC_ID} = $topic_id"
    if choice.places:
        offsets = ", ".join(str(offset) for _, offset in choice.places)
        pairs = ", ".join(f"({partition}, {offset})" for partition, offset in choice.places)
        yield f"{c.OFFSET} IN ({offsets}) AND ({c.PARTITION}, {c.OFFSET}) IN ({pairs})"
    if choice.reason is not None:
        words = f"lower({label_sql('x')} || coalesce(' (is ' || x.value || ')', ''))"
        condition = f"x.code = $reason OR contains({words}, lower($reason))"
        yield f"len([x FOR x IN {c.REASONS} IF {condition}]) > 0"
    if choice.decided is not None:
        yield f"(d.decided IS NOT NULL) = {choice.decided}"


def _group(row: Row) -> Group:
    return Group(**{**row, "partitions": tuple(row["partitions"])})


def _named_for_slice(group: Group) -> Group:
    label = partition_label(group.partitions[0])
    return replace(group, name=f"{group.first_ingest_date}|{label}")


def _place(row: Row) -> Place:
    return row[c.TOPIC_ID], row[c.PARTITION], row[c.OFFSET]


def _rejected(stream: Stream, row: Row, decision: Decision | None) -> Rejected:
    return Rejected(
        stream=stream.name,
        ingest_date=row[c.INGEST_DATE],
        topic_id=row[c.TOPIC_ID],
        partition=row[c.PARTITION],
        offset=row[c.OFFSET],
        timestamp=row[c.TIMESTAMP],
        key=row[c.KEY],
        value=row[c.VALUE],
        headers=tuple((h["key"], h["value"]) for h in row[c.HEADERS] or ()),
        reasons=reasons_of(row[c.REASONS]),
        origin=row[c.ORIGIN],
        ingested_at=row[c.INGESTED_AT],
        contract=row[c.CONTRACT],
        decision=decision,
    )
