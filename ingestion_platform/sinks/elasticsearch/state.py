"""State of a target in Elasticsearch, and who may write to the target.

Elasticsearch has no transactions, so the state is one document that moves by compare-and-set. A
delivery claims the target in it before it writes rows. A delivery that finds the claim of another
one takes the claim over and fences the other one off: writes go through an alias whose name only
the claimant knows and which must exist. The alias is removed, and a write block waits for requests
that the server has accepted already. So a delivery that was suspended for a day cannot write.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from ingestion_platform.errors import SinkUnavailable, WriteConflict
from ingestion_platform.sinks.base import Shape
from ingestion_platform.sinks.elasticsearch import POSITIONS
from ingestion_platform.sinks.elasticsearch.cluster import Cluster

FENCES = 5
"""Attempts to fence others off, while some request for it remains unanswered."""
POSITIONS_INDEX = {
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


class Document(msgspec.Struct, frozen=True):
    """The document of a target."""

    target: str
    source: str
    shape: str
    position: str = ""
    index: str = ""
    uuid: str = ""
    """Of the index: an index that somebody has created again is another one."""
    claimed_by: str = ""
    """The delivery that may be writing."""
    writer: str = ""
    """Suffix of the aliases that it writes through."""
    updated_at: str = ""


class Stored(msgspec.Struct, frozen=True):
    """A document with its version; `seq_no` is -1 when there is none."""

    document: Document | None = msgspec.field(name="_source", default=None)
    seq_no: int = msgspec.field(name="_seq_no", default=-1)
    primary_term: int = msgspec.field(name="_primary_term", default=0)

    @property
    def known(self) -> Document:
        """The document, where it is known to exist."""
        assert self.document is not None, "call ensure() first"
        return self.document

    @property
    def shape(self) -> Shape:
        return Shape.from_json(self.known.shape)

    @property
    def position(self) -> str:
        return self.known.position


@dataclass
class States:
    """Reads and moves the state of one target."""

    _cluster: Cluster
    _name: str
    _rejected: str
    """Name of the quarantine."""
    _conflict: Callable[[], WriteConflict]
    _claimant: str = ""

    def read(self) -> Stored:
        """Return the state; without a document when its index does not exist."""
        answer = self._cluster.call("GET", f"/{POSITIONS}/_doc/{self._name}", absent=(404,))
        stored = msgspec.json.decode(answer, type=Stored)
        document = stored.document
        if document and self._cluster.uuid(document.index) == document.uuid:
            return stored
        return Stored(None, stored.seq_no, stored.primary_term)

    def swap(self, stored: Stored, document: Document) -> Stored:
        """Replace the state that was read.

        Raises:
            WriteConflict: the state is another one now.
        """
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        document = replace(document, updated_at=at)
        params = {"op_type": "create"}
        if stored.seq_no >= 0:
            params = {
                "if_seq_no": str(stored.seq_no),
                "if_primary_term": str(stored.primary_term),
            }
        body = msgspec.to_builtins(document)
        answer = self._cluster.call(
            "PUT", f"/{POSITIONS}/_doc/{self._name}", body, params, absent=(409,)
        )
        made = msgspec.json.decode(answer, type=Stored)
        if made.seq_no >= 0:
            return Stored(document, made.seq_no, made.primary_term)
        # The conflict may be with our own write, when the answer to it was lost.
        now = self.read()
        if now.document == document:
            return now
        raise self._conflict()

    def claim(self, stored: Stored, delivery: str, *, renew: bool = False) -> Stored:
        """Claim the target for a delivery; other deliveries cannot write afterwards."""
        state, self._claimant = stored.known, delivery
        if state.claimed_by == delivery and not renew:
            return stored
        if not renew and not state.claimed_by and state.writer:
            return self.swap(stored, replace(state, claimed_by=delivery))
        for _ in range(FENCES):
            self._cluster.unanswered = False
            writer = uuid.uuid4().hex[:12]
            stored = self.swap(stored, replace(state, claimed_by=delivery, writer=writer))
            self.fence(stored.known)
            # A request that is still on its way could restore this writer's aliases.
            if not self._cluster.unanswered:
                return stored
        raise SinkUnavailable(
            f"{self._name}: Elasticsearch does not answer", action="check that its server is up"
        )

    def release(self) -> None:
        """Give the claim back, if all requests of the claimant were answered."""
        if not self._claimant:
            return
        stored = self.read()
        state = stored.document
        if state and state.claimed_by == self._claimant and not self._cluster.unanswered:
            self.swap(stored, replace(state, claimed_by=""))

    def fence(self, state: Document, *, unblock: bool = True) -> None:
        """Leave only the state's writer able to write, and wait for the writes of others.

        Without `unblock` its index accepts no more writes.

        Raises:
            WriteConflict: another delivery has taken over meanwhile.
        """
        both = [state.index, self._rejected]
        remove = {"alias": f"{self._name}.*", "indices": both, "must_exist": False}
        self._cluster.aliases({"remove": remove}, *self._writer_aliases(state))
        self._cluster.call("PUT", f"/{','.join(both)}/_block/write")
        free = ",".join(both if unblock else both[1:])
        self._cluster.call("PUT", f"/{free}/_settings", {"index.blocks.write": None})
        if self.read().document != state:
            raise self._conflict()

    def _writer_aliases(self, state: Document) -> Iterator[dict[str, Any]]:
        for verb, index in (("write", state.index), ("reject", self._rejected)):
            alias = f"{self._name}.{verb}-{state.writer}"
            if state.writer:
                yield {"add": {"alias": alias, "index": index, "is_hidden": True}}
