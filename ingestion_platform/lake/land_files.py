"""Landing files: each content becomes records of the log partition FILES, exactly once.

A content is claimed, then landed part by part after the records of earlier files. A writer that
finds a file half landed finishes it first.
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
"""Bytes of values per lake file; several files are in memory at once."""

_MILLIS = SCHEMA.field("timestamp").type


def claim_place(
    store: Store, topic: str, content: Content, rows: int, archive: str, key: str
) -> tuple[Claim, bool]:
    """Claim offsets for a content unless its key has a claim; return the claim and if it is new.

    The last claimed file must be landed completely.

    Raises:
        WriteConflict: another file claimed the offsets; read the journal again.
    """
    journal = Journal(store, topic)
    last = journal.last()
    if last is not None:
        journal.make_findable(last)
        if last.key != key and landed_end(store, topic, last) < last.end:
            raise WriteConflict(f"{last.name} is being landed by another writer")
    # After reading the last claim: a later claim of this key would have taken the offsets.
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
    journal.record_name(claim)
    return claim, True


def unfinished(store: Store, topic: str) -> Claim | None:
    """Return the claim of the file that is not landed completely, or None."""
    last = Journal(store, topic).last()
    if last is None or landed_end(store, topic, last) == last.end:
        return None
    return last


def landed_position(store: Store, topic: str) -> Position | None:
    """Return the position after the landed records of files; None before the first."""
    last = Journal(store, topic).last()
    if last is None:
        return None
    at = landed_end(store, topic, last)
    return Position(last.topic_id, at) if at else None


def landed_end(store: Store, topic: str, claim: Claim) -> int:
    """Return the offset after the landed records of a claimed file."""
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
    """Land the rest of a claimed content in parts of about `rows` records or `size` bytes.

    Raises:
        WriteConflict: another writer lands the same content; its files are complete.
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
    """Yield the records after the first `skip`, in parts of about `rows` or `size` bytes."""
    buffered: list[Records] = []
    for batch in batches:
        skipped = min(skip, len(batch))
        skip -= skipped
        if skipped < len(batch):
            buffered.append(batch.after(skipped))
        if sum(map(len, buffered)) >= rows or sum(each.size for each in buffered) >= size:
            yield joined(buffered)
            buffered = []
    if buffered:
        yield joined(buffered)


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
    """Return a part as a table of records.SCHEMA, with the place in the file in the headers."""
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
