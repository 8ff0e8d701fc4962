"""Elasticsearch: a versioned index per delivery behind an alias, written by one delivery at a time.

Elasticsearch has no transactions, and no number that a document carries could order all writes: a
place in the log does not fit into the 63 bits of an external version, and a repaired slice writes
an older row after a newer one on purpose. So:

- A document's `_id` is its row's key. It is written where it is not (`create`) or as it was read
  (`if_seq_no`, `if_primary_term`); whether a row gives way is decided by the place that the
  document keeps, as in every sink. A write made twice, or late, finds another document and fails.
- How far the target is, is one document of the index POSITIONS, moved by compare-and-set, after
  the rows. Before rows are written, their delivery claims the target in it. Who finds a claim of
  somebody else takes it over, and fences him off first: writes go through an alias whose name only
  the claimant knows and which must exist; it goes, and what is already under way in the server is
  waited for by a write block. A delivery that stood still for a day can write nothing any more.
- What a dead one has written is in a range that the position still calls unfinished (see
  `Target.atomic`): the next delivery replaces it, whatever the source says of it by then.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
from msgspec.structs import replace

from ingestion_platform.contract import columns as c
from ingestion_platform.errors import (
    Permanent,
    PlatformError,
    SettingError,
    SinkUnavailable,
    WriteConflict,
)
from ingestion_platform.sinks.cluster import (
    PAGE,
    TOO_LARGE,
    Cluster,
    Hit,
    Item,
    answering,
    decoded,
    rejects,
)
from ingestion_platform.sinks.documents import (
    ORIGIN_MAPPINGS,
    Merged,
    documents,
    ids,
    mapping_of,
    merged,
    table_of,
)
from ingestion_platform.sinks.interface import (
    DELIVERY,
    ORDER,
    ORIGIN,
    Applied,
    Change,
    Part,
    Rejected,
    Rejection,
    Shape,
)
from ingestion_platform.sinks.text import json_row

if TYPE_CHECKING:
    from ingestion_platform.settings import Settings, SinkSettings

POSITIONS = "ingestion-positions"
"""The index of positions: one document for each target of the cluster."""
BULK_BYTES, BULK_DOCUMENTS = 4 * 1024 * 1024, 2_000
"""Of one bulk request, about."""
WORKERS = 2
"""Bulk requests under way at once."""
FENCES = 5
"""Times that others are fenced off, while requests for that remain without an answer."""
_EXAMPLE = "https://search.example.org:9200"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,180}")
_RESERVED = re.compile(r"-rejected$|-\d{6}$|\.(write|refuse)-")
_MADE_BY = "ingestion-platform"

_POSITIONS_INDEX = {
    "settings": {"number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": True},
    "mappings": {
        "dynamic": False,
        "properties": {
            "target": {"type": "keyword"},
            "source": {"type": "keyword"},
            "updated_at": {"type": "date"},
        },
    },
}
_STORED = {"type": "keyword", "index": False, "doc_values": False}
_REJECTED_INDEX = {
    "settings": {"number_of_shards": 1, "auto_expand_replicas": "0-1"},
    "mappings": {
        "dynamic": "strict",
        "properties": {
            **{name: ORIGIN_MAPPINGS[name] for name in (c.TOPIC_ID, c.PARTITION, c.OFFSET)},
            DELIVERY: {"type": "keyword"},
            "reason": {"type": "text", "fields": {"keyword": {"type": "keyword"}}},
            "row": _STORED,
            "rejected_at": {"type": "date", "format": "strict_date_optional_time"},
        },
    },
}


@dataclass(frozen=True)
class Options:
    """Where in the cluster, as the YAML says."""

    index: str


def options(given: Mapping[str, Any], default_schema: str, default_table: str) -> Options:
    """The options of a delivery: `index`, the name that searches use (an alias).

    Raises:
        ValueError: says which option is wrong, and how.
    """
    if unknown := sorted(set(given) - {"index"}):
        raise ValueError(f"{unknown[0]}: is not an option; write `index: app-logs`")
    name = given.get("index", f"{default_schema}-{default_table}".lower())
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"index: {name!r} cannot be a name; use small letters, digits and . _ -")
    if name == POSITIONS or _RESERVED.search(name):
        raise ValueError(f"index: {name} is of the sink's own kind; choose another name")
    return Options(name)


def label(where: Options) -> str:
    """What the delivery is called, behind the name of the sink."""
    return where.index


def configured(settings: Settings) -> bool:
    """Whether the settings name a server."""
    return bool(settings.sinks.elasticsearch_urls)


def open_target(settings: Settings, where: Options) -> ElasticsearchTarget:
    """The index, not yet connected.

    Raises:
        SettingError: ELASTICSEARCH_URL is not set.
    """
    if not settings.sinks.elasticsearch_urls:
        raise SettingError(
            "ELASTICSEARCH_URL", "is not set: nothing can be delivered", example=_EXAMPLE
        )
    return ElasticsearchTarget(settings.sinks, where)


class _State(msgspec.Struct, frozen=True):
    """The document of a target: what it is, how far, where, and who may write to it.

    `columns` are number, name and mapping of each; `claimed_by` the delivery whose writes may be
    under way; `writer` the end of the names of the aliases that it writes through.
    """

    target: str
    source: str
    identity: str
    key: list[str]
    columns: list[tuple[int, str, dict[str, Any]]]
    description: str
    descriptions: dict[str, str]
    position: str = ""
    index: str = ""
    uuid: str = ""
    claimed_by: str = ""
    writer: str = ""
    updated_at: str = ""


class _Stored(msgspec.Struct, frozen=True):
    """The state with the version that it is stored as; `seq_no` is -1 when none is."""

    state: _State | None = msgspec.field(name="_source", default=None)
    seq_no: int = msgspec.field(name="_seq_no", default=-1)
    primary_term: int = msgspec.field(name="_primary_term", default=0)

    @property
    def known(self) -> _State:
        """The state, where it has been seen to be there."""
        assert self.state is not None, "call ensure() first"
        return self.state


@dataclass(frozen=True)
class _Chunk:
    """Rows of one request, or keys to delete (then without documents): where they begin in the
    change, their ids, documents, places."""

    start: int
    ids: Sequence[str]
    documents: Sequence[str]
    orders: Sequence[tuple[Any, ...]]
    delivery: str
    forced: bool


@dataclass(frozen=True)
class _Done:
    """What became of a chunk; `met` documents were there already."""

    written: int
    met: int
    rejected: dict[int, str]


class ElasticsearchTarget:
    """See Target."""

    atomic = False

    def __init__(self, sinks: SinkSettings, where: Options) -> None:
        self._sinks = sinks
        self._name = where.index
        self._rejected_name = f"{where.index}-rejected"
        self._connected: Cluster | None = None
        self._pool = ThreadPoolExecutor(WORKERS)
        self._shape: Shape | None = None
        self._index = ""
        self._claimant = ""
        self._read_first = False

    def __enter__(self) -> ElasticsearchTarget:
        """See Target."""
        with answering(self._name):
            self._connected = Cluster(self._sinks, self._name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See Target."""
        self._pool.shutdown(cancel_futures=True)
        if self._connected is None:
            return
        if kind is None and self._claimant:
            with suppress(PlatformError), answering(self._name):
                self._release()  # or else the next delivery takes the claim over
        self._connected.close()

    def ensure(self, shape: Shape) -> None:
        """See Target: new fields are mapped; for a wider or renamed one the index is written again,
        and then takes the old one's place behind the alias."""
        with answering(self._name):
            self._shape = shape
            wanted = _described(self._name, shape)
            stored = self._read()
            if stored.state is None:
                stored = self._create(stored, wanted)
            elif not _covers(stored.state, wanted):
                stored = self._follow(stored, wanted)
            self._index = stored.known.index
            self._complete(stored.known)

    def position(self) -> str:
        """See Target."""
        with answering(self._name):
            state = self._read().state
            return "" if state is None else state.position

    def apply(self, change: Change) -> Applied:
        """See Target."""
        with answering(self._name):
            stored = self._at(change)
            applied, settled = Applied(), self._settled(change)
            if change.upserts.num_rows or change.deletes.num_rows or change.rejected or settled:
                stored = self._claimed(stored, change.delivery)
                applied = self._write(stored.known, change)
                if applied.rejected:
                    return applied
                self._keep(stored.known, change, settled)
                if self._cluster.unanswered:  # nothing may follow a write that is still under way
                    stored = self._claimed(stored, change.delivery, renew=True)
            if change.position != change.base:
                self._swap(stored, replace(stored.known, position=change.position))
            return applied

    def held(self, part: Part | None = None, *, without: str = "") -> Iterator[pa.Table]:
        """See Target."""
        schema = self._opened.schema()
        names = list(dict.fromkeys((*self._opened.key, *ORIGIN)))
        wanted = pa.schema([schema.field(name) for name in names])
        query: dict[str, Any] = {"filter": _in_part(part)}
        if without:
            query["must_not"] = [{"term": {DELIVERY: without}}]
        with answering(self._name):
            for hits in self._cluster.scan(self._index, query, names):
                yield table_of([hit.members() for hit in hits], wanted)

    def rows(self) -> int:
        """See Target."""
        with answering(self._name):
            state = self._read().state
            return 0 if state is None else self._cluster.count(state.index)

    def rejections(self, limit: int) -> list[Rejected]:
        """See Target."""
        newest = [{"rejected_at": "desc"}, {c.PARTITION: "asc"}, {c.OFFSET: "asc"}]
        found: list[Rejected] = []
        with answering(self._name):
            if self._read().state is None or not self._cluster.uuid(self._rejected_name):
                return []
            size = min(limit, PAGE)
            for hits in self._cluster.scan(self._rejected_name, {}, None, newest, size):
                found += [_rejected(hit) for hit in hits]
                if len(found) >= limit:
                    break
        return found[:limit]

    # The state, and who may write.

    def _read(self) -> _Stored:
        """The state; without one when there is no index that it tells of."""
        answer = self._cluster.call("GET", f"/{POSITIONS}/_doc/{self._name}", absent=(404,))
        stored = msgspec.json.decode(answer, type=_Stored)
        if stored.state and self._cluster.uuid(stored.state.index) == stored.state.uuid:
            return stored
        return _Stored(None, stored.seq_no, stored.primary_term)

    def _at(self, change: Change) -> _Stored:
        """The state, if it is the one that the change was prepared for."""
        stored = self._read()
        state = stored.state
        if state is None or (state.position, state.index) != (change.base, self._index):
            raise self._moved()
        return stored

    def _swap(self, stored: _Stored, state: _State) -> _Stored:
        """Put a state in the place of the one that was read; PositionMoved if it is another now."""
        state = replace(state, updated_at=datetime.now(UTC).isoformat(timespec="microseconds"))
        params = {"op_type": "create"}
        if stored.seq_no >= 0:
            params = {
                "if_seq_no": str(stored.seq_no),
                "if_primary_term": str(stored.primary_term),
            }
        path = f"/{POSITIONS}/_doc/{self._name}"
        body = msgspec.to_builtins(state)
        answer = self._cluster.call("PUT", path, body, params, absent=(409,))
        made = msgspec.json.decode(answer, type=_Stored)
        if made.seq_no >= 0:
            return _Stored(state, made.seq_no, made.primary_term)
        # By somebody else's state; or by ours, when the first answer was lost.
        now = self._read()
        if now.state == state:
            return now
        raise self._moved()

    def _claimed(self, stored: _Stored, delivery: str, *, renew: bool = False) -> _Stored:
        """The state with the claim of a delivery, nobody else being able to write."""
        state, self._claimant = stored.known, delivery
        if state.claimed_by == delivery and not renew:
            return stored
        if not renew and not state.claimed_by and state.writer:
            return self._swap(stored, replace(state, claimed_by=delivery))
        for _ in range(FENCES):
            self._cluster.unanswered = False
            writer = uuid.uuid4().hex[:12]
            stored = self._swap(stored, replace(state, claimed_by=delivery, writer=writer))
            self._fence(stored.known)
            # A request that is late could bring the aliases of this writer back: take another.
            if not self._cluster.unanswered:
                return stored
        raise SinkUnavailable(
            f"{self._name}: Elasticsearch does not answer", action="check that its server is up"
        )

    def _release(self) -> None:
        """Take the claim back: all that was asked for has been answered."""
        stored = self._read()
        state = stored.state
        if state and state.claimed_by == self._claimant and not self._cluster.unanswered:
            self._swap(stored, replace(state, claimed_by=""))

    def _fence(self, state: _State) -> None:
        """Only the state's writer can write from now on, and no write of others is under way.

        Raises:
            PositionMoved: whoever has taken over meanwhile was fenced off, and is in the right.
        """
        self._cluster.aliases(
            self._no_writer(state.index),
            *({"add": each} for each in _writing(self._name, state)),
        )
        both = f"{state.index},{self._rejected_name}"
        self._cluster.call("PUT", f"/{both}/_block/write")
        self._cluster.call("PUT", f"/{both}/_settings", {"index.blocks.write": None})
        if self._read().state != state:
            raise self._moved()

    def _no_writer(self, index: str) -> dict[str, Any]:
        both = [index, self._rejected_name]
        return {"remove": {"alias": f"{self._name}.*", "indices": both, "must_exist": False}}

    def _moved(self) -> WriteConflict:
        return WriteConflict(
            f"{self._name}: another delivery was quicker",
            action="read the position again and go on",
        )

    # The index and its shape.

    def _create(self, stored: _Stored, wanted: _State) -> _Stored:
        """A first index, and the state that tells of it."""
        # 400: it is there.
        self._cluster.call("PUT", f"/{POSITIONS}", _POSITIONS_INDEX, absent=(400,))
        answer = self._cluster.call("GET", f"/_alias/{self._name}", absent=(404,))
        behind = set(msgspec.json.decode(answer)) - {"error", "status"}
        if self._cluster.uuid(self._name) or behind - set(self._numbered()):
            raise Permanent(
                f"{self._name}: the index or alias is there, and no delivery has made it",
                action="deliver to an index of another name, or delete this one",
            )
        writer = uuid.uuid4().hex[:12]
        if self._cluster.uuid(self._rejected_name):
            writer = ""  # nobody's yet
        else:
            self._make_quarantine(writer)
        stored = self._swap(stored, self._new_index(wanted, writer))
        self._drop_before(stored.known)
        return stored

    def _follow(self, stored: _Stored, wanted: _State) -> _Stored:
        """Make the index hold what the shape says; gives the state afterwards."""
        have = stored.known
        columns, renamed, reindex = _evolved(have, wanted)
        after = replace(
            wanted,
            columns=columns,
            index=have.index,
            uuid=have.uuid,
            position=have.position,
            claimed_by=have.claimed_by,
            writer=have.writer,
        )
        if reindex:
            return self._write_anew(stored, after, renamed)
        self._template(after)
        self._cluster.call("PUT", f"/{have.index}/_mapping", _mapping(after))
        return self._swap(stored, after)

    def _write_anew(self, stored: _Stored, after: _State, renamed: Mapping[str, str]) -> _Stored:
        """All documents in another index, which takes the old one's place behind the alias.

        Nobody writes to the old one meanwhile: it has no writer, and is blocked for good.
        """
        old = stored.known.index
        mark = f"copy {uuid.uuid4().hex[:12]}"
        stored = self._swap(stored, replace(stored.known, claimed_by=mark, writer=""))
        self._cluster.aliases(self._no_writer(old))
        self._cluster.call("PUT", f"/{old},{self._rejected_name}/_block/write")
        self._cluster.call("PUT", f"/{self._rejected_name}/_settings", {"index.blocks.write": None})
        state = self._new_index(after)
        for hits in self._cluster.scan(old, {}):
            actions = []
            for hit in hits:
                source = {renamed.get(name, name): raw for name, raw in hit.source.items()}
                actions.append(_action("create", hit.id, document=_text(source)))
            self._copy(state.index, actions)
        stored = self._swap(stored, replace(state, position=after.position))
        self._complete(stored.known)
        self._drop_before(stored.known)
        return stored

    def _copy(self, index: str, actions: Sequence[str]) -> None:
        for start, end in _ranges(actions):
            for item in self._cluster.bulk(f"/{index}/_bulk", actions[start:end], {}):
                # 409: a request that was not answered has copied it.
                if item.error is not None and item.status != 409:
                    raise rejects(self._name, item.status, item.error.told())

    def _new_index(self, of: _State, writer: str | None = None) -> _State:
        """An empty index of the next number; with a writer, searches and writes find it at once."""
        self._template(of)
        number = 1 + max((int(name[-6:]) for name in self._numbered()), default=0)
        index = f"{self._name}-{number:06d}"
        body = {"mappings": _mapping(of), "aliases": {}}
        if writer is not None:
            body["aliases"] = {self._name: {}} | (
                {f"{self._name}.write-{writer}": {"is_hidden": True}} if writer else {}
            )
        made = self._cluster.call("PUT", f"/{index}", body, absent=(400,))
        if b"resource_already_exists" in made:
            raise self._moved()
        if failure := msgspec.json.decode(made).get("error"):
            raise rejects(self._name, 400, failure["reason"])
        found = self._cluster.uuid(index)
        return replace(of, index=index, uuid=found, position="", claimed_by="", writer=writer or "")

    def _make_quarantine(self, writer: str) -> None:
        alias = {f"{self._name}.refuse-{writer}": {"is_hidden": True}} if writer else {}
        body = {**_REJECTED_INDEX, "aliases": alias}
        self._cluster.call("PUT", f"/{self._rejected_name}", body, absent=(400,))  # or it is there

    def _template(self, of: _State) -> None:
        """The template of the target's indices; `<name>@custom` adds what its users want."""
        custom = f"{self._name}@custom"
        body = {
            "index_patterns": [f"{self._name}-0*"],
            "priority": 300,
            "composed_of": [custom],
            "ignore_missing_component_templates": [custom],
            "template": {
                "settings": {"index.mapping.coerce": False},
                "mappings": _mapping(of),
            },
            "_meta": {"managed_by": _MADE_BY},
        }
        self._cluster.call("PUT", f"/_index_template/{self._name}", body)

    def _complete(self, state: _State) -> None:
        """The alias points to the state's index alone, and there is a quarantine."""
        answer = self._cluster.call("GET", f"/_alias/{self._name}", absent=(404,))
        if set(msgspec.json.decode(answer)) != {state.index}:
            others = {"index": f"{self._name}-*", "alias": self._name, "must_exist": False}
            new = {"index": state.index, "alias": self._name}
            self._cluster.aliases({"remove": others}, {"add": new})
        if not self._cluster.uuid(self._rejected_name):
            self._make_quarantine("")

    def _numbered(self) -> list[str]:
        """The indices of this target, whether they are in use or not."""
        answer = self._cluster.call("GET", f"/{self._name}-0*/_mapping", absent=(404,))
        own = re.compile(rf"{re.escape(self._name)}-\d{{6}}")
        return [
            name
            for name, of in msgspec.json.decode(answer).items()
            if own.fullmatch(name) and of["mappings"].get("_meta", {}).get("managed_by") == _MADE_BY
        ]

    def _drop_before(self, state: _State) -> None:
        """Delete the indices that came before; one of a higher number is somebody else's work."""
        for index in self._numbered():
            if index < state.index:
                self._cluster.call("DELETE", f"/{index}", absent=(404,))

    # A change.

    def _write(self, state: _State, change: Change) -> Applied:
        """All deletes, and all rows that can be."""
        made = documents(change.upserts, self._opened)
        keys = ids(change.upserts.select(self._opened.key))
        places = zip(*(change.upserts[name].to_pylist() for name in ORDER), strict=True)
        orders = [(ingest_date.isoformat(), *rest) for ingest_date, *rest in places]
        gone = ids(change.deletes)
        chunks = [
            _Chunk(n, keys[n:m], made[n:m], orders[n:m], change.delivery, change.forced)
            for n, m in _ranges(made)
        ]
        chunks += [_Chunk(n, gone[n:m], (), (), change.delivery, True) for n, m in _ranges(gone)]
        upserted, deleted = 0, 0
        rejected: dict[int, str] = {}
        found = self._pool.map(lambda chunk: self._settle(state, chunk), chunks)
        for chunk, done in zip(chunks, found, strict=True):
            rejected |= done.rejected
            if chunk.documents:
                upserted += done.written
                self._read_first = done.met * 2 > len(chunk.ids)
            else:
                deleted += done.written
        return Applied(rejected=rejected) if rejected else Applied(upserted, deleted)

    def _settle(self, state: _State, chunk: _Chunk) -> _Done:
        """Write a chunk, whatever is there already."""
        path, todo = f"/{self._name}.write-{state.writer}/_bulk", list(range(len(chunk.ids)))
        look = self._read_first or not chunk.documents
        known = self._look(state, chunk, todo) if look else {}
        written, met = 0, set(known)
        rejected: dict[int, str] = {}
        while todo:
            actions, same = _actions(chunk, todo, known)
            written += same
            items = (
                self._cluster.bulk(path, list(actions.values()), {"require_alias": "true"})
                if actions
                else []
            )
            todo = []
            for number, item in zip(actions, items, strict=True):
                if item.status == 409:  # it is another one than was thought
                    todo.append(number)
                elif item.error is None:
                    written += item.status != 404
                elif item.status in (400, TOO_LARGE):
                    rejected[chunk.start + number] = item.error.told()
                else:
                    raise self._failed(item)
            if todo:
                known = self._look(state, chunk, todo)
                met |= set(known)
        return _Done(written, len(met), rejected)

    def _look(self, state: _State, chunk: _Chunk, numbers: Sequence[int]) -> dict[int, Hit]:
        """Documents that are there, by number in the chunk: their versions and places."""
        wanted = [chunk.ids[number] for number in numbers]
        found = self._cluster.documents(state.index, wanted, ORIGIN)
        return {number: hit for number, hit in zip(numbers, found, strict=True) if hit.found}

    def _settled(self, change: Change) -> list[str]:
        """Ids of older rejections that are over by a change."""
        if not change.settled or not self._cluster.uuid(self._rejected_name):
            return []
        parts = [{"bool": {"filter": _in_part(part)}} for part in change.settled]
        query = {
            "filter": [{"bool": {"should": parts, "minimum_should_match": 1}}],
            "must_not": [{"term": {DELIVERY: change.delivery}}],
        }
        pages = self._cluster.scan(self._rejected_name, query, [])
        return [hit.id for hits in pages for hit in hits]

    def _keep(self, state: _State, change: Change, settled: Sequence[str]) -> None:
        """The quarantine after a change."""
        at = datetime.now(UTC).isoformat()
        actions = [_action("delete", each) for each in settled]
        actions += [_kept(rejection, self._opened, at) for rejection in change.rejected]
        path = f"/{self._name}.refuse-{state.writer}/_bulk"
        for start, end in _ranges(actions):
            some = actions[start:end]
            for item in self._cluster.bulk(path, some, {"require_alias": "true"}):
                if item.error is not None:
                    raise self._failed(item)

    def _failed(self, item: Item) -> PlatformError:
        """What the answer to an action means that blames no row."""
        assert item.error is not None, "it has failed"
        if item.error.type in ("index_not_found_exception", "cluster_block_exception"):
            return self._moved()  # fenced off
        return rejects(self._name, item.status, item.error.told())

    # Small things.

    @property
    def _cluster(self) -> Cluster:
        assert self._connected is not None, "enter the target first"
        return self._connected

    @property
    def _opened(self) -> Shape:
        assert self._shape is not None, "call ensure() first"
        return self._shape


def _described(name: str, shape: Shape) -> _State:
    """A shape as the state keeps it."""
    for column in shape.columns:
        if "." in column.name or column.name != column.name.strip():
            raise Permanent(
                f"{name}: Elasticsearch has no field named {column.name!r}",
                action="give the column a name without dots, in the contract or the model",
            )
    columns = [(o.number, o.name, mapping_of(o, key=o.name in shape.key)) for o in shape.columns]
    said = {o.name: o.description for o in shape.columns if o.description}
    return _State(
        target=name,
        source=shape.source,
        identity=shape.identity,
        key=list(shape.key),
        columns=columns,
        description=shape.description,
        descriptions=said,
    )


def _covers(have: _State, wanted: _State) -> bool:
    """Whether nothing has to be changed."""
    if any(
        getattr(have, name) != getattr(wanted, name)
        for name in ("identity", "key", "description", "descriptions")
    ):
        return False
    known = {(number, name): mapping for number, name, mapping in have.columns}
    for number, name, mapping in wanted.columns:
        held = known.get((number, name))
        if held is None or merged(held, mapping) != Merged(held):
            return False
    return True


def _evolved(
    have: _State, wanted: _State
) -> tuple[list[tuple[int, str, dict[str, Any]]], dict[str, str], bool]:
    """The columns afterwards, new names by old ones, and whether all is to be written again.

    A wanted column is the one of the same number, as long as the source is the same table; else
    the one of the same name.
    """
    same = have.identity == wanted.identity
    by_number = {column[0]: column for column in have.columns} if same else {}
    by_name = {column[1]: column for column in have.columns}
    pairs = [(by_number.get(want[0]) or by_name.get(want[1]), want) for want in wanted.columns]
    renamed = {held[1]: want[1] for held, want in pairs if held and held[1] != want[1]}
    if [renamed.get(name, name) for name in have.key] != wanted.key:
        raise Permanent(
            f"{have.target}: is kept by {', '.join(have.key)}, not by {', '.join(wanted.key)}",
            action="deliver to an index of another name, or delete this one: it is made again",
        )
    columns, reindex = [], bool(renamed)
    for held, (number, name, mapping) in pairs:
        found = Merged(mapping) if held is None else merged(held[2], mapping)
        if found is None:
            was = held[2].get("type", "object") if held else ""
            raise Permanent(
                f"{have.target}: field {name} is mapped as {was}, and the source now has "
                f"{mapping.get('type', 'object')}",
                action="deliver to an index of another name, or delete this one: it is made again",
            )
        columns.append((number, name, found.mapping))
        reindex |= found.reindex
    used = [held for held, _ in pairs]
    return [*columns, *(each for each in have.columns if each not in used)], renamed, reindex


def _mapping(of: _State) -> dict[str, Any]:
    """Mappings of an index; what is not in them is rejected."""
    about = {"managed_by": _MADE_BY, "source": of.source, "description": of.description}
    return {
        "dynamic": "strict",
        "_meta": {**about, "fields": of.descriptions},
        "properties": {**{name: each for _, name, each in of.columns}, **ORIGIN_MAPPINGS},
    }


def _writing(name: str, state: _State) -> list[dict[str, Any]]:
    """The aliases that the state's writer writes through."""
    places = (("write", state.index), ("refuse", f"{name}-rejected"))
    return [
        {"alias": f"{name}.{verb}-{state.writer}", "index": index, "is_hidden": True}
        for verb, index in places
    ]


def _actions(
    chunk: _Chunk, todo: Sequence[int], known: Mapping[int, Hit]
) -> tuple[dict[int, str], int]:
    """What to do about rows, given what is there; and how many are there already."""
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
    """The place of a document; that of one that somebody else has written comes before all."""
    values = tuple(decoded(hit.source[name]) for name in ORDER if name in hit.source)
    return values if len(values) == len(ORDER) else ()


def _by(hit: Hit) -> str:
    return str(decoded(hit.source[DELIVERY])) if DELIVERY in hit.source else ""


def _action(verb: str, id_: str, hit: Hit | None = None, document: str = "") -> str:
    """The lines of one action of a bulk request; `hit` is the document that must be there."""
    about: dict[str, Any] = {"_id": id_}
    if hit is not None:
        about |= {"if_seq_no": hit.seq_no, "if_primary_term": hit.primary_term}
    line = _text({verb: about})
    return f"{line}\n{document}" if document else line


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _ranges(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Parts of about the size of a request."""
    start, size = 0, 0
    for number, text in enumerate(texts):
        if number > start and (size + len(text) > BULK_BYTES or number - start == BULK_DOCUMENTS):
            yield start, number
            start, size = number, 0
        size += len(text)
    if start < len(texts):
        yield start, len(texts)


def _in_part(part: Part | None) -> list[dict[str, Any]]:
    """Conditions on the members of ORIGIN."""
    if part is None or part.span is None:
        return []
    span = part.span
    return [
        {"term": {c.PARTITION: part.partition}},
        {"term": {c.TOPIC_ID: span.topic_id}},
        {"range": {c.OFFSET: {"gte": span.start, "lt": span.end}}},
    ]


def _kept(rejection: Rejection, shape: Shape, at: str) -> str:
    """The action that keeps a rejected row: always under the same id."""
    row = rejection.row
    key = json_row({name: row[name] for name in shape.key})
    place = [str(row[name]) for name in (c.PARTITION, c.OFFSET, c.TOPIC_ID)]
    place.append(hashlib.md5(key.encode(errors="surrogatepass")).hexdigest())
    entry = {
        **{name: row[name] for name in (c.TOPIC_ID, c.PARTITION, c.OFFSET, DELIVERY)},
        "reason": rejection.reason,
        "row": json_row(row),
        "rejected_at": at,
    }
    return _action("index", "|".join(place), document=_text(entry))


def _rejected(hit: Hit) -> Rejected:
    entry = hit.members()
    place = (entry[c.TOPIC_ID], entry[c.PARTITION], entry[c.OFFSET])
    return Rejected(*place, entry["reason"], entry["row"], entry["rejected_at"])
