"""What is Elasticsearch's own in a delivery: mappings, aliases, documents that it refuses, a server
that is busy or does not answer, and deliveries that were thought dead.
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
from ingestion_platform.sinks.compare import compare
from ingestion_platform.sinks.documents import LONGEST_ID, ids
from ingestion_platform.sinks.elasticsearch import ElasticsearchTarget, options
from ingestion_platform.sinks.interface import ORIGIN, Change
from ingestion_platform.sinks.source import shape_of
from services import Services
from tests.support.delivered import ODD_JSON, ElasticsearchHarness, item, with_json
from tests.support.proxy import Answer, CutReply, Proxy, Rule
from tests.support.sink_scene import Scene

pytestmark = [pytest.mark.services]


class Search:
    """A scene's index, by plain HTTP."""

    def __init__(self, scene: Scene) -> None:
        assert isinstance(scene.harness, ElasticsearchHarness)
        self.scene = scene
        self.ask = scene.harness.ask
        self.index = scene.delivery.options.index

    def found(self, query: dict[str, Any]) -> set[int]:
        """The ids of what a query finds."""
        self.ask("POST", f"/{self.index}/_refresh")
        answer = self.ask("POST", f"/{self.index}/_search", {"query": query, "size": 100})
        return {hit["_source"]["id"] for hit in answer["hits"]["hits"]}

    def indices(self) -> list[str]:
        """What is behind the alias."""
        return sorted(self.ask("GET", f"/_alias/{self.index}"))


@pytest.fixture
def scene(servers: Services, tmp_path: Path) -> Scene:
    """Forty delivered rows."""
    made = Scene(ElasticsearchHarness(servers, tmp_path), tmp_path / "scene")
    made.log.append(item(k, k) for k in range(40))
    made.log.load()
    made.deliver()
    return made


@pytest.fixture
def search(scene: Scene) -> Search:
    """Its index."""
    return Search(scene)


@pytest.fixture
def proxy(scene: Scene) -> Iterator[Proxy]:
    """Between the platform and the server; the scene goes through it from now on."""
    port = urlsplit(scene.settings.sinks.elasticsearch_urls[0].get_secret_value()).port
    assert port is not None
    with Proxy(port, http=True) as between:
        url = f"http://127.0.0.1:{between.port}"
        sinks = scene.settings.sinks.replace(elasticsearch_urls=(url,))
        scene.platform = Platform(scene.settings.replace(sinks=sinks))
        yield between


def test_the_index_is_as_the_contract_says(search: Search) -> None:
    """Mapped strictly, searchable as text and by exact value, and described."""
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
    assert mappings["_meta"]["fields"]["note"] == "Said of it."
    assert search.indices() == [f"{search.index}-000001"]
    assert search.found({"match": {"note": "SAID"}}) == {k for k in range(40) if k % 4 == 2}
    assert search.found({"term": {"extra.n": "7"}}) == {7}
    assert search.found({"term": {"size.width": 8}}) == {8}
    assert search.found({"range": {"at": {"gte": "2026-11-18T12:00:39Z"}}}) == {39}
    assert search.ask("GET", f"/{search.index}/_doc/7%7Cb")["found"] is True


def test_a_wider_field_moves_the_alias_to_a_new_index(search: Search) -> None:
    """A new field alone is added in place; in both cases not one row is delivered again."""
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


def test_rejected_documents_are_told_from_what_is_compared(search: Search) -> None:
    """Reasons name the field; a key whose newest row is rejected keeps the one before."""
    scene = search.scene
    deep: Any = 1
    for _ in range(60):
        deep = {"a": deep}
    scene.log.append([item(3, 900, extra=deep), item(77, 1, extra=[1]), item(78, 2)])
    scene.log.load()
    done = scene.deliver()
    assert (done.upserted, done.rejected) == (1, 2)
    assert all(reason.startswith("extra: ") or "depth" in reason for reason in done.reasons)
    found = compare(scene.platform, scene.delivery)
    assert (found.source_rows, found.target_rows, found.rejected, found.agree) == (41, 41, 2, True)
    assert scene.content()[3, "b"]["n"] == 3


@pytest.mark.fault("sinks", "Elasticsearch is busy (429, 503), or cuts the reply to a bulk request")
def test_a_busy_server_is_asked_again(scene: Scene, proxy: Proxy) -> None:
    """With pauses; what a lost request has done is found, and done once."""
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


@pytest.mark.fault("sinks", "a delivery to Elasticsearch goes on after another took its place")
def test_a_delivery_that_was_thought_dead_cannot_write(search: Search) -> None:
    """It stood still between its claim and its rows: they are rejected, even those of new keys."""
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
        claimed = late._claimed(late._at(change), "late")
        scene.deliver()
        with pytest.raises(WriteConflict):
            late._write(claimed.known, change)
        with pytest.raises(WriteConflict):
            late.apply(change)
    scene.assert_equal()


def test_what_others_did_to_the_index_is_made_good_again(search: Search) -> None:
    """Documents deleted and changed by hand, then the whole index."""
    scene = search.scene
    search.ask("DELETE", f"/{search.index}/_doc/3%7Cb?refresh=true")
    search.ask("POST", f"/{search.index}/_doc/4%7Ca?refresh=true", {"id": 4, "kind": "a", "n": 1})
    assert scene.deliver().changes == 0
    scene.deliver(again=True)
    scene.assert_equal()
    search.ask("DELETE", f"/{search.index}-000001")
    assert scene.deliver().upserted == 40
    scene.assert_equal()


def test_an_index_of_somebody_else_is_left_alone(search: Search) -> None:
    """It is rejected, with the way out."""
    scene = search.scene
    search.ask("DELETE", f"/{search.index}-000001")
    search.ask("PUT", f"/{search.index}", {})
    with pytest.raises(Permanent, match="no delivery has made it"):
        scene.deliver()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"table": "x"}, "table: is not an option"),
        ({"index": "Logs"}, "cannot be a name"),
        ({"index": "a-000001"}, "sink's own kind"),
        ({"index": "a-rejected"}, "sink's own kind"),
    ],
)
def test_wrong_options_are_told(given: dict[str, Any], said: str) -> None:
    """With the option and what is wrong."""
    with pytest.raises(ValueError, match=said):
        options(given, "shop", "users")


def test_secrets_of_the_settings_are_not_shown(tmp_path: Path) -> None:
    """Neither in what is printed nor in an error; wrong ones are told by their names."""
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
def test_no_two_keys_have_the_same_id(keys: list[tuple[str, str]]) -> None:
    """Whatever is in them; long and empty ones too."""
    keys = [*keys, ("x" * 600, ""), ("x" * 601, "")]
    table = pa.table({"a": [a for a, _ in keys], "b": [b for _, b in keys]})
    for of in (table, table.select(["a"]).group_by("a").aggregate([])):
        found = ids(of)
        assert len(set(found)) == of.num_rows
        assert all(0 < len(each.encode()) <= LONGEST_ID for each in found)


def test_odd_json_hinders_no_other_document(search: Search) -> None:
    """What Elasticsearch cannot parse is rejected alone, the documents beside it are there."""
    scene = search.scene
    odd = dict(zip(ODD_JSON, range(100, 200), strict=False))
    scene.log.append([*(with_json(k, ODD_JSON[name]) for name, k in odd.items()), item(200, 200)])
    scene.log.load()
    scene.deliver()
    there = search.found({"range": {"id": {"gte": 100}}})
    gone = {name for name, k in odd.items() if k not in there}
    assert 200 in there
    assert gone == {"a key twice"}
    found = compare(scene.platform, scene.delivery)
    assert (found.rejected, found.agree) == (len(gone), True)
