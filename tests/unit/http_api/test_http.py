"""HTTP by RFC 9110 and 9457: methods, media types, cached documents, headers of every answer."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable

import pytest

from ingestion_platform.http_api.documents import PATHS
from ingestion_platform.http_api.media import accepts, content_type, parse
from ingestion_platform.http_api.problems import Problem
from tests.support.api_lab import USER, Served

USERS = "/v1/streams/recomart_users/records"


@pytest.mark.parametrize(
    ("text", "essence", "parameters"),
    [
        ("application/json", "application/json", {}),
        (' Application/JSON ; Charset = "utf-8"', None, {}),  # no blanks around "="
        ('application/json;charset="UTF-8"', "application/json", {"charset": "UTF-8"}),
        ('a/b; x="a;b\\"c"; y=z;', "a/b", {"x": 'a;b"c', "y": "z"}),
        *((wrong, None, {}) for wrong in ("", "json", "a/b c", "a/b; x", "a/b; x=;", "/b", "a/")),
    ],
)
def test_media_types(text: str, essence: str | None, parameters: dict[str, str]) -> None:
    """Names in lower case, quoted values unquoted; what is no media type is none."""
    found = parse(text)
    assert (found.essence, found.parameters) == (essence, parameters) if found else essence is None


@pytest.mark.parametrize(
    ("accept", "takes"),
    [
        *(("*/*", True), ("application/json", True), ("application/*;q=0.1", True), ("", True)),
        *(("text/html", False), ("application/json;q=0", False), ("text/html, */*;q=0.1", True)),
        *(("*/*, application/json;q=0", False), ("application/*;q=0, application/json", True)),
        *(("nonsense", True), ("application/json;q=x", True), ("text/*, image/png", False)),
    ],
)
def test_accept_headers(accept: str, takes: bool) -> None:
    """The most specific range decides; a header that cannot be read excludes nothing."""
    assert accepts(accept, "application/json") is takes


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *(("application/json", 201), ("application/json; charset=utf-8", 201), ("", 201)),
        *(('application/json;charset="UTF-8"', 201), ("application/vnd.shop+json", 201)),
        *(("application/json; charset=latin-1", 415), ("application/json; charset=utf-16", 415)),
        *(("application/x-ndjson", 201), ("application/jsonl", 201), ("text/csv", 415)),
        *(
            ("json", 415),
            ("application/json,text/html", 415),
            ("application/cloudevents+avro", 415),
        ),
    ],
)
@pytest.mark.parametrize("path", ["/users", USERS, "/internal/ingest-user"])
def test_all_paths_take_same_content_types(
    served: Served, path: str, kind: str, status: int
) -> None:
    """The shop's paths and those of streams take the same types and charsets."""
    answer = served.http.post(path, content=json.dumps(USER), headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    if status == 415:
        assert "application/json" in answer.headers["accept-post"]


def test_own_paths_take_one_record(served: Served) -> None:
    """Two lines are one too many, an array is no record; an event is one."""
    two = f"{json.dumps(USER)}\n{json.dumps(USER)}\n"
    for body, kind, status in (
        (two, "application/x-ndjson", 400),
        (json.dumps([USER]), "application/json", 422),
        (json.dumps(USER), "application/x-ndjson", 201),
    ):
        answer = served.http.post("/users", content=body, headers={"content-type": kind})
        assert answer.status_code == status, answer.text
    assert len(served.sent("recomart_users")) == 1


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (USERS, "OPTIONS, POST"),
        ("/health", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_methods_are_listed(served: Served, path: str, allowed: str) -> None:
    """OPTIONS and 405 name them."""
    options = served.http.options(path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, allowed, b"")
    other = served.http.request("PATCH", path)
    assert (other.status_code, other.headers["allow"]) == (405, allowed)
    assert other.json()["type"].endswith(":method-not-allowed")


@pytest.mark.parametrize("path", ["/health", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_head_is_get_without_body(served: Served, path: str) -> None:
    """The same status and headers."""
    head, get = served.http.head(path), served.http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("path", sorted(PATHS))
def test_documents_are_cached_by_clients(served: Served, path: str) -> None:
    """An entity tag per coding, and 304 for those who have it."""
    plain = served.http.get(path, headers={"accept-encoding": "identity"})
    zipped = served.http.get(path, headers={"accept-encoding": "gzip"})
    assert plain.status_code == zipped.status_code == 200
    assert plain.content == zipped.content
    tag = plain.headers["etag"]
    if "content-encoding" in zipped.headers:
        assert zipped.headers["etag"] != tag
    for wanted in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = served.http.get(
            path, headers={"accept-encoding": "identity", "if-none-match": wanted}
        )
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = served.http.get(path, headers={"if-none-match": '"x"'})
    assert other.status_code == 200


def test_problems_ignore_accept_header(served: Served) -> None:
    """406 before anything is done; a problem is sent as a problem."""
    for answer in (
        served.records("recomart_users", json.dumps(USER), accept="text/html"),
        served.http.get("/openapi.json", headers={"accept": "text/html"}),
    ):
        assert answer.status_code == 406
        assert answer.headers["content-type"] == "application/problem+json"
    assert served.sent("recomart_users") == []
    wrong = served.records("recomart_users", "{", accept="application/json")
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize("path", ["/docs", "/health", "/nothing", "/users"])
def test_every_answer_has_safe_headers(served: Served, path: str) -> None:
    """Nobody guesses a type, frames an answer or runs what is in it."""
    headers = served.http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-request-id"]


def test_unexpected_errors_have_request_id(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    """500 is a problem like all others, and the log has its cause."""
    served = serve()

    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    served.api.validate = broken  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.ERROR, "ingestion_platform.http_api"):
        answer = served.records("recomart_users", json.dumps(USER), x_request_id="r-1")
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "r-1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "r-1" in caplog.text
    assert "secret detail" in caplog.text


def test_large_heads_are_rejected(served: Served) -> None:
    """431, also where all of it came at once."""
    answer = served.http.get("/health", headers={"x-large": "x" * 70_000})
    assert answer.status_code == 431
    assert answer.json()["type"].endswith(":head-too-large")


def test_compressed_documents_are_gzip(served: Served) -> None:
    """The largest is a third of its size."""
    answer = served.http.get("/docs/swagger-ui-bundle.js", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) < len(answer.content) / 2
    assert gzip.compress(answer.content)


@pytest.mark.parametrize("kind", ["application/json; charset=ebcdic", "nonsense"])
def test_content_type_is_checked(kind: str) -> None:
    """A charset other than UTF-8, and what is no media type."""
    with pytest.raises(Problem) as caught:
        content_type(kind)
    assert caught.value.status == 415
