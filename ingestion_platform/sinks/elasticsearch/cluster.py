"""Requests to an Elasticsearch cluster: bulk requests, pages, retries, errors.

Answers stay bytes until they are decoded, so that numbers lose no digit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import elasticsearch as es
import msgspec
from elastic_transport import JsonSerializer

from ingestion_platform.errors import Permanent, PlatformError, SinkUnavailable, WriteConflict
from ingestion_platform.retries import SEARCH_BUSY, SEARCH_SILENT, retry
from ingestion_platform.sinks.base import Reason

if TYPE_CHECKING:
    from ingestion_platform.settings import SinkSettings

PAGE = 5_000
"""Documents in a page."""
KEEP = "15m"
"""How long a page of documents may be processed."""
TOO_LARGE = 413
_BUSY = (429, 503)
_UNANSWERED = (502, 503, 504)  # a proxy may have passed the request on
_POSITION = re.compile(r"^\[\d+:\d+\] ")


class Hit(msgspec.Struct, frozen=True):
    """A document that was read; its members are as they were written."""

    id: str = msgspec.field(name="_id")
    found: bool = True
    seq_no: int = msgspec.field(name="_seq_no", default=-1)
    primary_term: int = msgspec.field(name="_primary_term", default=0)
    source: dict[str, msgspec.Raw] = msgspec.field(name="_source", default_factory=dict)
    sort: list[msgspec.Raw] = msgspec.field(default_factory=list)

    def members(self) -> dict[str, Any]:
        """Return the decoded members; numbers with a fraction are Decimals."""
        return {name: decoded(raw) for name, raw in self.source.items()}


class Cause(msgspec.Struct, frozen=True):
    """Why something failed, as Elasticsearch reports it."""

    type: str = ""
    reason: str | None = None
    caused_by: Cause | None = None

    def summary(self) -> str:
        """Return the causes in one line, without positions in the request."""
        message = _POSITION.sub("", self.reason or self.type)
        inner = _POSITION.sub("", (self.caused_by.reason or "") if self.caused_by else "")
        return f"{message}: {inner}" if inner and inner not in message else message

    def as_reason(self) -> Reason:
        """Return why a document was rejected."""
        return Reason(self.type, self.summary())


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


class Failure(msgspec.Struct, frozen=True):
    """The answer to a request that failed."""

    error: Cause = Cause()


class Cluster:
    """A connection to a cluster; thread-safe. Errors mention `name`."""

    def __init__(self, sinks: SinkSettings, name: str) -> None:
        self.name = name
        self._client = _client(sinks)
        self.unanswered = False
        """Whether a request that got no answer may still be processed."""

    def close(self) -> None:
        """Close the connections."""
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
        """Return the body of the answer; errors of a status in `absent` are answers too."""
        headers = {"accept": "application/json"}
        if body:
            kind = "x-ndjson" if isinstance(body, bytes) else "json"
            headers["content-type"] = f"application/{kind}"
        client = self._client.options(ignore_status=tuple(absent))

        def ask() -> bytes:
            answer = client.perform_request(
                method, path, params=params, headers=headers, body=body or None
            )
            text = answer.body
            return text if isinstance(text, bytes) else str(text).encode()

        busy = partial(retry, ask, SEARCH_BUSY, self._is_busy)
        return retry(busy, SEARCH_SILENT, self._is_silent)

    def bulk(self, path: str, actions: Sequence[str], params: Mapping[str, str]) -> list[Item]:
        """Return the result of each action (one or two lines); those the server is too busy for
        are retried.

        Raises:
            SinkUnavailable: it stays too busy.
        """
        items: dict[int, Item] = {}
        todo = list(range(len(actions)))

        def send() -> None:
            sent = self._bulk(path, [actions[n] for n in todo], params) if todo else []
            items.update(zip(todo, sent, strict=True))
            todo[:] = [n for n in todo if items[n].status in _BUSY]
            if todo:
                raise SinkUnavailable(
                    f"{self.name}: Elasticsearch is too busy for {len(todo)} documents",
                    action="try again, or give it more nodes",
                )

        retry(send, SEARCH_BUSY, SinkUnavailable)
        return [items[n] for n in range(len(actions))]

    def documents(self, index: str, ids: Sequence[str], members: Sequence[str]) -> list[Hit]:
        """Return the current documents of some ids, with some of their members."""
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
        """Yield pages of the documents as they are now, with some members or all."""
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
        """Return the uuid of an index, "" when there is none of that name."""
        path, params = f"/{index}/_settings", {"filter_path": "*.settings.index.uuid"}
        found = msgspec.json.decode(self.call("GET", path, None, params, absent=(404,)) or b"{}")
        return str(found[index]["settings"]["index"]["uuid"]) if index in found else ""

    def count(self, index: str) -> int:
        """Count the documents of an index."""
        self.call("POST", f"/{index}/_refresh")
        return int(msgspec.json.decode(self.call("GET", f"/{index}/_count"))["count"])

    def aliases(self, *actions: Mapping[str, Any]) -> None:
        """Change aliases in one step."""
        self.call("POST", "/_aliases", {"actions": actions})

    def _bulk(self, path: str, actions: Sequence[str], params: Mapping[str, str]) -> list[Item]:
        """Send one request, in halves if it is too large; a single document then fails."""
        body = ("\n".join(actions) + "\n").encode(errors="surrogatepass")
        try:
            items = msgspec.json.decode(self.call("POST", path, body, params), type=_Bulk).items
            return [next(iter(of.values())) for of in items]
        except es.ApiError as error:
            if error.status_code != TOO_LARGE:
                raise
        if len(actions) == 1:
            return [Item(TOO_LARGE, Cause("too_large", "is larger than the server accepts"))]
        half = len(actions) // 2
        return [
            *self._bulk(path, actions[:half], params),
            *self._bulk(path, actions[half:], params),
        ]

    def _is_silent(self, error: BaseException) -> bool:
        """Return whether a request got no answer; it may still be processed then."""
        silent = isinstance(error, es.TransportError)
        self.unanswered |= silent
        return silent

    def _is_busy(self, error: BaseException) -> bool:
        """Return whether the server, or a proxy that may have forwarded the request, is busy."""
        status = error.status_code if isinstance(error, es.ApiError) else 0
        self.unanswered |= status in _UNANSWERED
        return status in (*_BUSY, *_UNANSWERED)


def decoded(raw: msgspec.Raw) -> Any:
    """Return the value of a member; a number with a fraction as Decimal."""
    return _DECODER.decode(raw)


_DECODER = msgspec.json.Decoder(float_hook=Decimal)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn the errors of the client into those of the platform; none shows the address."""
    try:
        yield
    except PlatformError:
        raise
    except es.UnsupportedProductError as error:
        raise Permanent(
            f"{name}: the server is not Elasticsearch", action="correct ELASTICSEARCH_URL"
        ) from error
    except es.SSLError as error:
        raise Permanent(
            f"{name}: the certificate of Elasticsearch is not trusted",
            action="set ELASTICSEARCH_CA_FILE to the certificate of its authority",
        ) from error
    except es.ApiError as error:
        raise _of_answer(name, error) from error
    except es.TransportError as error:
        raise SinkUnavailable(
            f"{name}: Elasticsearch does not answer: {type(error).__name__}",
            action="check ELASTICSEARCH_URL and that its server is up",
        ) from error


def rejects(name: str, status: int, message: str) -> PlatformError:
    """Return the error for a status of the server."""
    if status in (404, 409):
        return WriteConflict(
            f"{name}: an index of the delivery is gone or was replaced", action="deliver again"
        )
    if status == 401:
        return Permanent(
            f"{name}: Elasticsearch rejects the login",
            action="correct ELASTICSEARCH_API_KEY, or ELASTICSEARCH_USERNAME and _PASSWORD",
        )
    if status == 403:
        return Permanent(
            f"{name}: Elasticsearch forbids a request: {message}",
            action="give the user of the settings the privileges that docs/sinks.md lists",
        )
    if status == 429 or status >= 500:
        return SinkUnavailable(f"{name}: Elasticsearch fails: {message}", action="try again")
    return Permanent(
        f"{name}: Elasticsearch rejects a request: {message}",
        action="check the index and its template",
    )


def _of_answer(name: str, error: es.ApiError) -> PlatformError:
    try:
        message = msgspec.json.decode(error.body, type=Failure).error.summary()
    except (msgspec.MsgspecError, TypeError):  # a proxy's page
        message = f"status {error.status_code}"
    return rejects(name, error.status_code, message)


def _client(sinks: SinkSettings) -> es.Elasticsearch:
    class Verbatim(JsonSerializer):
        """Leave answers as bytes."""

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
    # Proxies may answer with pages of their own.
    kinds = ("application/json", "application/vnd.elasticsearch+json", "application/xml")
    return es.Elasticsearch(
        [url.get_secret_value() for url in sinks.elasticsearch_urls],
        request_timeout=60,
        max_retries=0,
        serializers={kind: Verbatim() for kind in kinds},
        **given,
    )
