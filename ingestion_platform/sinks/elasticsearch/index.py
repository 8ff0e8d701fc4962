"""Indices of a target: numbered ones behind an alias, and the quarantine beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from ingestion_platform.contract import columns as c
from ingestion_platform.errors import WriteConflict
from ingestion_platform.sinks.base import DELIVERY, Shape
from ingestion_platform.sinks.elasticsearch.cluster import Cluster, Failure, rejects
from ingestion_platform.sinks.elasticsearch.documents import ORIGIN_MAPPINGS, mapping_of
from ingestion_platform.sinks.elasticsearch.state import Document

_MADE_BY = "ingestion-platform"
_STORED = {"type": "keyword", "index": False, "doc_values": False}
_REJECTED_INDEX = {
    "settings": {"number_of_shards": 1, "auto_expand_replicas": "0-1"},
    "mappings": {
        "dynamic": "strict",
        "properties": {
            **{name: ORIGIN_MAPPINGS[name] for name in (c.TOPIC_ID, c.PARTITION, c.OFFSET)},
            DELIVERY: {"type": "keyword"},
            "digest": _STORED,
            "code": {"type": "keyword"},
            "message": {"type": "text"},
            "row": _STORED,
            "rejected_at": {"type": "date", "format": "strict_date_optional_time"},
        },
    },
}


@dataclass
class Indices:
    """Creates, maps and removes the indices of one target."""

    _cluster: Cluster
    _name: str
    _rejected: str
    """Name of the quarantine."""
    _conflict: Callable[[], WriteConflict]

    def foreign(self) -> bool:
        """Return whether the name belongs to an index or alias that no delivery has made."""
        own = set(self.numbered())
        return bool(self._cluster.uuid(self._name)) or not set(self._aliased()) <= own

    def create(self, of: Document, shape: Shape, writer: str | None = None) -> Document:
        """Create an empty index of the next number, and return its state.

        With a writer (which may be ""), the aliases of searches and of the writer point to it.
        """
        self.put_template(shape)
        number = 1 + max((int(name[-6:]) for name in self.numbered()), default=0)
        index = f"{self._name}-{number:06d}"
        aliases: dict[str, Any] = {} if writer is None else {self._name: {}}
        if writer:
            aliases[f"{self._name}.write-{writer}"] = {"is_hidden": True}
        body = {"mappings": index_mapping(shape), "aliases": aliases}
        answer = self._cluster.call("PUT", f"/{index}", body, absent=(400,))
        failure = msgspec.json.decode(answer, type=Failure).error
        if failure.type == "resource_already_exists_exception":
            raise self._conflict()
        if failure.type:
            raise rejects(self._name, 400, failure.summary())
        found = self._cluster.uuid(index)
        return replace(of, index=index, uuid=found, position="", claimed_by="", writer=writer or "")

    def create_quarantine(self, writer: str = "") -> None:
        """Create the index of rejected rows, unless it exists."""
        alias = {f"{self._name}.reject-{writer}": {"is_hidden": True}} if writer else {}
        body = {**_REJECTED_INDEX, "aliases": alias}
        self._cluster.call("PUT", f"/{self._rejected}", body, absent=(400,))

    def extend(self, index: str, shape: Shape) -> None:
        """Add the new fields of a shape to the mapping of an index."""
        self.put_template(shape)
        self._cluster.call("PUT", f"/{index}/_mapping", index_mapping(shape))

    def put_template(self, shape: Shape) -> None:
        """Write the template of the indices; users add to it by `<name>@custom`."""
        custom = f"{self._name}@custom"
        body = {
            "index_patterns": [f"{self._name}-0*"],
            "priority": 300,
            "composed_of": [custom],
            "ignore_missing_component_templates": [custom],
            "template": {
                "settings": {"index.mapping.coerce": False},
                "mappings": index_mapping(shape),
            },
            "_meta": {"managed_by": _MADE_BY},
        }
        self._cluster.call("PUT", f"/_index_template/{self._name}", body)

    def complete(self, index: str) -> None:
        """Let the alias point to this index alone, and create a missing quarantine."""
        if self._aliased() != [index]:
            others = {"index": f"{self._name}-*", "alias": self._name, "must_exist": False}
            new = {"index": index, "alias": self._name}
            self._cluster.aliases({"remove": others}, {"add": new})
        if not self._cluster.uuid(self._rejected):
            self.create_quarantine()

    def numbered(self) -> list[str]:
        """Return the numbered indices of this target, in use or not."""
        answer = self._cluster.call("GET", f"/{self._name}-0*/_mapping", absent=(404,))
        own = re.compile(rf"{re.escape(self._name)}-\d{{6}}")
        return [
            name
            for name, of in msgspec.json.decode(answer).items()
            if own.fullmatch(name) and of["mappings"].get("_meta", {}).get("managed_by") == _MADE_BY
        ]

    def drop_before(self, index: str) -> None:
        """Delete older indices; one of a higher number belongs to another delivery."""
        for each in self.numbered():
            if each < index:
                self._cluster.call("DELETE", f"/{each}", absent=(404,))

    def _aliased(self) -> list[str]:
        answer = self._cluster.call("GET", f"/_alias/{self._name}", absent=(404,))
        return sorted(set(msgspec.json.decode(answer)) - {"error", "status"})


def index_mapping(shape: Shape) -> dict[str, Any]:
    """Return the mappings of an index; documents with other fields are rejected."""
    columns = {o.name: mapping_of(o, key=o.name in shape.key) for o in shape.columns}
    return {
        "dynamic": "strict",
        "_meta": {
            "managed_by": _MADE_BY,
            "source": shape.source,
            "description": shape.description,
            "fields": {o.name: o.description for o in shape.columns if o.description},
        },
        "properties": {**columns, **ORIGIN_MAPPINGS},
    }


def only_adds(have: Mapping[str, Any], want: Mapping[str, Any]) -> bool:
    """Return whether `want` has only more properties, at any depth: no index is written again."""
    members, others = have.get("properties", {}), want.get("properties", {})
    same = {**have, "properties": 0} == {**want, "properties": 0}
    return same and all(
        name in others and only_adds(member, others[name]) for name, member in members.items()
    )


def ranges(texts: Sequence[str], most_bytes: int, most: int) -> list[tuple[int, int]]:
    """Cut texts into ranges of at most so many bytes (but at least one text) and texts."""
    found, start, size = [], 0, 0
    for number, text in enumerate(texts):
        if number > start and (size + len(text) > most_bytes or number - start == most):
            found.append((start, number))
            start, size = number, 0
        size += len(text)
    return [*found, (start, len(texts))] if texts else []
