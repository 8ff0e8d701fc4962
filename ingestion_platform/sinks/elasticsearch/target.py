"""An index of Elasticsearch, written by one delivery at a time (see `state`).

No number that a document carries can order all writes: a place in the log does not fit into the 63
bits of an external version, and a slice that is validated again writes an older row after a newer
one. So the `_id` of a document is the key of its row, and a document is created where there is
none (`create`), or replaced as it was read (`if_seq_no`, `if_primary_term`): a write that is
repeated or late fails. Which row is newer is decided by the place that the document stores.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Any

import msgspec
import pyarrow as pa
from msgspec.structs import replace

from ingestion_platform.contract import columns as c
from ingestion_platform.errors import Permanent, PlatformError
from ingestion_platform.settings import SinkSettings
from ingestion_platform.sinks.base import (
    DELIVERY,
    ORDER,
    ORIGIN,
    REJECTED_COLUMNS,
    Applied,
    Change,
    Column,
    Part,
    Reason,
    Rejected,
    Shape,
    Target,
)
from ingestion_platform.sinks.elasticsearch import POSITIONS, Options
from ingestion_platform.sinks.elasticsearch.cluster import (
    PAGE,
    TOO_LARGE,
    Cluster,
    Hit,
    Item,
    decoded,
    rejects,
    translated,
)
from ingestion_platform.sinks.elasticsearch.documents import documents, ids, table_of
from ingestion_platform.sinks.elasticsearch.index import Indices, index_mapping, only_adds, ranges
from ingestion_platform.sinks.elasticsearch.state import (
    POSITIONS_INDEX,
    Document,
    States,
    Stored,
)
from ingestion_platform.sinks.evolution import Evolution

BULK_BYTES, BULK_DOCUMENTS = 4 * 1024 * 1024, 2_000
"""Approximate size of a bulk request."""
WORKERS = 2
"""Concurrent bulk requests."""
_FENCED_OFF = ("index_not_found_exception", "cluster_block_exception")


@dataclass(frozen=True)
class _Chunk:
    """Rows of one request, or keys to delete (then without documents).

    `start` is the number of the first one in the change.
    """

    start: int
    ids: Sequence[str]
    documents: Sequence[str]
    orders: Sequence[tuple[Any, ...]]
    delivery: str
    forced: bool


class ElasticsearchTarget(Target[Stored]):
    """Methods are documented in Target."""

    kind = "index"
    atomic = False
    _cluster: Cluster
    _states: States
    _indices: Indices

    def __init__(self, sinks: SinkSettings, options: Options) -> None:
        super().__init__(options.index)
        self._sinks = sinks
        self._rejected_name = f"{options.index}-rejected"
        self._pool = ThreadPoolExecutor(WORKERS)
        self._index = ""
        self._read_first = False

    def errors(self) -> AbstractContextManager[None]:
        return translated(self.name)

    def connect(self) -> None:
        cluster = Cluster(self._sinks, self.name)
        of = (cluster, self.name, self._rejected_name, self.conflict)
        self._cluster, self._states, self._indices = cluster, States(*of), Indices(*of)

    def close(self, *, failed: bool) -> None:
        self._pool.shutdown(cancel_futures=True)
        if not failed:
            with suppress(PlatformError), self.errors():
                self._states.release()  # otherwise the next delivery takes the claim over
        self._cluster.close()

    # The index and its shape.

    def stored_column(self, column: Column) -> Column:
        if "." in column.name or column.name != column.name.strip():
            raise Permanent(
                f"{self.name}: {column.name!r} is not a valid field name of Elasticsearch",
                action="give the column a name without dots, in the contract or the model",
            )
        return column

    def read_state(self) -> Stored | None:
        stored = self._states.read()
        return stored if stored.document else None

    def create(self, shape: Shape) -> Stored:
        # 400: it exists.
        self._cluster.call("PUT", f"/{POSITIONS}", POSITIONS_INDEX, absent=(400,))
        stored = self._states.read()  # the version of what an index that is gone has left
        if self._indices.foreign():
            raise self.foreign()
        writer = uuid.uuid4().hex[:12]
        if self._cluster.uuid(self._rejected_name):
            writer = ""  # its old writer has to be fenced off first
        else:
            self._indices.create_quarantine(writer)
        document = Document(self.name, shape.source, shape.to_json())
        stored = self._states.swap(stored, self._indices.create(document, shape, writer))
        self._indices.drop_before(stored.known.index)
        return stored

    def evolve(self, state: Stored, evolution: Evolution) -> Stored:
        """See Target; a wider or renamed field means that all documents are copied."""
        after = evolution.after
        document = replace(state.known, source=after.source, shape=after.to_json())
        have, want = index_mapping(evolution.have), index_mapping(after)
        if evolution.renamed or not only_adds(have | {"_meta": 0}, want | {"_meta": 0}):
            return self._copy_index(state, document, evolution)
        self._indices.extend(document.index, after)
        return self._states.swap(state, document)

    def prepare(self, state: Stored) -> None:
        self._index = state.known.index
        self._indices.complete(self._index)

    def _copy_index(self, stored: Stored, after: Document, evolution: Evolution) -> Stored:
        """Copy all documents into another index, which takes the old one's place.

        The old one accepts no writes meanwhile: it has no writer, and stays blocked.
        """
        claim = f"copy {uuid.uuid4().hex[:12]}"
        stored = self._states.swap(stored, replace(stored.known, claimed_by=claim, writer=""))
        self._states.fence(stored.known, unblock=False)
        new = self._indices.create(after, evolution.after)
        for hits in self._cluster.scan(stored.known.index, {}):
            actions = []
            for hit in hits:
                source = {evolution.renamed.get(n, n): raw for n, raw in hit.source.items()}
                actions.append(_action("create", hit.id, document=_text(source)))
            for item in self._bulk(f"/{new.index}/_bulk", actions, {}):
                # 409: a request that was not answered has copied it.
                if item.error is not None and item.status != 409:
                    raise rejects(self.name, item.status, item.error.summary())
        stored = self._states.swap(stored, replace(new, position=after.position))
        self._indices.complete(new.index)
        self._indices.drop_before(new.index)
        return stored

    # Rows.

    def write(self, change: Change) -> Applied:
        stored = self.stored_at(change)
        applied, settled = Applied(), self._settled(change)
        if change.upserts.num_rows or change.deletes.num_rows or change.rejected or settled:
            stored = self._states.claim(stored, change.delivery)
            applied = self.write_rows(stored.known, change)
            if applied.rejected:
                return applied
            self._update_quarantine(stored.known, change, settled)
            if self._cluster.unanswered:  # no write may arrive after the position has moved
                stored = self._states.claim(stored, change.delivery, renew=True)
        if change.position != change.base:
            self._states.swap(stored, replace(stored.known, position=change.position))
        return applied

    def stored_at(self, change: Change) -> Stored:
        """Return the state, if it is the one that the change was prepared for."""
        stored = self.read_state()
        if stored is None or (stored.position, stored.known.index) != (change.base, self._index):
            raise self.conflict()
        return stored

    def write_rows(self, state: Document, change: Change) -> Applied:
        """Write all deletes, and all rows that can be written."""
        made = documents(change.upserts, self.shape)
        keys = ids(change.upserts.select(self.shape.key))
        places = zip(*(change.upserts[name].to_pylist() for name in ORDER), strict=True)
        orders = [(ingest_date.isoformat(), *rest) for ingest_date, *rest in places]
        gone = ids(change.deletes)
        chunks = [
            _Chunk(n, keys[n:m], made[n:m], orders[n:m], change.delivery, change.forced)
            for n, m in ranges(made, BULK_BYTES, BULK_DOCUMENTS)
        ]
        chunks += [
            _Chunk(n, gone[n:m], (), (), change.delivery, True)
            for n, m in ranges(gone, BULK_BYTES, BULK_DOCUMENTS)
        ]
        upserted, deleted = 0, 0
        rejected: dict[int, Reason] = {}
        found = self._pool.map(lambda chunk: self._write_chunk(state, chunk), chunks)
        for chunk, (written, existing, of_chunk) in zip(chunks, found, strict=True):
            rejected |= of_chunk
            if chunk.documents:
                upserted += written
                self._read_first = existing * 2 > len(chunk.ids)
            else:
                deleted += written
        return Applied(rejected=rejected) if rejected else Applied(upserted, deleted)

    def scan(self, part: Part, without: str) -> Iterator[pa.Table]:
        schema = self.shape.place_schema()
        for hits in self._cluster.scan(self._index, _within(part, without), schema.names):
            yield table_of([hit.members() for hit in hits], schema)

    def count(self, state: Stored) -> int:
        return self._cluster.count(state.known.index)

    def read_rejected(self, state: Stored, limit: int) -> list[Rejected]:
        if not self._cluster.uuid(self._rejected_name):
            return []
        newest = [{"rejected_at": "desc"}, {c.PARTITION: "asc"}, {c.OFFSET: "asc"}]
        pages = self._cluster.scan(self._rejected_name, {}, None, newest, min(limit, PAGE))
        members = (hit.members() for hits in pages for hit in hits)
        return [Rejected(*(of[n] for n in REJECTED_COLUMNS)) for of in islice(members, limit)]

    def _write_chunk(self, state: Document, chunk: _Chunk) -> tuple[int, int, dict[int, Reason]]:
        """Write a chunk; return how many are written, how many existed, and rejected rows."""
        path, todo = f"/{self.name}.write-{state.writer}/_bulk", list(range(len(chunk.ids)))
        read_first = self._read_first or not chunk.documents
        known = self._existing(state, chunk, todo) if read_first else {}
        written, existing = 0, set(known)
        rejected: dict[int, Reason] = {}
        while todo:
            actions, same = _actions(chunk, todo, known)
            written += same
            items = self._cluster.bulk(path, list(actions.values()), {"require_alias": "true"})
            todo = []
            for number, item in zip(actions, items, strict=True):
                if item.status == 409:  # the document is another one than was expected
                    todo.append(number)
                elif item.error is None:
                    written += item.status != 404
                elif item.status in (400, TOO_LARGE):
                    rejected[chunk.start + number] = item.error.as_reason()
                else:
                    raise self._failed(item)
            if todo:
                known = self._existing(state, chunk, todo)
                existing |= set(known)
        return written, len(existing), rejected

    def _existing(self, state: Document, chunk: _Chunk, numbers: Sequence[int]) -> dict[int, Hit]:
        """Return the documents that exist, by number in the chunk: their versions and places."""
        wanted = [chunk.ids[number] for number in numbers]
        found = self._cluster.documents(state.index, wanted, ORIGIN)
        return {number: hit for number, hit in zip(numbers, found, strict=True) if hit.found}

    def _settled(self, change: Change) -> list[str]:
        """Return the ids of rejected rows that the change settles."""
        if not change.settled or not self._cluster.uuid(self._rejected_name):
            return []
        parts = [{"bool": _within(part, change.delivery)} for part in change.settled]
        query = {"filter": [{"bool": {"should": parts, "minimum_should_match": 1}}]}
        pages = self._cluster.scan(self._rejected_name, query, [])
        return [hit.id for hits in pages for hit in hits]

    def _update_quarantine(self, state: Document, change: Change, settled: Sequence[str]) -> None:
        actions = [_action("delete", each) for each in settled]
        actions += [_quarantined(each) for each in change.quarantined(self.shape.key)]
        path = f"/{self.name}.reject-{state.writer}/_bulk"
        for item in self._bulk(path, actions, {"require_alias": "true"}):
            if item.error is not None:
                raise self._failed(item)

    def _bulk(self, path: str, actions: Sequence[str], params: Mapping[str, str]) -> Iterator[Item]:
        for start, end in ranges(actions, BULK_BYTES, BULK_DOCUMENTS):
            yield from self._cluster.bulk(path, actions[start:end], params)

    def _failed(self, item: Item) -> PlatformError:
        """Return the error for an action that failed for another reason than its row."""
        assert item.error is not None, "the caller has checked"
        if item.error.type in _FENCED_OFF:
            return self.conflict()
        return rejects(self.name, item.status, item.error.summary())


def _actions(
    chunk: _Chunk, todo: Sequence[int], known: Mapping[int, Hit]
) -> tuple[dict[int, str], int]:
    """Return the actions for rows, given the documents that exist; and how many are written."""
    actions: dict[int, str] = {}
    same = 0
    for number in todo:
        hit, id_ = known.get(number), chunk.ids[number]
        if not chunk.documents:
            if hit is not None:
                actions[number] = _action("delete", id_, hit)
        elif hit is None:
            actions[number] = _action("create", id_, document=chunk.documents[number])
        elif (held := _order(hit)) == chunk.orders[number] and _by(hit) == chunk.delivery:
            same += 1
        elif chunk.forced or held <= chunk.orders[number]:
            actions[number] = _action("index", id_, hit, chunk.documents[number])
    return actions, same


def _order(hit: Hit) -> tuple[Any, ...]:
    """Return the place of a document; () before all others if no delivery has written it."""
    values = tuple(decoded(hit.source[name]) for name in ORDER if name in hit.source)
    return values if len(values) == len(ORDER) else ()


def _by(hit: Hit) -> str:
    return str(decoded(hit.source[DELIVERY])) if DELIVERY in hit.source else ""


def _action(verb: str, id_: str, hit: Hit | None = None, document: str = "") -> str:
    """Return the lines of an action of a bulk request; `hit` is the document that must exist."""
    about: dict[str, Any] = {"_id": id_}
    if hit is not None:
        about |= {"if_seq_no": hit.seq_no, "if_primary_term": hit.primary_term}
    line = _text({verb: about})
    return f"{line}\n{document}" if document else line


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _within(part: Part, without: str) -> dict[str, Any]:
    """Return the query for the rows of a part that a delivery has not written."""
    query: dict[str, Any] = {"must_not": [{"term": {DELIVERY: without}}]}
    if part.span is not None:
        query["filter"] = [
            {"term": {c.PARTITION: part.partition}},
            {"term": {c.TOPIC_ID: part.span.topic_id}},
            {"range": {c.OFFSET: {"gte": part.span.start, "lt": part.span.end}}},
        ]
    return query


def _quarantined(entry: Rejected) -> str:
    """Return the action that stores a rejected row, always under the same id."""
    document = dict(zip(REJECTED_COLUMNS, astuple(entry), strict=True))
    id_ = f"{entry.partition}|{entry.offset}|{entry.topic_id}|{entry.digest}"
    return _action("index", id_, document=_text(document))
