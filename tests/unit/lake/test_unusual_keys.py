"""Objects of an S3 drop zone that no client can name: they are seen, and hide no others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import pytest

from ingestion_platform.lake.drop import DropZone
from ingestion_platform.lake.store import store_at
from ingestion_platform.streams import FileSource

KEYS = ["zone/", "zone/good.csv", "zone//empty.csv", "zone/../up.csv", "zone/line\nfeed.csv"]
_LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>
<IsTruncated>false</IsTruncated>{}</ListBucketResult>"""
_OBJECT = """<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>
<ETag>"x"</ETag><Size>3</Size></Contents>"""


class _Bucket(BaseHTTPRequestHandler):
    """Lists KEYS for the folder `zone/`, and nothing for others."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        keys = KEYS if "prefix=zone%2F" in self.path and "_" not in self.path else []
        objects = "".join(_OBJECT.format(escape(key, {"\n": "&#xA;"})) for key in keys)
        self._answer(_LISTING.format(objects).encode())

    def do_HEAD(self) -> None:
        self._answer(b"abc", body=False)

    def _answer(self, data: bytes, *, body: bool = True) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.send_header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("etag", '"x"')
        self.end_headers()
        self.wfile.write(data if body else b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The address of a server with a bucket of unusual keys."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_odd_keys_hide_no_others(endpoint: str) -> None:
    """Empty and relative parts, control characters; a folder's marker is no file."""
    s3 = {"endpoint": endpoint, "access_key_id": "a", "secret_access_key": "b", "region": "r"}
    zone = DropZone(store_at("s3://bucket", s3), FileSource("zone"))
    good, *unusual = zone.waiting()
    assert (good.name, good.problem, good.entry.size) == ("good.csv", "", 3)
    assert {each.name for each in unusual} == {"/empty.csv", "../up.csv", r"line\nfeed.csv"}
    assert all("key with an empty or relative part" in each.problem for each in unusual)
