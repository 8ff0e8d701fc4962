"""The proxy of the fault tests does what its rules say, and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.proxy import LOOPBACK, Answer, CutReply, CutRequest, Proxy, Rule, Slow

PATIENCE = 10


class Objects(BaseHTTPRequestHandler):
    """Keeps what is PUT, gives it back on GET."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]
    requests: list[str]

    def do_PUT(self) -> None:
        """Keep the body."""
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(b"")

    def do_GET(self) -> None:
        """Give back what was kept."""
        self._reply(self.kept.get(self.path, b""))

    def _reply(self, body: bytes) -> None:
        self.requests.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Quiet(ThreadingHTTPServer):
    """Says nothing of connections that break."""

    def handle_error(self, *_: object) -> None:
        """They are meant to."""


@pytest.fixture
def store() -> Iterator[ThreadingHTTPServer]:
    """A server of objects."""
    handler = type("Handler", (Objects,), {"kept": {}, "requests": []})
    with Quiet((LOOPBACK, 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(store: ThreadingHTTPServer) -> Iterator[Proxy]:
    """A proxy before it."""
    with Proxy(store.server_port, http=True) as running:
        yield running


def ask(
    proxy: Proxy, method: str, path: str, body: bytes | None = None, segment: object = None
) -> tuple[int, bytes]:
    """One request, on a connection of its own or on an open one."""
    own = http.client.HTTPConnection(LOOPBACK, proxy.port, timeout=PATIENCE)
    connection = segment if isinstance(segment, http.client.HTTPConnection) else own
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        own.close()


def test_all_passes_when_nothing_is_scripted(proxy: Proxy) -> None:
    """Large bodies both ways, several requests on one connection."""
    segment = http.client.HTTPConnection(LOOPBACK, proxy.port, timeout=PATIENCE)
    large = bytes(range(256)) * 8_000
    for number in range(3):
        assert ask(proxy, "PUT", f"/{number}", large, segment) == (200, b"")
        assert ask(proxy, "GET", f"/{number}", segment=segment) == (200, large)
    segment.close()
    assert proxy.connections == 1


def test_an_answer_of_its_own(proxy: Proxy, store: ThreadingHTTPServer) -> None:
    """The chosen requests are answered by the proxy, the server never sees them."""
    rule = Rule(rb"PUT /a", Answer(503, "SlowDown"), times=2, skip=1)
    proxy.script(rule)
    statuses = [ask(proxy, "PUT", "/a", b"x" * 300_000)[0] for _ in range(4)]
    assert statuses == [200, 503, 503, 200]
    assert ask(proxy, "PUT", "/b", b"y")[0] == 200
    assert rule.hits == 2
    assert store.RequestHandlerClass.requests == ["PUT /a", "PUT /a", "PUT /b"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("reset", [True, False])
def test_a_reply_lost_after_the_server_did_it(
    proxy: Proxy, store: ThreadingHTTPServer, reset: bool
) -> None:
    """The object is kept, and the client does not know."""
    proxy.script(Rule(rb"PUT", CutReply(reset=reset)))
    expected = ConnectionResetError if reset else http.client.RemoteDisconnected
    with pytest.raises(expected):
        ask(proxy, "PUT", "/a", b"kept")
    assert store.RequestHandlerClass.kept == {"/a": b"kept"}  # type: ignore[attr-defined]
    assert ask(proxy, "GET", "/a") == (200, b"kept")


def test_a_reply_cut_on_the_way(proxy: Proxy) -> None:
    """The client gets a part, and then an end or a reset."""
    ask(proxy, "PUT", "/a", b"0" * 200_000)
    for reset, expected in ((False, http.client.IncompleteRead), (True, OSError)):
        proxy.script(Rule(rb"GET", CutReply(after=70_000, reset=reset)))
        with pytest.raises(expected):
            ask(proxy, "GET", "/a")


@pytest.mark.parametrize("after", [0, 20, 100_000])
def test_a_request_cut_on_the_way(proxy: Proxy, store: ThreadingHTTPServer, after: int) -> None:
    """The server never has all of it, the client sees a reset."""
    proxy.script(Rule(rb"PUT", CutRequest(after)))
    with pytest.raises(OSError, match=r"reset|[Bb]roken|closed"):
        ask(proxy, "PUT", "/a", b"0" * 5_000_000)
    assert store.RequestHandlerClass.kept == {}  # type: ignore[attr-defined]


def test_slowness(proxy: Proxy) -> None:
    """Latency ahead of the request, and so many bytes a second of its reply."""
    ask(proxy, "PUT", "/a", b"0" * 20_000)
    proxy.script(Rule(rb"GET", Slow(latency=0.2, rate=50_000)))
    began = time.monotonic()
    assert ask(proxy, "GET", "/a")[1] == b"0" * 20_000
    assert 0.5 < time.monotonic() - began < 5


def test_refusing_and_accepting_again(proxy: Proxy) -> None:
    """Open connections are reset and new ones refused, until the port listens again."""
    segment = http.client.HTTPConnection(LOOPBACK, proxy.port, timeout=PATIENCE)
    ask(proxy, "GET", "/a", segment=segment)
    port = proxy.port
    proxy.refuse()
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(proxy, "GET", "/a", segment=segment)
    with pytest.raises(ConnectionRefusedError):
        ask(proxy, "GET", "/a")
    proxy.accept()
    assert proxy.port == port
    assert ask(proxy, "GET", "/a")[0] == 200


def test_other_protocols_are_cut_by_what_is_sent_at_once() -> None:
    """A command that fits loses its reply, the ones before it do not."""
    with socket.create_server((LOOPBACK, 0)) as server:
        done: list[bytes] = []

        def serve() -> None:
            segment, _ = server.accept()
            with segment, contextlib.suppress(ConnectionResetError):
                while command := segment.recv(100):
                    done.append(command)
                    segment.sendall(b"ok " + command)

        thread = threading.Thread(target=serve)
        thread.start()
        with Proxy(server.getsockname()[1]) as proxy:
            proxy.script(Rule(rb"COMMIT", CutReply(), behind=rb"UPDATE"))
            with socket.create_connection((LOOPBACK, proxy.port), PATIENCE) as client:
                for command in (b"SELECT", b"COMMIT", b"UPDATE"):
                    client.sendall(command)
                    assert client.recv(100) == b"ok " + command
                client.sendall(b"COMMIT")
                with pytest.raises(ConnectionResetError):
                    client.recv(100)
        thread.join(PATIENCE)
        assert done == [b"SELECT", b"COMMIT", b"UPDATE", b"COMMIT"]


def test_a_server_that_is_away_is_seen_as_away(store: ThreadingHTTPServer) -> None:
    """The proxy resets what it cannot pass on."""
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    with Proxy(port, http=True) as proxy, pytest.raises(OSError, match="reset"):
        ask(proxy, "GET", "/a")
