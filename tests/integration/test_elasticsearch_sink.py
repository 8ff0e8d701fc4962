"""Deliveries to Elasticsearch: mappings, aliases, rejected documents, a server that is busy or does
not answer, and a delivery that continues after another one has taken over.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_platform.errors import Permanent, SettingError, WriteConflict
from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings
from ingestion_platform.sinks.base import ORIGIN, Change
from ingestion_platform.sinks.compare import compare
from ingestion_platform.sinks.elasticsearch.documents import LONGEST_ID, ids
from ingestion_platform.sinks.elasticsearch.target import ElasticsearchTarget
from ingestion_platform.sinks.source import shape_of
from services import Services
from tests.support.delivered import UNUSUAL_JSON, ElasticsearchHarness, item, with_json
from tests.support.proxy import Answer, CutReply, Proxy, Rule
from tests.support.sink_scene import Scene

pytestmark = [pytest.mark.services]


class Search:
    """The index of a scene, by plain HTTP."""

    def __init__(self, scene: Scene) -> None:
        assert isinstance(scene.harness, ElasticsearchHarness)
        self.scene = scene
        self.ask = scene.harness.ask
        self.index = scene.delivery.options.index

    def found(self, query: dict[str, Any]) -> set[int]:
        """Return the ids of the documents that a query finds."""
        self.ask("POST", f"/{self.index}/_refresh")
        answer = self.ask("POST", f"/{self.index}/_search", {"query": query, "size": 100})
        return {hit["_source"]["id"] for hit in answer["hits"]["hits"]}

    def indices(self) -> list[str]:
        """Return the indices behind the alias."""
        return sorted(self.ask("GET", f"/_alias/{self.index}"))


@pytest.fixture
def scene(servers: Services, tmp_path: Path) -> Scene:
    """Deliver forty rows."""
    made = Scene(ElasticsearchHarness(servers, tmp_path), tmp_path / "scene")
    made.log.append(item(k, k) for k in range(40))
    made.log.load()
    made.deliver()
    return made


@pytest.fixture
def search(scene: Scene) -> Search:
    """Return the index of the scene."""
    return Search(scene)


@pytest.fixture
def proxy(scene: Scene) -> Iterator[Proxy]:
    """Put a proxy between the scene and the server."""
    port = urlsplit(scene.settings.sinks.elasticsearch_urls[0].get_secret_value()).port
    assert port is not None
    with Proxy(port, http=True) as between:
        url = f"http://127.0.0.1:{between.port}"
        sinks = scene.settings.sinks.replace(elasticsearch_urls=(url,))
        scene.platform = Platform(scene.settings.replace(sinks=sinks))
        yield between


def test_index_follows_the_contract(search: Search) -> None:
    """It is mapped strictly, described, and searchable as text and by exact value."""
    (mappings,) = (
        each["mappings"] for each in search.ask("GET", f"/{search.index}/_mapping").values()
    )
    kinds = {name: each.get("type") for name, each in mappings["properties"].items()}
    assert (
        kinds.items()
        >= {
            "id": "long",
            "kind": "keyword",
            "n": "integer",
            "note": "text",
            "amount": "double",
            "at": "date",
            "open": "boolean",
            "tags": "text",
            "extra": "flattened",
            "size": None,
            "_offset": "long",
        }.items()
    )
    assert mappings["dynamic"] == "strict"
    assert mappings["_meta"]["fields"]["note"] == "Free text."
    assert search.indices() == [f"{search.index}-000001"]
    assert search.found({"match": {"note": "SAID"}}) == {k for k in range(40) if k % 4 == 2}
    assert search.found({"term": {"extra.n": "7"}}) == {7}
    assert search.found({"term": {"size.width": 8}}) == {8}
    assert search.found({"range": {"at": {"gte": "2026-11-18T12:00:39Z"}}}) == {39}
    assert search.ask("GET", f"/{search.index}/_doc/7%7Cb")["found"] is True


def test_wider_field_moves_alias_to_new_index(search: Search) -> None:
    """A new field alone is added in place; in both cases no row is delivered again."""
    scene = search.scene

    def more(document: dict[str, Any]) -> None:
        document["version"] = "1.1.0"
        properties = document["schema"][0]["properties"]
        properties.append({"name": "colour", "logicalType": "string"})

    scene.log.load(scene.edit(more))
    scene.log.append([item(100, 1, colour="red")])
    scene.log.load()
    assert scene.deliver().upserted == 1
    assert search.indices() == [f"{search.index}-000001"]
    assert search.found({"match": {"colour": "red"}}) == {100}

    def wider(document: dict[str, Any]) -> None:
        document["version"] = "2.0.0"
        document["schema"][0]["properties"][2]["physicalType"] = "bigint"

    scene.log.append([item(101, 2**40, amount=1)])
    scene.log.load(scene.edit(wider))
    assert scene.deliver().upserted == 1
    assert search.indices() == [f"{search.index}-000002"]
    with pytest.raises(HTTPError):
        search.ask("GET", f"/{search.index}-000001")
    scene.assert_equal()


def test_comparison_excludes_rejected_documents(search: Search) -> None:
    """A key whose newest row is rejected keeps the older one."""
    scene = search.scene
    deep: Any = 1
    for _ in range(60):
        deep = {"a": deep}
    scene.log.append([item(3, 900, extra=deep), item(77, 1, extra=[1]), item(78, 2)])
    scene.log.load()
    done = scene.deliver()
    assert (done.upserted, done.rejected) == (1, 2)
    assert {reason.partition(":")[0] for reason in done.reasons} == {"document_parsing_exception"}
    found = compare(scene.platform, scene.delivery)
    assert (found.source_rows, found.target_rows, found.rejected, found.agree) == (41, 41, 2, True)
    assert scene.content()[3, "b"]["n"] == 3


@pytest.mark.fault(
    "sinks", "Elasticsearch is busy (429, 503), or cuts off the answer to a bulk request"
)
def test_busy_server_is_retried(scene: Scene, proxy: Proxy) -> None:
    """The effect of a request whose answer was lost is found, and not repeated."""
    bulk = rb"^POST /[^ ]*write-[^ ]*_bulk"
    for number, fault in enumerate((Answer(429), Answer(503), CutReply(), CutReply(after=40))):
        rule = Rule(bulk, fault, times=2)
        proxy.script(rule)
        scene.log.append(item(k, 1000 * (number + 1) + k) for k in range(20, 60))
        scene.log.load()
        done = scene.deliver()
        assert (done.upserted, rule.hits) == (40, 2)
        scene.assert_equal()
    rule = Rule(rb"^PUT /ingestion-positions/_doc", CutReply(), times=3)
    proxy.script(rule)
    scene.log.append([item(5, 9000)])
    scene.log.load()
    assert scene.deliver().upserted == 1
    assert rule.hits == 3
    scene.assert_equal()


@pytest.mark.fault(
    "sinks", "a delivery to Elasticsearch continues after another one has taken over"
)
def test_fenced_off_delivery_cannot_write(search: Search) -> None:
    """It was suspended between its claim and its rows: even rows of new keys are rejected."""
    scene = search.scene
    scene.log.append(item(k, 500) for k in range(30, 50))
    scene.log.load()
    with ElasticsearchTarget(scene.settings.sinks, scene.delivery.options) as late:
        table = scene.platform.catalog.load_table(scene.delivery.table)
        shape = shape_of(table, scene.delivery.key, scene.log.stream.contract)
        late.ensure(shape)
        place = [date(2026, 11, 18), 0, 0, 99, "A", "late"]
        values = {"id": 7, "kind": "forged", **dict(zip(ORIGIN, place, strict=True))}
        rows = pa.Table.from_pylist([values], shape.schema())
        base = late.position()
        change = Change(rows, shape.key_schema().empty_table(), base, base, "late")
        claimed = late._states.claim(late.stored_at(change), "late")
        scene.deliver()
        with pytest.raises(WriteConflict):
            late.write_rows(claimed.known, change)
        with pytest.raises(WriteConflict):
            late.apply(change)
    scene.assert_equal()


def test_changes_by_other_users_are_repaired(search: Search) -> None:
    """Deleted and changed documents, then the deleted index."""
    scene = search.scene
    search.ask("DELETE", f"/{search.index}/_doc/3%7Cb?refresh=true")
    search.ask("POST", f"/{search.index}/_doc/4%7Ca?refresh=true", {"id": 4, "kind": "a", "n": 1})
    assert scene.deliver().changes == 0
    scene.deliver(again=True)
    scene.assert_equal()
    search.ask("DELETE", f"/{search.index}-000001")
    assert scene.deliver().upserted == 40
    scene.assert_equal()


def test_index_of_another_user_is_rejected(search: Search) -> None:
    """Nothing is written to it."""
    scene = search.scene
    search.ask("DELETE", f"/{search.index}-000001")
    search.ask("PUT", f"/{search.index}", {})
    with pytest.raises(Permanent, match="no delivery has made it"):
        scene.deliver()


def test_secrets_in_settings_are_hidden(tmp_path: Path) -> None:
    """Neither a listing nor an error contains them; errors name the setting."""
    env = {"ELASTICSEARCH_URL": "https://u:hidden1@h:9200", "ELASTICSEARCH_API_KEY": "hidden2"}
    settings = Settings.load(env, root=tmp_path)
    assert "hidden" not in repr(settings.sinks) + repr(settings.source)
    assert {"hidden1", "hidden2"} <= set(settings.secrets)
    for wrong in (
        {"ELASTICSEARCH_URL": "hidden"},
        env | {"ELASTICSEARCH_USERNAME": "u"},
        {"ELASTICSEARCH_PASSWORD": "hidden"},
        {"ELASTICSEARCH_CA_FILE": str(tmp_path / "none.pem")},
    ):
        with pytest.raises(SettingError, match="ELASTICSEARCH_") as found:
            Settings.load(wrong, root=tmp_path)
        assert "hidden" not in str(found.value)


@given(
    st.lists(st.tuples(st.text("a|\\sh:256", max_size=6), st.text("b|\\", max_size=4)), unique=True)
)
def test_ids_of_keys_are_unique(keys: list[tuple[str, str]]) -> None:
    """Long and empty keys too."""
    keys = [*keys, ("x" * 600, ""), ("x" * 601, "")]
    table = pa.table({"a": [a for a, _ in keys], "b": [b for _, b in keys]})
    for of in (table, table.select(["a"]).group_by("a").aggregate([])):
        found = ids(of)
        assert len(set(found)) == of.num_rows
        assert all(0 < len(each.encode()) <= LONGEST_ID for each in found)


def test_unusual_json_rejects_only_its_document(search: Search) -> None:
    """Elasticsearch cannot parse a repeated key; other documents are written."""
    scene = search.scene
    unusual = dict(zip(UNUSUAL_JSON, range(100, 200), strict=False))
    scene.log.append(
        [*(with_json(k, UNUSUAL_JSON[name]) for name, k in unusual.items()), item(200, 200)]
    )
    scene.log.load()
    scene.deliver()
    there = search.found({"range": {"id": {"gte": 100}}})
    gone = {name for name, k in unusual.items() if k not in there}
    assert 200 in there
    assert gone == {"a key twice"}
    found = compare(scene.platform, scene.delivery)
    assert (found.rejected, found.agree) == (len(gone), True)
