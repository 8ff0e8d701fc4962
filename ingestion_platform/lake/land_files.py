"""Landing files: a file's content becomes records of the log partition FILES, once for all.

A content is claimed, then landed part by part behind what is there. Whoever comes upon a file
that another left half landed ends it first. Where files lie, and their formats, is elsewhere.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingestion_platform.contract.reasons import Reason
from ingestion_platform.errors import WriteConflict
from ingestion_platform.files.formats import Content, Format
from ingestion_platform.files.reading import Reasons, Records, joined
from ingestion_platform.lake.journal import Claim, Journal
from ingestion_platform.lake.land import Landed, Writer, ensure_sidecar
from ingestion_platform.lake.names import FILES, parse_name
from ingestion_platform.lake.records import HEADERS, SCHEMA
from ingestion_platform.lake.segments import Segment, Source, read_segment
from ingestion_platform.lake.store import Store
from ingestion_platform.positions import Position

ROWS = 250_000
BYTES = 16 * 1024 * 1024
"""Of a lake file's values; several are in memory at once."""

_MILLIS = SCHEMA.field("timestamp").type


def claim_place(
    store: Store, topic: str, content: Content, rows: int, archive: str, key: str
) -> tuple[Claim, bool]:
    """The claim of a content's key, and whether it is new; the last file must be landed to its end.

    Raises:
        PositionMoved: another file got the place; look again.
    """
    journal = Journal(store, topic)
    last = journal.last()
    if last is not None:
        journal.make_findable(last)
        if last.key != key and landed_end(store, topic, last) < last.end:
            raise WriteConflict(f"{last.name} is being landed by another writer")
    # Behind the last claim: had this key been claimed since, the place would be taken.
    if (known := journal.by_key(key)) is not None:
        return known, False
    now = datetime.now(UTC).replace(microsecond=0)
    claim = Claim(
        topic_id=f"files-{uuid.uuid4().hex[:8]}" if last is None else last.topic_id,
        start=0 if last is None else last.end,
        end=rows if last is None else last.end + rows,
        ingest_date=now.date() if last is None else max(now.date(), last.ingest_date),
        time=now,
        name=content.name,
        sha256=content.sha256,
        size=content.size,
        kind=content.format.kind,
        compression=content.format.compression,
        archive=archive,
        key=key,
        dialect=content.format.dialect,
    )
    if not journal.claim(claim):
        raise WriteConflict(f"another file was landed ahead of {content.name}")
    journal.make_findable(claim)
    journal.remember_name(claim)
    return claim, True


def unfinished(store: Store, topic: str) -> Claim | None:
    """The file that a writer has claimed and not landed to its end, if there is one."""
    last = Journal(store, topic).last()
    if last is None or landed_end(store, topic, last) == last.end:
        return None
    return last


def landed_position(store: Store, topic: str) -> Position | None:
    """The end of what is landed of a topic's files; None before the first."""
    last = Journal(store, topic).last()
    if last is None:
        return None
    at = landed_end(store, topic, last)
    return Position(last.topic_id, at) if at else None


def landed_end(store: Store, topic: str, claim: Claim) -> int:
    """The offset up to before which a claimed file is landed."""
    tail = _tail(store, topic, claim)
    return claim.start if tail is None else tail.end


def _tail(store: Store, topic: str, claim: Claim) -> Segment | None:
    folder = claim.part(topic, claim.start).path.rpartition("/")[0]
    names = [parse_name(entry.path) for entry in store.listing(f"{folder}/")[0]]
    starts = [n.start for n in names if n is not None and claim.start <= n.start < claim.end]
    return read_segment(store, claim.part(topic, max(starts)).path) if starts else None


def land_claimed(
    store: Store,
    topic: str,
    claim: Claim,
    content: Content,
    *,
    rows: int = ROWS,
    size: int = BYTES,
) -> Iterator[Landed]:
    """Land what is not landed yet of a claimed content, in parts of at most about `rows` records
    or `size` bytes.

    Raises:
        PositionMoved: another writer lands the same content; what it landed is complete.
        StoreUnavailable: the store does not answer.
    """
    tail = _tail(store, topic, claim)
    ensure_sidecar(store, tail)
    at = claim.start if tail is None else tail.end
    if at == claim.end:
        return
    with Writer(store, lambda: None) as writer:
        for part in _parts(content.records(), at - claim.start, rows, size):
            segment = _segment(topic, claim, at, len(part))
            writer.put(segment, _table(part, segment, claim))
            at = segment.end
            yield from writer.done(keep=0)
    assert at == claim.end, f"{claim.name} has {claim.rows} records, {at - claim.start} came"


def _parts(batches: Iterator[Records], skip: int, rows: int, size: int) -> Iterator[Records]:
    """Records behind the first `skip`, in pieces of about a size."""
    held: list[Records] = []
    for batch in batches:
        passed = min(skip, len(batch))
        skip -= passed
        if passed < len(batch):
            held.append(batch.after(passed))
        if sum(map(len, held)) >= rows or sum(each.size for each in held) >= size:
            yield joined(held)
            held = []
    if held:
        yield joined(held)


def _segment(topic: str, claim: Claim, start: int, rows: int) -> Segment:
    encoding = Format(claim.kind, claim.compression, claim.dialect).encoding
    return Segment(
        name=claim.part(topic, start),
        topic_id=claim.topic_id,
        cluster_id="",
        end=start + rows,
        rows=rows,
        previous=Position(claim.topic_id, start) if start else None,
        file=Source(claim.name, claim.sha256, claim.start, claim.end, claim.kind, encoding),
    )


def _table(part: Records, segment: Segment, claim: Claim) -> pa.Table:
    """A part as records of records.SCHEMA; headers tell where in the file each was."""
    count = len(part)
    offsets = pa.array(np.arange(segment.start, segment.end))
    media_type = Format(claim.kind, claim.compression).media_type
    return pa.Table.from_arrays(
        [
            pa.nulls(count, pa.binary()),
            part.values,
            _headers(media_type, claim, segment, part.reasons),
            pa.repeat(pa.scalar(claim.time, _MILLIS), count),
            pa.repeat("log_append_time", count),
            pa.nulls(count, pa.int64()),
            pa.repeat(pa.scalar(FILES, pa.int32()), count),
            offsets,
        ],
        schema=SCHEMA,
    )


_OWN = ("content-type", "file", "record")
_REASON = "reason"
"""The header of a record that the reader of its file could not take as it stands, or a column of
it: a reason as JSON."""


def _headers(media_type: str, claim: Claim, segment: Segment, reasons: Reasons) -> pa.Array:
    """`content-type`, `file` and `record` (counted from 1) of each record, then its reasons."""
    count = segment.rows
    numbers = np.arange(segment.start, segment.end) - claim.start + 1
    same = pa.array([media_type.encode(), claim.name.encode(errors="surrogateescape")])
    values = pa.concat_arrays([same, pc.cast(pa.array(numbers), pa.string()).cast(pa.binary())])
    places = np.empty((count, 3), np.int64)
    places[:, 0], places[:, 1], places[:, 2] = 0, 1, np.arange(2, count + 2)
    keys = pa.DictionaryArray.from_arrays(np.tile(np.arange(3, dtype=np.int8), count), list(_OWN))
    pairs = pa.StructArray.from_arrays(
        [keys.cast(pa.string()), values.take(pa.array(places.ravel()))], ["key", "value"]
    )
    lengths = np.full(count, len(_OWN))
    if reasons:
        told = [(at, each) for at in sorted(reasons) for each in reasons[at]]
        more = pa.StructArray.from_arrays(
            [
                pa.repeat(_REASON, len(told)),
                pa.array([each.to_json().encode() for _, each in told], pa.binary()),
            ],
            ["key", "value"],
        )
        at = np.array([at for at, _ in told])
        order = np.insert(
            np.arange(len(pairs)), (at + 1) * len(_OWN), len(pairs) + np.arange(len(at))
        )
        pairs = pa.concat_arrays([pairs, more]).take(pa.array(order))
        np.add.at(lengths, at, 1)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, pairs).cast(HEADERS)


def reasons_of_reader(segment: Segment, records: pa.Table) -> Reasons:
    """Return why the reader of a file could not take its records, by their places.

    Only files have such reasons: headers of a topic are its producers'.
    """
    if segment.file is None:
        return {}
    headers = records["headers"].combine_chunks()
    lengths = pc.list_value_length(headers).to_numpy(zero_copy_only=False)
    return {
        at: [Reason.from_json(pair["value"]) for pair in headers[at].as_py()[len(_OWN) :]]
        for at in np.flatnonzero(lengths > len(_OWN)).tolist()
    }
