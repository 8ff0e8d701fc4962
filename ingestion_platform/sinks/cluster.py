"""Requests to an Elasticsearch cluster: bulk, pages, patience, errors that say who can mend them.

Answers are kept as bytes, so that numbers lose no digit. What is asked is `elasticsearch`'s.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from ingestion_platform.errors import Permanent, PlatformError, SinkUnavailable, WriteConflict

if TYPE_CHECKING:
    from elasticsearch import ApiError, Elasticsearch

    from ingestion_platform.settings import SinkSettings

PATIENCE = 60.0
"""Seconds for which a busy server is asked again."""
ATTEMPTS = 4
"""Times that a request is made which nobody answers."""
PAGE = 5_000
"""Documents that are read at once."""
KEEP = "15m"
"""For so long a page of documents may be worked on."""
TOO_LARGE = 413
_BUSY = (429, 503)
_UNANSWERED = (502, 503, 504)  # a proxy may have passed the request on
_FIELD = re.compile(r"failed to parse field \[(.+?)\] of type \[(.+?)\]")
_POSITION = re.compile(r"^\[\d+:\d+\] ")


class Hit(msgspec.Struct, frozen=True):
    """A document as it is read, its members as they were written."""

    id: str = msgspec.field(name="_id")
    found: bool = True
    seq_no: int = msgspec.field(name="_seq_no", default=-1)
    primary_term: int = msgspec.field(name="_primary_term", default=0)
    source: dict[str, msgspec.Raw] = msgspec.field(name="_source", default_factory=dict)
    sort: list[msgspec.Raw] = msgspec.field(default_factory=list)

    def members(self) -> dict[str, Any]:
        """What they say; numbers with a fraction as Decimal."""
        return {name: decoded(raw) for name, raw in self.source.items()}


class Cause(msgspec.Struct, frozen=True):
    """Why something failed, as Elasticsearch says it."""

    type: str = ""
    reason: str | None = None
    caused_by: Cause | None = None

    def told(self) -> str:
        """In one line; which field first, and without places in the request."""
        said = _POSITION.sub("", self.reason or self.type)
        inner = _POSITION.sub("", (self.caused_by.reason or "") if self.caused_by else "")
        if field := _FIELD.search(said):
            return f"{field[1]}: is no {field[2]}{f': {inner}' if inner else ''}"
        return f"{said}: {inner}" if inner and inner not in said else said


class Item(msgspec.Struct, frozen=True):
    """The answer to one action of a bulk request."""

    status: int
    error: Cause | None = None


class _Hits(msgspec.Struct, frozen=True):
    hits: list[Hit]


class _Page(msgspec.Struct, frozen=True):
    hits: _Hits
    pit_id: str = ""


class _Docs(msgspec.Struct, frozen=True):
    docs: list[Hit]


class _Bulk(msgspec.Struct, frozen=True):
    items: list[dict[str, Item]]


class _Failure(msgspec.Struct, frozen=True):
    error: Cause | str = ""


class Cluster:
    """A connection to a cluster; safe to use from several threads. `name` is told in errors."""

    def __init__(self, sinks: SinkSettings, name: str) -> None:
        self.name = name
        self._client = _client(sinks)
        self.unanswered = False
        """Whether a request may still be under way that nobody has answered."""

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        *,
        absent: Sequence[int] = (),
    ) -> bytes:
        """The body of the answer; of an error only if its status is one of `absent`."""
        headers = {"accept": "application/json"}
        if body:
            kind = "x-ndjson" if isinstance(body, bytes) else "json"
            headers["content-type"] = f"application/{kind}"
        client = self._client.options(ignore_status=tuple(absent))

        def ask() -> bytes:
            answer = client.perform_request(
                method, path, params=params, headers=headers, body=body or None
            )
            told = answer.body
            return told if isinstance(told, bytes) else str(told).encode()

        return self._patiently(ask)

    def bulk(self, path: str, actions: Sequence[str], params: Mapping[str, str]) -> list[Item]:
        """The answers to the actions (each a line, or two), in their order; what the server is too
        busy for is asked again.

        Raises:
            SinkUnavailable: it stays too busy.
        """
        items = self._bulk(path, actions, params)
        deadline, pause = time.monotonic() + PATIENCE, 0.1
        while busy := [n for n, item in enumerate(items) if item.status in _BUSY]:
            if time.monotonic() > deadline:
                raise SinkUnavailable(
                    f"{self.name}: Elasticsearch is too busy for {len(busy)} documents",
                    action="try again, or give it more nodes",
                )
            pause = _rest(pause)
            again = self._bulk(path, [actions[n] for n in busy], params)
            for n, item in zip(busy, again, strict=True):
                items[n] = item
        return items

    def documents(self, index: str, ids: Sequence[str], members: Sequence[str]) -> list[Hit]:
        """The documents of some ids, as they are now, with some of their members."""
        params = {"_source_includes": ",".join(members)}
        answer = self.call("POST", f"/{index}/_mget", {"ids": list(ids)}, params)
        return msgspec.json.decode(answer, type=_Docs).docs

    def scan(
        self,
        index: str,
        query: Mapping[str, Any],
        members: Sequence[str] | None = None,
        sort: Sequence[Mapping[str, str]] = (),
        size: int = PAGE,
    ) -> Iterator[list[Hit]]:
        """Documents of one moment (this one), in pages; of them some members, or all."""
        self.call("POST", f"/{index}/_refresh")
        opened = self.call("POST", f"/{index}/_pit", params={"keep_alive": KEEP})
        pit = str(msgspec.json.decode(opened)["id"])
        body: dict[str, Any] = {
            "size": size,
            "query": {"bool": query} if query else {"match_all": {}},
            "sort": [*sort, {"_shard_doc": "asc"}],
            "track_total_hits": False,
            "_source": True if members is None else list(members),
        }
        try:
            while True:
                body["pit"] = {"id": pit, "keep_alive": KEEP}
                page = msgspec.json.decode(self.call("POST", "/_search", body), type=_Page)
                pit = page.pit_id or pit
                if page.hits.hits:
                    yield page.hits.hits
                if len(page.hits.hits) < size:
                    return
                body["search_after"] = [msgspec.json.decode(s) for s in page.hits.hits[-1].sort]
        finally:
            self.call("DELETE", "/_pit", {"id": pit}, absent=(404,))

    def uuid(self, index: str) -> str:
        """What tells an index from another one of its name; "" when there is none."""
        path, params = f"/{index}/_settings", {"filter_path": "*.settings.index.uuid"}
        found = msgspec.json.decode(self.call("GET", path, None, params, absent=(404,)) or b"{}")
        return str(found[index]["settings"]["index"]["uuid"]) if index in found else ""

    def count(self, index: str) -> int:
        """Documents that are in an index now."""
        self.call("POST", f"/{index}/_refresh")
        return int(msgspec.json.decode(self.call("GET", f"/{index}/_count"))["count"])

    def aliases(self, *actions: Mapping[str, Any]) -> None:
        """Change aliases, all at once."""
        self.call("POST", "/_aliases", {"actions": actions})

    def _bulk(self, path: str, actions: Sequence[str], params: Mapping[str, str]) -> list[Item]:
        """One request; one that is too large, in two; one document that is too large fails."""
        body = ("\n".join(actions) + "\n").encode(errors="surrogatepass")
        answer = self.call("POST", path, body, params, absent=(TOO_LARGE,))
        if b'"items"' in answer:
            items = msgspec.json.decode(answer, type=_Bulk).items
            return [next(iter(of.values())) for of in items]
        if len(actions) == 1:
            return [Item(TOO_LARGE, Cause("too_large", "is larger than the server takes"))]
        half = len(actions) // 2
        return [
            *self._bulk(path, actions[:half], params),
            *self._bulk(path, actions[half:], params),
        ]

    def _patiently(self, ask: Callable[[], bytes]) -> bytes:
        """Ask again while the server is busy, and some times when nobody answers."""
        import elasticsearch as es

        deadline, pause, attempts = time.monotonic() + PATIENCE, 0.1, 0
        while True:
            try:
                return ask()
            except es.ApiError as error:
                if error.status_code not in (*_BUSY, *_UNANSWERED):
                    raise
                self.unanswered |= error.status_code in _UNANSWERED
                if time.monotonic() > deadline:
                    raise
            except (es.ConnectionError, es.ConnectionTimeout, es.SerializationError):
                self.unanswered, attempts = True, attempts + 1
                if attempts >= ATTEMPTS:
                    raise
            pause = _rest(pause)


def decoded(raw: msgspec.Raw) -> Any:
    """A member as it was written; a number with a fraction as Decimal."""
    return _DECODER.decode(raw)


_DECODER = msgspec.json.Decoder(float_hook=Decimal)


@contextmanager
def answering(name: str) -> Iterator[None]:
    """Turn what the client raises into errors that say who can mend it; never with the address."""
    import elasticsearch as es

    try:
        yield
    except PlatformError:
        raise
    except es.UnsupportedProductError as error:
        raise Permanent(
            f"{name}: what answers is no Elasticsearch", action="correct ELASTICSEARCH_URL"
        ) from error
    except es.SSLError as error:
        raise Permanent(
            f"{name}: the certificate of Elasticsearch is not trusted",
            action="set ELASTICSEARCH_CA_FILE to the certificate of who signed it",
        ) from error
    except es.ApiError as error:
        raise _of_answer(name, error) from error
    except es.TransportError as error:
        raise SinkUnavailable(
            f"{name}: Elasticsearch does not answer: {type(error).__name__}",
            action="check ELASTICSEARCH_URL and that its server is up",
        ) from error


def rejects(name: str, status: int, said: str) -> PlatformError:
    """What a rejection of the server means."""
    if status in (404, 409):
        return WriteConflict(
            f"{name}: an index of the delivery is gone or another one", action="start again"
        )
    if status == 401:
        return Permanent(
            f"{name}: Elasticsearch refuses the login",
            action="correct ELASTICSEARCH_API_KEY, or ELASTICSEARCH_USERNAME and _PASSWORD",
        )
    if status == 403:
        return Permanent(
            f"{name}: Elasticsearch refuses: {said}",
            action="give the user of the settings the rights that docs/sinks.md names",
        )
    if status == 429 or status >= 500:
        return SinkUnavailable(f"{name}: Elasticsearch fails: {said}", action="try again")
    return Permanent(
        f"{name}: Elasticsearch refuses: {said}", action="look at the index, and at its template"
    )


def _of_answer(name: str, error: ApiError) -> PlatformError:
    try:
        failure = msgspec.json.decode(error.body, type=_Failure).error
        said = failure if isinstance(failure, str) else failure.told()
    except (msgspec.MsgspecError, TypeError):  # a proxy's page
        said = f"status {error.status_code}"
    return rejects(name, error.status_code, said)


def _rest(pause: float) -> float:
    """Wait for about so many seconds; gives the next, longer time."""
    time.sleep(random.uniform(0.5, 1) * pause)
    return min(5.0, pause * 2)


def _client(sinks: SinkSettings) -> Elasticsearch:
    from elastic_transport import JsonSerializer
    from elasticsearch import Elasticsearch

    class Verbatim(JsonSerializer):
        """Leaves answers as they are."""

        def loads(self, data: bytes) -> bytes:
            return data

    given: dict[str, Any] = {}
    if sinks.elasticsearch_api_key:
        given["api_key"] = sinks.elasticsearch_api_key.get_secret_value()
    elif sinks.elasticsearch_username and sinks.elasticsearch_password:
        password = sinks.elasticsearch_password.get_secret_value()
        given["basic_auth"] = (sinks.elasticsearch_username, password)
    if sinks.elasticsearch_ca_file:
        given["ca_certs"] = sinks.elasticsearch_ca_file
    # Proxies answer by pages of their own.
    kinds = ("application/json", "application/vnd.elasticsearch+json", "application/xml")
    return Elasticsearch(
        [url.get_secret_value() for url in sinks.elasticsearch_urls],
        request_timeout=60,
        max_retries=0,
        serializers={kind: Verbatim() for kind in kinds},
        **given,
    )
